"""The plan of a restore: from the claimed links as they were, and what the kernel has now, to the
next steps.

There is no list of undo steps that is kept while ADD works: what is left to do is computed from
the record and from the *current* state. So one function serves the rollback of a failed ADD, DEL,
a repeated DEL and the recovery after a crash at any point. It is called again until it gives no
step. First the bond is deleted (the kernel gives its members their MAC and MTU back) and links
move to their home namespace. Then every attribute that still differs is set, each by a step of its
own, so that one refusal does not stop the others. A link is identified by its device, not by its
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from bondcni.core.options import BOND_OPTIONS, name_of
from bondcni.core.plan import (
    AddAltname,
    ChangeLink,
    Claimed,
    DeleteLink,
    DropAltname,
    Member,
    Step,
    Wanted,
)
from bondcni.core.state import (
    IFF_ALLMULTI,
    IFF_PROMISC,
    IFF_UP,
    Device,
    Link,
    Location,
    Namespace,
    OptionValue,
)

KEPT_FLAGS = IFF_UP | IFF_PROMISC | IFF_ALLMULTI

NO_MATCH = 9
"""The match rank of a link that is another device."""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The next steps (none: everything is done), and warnings about what cannot be restored.

    ``missing`` names hardware of the host that was not found: if its namespace is ending, the
    kernel will move it to the host. A virtual link that is not found does not exist any more.
    """

    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """What identifies a claimed link, wherever it is and whatever its name is."""

    home: Location
    link: Link  # as it was before ADD
    inside: int  # its ifindex in the pod
    macs: frozenset[str]  # those that bonding may have left it with
    joined_with: str  # its MAC when it became a member: its own, or the one that ADD assigned

    def match_rank(self, now: Link, where: Location) -> int:
        """How certain it is that ``now``, in namespace ``where``, is this device; 0 is certain.

        Its kind and, where it has them, its parent device and permanent MAC must agree. Where
        only the parent does (a PCI function with several ports, a VF whose permanent MAC was
        assigned again), the ifindex or name and MAC must agree too. A virtual link has neither;
        since each namespace counts its own ifindexes, there two properties must agree.
        """
        was = self.link
        if (was.kind, was.type, was.parent) != (now.kind, now.type, now.parent):
            return NO_MATCH
        if was.permanent_mac and was.permanent_mac == now.permanent_mac:
            return 0
        if was.permanent_mac and not was.parent:
            return NO_MATCH
        current = str((now.member or {}).get("perm_hwaddr", now.mac))
        named = now.name == was.name
        if now.index not in ((self.inside,) if where == Location.POD else (was.index, self.inside)):
            return 2 if named and current in (was.mac, self.joined_with) else NO_MATCH
        if was.parent or current in (was.mac, self.joined_with):
            return 1
        known = named or now.mac in self.macs or not {*was.altnames}.isdisjoint(now.altnames)
        return 3 if known else NO_MATCH

    def find_in(self, space: Namespace, where: Location) -> tuple[int, Link | None]:
        """The match rank of this link in one namespace, and the link; None where it is not there."""
        rated = [
            (self.match_rank(now, where), now.name != self.link.name, now) for now in space.links
        ]
        best = min(rated, key=lambda entry: entry[:2], default=(NO_MATCH, True, None))
        return best[0], best[2] if best[0] < NO_MATCH else None


def identities(bond: Wanted, claimed: tuple[Claimed, ...]) -> tuple[LinkIdentity, ...]:
    """The identities of the claimed links, in the order of the record."""
    inside = [member.index for member in bond.members]
    inside += [item.link.index for item in claimed[len(inside) :]]
    own = [member.mac for member in bond.members] + [""] * (len(claimed) - len(bond.members))
    macs = frozenset({bond.mac, *own, *(item.link.mac for item in claimed)} - {""})
    return tuple(
        LinkIdentity(item.home, item.link, index, macs, mac or item.link.mac)
        for item, index, mac in zip(claimed, inside, own, strict=True)
    )


def lookup_keys(bond: Wanted, claimed: tuple[Claimed, ...]) -> tuple[list[str], list[int]]:
    """Names and ifindexes by which ``plan_restore``'s links are read from the host.

    They find every link but one that only its permanent MAC identifies.
    """
    found = [one for one in identities(bond, claimed) if one.home == Location.HOST]
    names = [name for one in found for name in (one.link.name, *one.link.altnames)]
    indexes = dict.fromkeys(index for one in found for index in (one.link.index, one.inside))
    return names, list(indexes)


def lookup_is_enough(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace | None
) -> bool:
    """Whether the host links found by ``lookup_keys`` lead to the same plan as all host links.

    They do not where hardware is not identified with certainty yet, for a link of any name may
    have its permanent MAC; nor where another link has the name of a claimed one, which then needs
    a name that no link has.
    """
    for one in identities(bond, claimed):
        if one.home != Location.HOST:
            continue
        inside = one.find_in(pod, Location.POD)[0] if pod else NO_MATCH
        outside, at_home = one.find_in(host, Location.HOST)
        if one.link.permanent_mac and min(inside, outside) > 0:
            return False
        if host.named(one.link.name) not in (None, at_home):
            return False
    return True


