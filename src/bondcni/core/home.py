"""The way home: what was taken, and what the kernel holds now, to the next steps.

Undo is not a list kept beside the steps that were done: it is computed from the
record of what was taken and from the state *now*. So one function serves the rollback
of a failed ADD, DEL, a repeated DEL and recovery after a crash at any instruction;
missing means done. It is called again until no step is left: first the bond goes
(the kernel then gives its members their MAC and MTU back), then links move home,
then what still differs is put right, each attribute by itself so that one refusal
does not stop the others. A link is known by device, not by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bondcni.core.plan import AddAltname, ChangeLink, DeleteLink, Step, Taken, Wanted
from bondcni.core.state import IFF_ALLMULTI, IFF_PROMISC, IFF_UP, Link, Namespace

KEPT_FLAGS = IFF_UP | IFF_PROMISC | IFF_ALLMULTI


class Home(NamedTuple):
    """The next steps (none: all is done) and the host links that are nowhere."""

    steps: tuple[Step, ...]
    missing: tuple[str, ...]


def plan_home(
    bond: Wanted, taken: tuple[Taken, ...], host: Namespace, pod: Namespace | None
) -> Home:
    """The next steps to the state before ADD. ``pod`` is None when it is gone."""
    held = our_bond(bond, taken, pod) if pod else None
    if held is not None:
        return Home((DeleteLink("pod", held.index, held.name),), ())
    steps: list[Step] = []
    missing: list[str] = []
    for item in taken:
        where, now = _where_is(item, host, pod)
        if now is not None:
            steps += _bring(item, now, host) if where != item.home else _mend(item, now, host, pod)
        elif item.home == "host":
            missing.append(item.link.name)
    return Home(tuple(steps), tuple(missing))


def our_bond(bond: Wanted, taken: tuple[Taken, ...], pod: Namespace) -> Link | None:
    """The bond that the record speaks of: its ifindex, and its name or one of its members."""
    held = pod.indexed(bond.index)
    if held is None or held.kind != "bond":
        return None
    named = {bond.name, bond.altname} & {held.name, *held.altnames}
    ours = [m for m in pod.members(held) if any(is_same(item.link, m) for item in taken)]
    return held if named or ours else None


def adopt(
    ifname: str, links: tuple[str, ...], home: str, pod: Namespace
) -> tuple[Wanted, tuple[Taken, ...]] | None:
    """A bond that has no record (another plugin's work, or a record that was lost).

    It is taken for ours when it is a bond, has the attachment's name, and every member is
    one of the configured links. What its members were before is not known but for the
    name and the MAC that the driver keeps; MTU 0 stands for unknown.
    """
    bond = pod.named(ifname)
    if bond is None or bond.kind != "bond":
        return None
    members = pod.members(bond)
    if any(not {m.name, *m.altnames} & set(links) for m in members):
        return None
    taken = tuple(
        Taken(home, m._replace(mac=str((m.member or {}).get("perm_hwaddr", m.mac)), mtu=0, flags=0))
        for m in members
    )
    return Wanted(bond.index, bond.name, "", {}, bond.mtu, "", ()), taken


def _where_is(item: Taken, host: Namespace, pod: Namespace | None) -> tuple[str, Link | None]:
    for where, space in (("pod", pod), ("host", host)):
        if space is None or (where == "host" and item.home == "pod"):
            continue
        same = [now for now in space.links if is_same(item.link, now)]
        same.sort(key=lambda now: (now.index != item.link.index, now.name != item.link.name))
        if same:
            return where, same[0]
    return "", None


def is_same(was: Link, now: Link) -> bool:
    """Whether ``now`` is the device that ``was`` describes.

    Its kind and, where it has them, its parent device and permanent MAC must agree; a
    PCI function with several ports, or a VF whose permanent MAC was assigned anew,
    by one more sign. A virtual link has neither: there it is the ifindex, or the name
    together with the MAC that it had before bonding.
    """
    if (was.kind, was.type, was.parent) != (now.kind, now.type, now.parent):
        return False
    held = str((now.member or {}).get("perm_hwaddr", now.mac))
    if was.permanent_mac and was.permanent_mac == now.permanent_mac:
        return True
    if was.permanent_mac and not was.parent:
        return False
    return was.index == now.index or (was.name == now.name and was.mac == held)


def _bring(item: Taken, now: Link, host: Namespace) -> Iterator[Step]:
    """One message that moves a link home, with name, MAC, MTU and flags as they were."""
    was = item.link
    free = host.named(was.name) is None
    yield ChangeLink(
        "pod",
        now.index,
        was.name,
        to="host",
        name=was.name if free else f"dev{now.index}",  # as the kernel names orphans
        mac=was.mac if now.mac != was.mac else "",
        mtu=was.mtu if now.mtu != was.mtu else 0,
        flags=was.flags & KEPT_FLAGS,
        change=KEPT_FLAGS,
    )


def _mend(item: Taken, now: Link, host: Namespace, pod: Namespace | None) -> Iterator[Step]:
    """Put right what still differs on a link that is at home, unless it is another's now."""
    was, where = item.link, item.home
    space = host if where == "host" else pod
    if now.master or space is None:
        return
    if now.name != was.name and space.named(was.name) in (None, now):
        if now.up:  # kernels before 6.2 rename only what is down
            yield ChangeLink(where, now.index, was.name, change=IFF_UP)
        yield ChangeLink(where, now.index, was.name, name=was.name)
    if was.mac and now.mac != was.mac:
        yield ChangeLink(where, now.index, was.name, mac=was.mac)
    if was.mtu and now.mtu != was.mtu:
        yield ChangeLink(where, now.index, was.name, mtu=was.mtu)
    if now.txqlen != was.txqlen:
        yield ChangeLink(where, now.index, was.name, txqlen=was.txqlen)
    if now.alias != was.alias:
        yield ChangeLink(where, now.index, was.name, alias=was.alias)
    if (now.flags ^ was.flags) & KEPT_FLAGS:
        yield ChangeLink(where, now.index, was.name, flags=was.flags, change=KEPT_FLAGS)
    for altname in was.altnames:
        if space.named(altname) is None:
            yield AddAltname(where, now.index, was.name, altname)
