"""Which links are on top of others, and where routes are that matter, known from kernel events.

For a resident process, such as the daemon. It only says where to look: what it names is read
again before a link is refused.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Collection
from contextlib import suppress
from sys import byteorder

from bondcni.core.errors import BondError
from bondcni.kernel.address import RTM_DELROUTE, RTM_NEWROUTE, decode_routes, get_routes
from bondcni.kernel.keeping import RTPROT_BY_HAND
from bondcni.kernel.link import (
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    RTM_DELLINK,
    RTM_NEWLINK,
    decode_lower_link,
    get_links,
)
from bondcni.kernel.reading import Uses
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Message

RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE = 1, 7, 11


def _read_as(kind: int) -> int:
    """A nlmsg_type as BPF reads it: big-endian."""
    return int.from_bytes(kind.to_bytes(2, byteorder), "big")


_ROUTE, _ACCEPT, _DROP = 15, 20, 21
_ATTRS = 32  # where a link's attributes begin: behind nlmsghdr and ifinfomsg
_NLATTR = 0xFFFFF00C  # SKF_AD_OFF + SKF_AD_NLATTR: offset of attribute X, searched from A; 0: none

EVENT_FILTER = (
    (0x28, 0, 0, 4),  # ldh nlmsg_type
    (0x15, _ROUTE - 2, 0, _read_as(RTM_NEWROUTE)),
    (0x15, _DROP - 3, 0, _read_as(RTM_DELROUTE)),
    (0x30, 0, 0, 16),  # ldb ifi_family
    (0x15, 0, _DROP - 5, 0),  # AF_UNSPEC; a bridge sends such messages about its ports
    (0x28, 0, 0, 4),
    (0x15, _ACCEPT - 7, 0, _read_as(RTM_DELLINK)),
    (0x00, 0, 0, _ATTRS),
    (0x01, 0, 0, IFLA_LINK),
    (0x20, 0, 0, _NLATTR),
    (0x15, _DROP - 11, 0, 0),  # it is not on top of a link
    (0x00, 0, 0, _ATTRS),
    (0x01, 0, 0, IFLA_LINK_NETNSID),
    (0x20, 0, 0, _NLATTR),
    (0x15, _ACCEPT - 15, _DROP - 15, 0),  # or of one in another namespace: a pod's veth
    (0x30, 0, 0, 17),  # _ROUTE: ldb rtm_dst_len
    (0x15, _ACCEPT - 17, 0, 0),  # a default route
    (0x30, 0, 0, 21),  # ldb rtm_protocol
    (0x15, _ACCEPT - 19, 0, RTPROT_BY_HAND[0]),
    (0x15, _ACCEPT - 20, _DROP - 20, RTPROT_BY_HAND[1]),
    (0x06, 0, 0, 0xFFFFFFFF),  # _ACCEPT
    (0x06, 0, 0, 0),  # _DROP
)
"""A filter of events in classic BPF. It passes links on top of others, links that are deleted,
default routes and static routes.

Pods cause many other events when they start and end, which would only fill the socket.
Source: include/uapi/linux/filter.h; net/core/filter.c, bpf_skb_get_nlattr.
"""


class Watch:
    """``FindUses`` for a resident process: events say what changed since the last call.

    The first call dumps everything, and so does one after events were lost. It knows one
    namespace, that of the threads that use it; the daemon's is the host's. A default route that
    is deleted is not noticed, which does no harm. Where the lower link of a link leaves the
    namespace, it may return with another ifindex: the link may then be on top of any (0).

    All threads may share it, and its owner closes it. A forked child must not use it, because each
    event is read once.
    """

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._events: Rtnetlink | None = None
        self._forget()

    def begin(self) -> None:
        """Read the namespace of this thread, so that no request has to. Where that fails, the
        first request does it.
        """
        with (
            suppress(BondError, OSError),
            Rtnetlink.open() as rtnl,
            open("/proc/thread-self/ns/net") as own,
        ):
            if self.knows(own.fileno()):
                self(rtnl, ())

    def close(self) -> None:
        """Stop listening to events."""
        with self._lock:
            self._forget()
            if self._events:
                self._events.close()
                self._events = None

    def _forget(self) -> None:
        self._place = (0, 0)
        self._fresh = True
        self._lower: dict[int, int] = {}
        self._routed: set[int] = set()

    def knows(self, namespace: int) -> bool:
        """Whether it can be used for the namespace of this descriptor."""
        place = _place(os.fstat(namespace))
        with self._lock:
            if place != self._place and place == _place(os.stat("/proc/thread-self/ns/net")):
                with suppress(OSError):  # no descriptor is left: then without events
                    self._listen(place)
            return place == self._place

    def _listen(self, place: tuple[int, int]) -> None:
        self._forget()
        if self._events:
            self._events.close()
        self._events = Rtnetlink.open()
        self._events.subscribe((RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE), EVENT_FILTER)
        self._place = place

    def __call__(self, rtnl: Rtnetlink, indexes: Collection[int]) -> Uses:
        """As ``FindUses``. It must know (``knows``) the namespace of ``rtnl``."""
        with self._lock:
            self._catch_up(rtnl)
            upper = {up for up, lower in self._lower.items() if not lower or lower in indexes}
            return Uses(upper, self._routed.intersection(indexes))

    def _catch_up(self, rtnl: Rtnetlink) -> None:
        heard = self._events.read_events() if self._events else None
        fresh, self._fresh = self._fresh, True  # it stays so where an error follows
        if heard is None or fresh:
            self._lower.clear()
            self._routed.clear()
            heard = [Message(RTM_NEWLINK, 0, 0, body) for body in rtnl.dump(get_links())]
            routes = (body for body in rtnl.dump(get_routes()) if _is_relevant(body))
            heard += [Message(RTM_NEWROUTE, 0, 0, body) for body in routes]
        for message in heard:
            self._note(message)
        self._fresh = False

    def _note(self, message: Message) -> None:
        if message.type == RTM_NEWROUTE:
            self._routed |= {route.index for route in decode_routes(message.body)}
        else:
            index, lower = decode_lower_link(message.body)
            self._lower.pop(index, None)
            if message.type == RTM_DELLINK:
                self._lower |= {up: 0 for up, gone in self._lower.items() if gone == index}
            elif lower is not None:
                self._lower[index] = lower


def _is_relevant(route: bytes) -> bool:
    """What ``EVENT_FILTER`` checks: rtm_dst_len, and rtm_protocol."""
    return not route[1] or route[5] in RTPROT_BY_HAND


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
