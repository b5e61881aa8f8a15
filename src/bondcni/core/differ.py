"""The bond as it was configured against the bond in the kernel: verification after ADD, and CHECK.

Both are the same comparison, so CHECK verifies what ADD promised. A difference is a sentence with
the link, the option, and the configured and current values. An attribute that the kernel does not
report is one that it does not know: rtnetlink accepts and ignores those. What is not a difference,
but may keep packets from passing, is a warning (``doubts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from bondcni.core import fields
from bondcni.core.document import Diagnostics, Object
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, MODES, Option, name_of
from bondcni.core.plan import LATE, Claimed, Member, Wanted
from bondcni.core.restore import identities
from bondcni.core.state import Link, Location, Namespace, OptionValue
from bondcni.core.values import mac_text

MOVING = ("active_slave",)
"""Options that the driver itself changes; they are compared only right after ADD."""

ACTIVE_BACKUP = MODES.index("active-backup")

ONE_ACTIVE = (ACTIVE_BACKUP, MODES.index("balance-tlb"), MODES.index("balance-alb"))
"""Modes in which one member has the bond's MAC, and the others may have their own."""

UP = 0  # BOND_LINK_UP

CHAIN = " (if a later plugin of the chain sets the MTU, remove mtu from the configuration of bond)"


def difference(wanted: Wanted, pod: Namespace, *, later: bool = False) -> tuple[str, ...]:
    """How the pod's bond differs from ``wanted``; empty when it does not.

    ``later`` is for CHECK: options that the driver changes are not compared.
    """
    bond = pod.named(wanted.name)
    if bond is None:
        return (f"bond {wanted.name} not found",)
    if bond.kind != "bond" or bond.bond is None:
        return (f"{wanted.name} is not a bond: its kind is {bond.kind or 'hardware'}",)
    configured = {k: v for k, v in wanted.options.items() if not (later and k in MOVING)}
    return (
        *_values(f"bond {wanted.name}", configured, bond.bond, BOND_OPTIONS, pod),
        *_link(wanted, bond, pod, later=later),
        *_members(wanted, bond, pod),
    )


def _values(
    what: str,
    configured: Mapping[str, OptionValue],
    current: Mapping[str, OptionValue],
    table: tuple[Option, ...],
    pod: Namespace,
) -> Iterator[str]:
    rows = {row.kernel: row for row in table}
    for key, value in configured.items():
        now, row = current.get(key), rows[key]
        text = _shown(row, value, pod)
        if now is None:
            yield f"{what}: {row.key} {text} is not supported by this kernel"
        elif now != value:
            yield f"{what}: {row.key} is {_shown(row, now, pod)}, not {text}"


def _shown(row: Option, value: OptionValue, pod: Namespace) -> str:
    """A value as in a configuration; a link by its name."""
    if row.codec == "ifindex" and isinstance(value, int):
        link = pod.indexed(value)
        return link.name if link else f"ifindex {value}" if value else "none"
    return name_of(row, value)


def _link(wanted: Wanted, bond: Link, pod: Namespace, *, later: bool) -> Iterator[str]:
    if wanted.mtu and bond.mtu != wanted.mtu:
        yield f"bond {wanted.name}: mtu is {bond.mtu}, not {wanted.mtu}{CHAIN if later else ''}"
    if wanted.mac and bond.mac != wanted.mac:
        yield f"bond {wanted.name}: mac is {bond.mac}, not {wanted.mac}"
    if not bond.up:
        yield f"bond {wanted.name} is down"
    yielded = later and pod.named(wanted.altname)  # its name was given up for a later attachment
    if wanted.altname and wanted.altname not in bond.altnames and not yielded:
        yield f"bond {wanted.name}: alternative name {wanted.altname} is missing"


def _members(wanted: Wanted, bond: Link, pod: Namespace) -> Iterator[str]:
    inside = {link.index: link for link in pod.members(bond)}
    for member in wanted.members:
        link = inside.pop(member.index, None)
        if link is None:
            yield _absent(member, bond, pod)
            continue
        current = link.member or {}
        yield from _values(f"member {link.name}", member.options, current, MEMBER_OPTIONS, pod)
    for link in inside.values():
        yield f"bond {wanted.name}: {link.name} is a member, but not one of the configured links"


def _absent(member: Member, bond: Link, pod: Namespace) -> str:
    link = pod.indexed(member.index) or pod.named(member.name)
    if link is None:
        return f"bond {bond.name}: member {member.name} not found in the pod"
    return f"bond {bond.name}: {member.name} is not a member (it is in the pod)"


