"""Compares the option table with the recorded answers of three kernels, cell by cell.

``refusal`` and ``after`` below are the kernel's order of checks (bond_changelink and
__bond_opt_set) over the table's columns, so that a wrong row fails. What the table cannot
know, and how it is treated:

* active_slave with a member reads back that member's ifindex, which the guest gave out:
  any positive number is taken.
* ad_info of a lone member is compared decoded, against what LACP says without a partner.
* perm_hwaddr was not recorded; the other member states are the table's defaults.
* ``enslave`` cells belong to the planner; ``proc`` and ``member proc`` are text for people.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bondcni.core import fields, rules
from bondcni.core.options import (
    AD_INFO,
    BOND_OPTIONS,
    MEMBER_OPTIONS,
    MODES,
    Option,
    bond_option,
    member_option,
)
from bondcni.core.state import OptionValue
from bondcni.core.values import parse_value
from bondcni.kernel.option_codec import decode, decode_bond, encode

FILES = sorted((Path(__file__).parents[1] / "kernel-matrix").glob("*.json"))
MATRICES: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in FILES}

NUMBERS = ("u8", "u16", "u32", "s32", "ifindex")
MAC_BYTES = 6
SOME_IFINDEX = object()
NO_PARTNER = {
    "ad_aggregator": 1,
    "ad_num_ports": 1,
    "ad_actor_key": 0,
    "ad_partner_key": 1,
    "ad_partner_mac": "00:00:00:00:00:00",
}
RECORDED_AS = {"churn": "churn_actor_state"}
"""Names in the recordings that are not in the table."""

UNSUPPORTED = ("EACCES", "option not supported in mode")
BAD_VALUE = ("EINVAL", "invalid option value")


class Bond(NamedTuple):
    kernel: str
    mode: int
    up: bool = False
    member: bool = False
    queues: int = 16

    def has(self, since: str) -> bool:
        return not since or version(self.kernel) >= version(since)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def written(row: Option, cell: str) -> OptionValue | bytes:
    """The value in the key of a cell: a number, or a payload in hex."""
    return int(cell) if row.codec in NUMBERS else bytes.fromhex(cell)


def payload_of(row: Option, value: OptionValue | bytes) -> bytes:
    return value if isinstance(value, bytes) else encode(row, value)


def recorded(row: Option, value: OptionValue | None) -> int | str | None:
    """A value as in the recordings: numbers unsigned, others as hex."""
    if value is None:
        return None
    payload = encode(row, value)
    return int.from_bytes(payload, "little") if row.codec in NUMBERS else payload.hex()


def in_range(row: Option, value: OptionValue | bytes, bond: Bond) -> bool:
    if row.codec == "ifindex":
        return True
    if isinstance(value, int):
        known = bond.has(row.newer_values.get(value, ""))
        return row.low <= value <= row.maximum and known
    if value == b"":
        return True  # an empty nest clears the list
    try:
        parse_value(row, readable(row, value))
    except ValueError:
        return False
    return True


def readable(row: Option, value: OptionValue | bytes) -> Any:
    decoded = decode(row, value) if isinstance(value, bytes) else value
    return list(decoded) if isinstance(decoded, tuple) else decoded


def refusal(
    row: Option, value: OptionValue | bytes, bond: Bond, others: dict[str, Any]
) -> tuple[str, str] | None:
    if not bond.has(row.since) or row.read_only:
        return None
    if row.codec == "mac" and isinstance(value, bytes) and len(value) != MAC_BYTES:
        too_long = len(value) > MAC_BYTES
        return ("ERANGE", "Attribute failed policy validation") if too_long else ("EINVAL", "")
    if row.nla_policy and not in_range(row, value, bond):
        return ("ERANGE", "integer out of range")
    if row.obsolete and bond.has(row.obsolete) and value != row.default:
        return ("EINVAL", f"option obsolete, {row.kernel} cannot be disabled")
    return gate(row, bond) or judged(row, value, bond, others)


def gate(row: Option, bond: Bond) -> tuple[str, str] | None:
    if bond.mode not in row.accepted_in:
        return UNSUPPORTED
    if row.needs_empty and bond.member:
        return ("ENOTEMPTY", "unable to set option because the bond device has slaves")
    if row.needs_down and bond.up:
        return ("EBUSY", "unable to set option because the bond is up")
    return None


def judged(
    row: Option, value: OptionValue | bytes, bond: Bond, others: dict[str, Any]
) -> tuple[str, str] | None:
    if not in_range(row, value, bond):
        return BAD_VALUE
    if any(not rules.effective_value(name, bond.mode, others) for name in row.requires):
        return ("EPERM", "")
    if row.limited_by and isinstance(value, int) and value > bond.queues:
        return ("EPERM", "")
    return None


def held(row: Option, bond: Bond) -> OptionValue | None:
    """The value of an option that a new bond or member reports."""
    if not bond.has(row.since) or bond.mode not in row.reported_in:
        return None
    return row.default_of(bond.mode)


def after(row: Option, value: OptionValue | bytes, bond: Bond, others: dict[str, Any]) -> Any:
    """The value that is read back after the kernel accepted it."""
    if not bond.has(row.since) or row.read_only or bond.mode not in row.reported_in:
        return recorded(row, held(row, bond))
    if row.codec == "ifindex":
        return SOME_IFINDEX if bond.member and row.kernel == "active_slave" else None
    if isinstance(value, bytes):
        return recorded(row, decode(row, value)) or None
    with_rounded_delays = (
        rules.with_rounded_delays(bond.mode, {**others, row.kernel: value}) if is_bond(row) else {}
    )
    return recorded(row, with_rounded_delays.get(row.kernel, value))


def is_bond(row: Option) -> bool:
    return row in BOND_OPTIONS


def same(predicted: Any, cell: Any) -> bool:
    if predicted is SOME_IFINDEX:
        return isinstance(cell, int) and cell > 0
    return bool(predicted == cell)


def predict(row: Option, cell_key: str, bond: Bond, *, always_read: bool) -> list[Any]:
    value = written(row, cell_key)
    no = refusal(row, value, bond, {})
    if no is None:
        return ["ok", "", after(row, value, bond, {})]
    return [*no, recorded(row, held(row, bond))] if always_read else [*no]


def row_of(name: str) -> Option | None:
    """The kernel name of a recorded name; None for a number that is in no row."""
    if name.startswith("unknown_"):
        assert int(name.removeprefix("unknown_")) not in {row.number for row in BOND_OPTIONS}
        return None
    row = bond_option(name)
    assert row is not None, f"{name} was measured and is in no row"
    return row


def equal(predicted: list[Any], cell: list[Any]) -> bool:
    pairs = zip(predicted, cell, strict=False)
    return len(predicted) == len(cell) and all(same(p, c) for p, c in pairs)


each_kernel = pytest.mark.parametrize("kernel", MATRICES)


def test_there_are_three_kernels() -> None:
    assert sorted(MATRICES) == ["6.1.176", "6.12.113", "7.2.7"]
    assert all(matrix["kernel"] == name for name, matrix in MATRICES.items())


@each_kernel
@pytest.mark.parametrize("section", ["create_default", "values", "set_up", "set_member"])
def test_every_row_was_recorded(kernel: str, section: str) -> None:
    names = {row.kernel for name in MATRICES[kernel][section] if (row := row_of(name))}
    assert names == {row.kernel for row in BOND_OPTIONS} - {"mode"}


@each_kernel
def test_create_default(kernel: str) -> None:
    wrong = []
    for name, cells in MATRICES[kernel]["create_default"].items():
        row = row_of(name)
        for mode, cell in cells.items():
            bond = Bond(kernel, MODES.index(mode))
            predicted = ["ok", "", None] if row is None else predict_default(row, bond)
            if not equal(predicted, cell):
                wrong.append((name, mode, predicted, cell))
    assert wrong == []


def predict_default(row: Option, bond: Bond) -> list[Any]:
    value = row.default if row.default is not None else 0 if row.codec in NUMBERS else b""
    no = refusal(row, payload_of(row, value) if isinstance(value, str) else value, bond, {})
    return [*no] if no else ["ok", "", after(row, payload_or_number(row, value), bond, {})]


def payload_or_number(row: Option, value: OptionValue | bytes) -> OptionValue | bytes:
    return value if isinstance(value, int) else payload_of(row, value)


@each_kernel
@pytest.mark.parametrize(
    ("section", "up", "member"),
    [
        ("values", False, False),
        ("set_up", True, False),
        ("set_member", False, True),
        ("set_member_up", True, True),
    ],
)
def test_values(kernel: str, section: str, up: bool, member: bool) -> None:  # noqa: FBT001
    wrong, count = [], 0
    for name, modes in MATRICES[kernel][section].items():
        row = row_of(name)
        for mode, cells in modes.items():
            bond = Bond(kernel, MODES.index(mode), up, member)
            for key, cell in cells.items():
                count += 1
                predicted = (
                    ["ok", "", None]
                    if row is None
                    else predict(row, key, bond, always_read=section != "values")
                )
                if row is not None and row.codec == "ad-info" and cell[2] is not None:
                    predicted[2] = NO_PARTNER if bond.up and bond.member else None
                    cell = [*cell[:2], decode_bond({row.number: bytes.fromhex(cell[2])})]  # noqa: PLW2901
                if not equal(predicted, cell):
                    wrong.append((name, key, mode, predicted, cell))
    assert wrong == []
    assert count > 300


@each_kernel
def test_the_active_aggregator_is_reported_once_there_is_one(kernel: str) -> None:
    cells = MATRICES[kernel]["set_member_up"]["ad_info"]
    reported = {mode for mode, cell in cells.items() if cell[""][2] is not None}
    row = bond_option("ad_info")
    assert row is not None
    assert reported == {MODES[mode] for mode in row.reported_in}
    assert set(NO_PARTNER) == {part.kernel for part in AD_INFO}


@each_kernel
def test_mode_change(kernel: str) -> None:
    miimon, mode = bond_option("miimon"), bond_option("mode")
    assert miimon is not None
    assert mode is not None
    for key, cell in MATRICES[kernel]["mode_change"].items():
        old, new = (MODES.index(name) for name in key.split(">"))
        assert refusal(mode, new, Bond(kernel, old), {}) is None
        kept = miimon.default_of(old) or miimon.default_of(new)
        assert cell == ["ok", "", new, kept], key
    assert len(MATRICES[kernel]["mode_change"]) == len(MODES) ** 2
    assert list(refusal(mode, 7, Bond(kernel, 0), {}) or ()) == MATRICES[kernel]["bad_mode7"]
    assert mode.default == MATRICES[kernel]["defmode"]


TARGET, NS_TARGET = ("10.9.8.7",), ("fd00::7",)
COMBOS: dict[str, dict[str, OptionValue]] = {
    "ad_select3": {"ad_select": 3},
    "arp_interval100+missed_max3": {"arp_interval": 100, "arp_missed_max": 3},
    "arp_interval100+ns": {"arp_interval": 100, "ns_ip6_target": NS_TARGET},
    "arp_interval100+target": {"arp_interval": 100, "arp_ip_target": TARGET},
    "arp_interval100+target+validate3": {
        "arp_interval": 100,
        "arp_ip_target": TARGET,
        "arp_validate": 3,
    },
    "miimon100+arp_interval100": {"miimon": 100, "arp_interval": 100},
    "miimon100+downdelay50": {"miimon": 100, "downdelay": 50},
    "miimon100+peer_notif_delay200": {"miimon": 100, "peer_notif_delay": 200},
    "miimon100+updelay150": {"miimon": 100, "updelay": 150},
    "miimon100+use_carrier0": {"miimon": 100, "use_carrier": 0},
    "target+validate no interval": {"arp_ip_target": TARGET, "arp_validate": 1},
    "xmit vlan+srcmac fail_over_mac1": {"xmit_hash_policy": 5, "fail_over_mac": 1},
}


def predict_combo(options: dict[str, OptionValue], bond: Bond) -> list[Any]:
    rows = {name: row for name in options if (row := bond_option(name))}
    if any(options[n] and options.get(c) for n, row in rows.items() for c in row.conflicts):
        return ["EINVAL", "ARP monitoring cannot be used with MII monitoring"]
    wire = {n: payload_or_number(row, options[n]) for n, row in rows.items()}
    for name, row in rows.items():
        if no := refusal(row, wire[name], bond, options):
            return [*no]
    return ["ok", "", {name: after(row, wire[name], bond, options) for name, row in rows.items()}]


@each_kernel
def test_combos(kernel: str) -> None:
    combos = MATRICES[kernel]["combos"]
    assert set(combos) == set(COMBOS)
    for name, cells in combos.items():
        for mode, cell in cells.items():
            predicted = predict_combo(COMBOS[name], Bond(kernel, MODES.index(mode)))
            if len(cell) == 3:
                cell = [*cell[:2], {kernel_name(k): v for k, v in cell[2].items()}]  # noqa: PLW2901
            assert predicted == cell, (name, mode)


def kernel_name(recorder: str) -> str:
    row = bond_option(recorder)
    assert row is not None, recorder
    return row.kernel


@each_kernel
@pytest.mark.parametrize("mode", MODES)
def test_defaults(kernel: str, mode: str) -> None:
    cells = MATRICES[kernel]["defaults"][mode]
    bond = Bond(kernel, MODES.index(mode))
    reported = {kernel_name(name): v for name, v in cells.items() if not name.startswith("_")}
    rows = {row.kernel: recorded(row, held(row, bond)) for row in BOND_OPTIONS}
    assert {name: value for name, value in rows.items() if value is not None} == reported
    assert cells["_ops"] == {"minmtu": fields.MIN_MTU, "maxmtu": fields.MAX_MTU}
    assert cells["_ntxq"] == rules.TX_QUEUES


@each_kernel
@pytest.mark.parametrize("mode", MODES)
def test_member_defaults(kernel: str, mode: str) -> None:
    cells = dict(MATRICES[kernel]["member_defaults"][mode])
    assert cells.pop("enslave") == ["ok", ""]
    bond = Bond(kernel, MODES.index(mode), member=True)
    rows = {row.kernel: recorded(row, held(row, bond)) for row in MEMBER_OPTIONS}
    assert {name: value for name, value in rows.items() if value is not None} == cells


@each_kernel
@pytest.mark.parametrize("mode", MODES)
def test_member_set(kernel: str, mode: str) -> None:
    cells = dict(MATRICES[kernel]["member_set"][mode])
    cells.pop("member proc")
    files = cells.pop("sysfs slave")
    assert set(files) <= {row.kernel for row in MEMBER_OPTIONS}
    queues = MATRICES[kernel]["defaults"][mode]["_ntxq"]
    bond = Bond(kernel, MODES.index(mode), member=True, queues=queues)
    now: dict[str, Any] = {}  # the cells were set one after another on one member
    wrong = []
    for key, cell in cells.items():
        name, _, text = key.partition("=")
        row = member_option(RECORDED_AS.get(name, name))
        predicted = ["ok", "", None] if name == "unknown" else predict_member(row, text, bond, now)
        if predicted != cell:
            wrong.append((key, predicted, cell))
    assert wrong == []
    assert len(cells) == 12


def predict_member(row: Option | None, text: str, bond: Bond, now: dict[str, Any]) -> list[Any]:
    assert row is not None
    value = written(row, text)
    no = refusal(row, value, bond, {})
    before = now.get(row.kernel, recorded(row, held(row, bond)))
    now[row.kernel] = before if no else after(row, value, bond, {})
    return [*(no or ("ok", "")), now[row.kernel]]


@each_kernel
def test_the_names_are_those_of_sysfs(kernel: str) -> None:
    others = {"slaves", "queue_id", "mii_status", "num_grat_arp", "num_unsol_na"}
    files = set(MATRICES[kernel]["sysfs"]) - others
    assert (
        files
        == {
            row.kernel
            for row in (*BOND_OPTIONS, *AD_INFO)
            if (not row.since or version(kernel) >= version(row.since))
        }
        - {"ad_info", "num_peer_notif"}
        - NOT_IN_SYSFS
    )
    assert {"num_grat_arp", "num_unsol_na"} == set(MATRICES[kernel]["modparm"])


NOT_IN_SYSFS = {"ns_ip6_target", "coupled_control", "broadcast_neighbor", "lacp_strict"}
"""Options that the kernel offers by netlink only."""


def ours(row: Option, raw: Any, mode: int) -> bool:
    """Whether it is allowed in a configuration."""
    try:
        value = parse_value(row, raw)
    except ValueError:
        return False
    return not rules.problems(mode, {row.kernel: value})


def test_what_the_newest_kernel_refuses_is_refused_before_it_is_sent() -> None:
    wrong, count = [], 0
    for name, modes in MATRICES["7.2.7"]["values"].items():
        row = row_of(name)
        if row is None or row.codec == "ifindex":  # a configuration names links
            continue
        for mode, cells in modes.items():
            for key, cell in cells.items():
                accepted = ours(row, readable(row, written(row, key)), MODES.index(mode))
                stricter = row.exact and int(key) % 100 != 0  # the kernel rounds it silently
                tolerant = row.obsolete and key == "0"  # older kernels take it: a warning
                expected = (cell[0] == "ok" and not stricter) or bool(tolerant)
                count += 1
                if accepted != expected:
                    wrong.append((name, key, mode, cell))
    assert wrong == []
    assert count > 500