def plan_restore(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace | None
) -> RestorePlan:
    """The next steps to the state before ADD. ``pod`` is None when its namespace does not exist."""
    current = our_bond(bond, claimed, pod) if pod else None
    if pod and current:
        return RestorePlan(
            (
                DeleteLink(Location.POD, current.index, current.name),
                *_move_members(bond, claimed, host, pod),
            ),
            (),
        )
    steps: list[Step] = []
    warnings: list[str] = []
    missing: list[str] = []
    places = [(one, *_locate(one, host, pod)) for one in identities(bond, claimed)]
    names = {one.link.name for one, _, now in places if now}
    for one, where, now in places:
        space = host if one.home == Location.HOST else pod
        if now is None or space is None:
            if one.home == Location.HOST and one.link.kind:
                warnings.append(
                    f"link {one.link.name} was not found: it was deleted, or destroyed with its "
                    "network namespace"
                )
            elif one.home == Location.HOST:
                missing.append(one.link.name)
        elif where != one.home:
            steps += _move_to_host(one.link, now, host, names)
        elif now.master:
            warnings.append(f"link {one.link.name} has a master now; it is left unchanged")
        else:
            steps += _correct(one, now, space, names)
            warnings += _name_conflicts(one.link, now, space)
    return RestorePlan(tuple(steps), tuple(warnings), tuple(missing))


def _move_members(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace
) -> Iterator[Step]:
    """The moves of a bond's members, for one send with the deletion of the bond, which restores
    the MAC and MTU they had when they joined. If that fails, they leave the bond by the move, and
    the next round corrects what differs.
    """
    places = [(one, one.find_in(pod, Location.POD)[1]) for one in identities(bond, claimed)]
    names = {one.link.name for one, now in places if now}
    for one, now in places:
        if one.home == Location.HOST and now and now.master == bond.index:
            was = one.link
            yield from _move_to_host(
                was, replace(now, mac=one.joined_with, mtu=was.mtu), host, names
            )


def why_destroyed(was: Link, device: Device | None, spaces: Sequence[Namespace | None]) -> str:
    """Why hardware that was not found in these namespaces will never come back; "" where it may,
    because it may be in another namespace. ``device`` was read before the namespaces; None: it is
    not known.

    A network interface is destroyed with its device (a VF by ``sriov_numvfs``) and when its
    driver is unbound. An interface that the device gets later is another one; a VF's has another
    MAC.
    """
    if device is None:
        return ""
    where = f"{was.parent_bus} {was.parent}".strip()
    if not device.present:
        return f"link {was.name} was unplugged: the node has no device {where}"
    others = [
        link.name for space in spaces if space for link in space.links if link.parent == was.parent
    ]
    if device.interfaces > len(others):
        return ""
    now = f"its interface is {', '.join(others)} now" if others else "it has no interface now"
    return f"link {was.name} was destroyed: device {where} was unbound or created again, {now}"


def our_bond(bond: Wanted, claimed: tuple[Claimed, ...], pod: Namespace) -> Link | None:
    """The bond of the record: it has its ifindex, and its name or one of its members."""
    current = pod.indexed(bond.index)
    if current is None or current.kind != "bond":
        return None
    named = {bond.name, bond.altname} & {current.name, *current.altnames}
    members = Namespace(pod.members(current))
    ours = any(one.find_in(members, Location.POD)[1] for one in identities(bond, claimed))
    return current if named or ours else None


def adopt(
    ifname: str, links: tuple[str, ...], home: Location, pod: Namespace
) -> tuple[Wanted, tuple[Claimed, ...]] | None:
    """A bond that has no record (another plugin made it, or the record was lost).

    It is adopted when it is a bond, has the attachment's name, and has members that are all
    configured links, by name, MAC or PCI address; a bond without members may be the pod's own.
    Of its members before bonding only the name is known, and the MAC that the driver keeps; MTU
    0 stands for unknown. ``claims`` and ``unlike`` say whether it belongs to another attachment.
    """
    bond = pod.named(ifname)
    if bond is None or bond.kind != "bond":
        return None
    members = pod.members(bond)
    if not members:
        return None
    before = [replace(m, mac=str((m.member or {}).get("perm_hwaddr", m.mac))) for m in members]
    for link in before:
        if not {link.name, *link.altnames, link.mac, link.permanent_mac, link.parent} & set(links):
            return None
    claimed = tuple(Claimed(home, replace(link, mtu=0, flags=0)) for link in before)
    inside = tuple(Member(link.index, link.name, {}) for link in before)
    return Wanted(bond.index, bond.name, "", {}, bond.mtu, "", inside), claimed


