"""Read a network namespace through one netlink socket: all of it, or what concerns some links.

A node may have thousands of links, and a request is about a few of them. ``snapshot`` reads
everything. ``find_links``, ``named_links`` and ``read_candidates`` give a ``Namespace`` of the same
shape with everything that matters about certain links, at a cost that does not depend on the
other links: links are requested by name and ifindex, many in one send, and addresses are listed
by link. The kernel cannot be asked which links are on top of a link, and it lists the routes
through a link by walking all routes: a resident process knows from events where to look
(``watch.py``), every other process looks at all links and decodes few. Nothing is changed here.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from bondcni.core.config import LinkRef
from bondcni.core.errors import KernelError, TryAgain, VerifyError
from bondcni.core.resolve import matches
from bondcni.core.state import Address, Link, Namespace, Route
from bondcni.kernel.address import (
    IFA_F_DADFAILED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    decode_address,
    decode_routes,
    get_addresses,
    get_routes,
)
from bondcni.kernel.keeping import get_neighbours, losses
from bondcni.kernel.link import (
    decode_link,
    decode_lower_link,
    get_link,
    get_link_named,
    get_links,
    lower_link_attr,
    pack_mac,
)
from bondcni.kernel.rtnetlink import Rtnetlink, failure
from bondcni.kernel.wire import Ack, NetlinkRequest

DAD_POLL = 0.02
"""Seconds between two reads; detection itself takes one to two seconds."""

ALTIFNAMSIZ = 128

VFS = "/sys/bus/pci/devices/{}/sriov_numvfs"


def snapshot(rtnl: Rtnetlink, deadline: float | None = None) -> Namespace:
    """Links, addresses and unicast routes of every table, in three dumps.

    Each dump is consistent in itself; the namespace may change between them. Like everything
    here it raises TryAgain and KernelError as ``Rtnetlink.dump`` does.
    """
    links = all_links(rtnl, deadline).links
    return Namespace(links, _addresses(rtnl, 0, deadline), _routes(rtnl, 0, deadline))


def all_links(rtnl: Rtnetlink, deadline: float | None = None) -> Namespace:
    """The links alone, in one dump."""
    return Namespace(tuple(map(decode_link, rtnl.dump(get_links(), deadline))))


def find_links(rtnl: Rtnetlink, names: Iterable[str], indexes: Iterable[int]) -> Namespace:
    """The links that have one of these names, alternative names or ifindexes."""
    return _space(_asked(rtnl, [*_by_name(names), *map(get_link, indexes)]))


def named_links(rtnl: Rtnetlink, refs: Sequence[LinkRef]) -> tuple[Link, ...]:
    """Every link that one of the references names; several for an ambiguous one.

    A link is requested by name; for a MAC or a PCI address all links are dumped.
    """
    return _space(_named_links(rtnl, refs)).links


def _named_links(
    rtnl: Rtnetlink, refs: Sequence[LinkRef], indexes: Iterable[int] = ()
) -> dict[int, Link]:
    """``named_links``, and the links of these ``indexes``, by ifindex."""
    names = _by_name(ref.value for ref in refs if ref.by == "name")
    found = _asked(rtnl, [*names, *map(get_link, indexes)])
    needles = [_needle(ref) for ref in refs if ref.by != "name"]
    if needles:
        near = map(decode_link, rtnl.dump(get_links(), None, needles))
        found |= {link.index: link for link in near if any(matches(ref, link) for ref in refs)}
    return found


def link_by_index(rtnl: Rtnetlink, index: int, deadline: float | None = None) -> Link | None:
    """The link of that ifindex; None when it does not exist."""
    return _asked(rtnl, [get_link(index)], deadline).get(index)


class Uses(NamedTuple):
    """Where to look for what uses certain links: ifindexes of links that may be on top of them,
    and of those that may have a default route or a static one.
    """

    upper: Collection[int]
    routed: Collection[int]


FindUses = Callable[[Rtnetlink, Collection[int]], Uses]
"""Finds the uses of the links of these ifindexes. What it names is read again, so it may name more."""


def find_uses(rtnl: Rtnetlink, indexes: Collection[int]) -> Uses:
    """``FindUses`` by a dump of all links; each link may have routes."""
    needles = [lower_link_attr(index) for index in indexes]
    found = map(decode_lower_link, rtnl.dump(get_links(), None, needles)) if needles else ()
    return Uses({upper for upper, lower in found if lower in indexes}, indexes)


def read_candidates(
    rtnl: Rtnetlink,
    refs: Sequence[LinkRef],
    look: FindUses = find_uses,
    indexes: Iterable[int] = (),
) -> Namespace:
    """``named_links``, with everything that shows whether they are in use; and the links that
    have these ``indexes``.

    That is their masters, the links on top of them, their VFs, their addresses, the routes through
    them, and what they lose when they leave the namespace. Routes are listed only of the links
    for which ``look`` names them.
    """
    found = _named_links(rtnl, refs, indexes)
    links = {n: link for n, link in found.items() if any(matches(ref, link) for ref in refs)}
    found |= {n: replace(link, vfs=_vfs(link)) for n, link in links.items() if link.parent}
    upper, routed = look(rtnl, links)
    more = ({link.master for link in links.values()} | set(upper)) - {0, *found}
    addresses = {n: _listed(rtnl, get_addresses(n)) for n in links}
    routes = {n: _listed(rtnl, get_routes(n)) if n in routed else [] for n in links}
    neighbours = {n: _listed(rtnl, get_neighbours(n)) for n in links}
    return Namespace(
        _space(found | _asked(rtnl, map(get_link, sorted(more)))).links,
        tuple(a for n in links for a in map(decode_address, addresses[n]) if a),
        tuple(r for n in links for b in routes[n] for r in decode_routes(b) if r.index in links),
        tuple(
            one
            for n, link in links.items()
            for one in losses(link, addresses[n], routes[n], neighbours[n])
        ),
    )


def _vfs(link: Link) -> int:
    """How many VFs a PF has.

    The link's message has it as well (IFLA_NUM_VF), but only with 100 to 200 bytes about each
    VF. The PCI devices of sysfs are the same in every network namespace.
    """
    try:
        with open(VFS.format(link.parent), "rb", buffering=0) as file:
            return int(file.read(16))
    except (OSError, ValueError):  # not a PCI device, or one without SR-IOV
        return 0


def _listed(rtnl: Rtnetlink, request: NetlinkRequest) -> list[bytes]:
    """A dump about one link; nothing where the link disappeared in the meantime."""
    try:
        return rtnl.dump(request)
    except KernelError as error:
        if error.number == errno.ENODEV:
            return []
        raise


def _by_name(names: Iterable[str]) -> list[NetlinkRequest]:
    """Requests for links by name; none for a text that is too long to be a name."""
    valid = (name for name in dict.fromkeys(names) if len(os.fsencode(name)) < ALTIFNAMSIZ)
    return [get_link_named(name) for name in valid]


def _needle(ref: LinkRef) -> bytes:
    """Bytes that are in the message of every link with this MAC or PCI address."""
    return pack_mac(ref.value) if ref.by == "mac" else ref.value.encode()


def _asked(
    rtnl: Rtnetlink, requests: Iterable[NetlinkRequest], deadline: float | None = None
) -> dict[int, Link]:
    """The links among these that exist, by ifindex."""
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


def wait_dad(rtnl: Rtnetlink, index: int, deadline: float) -> None:
    """Wait until duplicate address detection has passed every address of a link.

    Raises VerifyError when another node has one, and TryAgain past the deadline; both name the
    addresses. Detection starts when the link has carrier (RFC 4862, 5.4).
    """
    while True:
        addresses = _addresses(rtnl, index)  # the read has a deadline of its own
        taken = [a.address for a in addresses if a.flags & IFA_F_DADFAILED]
        if taken:
            raise VerifyError(f"another node on the link already has {', '.join(taken)}")
        waiting = [a.address for a in addresses if _tentative(a)]
        if not waiting:
            return
        if time.monotonic() + DAD_POLL >= deadline:
            raise TryAgain(f"duplicate address detection did not complete for {', '.join(waiting)}")
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