def located(wanted: Wanted, claimed: tuple[Claimed, ...], pod: Namespace) -> Wanted:
    """``wanted`` with the current ifindexes of the bond and its links; 0: not in the pod."""
    bond = pod.named(wanted.name)
    members = []
    for member, one in zip(wanted.members, identities(wanted, claimed), strict=True):
        now = one.find_in(pod, Location.POD)[1]
        members.append(replace(member, index=now.index if now else 0))
    moved = {old.index: new.index for old, new in zip(wanted.members, members, strict=True)}
    options = {
        key: moved.get(value, value) if key in LATE and isinstance(value, int) else value
        for key, value in wanted.options.items()
    }
    index = bond.index if bond else wanted.index
    return replace(wanted, index=index, options=options, members=tuple(members))


def expected_later(wanted: Wanted, config: Object, now: Object, added: Object) -> Wanted:
    """``wanted`` with the MTU and MAC that CHECK compares; 0 and "": not compared.

    ``config`` is the configuration of ADD, ``added`` our interface in the result of ADD, ``now``
    the same in prevResult, the result of the chain: a later plugin may change what ADD made (CNI
    SPEC 1.1.0, section "CHECK"). A change that prevResult reports is compared, else the configured
    value. A default is not compared: a later plugin may change it without reporting it, as
    ``tuning`` does with the MTU before CNI 1.1.0, whose results have no MTU.
    """
    mtu = wanted.mtu if any(fields.mtu(config, Diagnostics())) else 0
    if isinstance(now.get("mtu"), int) and now["mtu"] != added.get("mtu"):
        mtu = now["mtu"]
    mac, said = wanted.mac, mac_text(now.get("mac"))
    if said and said != mac_text(added.get("mac")):
        mac = said
    if follows_active(wanted.options):
        mac = ""
    return replace(wanted, mtu=mtu, mac=mac)


def follows_active(options: Mapping[str, OptionValue]) -> bool:
    """Whether the bond has the MAC of its active member. The kernel then ignores any other MAC."""
    return options.get("mode") == ACTIVE_BACKUP and options.get("fail_over_mac") == 1


def doubts(bond: Link, pod: Namespace, answered: str = "") -> Iterator[str]:
    """Warnings of what may keep packets from passing although the bond does not differ.

    ``answered`` is the MAC in the result of ADD, where none was configured.
    """
    options = bond.bond or {}
    if answered not in ("", bond.mac) and not follows_active(options):
        yield (
            f"{bond.name}: mac is {bond.mac}, in the result of ADD it is {answered}. "
            "Set mac in the configuration if it must not change"
        )
    for member in pod.members(bond):
        if not member.carrier:
            yield f"member {member.name} of {bond.name} has no carrier"
            continue
        status = (member.member or {}).get("mii_status", UP)
        if status != UP:
            shown = name_of(_MII_STATUS, status)
            yield (
                f"member {member.name} of {bond.name} has carrier, but the bond does not use it: "
                f"mii_status is {shown}{_arp_advice(options)}"
            )
        elif member.mac != bond.mac and _needs_mac(member, options):
            yield (
                f"active member {member.name} of {bond.name} has the MAC {member.mac}, the bond has "
                f"{bond.mac}: packets to the bond may be dropped. {_MAC_ADVICE}"
            )


_MII_STATUS = next(row for row in MEMBER_OPTIONS if row.kernel == "mii_status")

_MAC_ADVICE = (
    'A link that may not change its MAC needs "failOverMac": 1 in active-backup; a VF may change '
    "it with trust on at its PF"
)


def _arp_advice(options: Mapping[str, OptionValue]) -> str:
    """What to check where the ARP monitor considers a member down."""
    targets = [options.get("arp_ip_target"), options.get("ns_ip6_target")]
    named = ", ".join(t for found in targets if isinstance(found, tuple) for t in found)
    if not options.get("arp_interval") or not named:
        return ""
    return (
        f". The ARP monitor gets no answer from {named} through it: "
        "check arpIpTarget and the network behind this link"
    )


def _needs_mac(member: Link, options: Mapping[str, OptionValue]) -> bool:
    """Whether a member receives packets that are addressed to the bond."""
    if options.get("mode") in ONE_ACTIVE:
        return options.get("active_slave") == member.index
    return True
