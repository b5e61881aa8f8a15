"""What a namespace holds, read through one socket: all of it, or what concerns some links.

A node may have thousands of links, and one request is about a few. ``snapshot`` reads
everything; ``known``, ``meant`` and ``about`` give a ``Namespace`` of the same shape with all
that matters of certain links in it, and cost the same on every node: links are asked for by
name and ifindex, many in one send, addresses are listed by link. Nobody can be asked what
stands on a link, and a list of the routes through it walks all routes: who listens to the
kernel (``Watch``) knows where to look, who does not looks everywhere, and decodes little.
Nothing is changed here.
"""

from __future__ import annotations

import errno
import os
import time
from _thread import allocate_lock
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from sys import byteorder
from typing import NamedTuple, TypeVar

from bondcni.core.config import LinkRef
from bondcni.core.errors import KernelError, TryAgain, VerifyError
from bondcni.core.resolve import matches
from bondcni.core.state import Address, Link, Namespace, Route
from bondcni.kernel.address import (
    IFA_F_DADFAILED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    decode_address,
    decode_routes,
    get_addresses,
    get_routes,
)
from bondcni.kernel.link import (
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    RTM_DELLINK,
    RTM_NEWLINK,
    decode_link,
    decode_stack,
    get_link,
    get_link_named,
    get_links,
    pack_mac,
    stands_on,
)
from bondcni.kernel.rtnetlink import Rtnetlink, failure
from bondcni.kernel.wire import Ack, Message, Request

DAD_POLL = 0.02
"""Seconds between two looks; detection itself takes one to two seconds."""

ALTIFNAMSIZ = 128

T = TypeVar("T")


def snapshot(rtnl: Rtnetlink, deadline: float | None = None) -> Namespace:
    """Links, addresses and unicast routes of every table, in three dumps.

    Each dump is consistent in itself; the namespace may change between them. Raises
    TryAgain and KernelError as ``Rtnetlink.dump``, as all that reads here.
    """
    links = all_links(rtnl, deadline).links
    return Namespace(links, _addresses(rtnl, 0, deadline), _routes(rtnl, 0, deadline))


def all_links(rtnl: Rtnetlink, deadline: float | None = None) -> Namespace:
    """The links alone, in one dump."""
    return Namespace(tuple(map(decode_link, rtnl.dump(get_links(), deadline))))


def known(rtnl: Rtnetlink, names: Iterable[str], indexes: Iterable[int]) -> Namespace:
    """The links that have one of these names, alternative names or ifindexes."""
    return _space(_asked(rtnl, [*_by_name(names), *map(get_link, indexes)]))


def meant(rtnl: Rtnetlink, refs: Sequence[LinkRef]) -> tuple[Link, ...]:
    """Every link that one of the references names; of an ambiguous one all.

    A name is asked for; for a MAC or a PCI address all links are dumped.
    """
    return _space(_meant(rtnl, refs)).links


def _meant(
    rtnl: Rtnetlink, refs: Sequence[LinkRef], indexes: Iterable[int] = ()
) -> dict[int, Link]:
    """``meant``, and the links of these ``indexes``."""
    names = _by_name(ref.value for ref in refs if ref.by == "name")
    found = _asked(rtnl, [*names, *map(get_link, indexes)])
    needles = [_needle(ref) for ref in refs if ref.by != "name"]
    if needles:
        near = map(decode_link, rtnl.dump(get_links(), None, needles))
        found |= {link.index: link for link in near if any(matches(ref, link) for ref in refs)}
    return found


def link_by_index(rtnl: Rtnetlink, index: int, deadline: float | None = None) -> Link | None:
    """The link of that ifindex, None when there is none."""
    return _asked(rtnl, [get_link(index)], deadline).get(index)


class Near(NamedTuple):
    """Links that may stand on certain ones, and those that a default route may go through."""

    above: Collection[int]
    routed: Collection[int]


Look = Callable[[Rtnetlink, Collection[int]], Near]
"""What is near the links of these ifindexes; more than is there does no harm."""


def look_everywhere(rtnl: Rtnetlink, indexes: Collection[int]) -> Near:
    """``Look`` by a dump of all links; routes may be anywhere."""
    needles = [stands_on(index) for index in indexes]
    found = map(decode_stack, rtnl.dump(get_links(), None, needles)) if needles else ()
    return Near({upper for upper, lower in found if lower in indexes}, indexes)


