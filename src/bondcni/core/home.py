"""The way home: what was taken, and what the kernel holds now, to the next steps.

Undo is not a list kept beside the steps that were done: it is computed from the
record of what was taken and from the state *now*. So one function serves the rollback
of a failed ADD, DEL, a repeated DEL and recovery after a crash at any instruction;
missing means done. It is called again until no step is left: first the bond goes
(the kernel then gives its members their MAC and MTU back) and links move home,
then what still differs is put right, each attribute by itself so that one refusal
does not stop the others. A link is known by device, not by name.
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
"""The likeness of a link that is another device."""


@dataclass(frozen=True, slots=True)
class Home:
    """The next steps (none: all is done), and what cannot be as it was, in sentences.

    ``awaited`` names hardware of the host that is nowhere: its namespace may be dying, and
    the kernel gives it back then. A virtual link that is nowhere is gone for good.
    """

    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    awaited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """A link that was taken, with the signs by which it is found again."""

    home: Location
    link: Link  # as it was
    inside: int  # its ifindex in the pod
    macs: frozenset[str]  # what bonding may have left it as its MAC
    own: str  # the MAC with which it became a member: its own, or the one that ADD gave it

    def match_rank(self, now: Link, where: Location) -> int:
        """How sure it is that ``now``, in namespace ``where``, is this device; 0 is surest.

        Its kind and, where it has them, its parent device and permanent MAC must agree;
        a PCI function with several ports, or a VF whose permanent MAC was assigned anew,
        by one more sign. A virtual link has neither, and an ifindex says nothing by
        itself, for each namespace counts its own: there two signs must agree.
        """
        was = self.link
        if (was.kind, was.type, was.parent) != (now.kind, now.type, now.parent):
            return NO_MATCH
        if was.permanent_mac and was.permanent_mac == now.permanent_mac:
            return 0
        if was.permanent_mac and not was.parent:
            return NO_MATCH
        held = str((now.member or {}).get("perm_hwaddr", now.mac))
        named = now.name == was.name
        if now.index not in ((self.inside,) if where == Location.POD else (was.index, self.inside)):
            return 2 if named and held in (was.mac, self.own) else NO_MATCH
        if was.parent or held in (was.mac, self.own):
            return 1
        known = named or now.mac in self.macs or not {*was.altnames}.isdisjoint(now.altnames)
        return 3 if known else NO_MATCH

    def among(self, space: Namespace, where: Location) -> tuple[int, Link | None]:
        """The link in one namespace, with its likeness."""
        rated = [
            (self.match_rank(now, where), now.name != self.link.name, now) for now in space.links
        ]
        best = min(rated, key=lambda entry: entry[:2], default=(NO_MATCH, True, None))
        return best[0], best[2] if best[0] < NO_MATCH else None


def identities(bond: Wanted, claimed: tuple[Claimed, ...]) -> tuple[LinkIdentity, ...]:
    """The links of a record, in its order."""
    inside = [member.index for member in bond.members]
    inside += [item.link.index for item in claimed[len(inside) :]]
    own = [member.mac for member in bond.members] + [""] * (len(claimed) - len(bond.members))
    macs = frozenset({bond.mac, *own, *(item.link.mac for item in claimed)} - {""})
    return tuple(
        LinkIdentity(item.home, item.link, index, macs, mac or item.link.mac)
        for item, index, mac in zip(claimed, inside, own, strict=True)
    )


def clues(bond: Wanted, claimed: tuple[Claimed, ...]) -> tuple[list[str], list[int]]:
    """Names and ifindexes by which to ask the host for what ``plan_home`` looks at there.

    By likeness these find whatever is known by anything but its permanent MAC.
    """
    found = [one for one in identities(bond, claimed) if one.home == Location.HOST]
    names = [name for one in found for name in (one.link.name, *one.link.altnames)]
    indexes = dict.fromkeys(index for one in found for index in (one.link.index, one.inside))
    return names, list(indexes)


def suffices(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace | None
) -> bool:
    """Whether the links of the host that ``clues`` found say as much as all of them would.

    They do not where hardware is not known for sure yet, for its permanent MAC may be under
    any name; nor where a link that is to come home finds another of its name, for then it
    needs one that nobody has.
    """
    for one in identities(bond, claimed):
        if one.home != Location.HOST:
            continue
        inside = one.among(pod, Location.POD)[0] if pod else NO_MATCH
        outside, at_home = one.among(host, Location.HOST)
        if one.link.permanent_mac and min(inside, outside) > 0:
            return False
        if host.named(one.link.name) not in (None, at_home):
            return False
    return True


def plan_home(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace | None
) -> Home:
    """The next steps to the state before ADD. ``pod`` is None when it is gone."""
    held = our_bond(bond, claimed, pod) if pod else None
    if pod and held:
        return Home(
            (DeleteLink(Location.POD, held.index, held.name), *_freed(bond, claimed, host, pod)), ()
        )
    steps: list[Step] = []
    warnings: list[str] = []
    awaited: list[str] = []
    places = [(one, *_where_is(one, host, pod)) for one in identities(bond, claimed)]
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
                awaited.append(one.link.name)
        elif where != one.home:
            steps += _bring(one.link, now, host, names)
        elif now.master:
            warnings.append(f"link {one.link.name} has a master now and is left as it is")
        else:
            steps += _mend(one, now, space, names)
            warnings += _lost(one.link, now, space)
    return Home(tuple(steps), tuple(warnings), tuple(awaited))


def _freed(
    bond: Wanted, claimed: tuple[Claimed, ...], host: Namespace, pod: Namespace
) -> Iterator[Step]:
    """The moves of a bond's members, in one send with its end, which gives them back the MAC
    and MTU that they came with; where it fails they leave it all the same, and the next steps
    are computed anew.
    """
    places = [(one, one.among(pod, Location.POD)[1]) for one in identities(bond, claimed)]
    names = {one.link.name for one, now in places if now}
    for one, now in places:
        if one.home == Location.HOST and now and now.master == bond.index:
            was = one.link
            yield from _bring(was, replace(now, mac=one.own, mtu=was.mtu), host, names)


def destroyed(was: Link, device: Device | None, spaces: Sequence[Namespace]) -> str:
    """Why hardware that is in none of these namespaces will not come back, in words; "" where it
    may, for it may be in another namespace. ``device`` was read before the namespaces were; None:
    nothing is known of it.

    A network interface is destroyed with its device (a VF by ``sriov_numvfs``) and when its
    driver is unbound. What is made there later is another one, with another MAC where it is a VF.
    """
    if device is None:
        return ""
    where = f"{was.parent_bus} {was.parent}".strip()
    if not device.present:
        return f"link {was.name} was unplugged: the node has no device {where} any more"
    others = [link.name for space in spaces for link in space.links if link.parent == was.parent]
    if device.interfaces > len(others):
        return ""
    now = f"its interface is {', '.join(others)} now" if others else "it has no interface now"
    return f"link {was.name} was destroyed: device {where} was unbound or made anew, {now}"


def our_bond(bond: Wanted, claimed: tuple[Claimed, ...], pod: Namespace) -> Link | None:
    """The bond that the record speaks of: its ifindex, and its name or one of its members."""
    held = pod.indexed(bond.index)
    if held is None or held.kind != "bond":
        return None
    named = {bond.name, bond.altname} & {held.name, *held.altnames}
    members = Namespace(pod.members(held))
    ours = any(one.among(members, Location.POD)[1] for one in identities(bond, claimed))
    return held if named or ours else None


def adopt(
    ifname: str, links: tuple[str, ...], home: Location, pod: Namespace
) -> tuple[Wanted, tuple[Claimed, ...]] | None:
    """A bond that has no record (another plugin's work, or a record that was lost).

    It is taken for ours when it is a bond, has the attachment's name, and has members, every
    one of them a configured link, by name, MAC or PCI address: an empty one may be the pod's
    own. What its members were before
    is not known but for the name and the MAC that the driver keeps; MTU 0 stands for
    unknown. Whose it is in spite of that, ``claims`` and ``unlike`` say.
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
    """Whether a record of this namespace speaks of the bond with that ifindex: by its ifindex or
    its name, or because one of its members is a link that the record's attachment took.
    """
    held = pod.indexed(index)
    if held is None:
        return False
    members = Namespace(pod.members(held))
    mine = held.index == bond.index or bond.name in (held.name, *held.altnames)
    return mine or any(one.among(members, Location.POD)[1] for one in identities(bond, claimed))


def unlike(bond: Wanted, asked: Mapping[str, OptionValue], pod: Namespace) -> str:
    """The first option that a bond has otherwise than its configuration asks for, in words."""
    held = pod.indexed(bond.index)
    for row in BOND_OPTIONS:
        now = (held.bond or {}).get(row.kernel) if held else None
        if row.kernel in asked and now is not None and now != asked[row.kernel]:
            named = name_of(row, asked[row.kernel])
            return f"its {row.kernel} is {name_of(row, now)}, not {named}"
    return ""


def _where_is(
    one: LinkIdentity, host: Namespace, pod: Namespace | None
) -> tuple[Location, Link | None]:
    inside, in_pod = one.among(pod, Location.POD) if pod else (NO_MATCH, None)
    outside, on_host = (
        one.among(host, Location.HOST) if one.home == Location.HOST else (NO_MATCH, None)
    )
    return (Location.POD, in_pod) if in_pod and inside <= outside else (Location.HOST, on_host)


def _aside(index: int, space: Namespace, names: set[str]) -> str:
    """A free name, as the kernel names orphans where it can be."""
    tries = (f"dev{index}" + (f"_{n}" if n else "") for n in count())
    return next(name for name in tries if name not in names and space.named(name) is None)


def _bring(was: Link, now: Link, host: Namespace, names: set[str]) -> Iterator[Step]:
    """One message that moves a link home, with name, MAC, MTU and flags as they were.

    Alternative names that it got in the pod stay behind: one that is taken at home would
    hold up the move (kernel commit 7663d522099e).
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
        name=was.name if free else _aside(now.index, host, names),
        mac=was.mac if now.mac != was.mac else "",
        mtu=was.mtu if now.mtu != was.mtu else 0,
        flags=was.flags & KEPT_FLAGS,
        change=KEPT_FLAGS,
    )


def _mend(one: LinkIdentity, now: Link, space: Namespace, names: set[str]) -> Iterator[Step]:
    """Put right what still differs on a link that is at home."""
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
    """Its own name again; or out of the way, when another of ours waits for the one it has.

    So two links that came home with their names swapped are put right in two rounds.
    """
    was, where = one.link, one.home
    if now.name == was.name:
        return
    name = was.name
    if space.named(was.name) not in (None, now):
        if now.name not in names:
            return
        name = _aside(now.index, space, names)
    if name in now.altnames:
        yield DropAltname(where, now.index, was.name, name)
    if now.up:  # kernels before 6.2 rename only what is down
        yield ChangeLink(where, now.index, was.name, change=IFF_UP)
    yield ChangeLink(where, now.index, was.name, name=name)


def _lost(was: Link, now: Link, space: Namespace) -> Iterator[str]:
    """Names that another link has by now."""
    if space.named(was.name) not in (None, now):
        yield f"link {was.name} is at home as {now.name}: another link has its name"
    for altname in was.altnames:
        if space.named(altname) not in (None, now):
            yield f"link {was.name}: another link has its alternative name {altname}"
