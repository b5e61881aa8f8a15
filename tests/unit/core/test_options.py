"""The option table is consistent; parsing, checks and codecs that derive from it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondcni.core import rules
from bondcni.core.options import (
    AB,
    AD,
    AD_INFO,
    ALB,
    ALL,
    BOND_OPTIONS,
    MEMBER_OPTIONS,
    MODES,
    OFF_ON,
    RR,
    TLB,
    XOR,
    Option,
    bond_option,
    folded_key,
    member_option,
    name_of,
)
from bondcni.core.rules import OptionFinding
from bondcni.core.values import allowed, mac_text, parse_integer, parse_value, unicast_mac
from bondcni.kernel.option_codec import decode, decode_bond, decode_member, encode

# bond_policy and bond_slave_policy in bond_netlink.c, with the numbers of if_link.h. The
# recorded answers do not show widths.
BOND_POLICY = """
mode 1 u8, active_slave 2 ifindex, miimon 3 u32, updelay 4 u32, downdelay 5 u32,
use_carrier 6 u8, arp_interval 7 u32, arp_ip_target 8 ipv4-list, arp_validate 9 u32,
arp_all_targets 10 u32, primary 11 ifindex, primary_reselect 12 u8, fail_over_mac 13 u8,
xmit_hash_policy 14 u8, resend_igmp 15 u32, num_peer_notif 16 u8, all_slaves_active 17 u8,
min_links 18 u32, lp_interval 19 u32, packets_per_slave 20 u32, lacp_rate 21 u8,
ad_select 22 u8, ad_info 23 ad-info, ad_actor_sys_prio 24 u16, ad_user_port_key 25 u16,
ad_actor_system 26 mac, tlb_dynamic_lb 27 u8, peer_notif_delay 28 u32, lacp_active 29 u8,
arp_missed_max 30 u8, ns_ip6_target 31 ipv6-list, coupled_control 32 u8,
broadcast_neighbor 33 u8, lacp_strict 34 u8
"""
MEMBER_POLICY = """
state 1 u8, mii_status 2 u8, link_failure_count 3 u32, perm_hwaddr 4 mac, queue_id 5 u16,
ad_aggregator_id 6 u16, ad_actor_oper_port_state 7 u8, ad_partner_oper_port_state 8 u16,
prio 9 s32, actor_port_prio 10 u16, churn_actor_state 11 u8, churn_partner_state 12 u8
"""
AD_INFO_POLICY = """
ad_aggregator 1 u16, ad_num_ports 2 u16, ad_actor_key 3 u16, ad_partner_key 4 u16,
ad_partner_mac 5 mac
"""

EVERY_ROW = (*BOND_OPTIONS, *MEMBER_OPTIONS, *AD_INFO)
RANGES = {"u8": (0, 2**8), "u16": (0, 2**16), "u32": (0, 2**32), "s32": (-(2**31), 2**31)}


def bond(name: str) -> Option:
    row = bond_option(name)
    assert row is not None, name
    return row


def member(name: str) -> Option:
    row = member_option(name)
    assert row is not None, name
    return row


@pytest.mark.parametrize(
    ("table", "policy"),
    [
        (BOND_OPTIONS, BOND_POLICY),
        (MEMBER_OPTIONS, MEMBER_POLICY),
        (AD_INFO, AD_INFO_POLICY),
    ],
)
def test_numbers_and_codecs_are_the_kernels(table: tuple[Option, ...], policy: str) -> None:
    declared = [tuple(entry.split()) for entry in policy.split(",")]
    assert [(row.kernel, str(row.number), row.codec) for row in table] == declared


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row.kernel)
def test_a_row_is_sound(row: Option) -> None:
    if row.codec in RANGES:
        least, beyond = RANGES[row.codec]
        assert least <= row.low <= row.maximum < beyond
        assert row.read_only or row.maximum > row.low
    assert row.help
    assert not row.help.endswith(".")
    assert set(row.accepted_in) <= set(ALL)
    assert row.accepted_in in (row.effective_in, ALL), (
        "effective_in is narrower only where accepted_in is all"
    )
    for name in (
        *row.requires,
        *row.effective_with,
        *row.conflicts,
        *filter(None, [row.multiple_of]),
    ):
        assert bond(name).kernel == name
    for name in row.conflicts:
        assert row.kernel in bond(name).conflicts
    for mode in ALL:
        default = row.default_of(mode)
        if default is not None:
            assert decode(row, encode(row, default)) == default


@pytest.mark.parametrize("row", [r for r in EVERY_ROW if r.read_only], ids=lambda r: r.kernel)
def test_a_read_only_row_says_nothing_of_setting(row: Option) -> None:
    plain = Option(row.kernel, row.key, row.number, row.codec, row.help, read_only=True)
    same = ("default", "default_in", "names", "high", "effective_in", "reported_in")
    assert row == replace(plain, **{field: getattr(row, field) for field in same})


def test_conflicts() -> None:
    pairs = {(row.kernel, other) for row in BOND_OPTIONS for other in row.conflicts}
    one_way = {("miimon", "arp_interval"), ("miimon", "arp_validate")}
    assert pairs == one_way | {(b, a) for a, b in one_way}


def test_columns_that_few_rows_have() -> None:
    def rows(column: str) -> set[str]:
        return {row.kernel for row in EVERY_ROW if getattr(row, column)}

    delays = {"updelay", "downdelay", "peer_notif_delay"}
    assert rows("requires") == rows("multiple_of") == delays
    assert rows("exact") == rows("nla_policy") == {"peer_notif_delay"}
    assert rows("forbidden") == {"actor_port_prio"}
    assert rows("limited_by") == {"queue_id"}
    assert rows("since") == {"broadcast_neighbor", "lacp_strict"}
    assert rows("newer_values") == {"ad_select"}
    assert rows("obsolete") == {"use_carrier"}
    assert {row.kernel for row in MEMBER_OPTIONS if row.needs_down or row.needs_empty} == set()
    writable = {row.kernel for row in MEMBER_OPTIONS if not row.read_only}
    assert writable == {"queue_id", "prio", "actor_port_prio"}


@pytest.mark.parametrize("name", ["queue_id", "prio", "actor_port_prio"])
def test_a_member_option_accepts_the_range_of_its_codec(name: str) -> None:
    row = member(name)
    assert (row.low, row.maximum + 1) == RANGES[row.codec]


def test_mode_may_only_change_while_down_and_empty() -> None:
    assert [row.kernel for row in BOND_OPTIONS if row.needs_down and row.needs_empty] == ["mode"]


@pytest.mark.parametrize("table", [BOND_OPTIONS, MEMBER_OPTIONS])
def test_no_spelling_means_two_options(table: tuple[Option, ...]) -> None:
    seen: dict[str, str] = {}
    for row in table:
        for spelling in {folded_key(name) for name in (row.kernel, row.key, *row.aliases)}:
            assert spelling not in seen
            seen[spelling] = row.kernel


@pytest.mark.parametrize(
    ("spelling", "kernel"),
    [
        ("xmitHashPolicy", "xmit_hash_policy"),
        ("xmit_hash_policy", "xmit_hash_policy"),
        ("xmit-hash-policy", "xmit_hash_policy"),
        ("failOverMac", "fail_over_mac"),
        ("FAILOVERMAC", "fail_over_mac"),
        ("allSlavesActive", "all_slaves_active"),
        ("tlbDynamicLb", "tlb_dynamic_lb"),
        ("num_grat_arp", "num_peer_notif"),
        ("numUnsolNa", "num_peer_notif"),
        ("missed_max", "arp_missed_max"),
        ("adLacpRate", "lacp_rate"),
        ("arpIpTargets", "arp_ip_target"),
        ("miiMon", "miimon"),
    ],
)
def test_spellings(spelling: str, kernel: str) -> None:
    assert bond(spelling).kernel == kernel


def test_an_unknown_spelling() -> None:
    assert bond_option("mtu") is None
    assert bond_option("queue_id") is None
    assert member_option("miimon") is None
    assert member("queueId").kernel == "queue_id"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("miimon", 100, 100),
        ("miimon", "100", 100),
        ("miimon", " +0100 ", 100),
        ("miimon", "2147483647", 2**31 - 1),
        ("mode", "802.3ad", 4),
        ("mode", "4", 4),
        ("mode", "Active-Backup", 1),
        ("fail_over_mac", "active", 1),
        ("fail_over_mac", "1", 1),
        ("fail_over_mac", 1, 1),
        ("lacp_rate", "FAST", 1),
        ("xmit_hash_policy", "layer2+3", 2),
        ("all_slaves_active", True, 1),
        ("all_slaves_active", "off", 0),
        ("all_slaves_active", "Yes", 1),
        ("ad_actor_system", "02-00-00-00-00-0A", "02:00:00:00:00:0a"),
        ("ad_actor_system", "00:00:00:00:00:00", "00:00:00:00:00:00"),
        ("arp_ip_target", ["10.0.0.1", "10.0.0.2"], ("10.0.0.1", "10.0.0.2")),
        ("arp_ip_target", "10.0.0.1, 10.0.0.2", ("10.0.0.1", "10.0.0.2")),
        ("ns_ip6_target", ["FD00:0::7", "fe80::1"], ("fd00::7", "fe80::1")),
        ("primary", "eth1", "eth1"),
    ],
)
def test_values_as_users_write_them(name: str, raw: Any, value: Any) -> None:
    parsed = parse_value(bond(name), raw)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("miimon", -5, "-5 is not allowed: write an integer from 0 to 2147483647 ms"),
        ("miimon", "-5", "from 0 to 2147483647 ms"),
        ("miimon", 99999999999, "from 0 to 2147483647 ms"),
        ("miimon", "9" * 5000, "..."),
        ("miimon", True, "true is not allowed"),
        ("miimon", 100.0, "100.0 is not allowed"),
        ("miimon", "1e2", '"1e2" is not allowed'),
        ("miimon", "1_0", '"1_0" is not allowed'),
        ("miimon", "\u0661", "is not allowed"),
        ("miimon", "", '"" is not allowed'),
        ("miimon", [100], "[100] is not allowed"),
        ("miimon", {}, "{} is not allowed"),
        ("lp_interval", 0, "from 1 to 2147483647 s"),
        ("mode", 7, "one of balance-rr, active-backup"),
        ("mode", "lacp", "802.3ad"),
        ("mode", True, "true is not allowed"),
        ("fail_over_mac", True, "none, active, follow (or 0 to 2)"),
        ("xmit_hash_policy", "layer4", "layer2, layer3+4, layer2+3"),
        ("all_slaves_active", 2, "on or off (1 or 0)"),
        ("all_slaves_active", 1.0, "on or off"),
        ("ad_actor_system", "01:00:00:00:00:01", "not multicast"),
        ("ad_actor_system", "2:0:0:0:0:1", "a MAC address"),
        ("ad_actor_system", "02:00:00:00:00:01:02", "a MAC address"),
        ("arp_ip_target", [], "1 to 16 different IPv4 addresses"),
        ("arp_ip_target", [f"10.0.0.{i}" for i in range(17)], "1 to 16"),
        ("arp_ip_target", ["10.0.0.1", "10.0.0.1"], "1 to 16 different IPv"),
        ("arp_ip_target", ["10.0.0.1", 7], "IPv4"),
        ("arp_ip_target", ["fd00::1"], "IPv4"),
        ("ns_ip6_target", ["10.0.0.1"], "IPv6"),
        ("ns_ip6_target", ["fe80::1%eth0"], "IPv6"),
        ("ns_ip6_target", ["::1"], "::1"),
        ("ns_ip6_target", ["fd00::1", "fd00:0::1"], "1 to 16 different IPv"),
        ("primary", 3, "the name of one of the links"),
        ("primary", "\ud800", "the name of one of the links"),
        ("ad_info", 1, "is read-only"),
    ],
)
def test_values_that_are_refused(name: str, raw: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_value(bond(name), raw)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("raw", [0, 255, 65535])
def test_values_that_crash_kernels_are_refused(raw: int) -> None:
    with pytest.raises(ValueError, match=r"except 0, 255, 65535"):
        parse_value(member("actorPortPrio"), raw)
    assert parse_value(member("actorPortPrio"), raw ^ 2) == raw ^ 2


@settings(deadline=None)
@given(st.sampled_from([r for r in EVERY_ROW if r.codec in RANGES and not r.read_only]), st.data())
def test_a_number_and_its_text_are_the_same(row: Option, data: st.DataObject) -> None:
    number = data.draw(st.integers(row.low - 2, row.maximum + 2))

    def outcome(raw: Any) -> Any:
        try:
            return parse_value(row, raw)
        except ValueError:
            return None

    assert outcome(number) == outcome(str(number))
    if 0 <= number < len(row.names):
        assert outcome(number) == outcome(row.names[number]) == number
    if outcome(number) is not None:
        assert decode(row, encode(row, number)) == number
        assert parse_value(row, name_of(row, number)) == number


# Without the whole of Unicode, whose table takes seconds to build in a fresh clone.
words = st.text("abon1 ,/:-_.%\0\u00e9\ud800", max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(EVERY_ROW), anything)
def test_any_value_is_accepted_or_refused(row: Option, raw: Any) -> None:
    try:
        value = parse_value(row, raw)
    except ValueError:
        return
    assert isinstance(value, int | str | tuple)
    assert not isinstance(value, bool)
    if row.codec != "ifindex":
        assert decode(row, encode(row, value)) == value


def test_payloads() -> None:
    assert encode(bond("mode"), 4) == b"\x04"
    assert encode(bond("miimon"), 100) == struct.pack("=I", 100)
    assert encode(bond("ad_user_port_key"), 1023) == struct.pack("=H", 1023)
    assert encode(member("prio"), -1) == b"\xff\xff\xff\xff"
    assert encode(bond("primary"), 7) == struct.pack("=I", 7)
    assert encode(bond("ad_actor_system"), "02:00:00:00:00:0a") == bytes.fromhex("02000000000a")
    targets = struct.pack("=HH4B", 8, 0, 10, 0, 0, 1) + struct.pack("=HH4B", 8, 1, 10, 0, 0, 2)
    assert encode(bond("arp_ip_target"), ("10.0.0.1", "10.0.0.2")) == targets
    assert len(encode(bond("ns_ip6_target"), ("fd00::1",))) == 4 + 16


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", 256), ("miimon", -1), ("primary", "eth0"), ("ad_actor_system", "x"), ("mode", "1")],
)
def test_values_that_cannot_be_encoded(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(bond(name), value)


def test_reading_a_bond() -> None:
    info = bytes.fromhex("06000100010000000600020001000000060003000000000006000400010000000a000500")
    attrs = {
        1: b"\x04",
        3: struct.pack("=I", 100),
        11: struct.pack("=I", 9),
        23: info + bytes.fromhex("0242000000010000"),
        60: b"\x01",
    }
    assert decode_bond(attrs) == {
        "mode": 4,
        "miimon": 100,
        "primary": 9,
        "ad_aggregator": 1,
        "ad_num_ports": 1,
        "ad_actor_key": 0,
        "ad_partner_key": 1,
        "ad_partner_mac": "02:42:00:00:00:01",
    }


def test_reading_a_member() -> None:
    attrs = {1: b"\x01", 4: b"\x02\0\0\0\0\x01", 9: b"\xff\xff\xff\xff", 99: b""}
    found = {"state": 1, "perm_hwaddr": "02:00:00:00:00:01", "prio": -1}
    assert decode_member(attrs) == found


def test_a_nest_whose_attributes_are_out_of_order_or_flagged() -> None:
    second = struct.pack("=HH4B", 8, 0x8001, 10, 0, 0, 2)
    first = struct.pack("=HH4B", 8, 0, 10, 0, 0, 1)
    assert decode(bond("arp_ip_target"), second + first) == ("10.0.0.1", "10.0.0.2")
    with pytest.raises(ValueError, match="length 8, but 7 bytes are left"):
        decode(bond("arp_ip_target"), first[:-1])


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 70), st.binary(max_size=40)))
def test_reading_never_fails(attrs: dict[int, bytes]) -> None:
    known = {row.kernel for row in (*BOND_OPTIONS, *AD_INFO)}
    assert set(decode_bond(attrs)) <= known
    assert set(decode_member(attrs)) <= {row.kernel for row in MEMBER_OPTIONS}


def test_values_as_text() -> None:
    assert name_of(bond("mode"), 4) == "802.3ad"
    assert name_of(bond("miimon"), 100) == "100"
    assert name_of(bond("all_slaves_active"), 1) == "on"
    assert name_of(bond("ad_select"), 9) == "9"
    assert name_of(bond("arp_ip_target"), ("10.0.0.1", "10.0.0.2")) == "10.0.0.1, 10.0.0.2"
    assert name_of(member("prio"), -1) == "-1"
    assert OFF_ON == ("off", "on")
    assert allowed(bond("peer_notif_delay")) == "an integer from 0 to 300000 ms"


def test_macs() -> None:
    assert mac_text("AA-bb-CC-00-11-22") == "aa:bb:cc:00:11:22"
    assert mac_text("aabbcc001122") is None
    assert unicast_mac("02:00:00:00:00:01") == "02:00:00:00:00:01"
    assert unicast_mac("00:00:00:00:00:00") is None
    assert unicast_mac("ff:ff:ff:ff:ff:ff") is None
    assert parse_integer("-0") == 0
    assert parse_integer("") is None
    assert parse_integer("+") is None


def texts(findings: list[OptionFinding]) -> list[tuple[str, str]]:
    return [(finding.option, finding.message) for finding in findings]


@pytest.mark.parametrize(
    ("mode", "options", "option", "says"),
    [
        (
            AB,
            {"lacp_rate": 0},
            "lacp_rate",
            "not supported in mode active-backup, only in mode 802.3ad",
        ),
        (
            RR,
            {"primary": "a"},
            "primary",
            "not supported in mode balance-rr, only in modes active-backup, balance-tlb",
        ),
        (AB, {"updelay": 0}, "updelay", "requires miimon to be greater than 0"),
        (AB, {"miimon": 0, "updelay": 100}, "updelay", "requires miimon to be greater than 0"),
        (AB, {"miimon": 100, "arp_interval": 100}, "arp_interval", "together with miimon"),
        (AB, {"miimon": 100, "arp_validate": 1}, "arp_validate", "together with miimon"),
        (
            AB,
            {"miimon": 100, "peer_notif_delay": 150},
            "peer_notif_delay",
            "150 is not a multiple of miimon (100)",
        ),
        (AB, {"primary": "c"}, "primary", "c is not one of the links (a, b)"),
        (AB, {"active_slave": "c"}, "active_slave", "c is not one of the links (a, b)"),
    ],
)
def test_problems(mode: int, options: dict[str, Any], option: str, says: str) -> None:
    found = texts(rules.problems(mode, options, ("a", "b")))
    assert [name for name, _ in found] == [option]
    assert says in found[0][1]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (AB, {"miimon": 100, "updelay": 150, "primary": "a", "fail_over_mac": 2}),
        (AB, {"miimon": 0, "arp_interval": 100, "arp_ip_target": ("10.0.0.1",)}),
        (AD, {"updelay": 100}),
        (AD, {"miimon": 100, "peer_notif_delay": 200, "lacp_rate": 1}),
        (TLB, {"miimon": 100, "tlb_dynamic_lb": 0}),
        (XOR, {"miimon": 100, "fail_over_mac": 1}),
    ],
)
def test_no_problem(mode: int, options: dict[str, Any]) -> None:
    assert rules.problems(mode, options, ("a", "b")) == []


def test_primary_is_not_checked_without_known_links() -> None:
    assert rules.problems(AB, {"primary": "eth7"}) == []


def test_problems_of_members() -> None:
    members: dict[int, dict[str, Any]] = {
        0: {"queue_id": 2},
        1: {"queue_id": 0},
        3: {"queue_id": 2, "prio": 5},
        4: {"queue_id": 0},
    }
    found = rules.problems(AD, {"miimon": 100}, None, members)
    assert found == [
        OptionFinding("prio", f"is not supported in mode {MODES[AD]}, only in modes active-backup, "
                "balance-tlb, balance-alb", 3, "remove prio, or change the mode"),
        OptionFinding("queue_id", "queueId 2 is already used by /links/0", 3,
                "give each link a different queueId"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "options", "option", "says"),
    [
        (
            XOR,
            {"miimon": 100, "fail_over_mac": 1},
            "fail_over_mac",
            "no effect in mode balance-xor",
        ),
        (AB, {"miimon": 100, "min_links": 2}, "min_links", "only in mode 802.3ad"),
        (AB, {"miimon": 100, "updelay": 150}, "updelay", "rounds it down to 100"),
        (AB, {"miimon": 100, "downdelay": 50}, "downdelay", "rounds it down to 0"),
        (
            AB,
            {"miimon": 100, "use_carrier": 0},
            "use_carrier",
            "Linux 7.2 and later accept only on",
        ),
        (AB, {"miimon": 0}, "miimon", "0 disables link monitoring"),
        (AD, {"miimon": 0}, "miimon", "0 disables link monitoring"),
        (AB, {"miimon": 100, "primary_reselect": 1}, "primary_reselect", "without primary"),
        (AB, {"miimon": 100, "arp_ip_target": ("10.0.0.1",)}, "arp_ip_target", "arpInterval"),
        (AB, {"arp_interval": 100}, "arp_interval", "without arpIpTarget or nsIp6Target"),
    ],
)
def test_warnings(mode: int, options: dict[str, Any], option: str, says: str) -> None:
    found = texts(rules.warnings(mode, options))
    assert [name for name, _ in found] == [option]
    assert says in found[0][1]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (AD, {"miimon": 100, "fail_over_mac": 0}),
        (AD, {}),
        (ALB, {"miimon": 100, "updelay": 200, "resend_igmp": 0}),
        (AB, {"arp_interval": 100, "arp_ip_target": ("10.0.0.1",), "arp_validate": 3}),
    ],
)
def test_no_warning(mode: int, options: dict[str, Any]) -> None:
    assert rules.warnings(mode, options) == []


def test_warnings_of_members() -> None:
    members: dict[int, dict[str, Any]] = {0: {"prio": 5}, 1: {"queue_id": 17, "prio": 0}}
    found = rules.warnings(AB, {"miimon": 100, "primary": "a"}, members)
    assert [(f.option, f.member) for f in found] == [("prio", 0), ("queue_id", 1)]


def test_delays_are_rounded_as_the_kernel_rounds_them() -> None:
    asked = {"miimon": 100, "updelay": 150, "downdelay": 50, "min_links": 3}
    held = {"miimon": 100, "updelay": 100, "downdelay": 0, "min_links": 3}
    assert rules.with_rounded_delays(AB, asked) == held
    assert rules.with_rounded_delays(AD, {"updelay": 250}) == {"updelay": 200}
    assert rules.with_rounded_delays(AB, {"updelay": 250}) == {"updelay": 250}
