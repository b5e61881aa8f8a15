"""Find the link that a reference names, and every reason against taking it.

A reference is a name or alternative name, a MAC or a PCI address. Reasons are sentences with the
link's name in them; the planner collects all of them before it refuses. A host link that is in use
(a default route, a global address, a master, another link on top of it) is not taken, unless the
node's policy forces it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from bondcni.core.config import BondConfig, LinkRef
from bondcni.core.options import MODES
from bondcni.core.policy import Verdict
from bondcni.core.state import (
    ARPHRD_INFINIBAND,
    IFF_LOOPBACK,
    Address,
    Link,
    Location,
    Namespace,
)

EXCLUSIVE = ("macvlan", "macvtap", "ipvlan", "ipvtap")
"""Kinds that use the receive handler of the link below them, which bonding needs as well."""

RT_SCOPE_UNIVERSE = 0


def find_link(ref: LinkRef, space: Namespace, home: Location) -> tuple[Link | None, str]:
    """The link that ``ref`` names, or None and the reason."""
    found = [link for link in space.links if matches(ref, link)]
    if ref.by == "mac" and len(found) > 1:  # VLANs and macvlans may have the MAC of their NIC
        found = [n for n in found if n.permanent_mac == ref.value] or found
        found = [n for n in found if not n.lower] or found
    if len(found) == 1:
        return found[0], ""
    place = "on the host" if home == Location.HOST else "in the pod"
    if not found:
        return None, f"link {ref.by} {ref.value}: not found {place}"
    names = ", ".join(link.name for link in found)
    return None, f"link {ref.by} {ref.value} is ambiguous {place} ({names}): use its name"


def matches(ref: LinkRef, link: Link) -> bool:
    """Whether ``ref`` names this link. A member is also named by the MAC it had before bonding."""
    if ref.by == "pci":
        return link.parent == ref.value and link.parent_bus in ("", "pci")
    if ref.by == "mac":
        before = (link.member or {}).get("perm_hwaddr")
        return ref.value in (link.permanent_mac, before or link.mac)
    return ref.value == link.name or ref.value in link.altnames


def candidate(
    ref: LinkRef,
    names: tuple[str, ...],
    home: Location,
    space: Namespace,
    pod: Namespace,
    verdicts: Mapping[int, Verdict],
) -> tuple[Link | None, list[str]]:
    """The link that ``ref`` names, if there is one, and every reason against taking it. The other
    arguments are those of ``reasons_against``.
    """
    link, why = find_link(ref, space, home)
    if link is None:
        return None, [why]
    return link, reasons_against(link, names, home, space, pod, verdicts)


def reasons_against(
    link: Link,
    names: tuple[str, ...],
    home: Location,
    space: Namespace,
    pod: Namespace,
    verdicts: Mapping[int, Verdict],
) -> list[str]:
    """Why this link cannot be a member, regardless of the other links.

    ``names`` are the names of the bond, ``home`` is the link's namespace and ``space`` what was
    read of it. ``verdicts`` has the verdict of the node's policy on each host link, by ifindex.
    """
    reasons = list(_unfit(link, space))
    own = (link.name, *link.altnames)
    if not set(own).isdisjoint(names):
        reasons.append(f"link {link.name} has the same name as the bond")
    if home == Location.HOST:
        # Alternative names move with a link (kernel commit 7663d522099e).
        reasons += [
            f"link {link.name}: the pod already has an interface named {name}"
            for name in own
            if name not in names and pod.named(name)
        ]
        verdict = verdicts[link.index]
        reasons += [] if verdict.allowed else [f"host link {link.name}: {verdict.why}"]
        reasons += [] if verdict.force else list(in_use(link, space))
    return reasons


def _unfit(link: Link, space: Namespace) -> Iterator[str]:
    if link.flags & IFF_LOOPBACK:
        yield f"link {link.name} is the loopback interface"
    if link.master:
        master = space.indexed(link.master)
        name = f"{master.kind} {master.name}" if master else f"ifindex {link.master}"
        yield f"link {link.name} already has a master: {name}"
    for upper in space.links:
        if upper.lower == link.index and upper.kind in EXCLUSIVE:
            yield f"link {link.name} has the {upper.kind} {upper.name} on top of it"


def in_use(link: Link, host: Namespace) -> Iterator[str]:
    """Why the host itself needs the link."""
    for route in host.routes:
        if route.index == link.index and route.dst in ("0.0.0.0/0", "::/0"):
            yield f"host link {link.name} is in use: a default route goes through it"
    for address in host.addresses:
        if address.index == link.index and _is_global(address):
            yield f"host link {link.name} is in use: it has the address {address.address}"
    for upper in host.links:
        if upper.lower == link.index and upper.kind not in EXCLUSIVE:
            yield f"host link {link.name} is in use: {upper.kind} {upper.name} is on top of it"
    if link.vfs:
        count = f"{link.vfs} VFs" if link.vfs > 1 else "1 VF"
        yield (
            f"host link {link.name} is in use: it is an SR-IOV PF with {count}, which pods may "
            f"use: use VFs instead, remove them (echo 0 >/sys/class/net/{link.name}/device/"
            "sriov_numvfs), or allow the link with force in the node's policy"
        )


def _is_global(address: Address) -> bool:
    return address.scope == RT_SCOPE_UNIVERSE


def reasons_between(links: list[Link], config: BondConfig) -> list[str]:
    """Why these links cannot together be members of this bond."""
    once = list({link.index: link for link in links}.values())
    return [
        *_twice(links),
        *_types(once, config.mode),
        *_mtus(once, config),
    ]


def _twice(links: list[Link]) -> Iterator[str]:
    for index, count in Counter(link.index for link in links).items():
        if count > 1:
            name = next(link.name for link in links if link.index == index)
            yield f"link {name} is listed {count} times in links"


def _types(links: list[Link], mode: int) -> Iterator[str]:
    if len({link.type for link in links}) > 1:
        kinds = ", ".join(f"{link.name} (ARPHRD {link.type})" for link in links)
        yield f"the links are devices of different types: {kinds}"
    for link in links:
        if link.type == ARPHRD_INFINIBAND and MODES[mode] != "active-backup":
            yield f"link {link.name} is InfiniBand, which supports only active-backup"


def _mtus(links: list[Link], config: BondConfig) -> Iterator[str]:
    if config.mtu is None:
        return
    for link in links:
        if config.mtu > link.mtu:
            text = f"mtu {config.mtu} exceeds the MTU of {link.name} ({link.mtu})"
            yield f"{text}: lower mtu or raise the MTU of {link.name}"
        elif config.mtu < link.min_mtu:
            yield f"mtu {config.mtu} is below the minimum MTU of {link.name} ({link.min_mtu}): raise mtu"
