"""Wanted against held, option by option: verification after ADD, and CHECK.

Both are the same comparison, so that what ADD promises is what CHECK holds it to.
A difference is a sentence with the link, the option, what was asked and what is
there. An attribute that the kernel did not report back is one that it does not
know: rtnetlink accepts and drops those without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bondcni.core.home import sought
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, Option, name_of
from bondcni.core.plan import LATE, Member, Taken, Wanted
from bondcni.core.state import Link, Namespace, OptionValue

MOVING = ("active_slave",)
"""Options that the driver itself changes afterwards; compared right after ADD only."""


def difference(wanted: Wanted, pod: Namespace, *, later: bool = False) -> tuple[str, ...]:
    """What the pod's bond has otherwise than ``wanted``; empty when nothing.

    ``later`` is CHECK's view: options that move by themselves are let be.
    """
    bond = pod.named(wanted.name)
    if bond is None:
        return (f"bond {wanted.name} is not there",)
    if bond.kind != "bond" or bond.bond is None:
        return (f"{wanted.name} is not a bond but {bond.kind or 'hardware'}",)
    asked = {k: v for k, v in wanted.options.items() if not (later and k in MOVING)}
    return (
        *_values(f"bond {wanted.name}", asked, bond.bond, BOND_OPTIONS),
        *_link(wanted, bond),
        *_members(wanted, bond, pod),
    )


def _values(
    what: str,
    asked: Mapping[str, OptionValue],
    held: Mapping[str, OptionValue],
    table: tuple[Option, ...],
) -> Iterator[str]:
    rows = {row.kernel: row for row in table}
    for key, value in asked.items():
        now, row = held.get(key), rows[key]
        if now is None:
            yield f"{what}: {key} {name_of(row, value)} was asked for; this kernel does not have it"
        elif now != value:
            yield f"{what}: {key} is {name_of(row, now)}, not {name_of(row, value)}"


def _link(wanted: Wanted, bond: Link) -> Iterator[str]:
    if bond.mtu != wanted.mtu:
        yield f"bond {wanted.name}: mtu is {bond.mtu}, not {wanted.mtu}"
    if wanted.mac and bond.mac != wanted.mac:
        yield f"bond {wanted.name}: mac is {bond.mac}, not {wanted.mac}"
    if not bond.up:
        yield f"bond {wanted.name} is down"
    if wanted.altname and wanted.altname not in bond.altnames:
        yield f"bond {wanted.name}: alternative name {wanted.altname} is missing"


def _members(wanted: Wanted, bond: Link, pod: Namespace) -> Iterator[str]:
    inside = {link.index: link for link in pod.members(bond)}
    for member in wanted.members:
        link = inside.pop(member.index, None)
        if link is None:
            yield _absent(member, bond, pod)
            continue
        held = link.member or {}
        yield from _values(f"member {link.name}", member.options, held, MEMBER_OPTIONS)
    for link in inside.values():
        yield f"bond {wanted.name}: {link.name} is a member, and was not asked for"


def _absent(member: Member, bond: Link, pod: Namespace) -> str:
    link = pod.indexed(member.index) or pod.named(member.name)
    if link is None:
        return f"bond {bond.name}: member {member.name} is not in the pod any more"
    return f"bond {bond.name}: {member.name} is not a member (it is in the pod)"


def located(wanted: Wanted, taken: tuple[Taken, ...], pod: Namespace) -> Wanted:
    """``wanted`` with the ifindexes that the bond and its links have now; 0: not in the pod."""
    bond = pod.named(wanted.name)
    members = []
    for member, one in zip(wanted.members, sought(wanted, taken), strict=True):
        now = one.among(pod, "pod")[1]
        members.append(member._replace(index=now.index if now else 0))
    moved = {old.index: new.index for old, new in zip(wanted.members, members, strict=True)}
    options = {
        key: moved.get(value, value) if key in LATE and isinstance(value, int) else value
        for key, value in wanted.options.items()
    }
    index = bond.index if bond else wanted.index
    return wanted._replace(index=index, options=options, members=tuple(members))