def claims(bond: Wanted, claimed: tuple[Claimed, ...], index: int, pod: Namespace) -> bool:
    """Whether a record of this namespace describes the bond with that ifindex: by its ifindex or
    name, or because one of its members is a claimed link of the record.
    """
    current = pod.indexed(index)
    if current is None:
        return False
    members = Namespace(pod.members(current))
    mine = current.index == bond.index or bond.name in (current.name, *current.altnames)
    return mine or any(one.find_in(members, Location.POD)[1] for one in identities(bond, claimed))


def unlike(bond: Wanted, asked: Mapping[str, OptionValue], pod: Namespace) -> str:
    """The first option of a bond that differs from its configuration, as a sentence; "": none."""
    current = pod.indexed(bond.index)
    for row in BOND_OPTIONS:
        now = (current.bond or {}).get(row.kernel) if current else None
        if row.kernel in asked and now is not None and now != asked[row.kernel]:
            named = name_of(row, asked[row.kernel])
            return f"its {row.kernel} is {name_of(row, now)}, not {named}"
    return ""


def _locate(
    one: LinkIdentity, host: Namespace, pod: Namespace | None
) -> tuple[Location, Link | None]:
    inside, in_pod = one.find_in(pod, Location.POD) if pod else (NO_MATCH, None)
    outside, on_host = (
        one.find_in(host, Location.HOST) if one.home == Location.HOST else (NO_MATCH, None)
    )
    return (Location.POD, in_pod) if in_pod and inside <= outside else (Location.HOST, on_host)


def _temporary_name(index: int, space: Namespace, names: set[str]) -> str:
    """A free name, if possible the one that the kernel gives to links of an ended namespace."""
    tries = (f"dev{index}" + (f"_{n}" if n else "") for n in count())
    return next(name for name in tries if name not in names and space.named(name) is None)


def _move_to_host(was: Link, now: Link, host: Namespace, names: set[str]) -> Iterator[Step]:
    """The step that moves a link to the host, with name, MAC, MTU and flags as they were.

    Alternative names that it got in the pod are removed before: the kernel refuses the move where
    one of them is taken on the host (kernel commit 7663d522099e).
    """
    for altname in now.altnames:
        if altname not in was.altnames or host.named(altname) is not None:
            yield DropAltname(Location.POD, now.index, was.name, altname)
    free = host.named(was.name) is None
    again = now.index != was.index and host.indexed(was.index) is None
    yield ChangeLink(
        Location.POD,
        now.index,
        was.name,
        to=Location.HOST,
        new_index=was.index if again else 0,
        name=was.name if free else _temporary_name(now.index, host, names),
        mac=was.mac if now.mac != was.mac else "",
        mtu=was.mtu if now.mtu != was.mtu else 0,
        flags=was.flags & KEPT_FLAGS,
        change=KEPT_FLAGS,
    )


def _correct(one: LinkIdentity, now: Link, space: Namespace, names: set[str]) -> Iterator[Step]:
    """Set what still differs on a link in its home namespace."""
    was, where = one.link, one.home
    renaming = tuple(_rename(one, now, space, names))
    yield from renaming
    if was.mac and now.mac != was.mac:
        yield ChangeLink(where, now.index, was.name, mac=was.mac)
    if was.mtu and now.mtu != was.mtu:
        yield ChangeLink(where, now.index, was.name, mtu=was.mtu)
    if now.txqlen != was.txqlen:
        yield ChangeLink(where, now.index, was.name, txqlen=was.txqlen)
    if now.alias != was.alias:
        yield ChangeLink(where, now.index, was.name, alias=was.alias)
    if renaming or (now.flags ^ was.flags) & KEPT_FLAGS:
        flags = was.flags & KEPT_FLAGS
        yield ChangeLink(where, now.index, was.name, flags=flags, change=KEPT_FLAGS)
    for altname in was.altnames:
        if space.named(altname) is None:
            yield AddAltname(where, now.index, was.name, altname)


def _rename(one: LinkIdentity, now: Link, space: Namespace, names: set[str]) -> Iterator[Step]:
    """Give a link its name again; a temporary one, when that is taken and another claimed link
    needs the name it has. So links whose names were swapped get theirs back in two rounds.
    """
    was, where = one.link, one.home
    if now.name == was.name:
        return
    name = was.name
    if space.named(was.name) not in (None, now):
        if now.name not in names:
            return
        name = _temporary_name(now.index, space, names)
    if name in now.altnames:
        yield DropAltname(where, now.index, was.name, name)
    if now.up:  # kernels before 6.2 rename only a link that is down
        yield ChangeLink(where, now.index, was.name, change=IFF_UP)
    yield ChangeLink(where, now.index, was.name, name=name)


def _name_conflicts(was: Link, now: Link, space: Namespace) -> Iterator[str]:
    """Warnings about names that another link has by now."""
    if space.named(was.name) not in (None, now):
        yield f"link {was.name} is restored as {now.name}: another link has its name"
    for altname in was.altnames:
        if space.named(altname) not in (None, now):
            yield f"link {was.name}: another link has its alternative name {altname}"
