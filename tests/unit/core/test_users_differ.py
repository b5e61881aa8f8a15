"""Issue 10, items 4 and 19: what CHECK holds of MTU and MAC, and what it warns of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.world import mac, nic, space

from bondcni.core.differ import doubts, expected_later
from bondcni.core.plan import Wanted
from bondcni.core.state import IFF_UP, Link

WANTED = Wanted(50, "net1", "", {"mode": 1, "miimon": 100}, 1500, "", ())
OURS = {"name": "net1", "mac": mac(1), "mtu": 1500}


@pytest.mark.parametrize(
    ("config", "asked_mac", "now", "added", "held"),
    [
        ({}, "", OURS, OURS, (0, "")),
        ({"mtu": None}, "", OURS, OURS, (0, "")),
        ({"mtu": 0}, "", OURS, OURS, (0, "")),
        ({"mtu": 1500}, "", OURS, OURS, (1500, "")),
        ({"mtu": " 1500 "}, "", OURS, OURS, (1500, "")),
        ({"mtu": "inherit"}, "", OURS, OURS, (1500, "")),
        ({"mtu": 1500}, "", {**OURS, "mtu": 1400}, OURS, (1400, "")),
        ({}, "", {**OURS, "mtu": 1400}, OURS, (1400, "")),
        ({}, "", {**OURS, "mtu": "rubbish"}, OURS, (0, "")),
        ({}, mac(7), OURS, OURS, (0, mac(7))),
        ({}, "", {**OURS, "mac": mac(9)}, OURS, (0, mac(9))),
        ({}, mac(7), {**OURS, "mac": "02-00-00-00-00-0A"}, OURS, (0, mac(10))),
        ({}, "", {**OURS, "mac": mac(1).upper()}, OURS, (0, "")),
        ({}, mac(7), {}, OURS, (0, mac(7))),
        ({}, "", OURS, {}, (1500, mac(1))),  # ADD's own answer is not on record
        ({}, "", {**OURS, "mac": 5}, OURS, (0, "")),
    ],
)
def test_10_4_what_is_held_later(
    config: dict[str, Any],
    asked_mac: str,
    now: dict[str, Any],
    added: dict[str, Any],
    held: tuple[int, str],
) -> None:
    found = expected_later(replace(WANTED, mac=asked_mac), config, now, added)
    assert (found.mtu, found.mac) == held


def test_10_4_no_mac_is_held_where_it_follows_the_active_member() -> None:
    follows = replace(WANTED, mac=mac(7), options={"mode": 1, "fail_over_mac": 1})
    assert expected_later(follows, {}, {**OURS, "mac": mac(9)}, OURS).mac == ""


def bond(**options: Any) -> Link:
    whole = {"mode": 1, "active_slave": 11, **options}
    return Link(50, "net1", mac(11), flags=IFF_UP, kind="bond", bond=whole)


def member(index: int, **changes: Any) -> Link:
    base = {"master": 50, "mac": mac(11), "carrier": True, "member": {"mii_status": 0}}
    return nic(index, f"eth{index}", **{**base, **changes})


def told(of: Link, *members: Link, answered: str = "") -> str:
    return "; ".join(doubts(of, space(of, *members), answered))


def test_10_19_nothing_to_warn_of() -> None:
    assert told(bond(), member(11), member(12)) == ""
    assert told(bond(), member(11, member=None), member(12, member={})) == ""


def test_10_19_without_carrier_nothing_more_is_said() -> None:
    down = member(12, carrier=False, member={"mii_status": 2}, mac=mac(12))
    assert told(bond(), member(11), down) == "member eth12 of net1 has no carrier"


@pytest.mark.parametrize(("status", "shown"), [(1, "going down"), (2, "down"), (3, "going back")])
def test_10_19_a_member_that_is_not_used(status: int, shown: str) -> None:
    assert told(bond(), member(11), member(12, member={"mii_status": status})) == (
        f"member eth12 of net1 has carrier, but the bond does not use it: mii_status is {shown}"
    )


def test_10_19_the_targets_of_the_arp_monitor_are_named() -> None:
    by_arp = bond(arp_interval=100, arp_ip_target=("10.0.0.1",), ns_ip6_target=("fe80::1",))
    said = told(by_arp, member(11), member(12, member={"mii_status": 2}))
    assert "no answer from 10.0.0.1, fe80::1 through it" in said


@pytest.mark.parametrize(
    ("options", "odd", "warned"),
    [
        ({}, 11, True),
        ({}, 12, False),
        ({"mode": 5}, 12, False),
        ({"mode": 6}, 11, True),
        ({"mode": 0}, 12, True),
        ({"mode": 4}, 11, True),
        ({"active_slave": 0}, 11, False),
    ],
)
def test_10_19_the_mac_of_an_active_member(
    options: dict[str, Any], odd: int, *, warned: bool
) -> None:
    members = [member(n, **({"mac": mac(99)} if n == odd else {})) for n in (11, 12)]
    said = told(bond(**options), *members)
    assert (f"active member eth{odd} of net1 has the MAC {mac(99)}" in said) is warned
    assert (said == "") is not warned


def test_10_4_a_mac_that_is_not_held_is_told() -> None:
    assert f"mac is {mac(11)}, in the result of ADD it is {mac(1)}" in told(bond(), answered=mac(1))
    assert told(bond(), answered=mac(11)) == ""
    assert told(bond(fail_over_mac=1), answered=mac(1)) == ""