def about(
    rtnl: Rtnetlink,
    refs: Sequence[LinkRef],
    look: Look = look_everywhere,
    indexes: Iterable[int] = (),
) -> Namespace:
    """``meant``, and what tells whether these links are in use; and who has these ``indexes``.

    That is their masters, what stands on them, their addresses, the routes through them; of
    these, where ``look`` knows, the default routes' links only.
    """
    found = _meant(rtnl, refs, indexes)
    links = {n: link for n, link in found.items() if any(matches(ref, link) for ref in refs)}
    above, routed = look(rtnl, links)
    more = ({link.master for link in links.values()} | set(above)) - {0, *found}
    routes = [r for index in links if index in routed for r in _unless_gone(_routes, rtnl, index)]
    return Namespace(
        _space(found | _asked(rtnl, map(get_link, sorted(more)))).links,
        tuple(a for index in links for a in _unless_gone(_addresses, rtnl, index)),
        tuple(route for route in routes if route.index in links),
    )


def _unless_gone(
    read: Callable[[Rtnetlink, int], tuple[T, ...]], rtnl: Rtnetlink, index: int
) -> tuple[T, ...]:
    """What ``read`` lists of a link; nothing where the link went in the meantime."""
    try:
        return read(rtnl, index)
    except KernelError as error:
        if error.number == errno.ENODEV:
            return ()
        raise


def _by_name(names: Iterable[str]) -> list[Request]:
    """Questions for links; none for what is too long to be the name of one."""
    short = (name for name in dict.fromkeys(names) if len(os.fsencode(name)) < ALTIFNAMSIZ)
    return [get_link_named(name) for name in short]


def _needle(ref: LinkRef) -> bytes:
    """What the message of a link with this MAC or PCI address holds."""
    return pack_mac(ref.value) if ref.by == "mac" else ref.value.encode()


def _asked(
    rtnl: Rtnetlink, requests: Iterable[Request], deadline: float | None = None
) -> dict[int, Link]:
    """The links that there are, by ifindex."""
    asked = list(requests)
    found: dict[int, Link] = {}
    for request, answer in zip(asked, rtnl.ask(asked, deadline), strict=True):
        if not isinstance(answer, Ack):
            link = decode_link(answer)
            found[link.index] = link
        elif answer.number != errno.ENODEV:
            raise failure(request, answer)
    return found


def _space(links: dict[int, Link]) -> Namespace:
    return Namespace(tuple(links[index] for index in sorted(links)))


RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE = 1, 7, 11


def _read_as(kind: int) -> int:
    """A nlmsg_type as BPF reads it: big-endian."""
    return int.from_bytes(kind.to_bytes(2, byteorder), "big")


_ROUTE, _ACCEPT, _DROP = 15, 17, 18
_ATTRS = 32  # where a link's attributes begin: behind nlmsghdr and ifinfomsg
_NLATTR = 0xFFFFF00C  # SKF_AD_OFF + SKF_AD_NLATTR: the place of attribute X from A on, or 0

WORTH_HEARING = (
    (0x28, 0, 0, 4),  # ldh nlmsg_type
    (0x15, _ROUTE - 2, 0, _read_as(RTM_NEWROUTE)),
    (0x15, _DROP - 3, 0, _read_as(RTM_DELROUTE)),
    (0x30, 0, 0, 16),  # ldb ifi_family
    (0x15, 0, _DROP - 5, 0),  # AF_UNSPEC: a bridge tells of its ports in such messages, too
    (0x28, 0, 0, 4),
    (0x15, _ACCEPT - 7, 0, _read_as(RTM_DELLINK)),
    (0x00, 0, 0, _ATTRS),
    (0x01, 0, 0, IFLA_LINK),
    (0x20, 0, 0, _NLATTR),
    (0x15, _DROP - 11, 0, 0),  # it stands on nothing
    (0x00, 0, 0, _ATTRS),
    (0x01, 0, 0, IFLA_LINK_NETNSID),
    (0x20, 0, 0, _NLATTR),
    (0x15, _ACCEPT - 15, _DROP - 15, 0),  # or on something in another namespace: a pod's veth
    (0x30, 0, 0, 17),  # _ROUTE: ldb rtm_dst_len
    (0x15, 0, 1, 0),  # a default route
    (0x06, 0, 0, 0xFFFFFFFF),  # _ACCEPT
    (0x06, 0, 0, 0),  # _DROP
)
"""A filter of events in classic BPF: links that stand on others, links that go, default routes.

Pods come and go with many other events, which would only fill the socket.
Source: include/uapi/linux/filter.h; net/core/filter.c, bpf_skb_get_nlattr.
"""


