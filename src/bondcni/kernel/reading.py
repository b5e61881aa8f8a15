"""What a namespace holds, read through one socket: all of it, or what concerns some links.

A node may have thousands of links, and one request is about a few. ``snapshot`` reads
everything; ``known``, ``meant`` and ``about`` give a ``Namespace`` of the same shape with all
that matters of certain links in it, and cost the same on every node: links are asked for by
name and ifindex, many in one send, addresses are listed by link. Nobody can be asked what
stands on a link, and a list of the routes through it walks all routes: who listens to the
kernel (``watch.py``) knows where to look, who does not looks everywhere, and decodes little.
Nothing is changed here.
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
from bondcni.kernel.keeping import get_neighbours, kept
from bondcni.kernel.link import (
    decode_link,
    decode_stack,
    get_link,
    get_link_named,
    get_links,
    pack_mac,
    stands_on,
)
from bondcni.kernel.rtnetlink import Rtnetlink, failure
from bondcni.kernel.wire import Ack, Request

DAD_POLL = 0.02
"""Seconds between two looks; detection itself takes one to two seconds."""

ALTIFNAMSIZ = 128

VFS = "/sys/bus/pci/devices/{}/sriov_numvfs"


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
    """Links that may stand on certain ones, and those through which a default route, or one that
    was made by hand, may go.
    """

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

    That is their masters, what stands on them, their VFs, their addresses, the routes through
    them, and what they lose when they leave; of routes, where ``look`` knows, those of links
    alone that have a default route or one made by hand.
    """
    found = _meant(rtnl, refs, indexes)
    links = {n: link for n, link in found.items() if any(matches(ref, link) for ref in refs)}
    found |= {n: replace(link, vfs=_vfs(link)) for n, link in links.items() if link.parent}
    above, routed = look(rtnl, links)
    more = ({link.master for link in links.values()} | set(above)) - {0, *found}
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
            for one in kept(link, addresses[n], routes[n], neighbours[n])
        ),
    )


def _vfs(link: Link) -> int:
    """How many VFs a PF has.

    The kernel tells it in the link's message as well (IFLA_NUM_VF), but with 100 to 200 bytes
    about each VF. The PCI devices of sysfs are the same in every network namespace.
    """
    try:
        with open(VFS.format(link.parent), "rb", buffering=0) as file:
            return int(file.read(16))
    except (OSError, ValueError):  # no PCI device, or one without SR-IOV
        return 0


def _listed(rtnl: Rtnetlink, request: Request) -> list[bytes]:
    """A dump about one link; nothing where the link went in the meantime."""
    try:
        return rtnl.dump(request)
    except KernelError as error:
        if error.number == errno.ENODEV:
            return []
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


def wait_dad(rtnl: Rtnetlink, index: int, deadline: float) -> None:
    """Return when duplicate address detection has passed every address of a link.

    Raises VerifyError when another node has one, TryAgain (naming those that are left)
    past the deadline. Detection starts when the link has carrier (RFC 4862, 5.4).
    """
    while True:
        addresses = _addresses(rtnl, index)  # the kernel's answer has a deadline of its own
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
