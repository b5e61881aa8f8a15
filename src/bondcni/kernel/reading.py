"""What a namespace holds, read through one socket.

``snapshot`` gives the planner its frozen values; the rest reads one link again, or
waits until IPv6 addresses may be used. Nothing is changed here.
"""

from __future__ import annotations

import errno
import time

from bondcni.core.errors import KernelError, TryAgain, VerifyError
from bondcni.core.state import Address, Link, Namespace
from bondcni.kernel.address import (
    IFA_F_DADFAILED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    decode_address,
    decode_routes,
    get_addresses,
    get_routes,
)
from bondcni.kernel.link import decode_link, get_link, get_links
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Request

DAD_POLL = 0.02
"""Seconds between two looks; detection itself takes one to two seconds."""


def snapshot(rtnl: Rtnetlink, deadline: float) -> Namespace:
    """Links, addresses and unicast routes of every table, in three dumps.

    Each dump is consistent in itself; the namespace may change between them. Raises
    TryAgain and KernelError as ``Rtnetlink.dump``.
    """
    links = tuple(map(decode_link, rtnl.dump(get_links(), deadline)))
    addresses = _addresses(rtnl, 0, deadline)
    routes = (r for body in rtnl.dump(get_routes(), deadline) for r in decode_routes(body))
    return Namespace(links, addresses, tuple(routes))


def link_by_index(rtnl: Rtnetlink, index: int, deadline: float) -> Link | None:
    """The link of that ifindex, None when there is none."""
    return _link(rtnl, get_link(index), deadline)


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


def _addresses(rtnl: Rtnetlink, index: int, deadline: float) -> tuple[Address, ...]:
    found = map(decode_address, rtnl.dump(get_addresses(index), deadline))
    return tuple(address for address in found if address is not None)


def _link(rtnl: Rtnetlink, request: Request, deadline: float) -> Link | None:
    try:
        return decode_link(rtnl.get(request, deadline))
    except KernelError as error:
        if error.number == errno.ENODEV:
            return None
        raise