class Watch:
    """``Look`` for who stays: the kernel's events tell what changed since the last look.

    Everything is dumped at first, and again where events were lost. It knows one namespace,
    that of the threads that use it: the resident server's is the host's. A default route that
    went is not noticed, for it does no harm. A link whose lower one went to another namespace
    may find it under another ifindex when it is back: it may stand on anything (0).

    All threads may share it. A forked child begins anew, for an event is read once.
    """

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._events: Rtnetlink | None = None
        self._forget()
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._lock = allocate_lock()
        self._forget()

    def _forget(self) -> None:
        self._place = (0, 0)
        self._fresh = True
        self._lower: dict[int, int] = {}
        self._routed: set[int] = set()

    def knows(self, namespace: int) -> bool:
        """Whether it can tell of the namespace of this descriptor."""
        place = _place(os.fstat(namespace))
        with self._lock:
            if place != self._place and place == _place(os.stat("/proc/thread-self/ns/net")):
                with suppress(OSError):  # no descriptor is left: then without listening
                    self._listen(place)
            return place == self._place

    def _listen(self, place: tuple[int, int]) -> None:
        self._forget()
        if self._events:
            self._events.close()
        self._events = Rtnetlink.open()
        self._events.follow((RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE), WORTH_HEARING)
        self._place = place

    def __call__(self, rtnl: Rtnetlink, indexes: Collection[int]) -> Near:
        """As ``Look``, where it ``knows`` the namespace of ``rtnl``."""
        with self._lock:
            self._catch_up(rtnl)
            above = {up for up, lower in self._lower.items() if not lower or lower in indexes}
            return Near(above, self._routed.intersection(indexes))

    def _catch_up(self, rtnl: Rtnetlink) -> None:
        heard = self._events.heard() if self._events else None
        fresh, self._fresh = self._fresh, True  # so it stays where something fails on the way
        if heard is None or fresh:
            self._lower.clear()
            self._routed.clear()
            heard = [Message(RTM_NEWLINK, 0, 0, body) for body in rtnl.dump(get_links())]
            routes = (body for body in rtnl.dump(get_routes()) if not body[1])  # rtm_dst_len
            heard += [Message(RTM_NEWROUTE, 0, 0, body) for body in routes]
        for message in heard:
            self._note(message)
        self._fresh = False

    def _note(self, message: Message) -> None:
        if message.type == RTM_NEWROUTE:
            self._routed |= {route.index for route in decode_routes(message.body)}
        else:
            index, lower = decode_stack(message.body)
            self._lower.pop(index, None)
            if message.type == RTM_DELLINK:
                self._lower |= {up: 0 for up, gone in self._lower.items() if gone == index}
            elif lower is not None:
                self._lower[index] = lower


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def wait_dad(rtnl: Rtnetlink, index: int, deadline: float) -> None:
    """Return when duplicate address detection has passed every address of a link.

    Raises VerifyError when another node has one, TryAgain (naming those that are left)
    past the deadline. Detection starts when the link has carrier (RFC 4862, 5.4).
    """
    while True:
        addresses = _addresses(rtnl, index, deadline)
        taken = [a.address for a in addresses if a.flags & IFA_F_DADFAILED]
        if taken:
            raise VerifyError(f"another node on the link already has {', '.join(taken)}")
        waiting = [a.address for a in addresses if _tentative(a)]
        if not waiting:
            return
        if time.monotonic() + DAD_POLL >= deadline:
            raise TryAgain(f"duplicate address detection not done for {', '.join(waiting)}")
        time.sleep(DAD_POLL)


def _tentative(address: Address) -> bool:
    """An optimistic address is usable while it is still tentative (RFC 4429)."""
    return address.flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC) == IFA_F_TENTATIVE


def _addresses(rtnl: Rtnetlink, index: int, deadline: float | None = None) -> tuple[Address, ...]:
    found = map(decode_address, rtnl.dump(get_addresses(index), deadline))
    return tuple(address for address in found if address is not None)


def _routes(rtnl: Rtnetlink, index: int, deadline: float | None = None) -> tuple[Route, ...]:
    bodies = rtnl.dump(get_routes(index), deadline)
    return tuple(route for body in bodies for route in decode_routes(body))
