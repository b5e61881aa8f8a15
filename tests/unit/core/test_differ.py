"""Wanted against held: every difference is a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.world import mac, nic, space, veth

from bondcni.core.differ import difference, located
from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import IFF_UP, Link, Location, Namespace

WANTED = Wanted(
    50,
    "net1",
    "up",
    {"mode": 1, "miimon": 100, "primary": 11, "active_slave": 11},
    1500,
    "",
    (Member(11, "eth1", {"prio": 5}), Member(12, "eth2", {})),
)
BOND = Link(
    50,
    "net1",
    mac(11),
    flags=IFF_UP,
    kind="bond",
    altnames=("up",),
    bond={**WANTED.options, "updelay": 0},
)
ETH1 = nic(11, "eth1", master=50, member={"prio": 5, "perm_hwaddr": mac(11)})
ETH2 = nic(12, "eth2", master=50, member={"prio": 0, "perm_hwaddr": mac(12)})


def held(bond: Link = BOND, *links: Link) -> Namespace:
    return space(bond, *(links or (ETH1, ETH2)))


def options(**changes: Any) -> Link:
    now = {**(BOND.bond or {}), **changes}
    return replace(BOND, bond={k: v for k, v in now.items() if v is not None})


def test_what_is_as_wanted_does_not_differ() -> None:
    assert difference(WANTED, held()) == ()


@pytest.mark.parametrize(
    ("pod", "sentence"),
    [
        (space(), "bond net1 not found"),
        (space(nic(50, "net1")), "net1 is not a bond: its kind is hardware"),
        (space(veth(50, "net1")), "net1 is not a bond: its kind is veth"),
        (held(options(mode=0)), "bond net1: mode is balance-rr, not active-backup"),
        (held(options(miimon=0)), "bond net1: miimon is 0, not 100"),
        (
            held(options(miimon=None)),
            "bond net1: miimon 100 is not supported by this kernel",
        ),
        (held(options(active_slave=12)), "bond net1: activeSlave is eth2, not eth1"),
        (held(replace(BOND, mtu=1400)), "bond net1: mtu is 1400, not 1500"),
        (held(replace(BOND, flags=0)), "bond net1 is down"),
        (held(replace(BOND, altnames=())), "bond net1: alternative name up is missing"),
        (held(BOND, ETH1), "bond net1: member eth2 not found in the pod"),
        (
            held(BOND, ETH1, replace(ETH2, master=0)),
            "bond net1: eth2 is not a member (it is in the pod)",
        ),
        (
            held(BOND, ETH1, ETH2, nic(13, "eth3", master=50)),
            "bond net1: eth3 is a member, but not one of the configured links",
        ),
        (
            held(BOND, replace(ETH1, member={"prio": 0}), ETH2),
            "member eth1: prio is 0, not 5",
        ),
        (
            held(BOND, replace(ETH1, member={}), ETH2),
            "member eth1: prio 5 is not supported by this kernel",
        ),
    ],
)
def test_one_difference_is_one_sentence(pod: Namespace, sentence: str) -> None:
    assert difference(WANTED, pod) == (sentence,)


def test_a_mac_that_was_asked_for() -> None:
    wanted = replace(WANTED, mac=mac(0x70))
    assert difference(wanted, held()) == (f"bond net1: mac is {mac(11)}, not {mac(0x70)}",)


def test_all_differences_are_told() -> None:
    pod = held(replace(options(miimon=50), mtu=9000, flags=0), ETH1)
    assert len(difference(WANTED, pod)) == 4


def test_check_lets_be_what_moves_by_itself() -> None:
    assert difference(WANTED, held(options(active_slave=12)), later=True) == ()


TAKEN = (Claimed(Location.HOST, nic(11, "eth1")), Claimed(Location.HOST, nic(12, "eth2")))


def test_links_and_bond_are_located_where_they_are_now() -> None:
    pod = space(replace(BOND, index=70), replace(ETH1, index=71), replace(ETH2, name="renamed"))
    now = located(WANTED, TAKEN, pod)
    assert (now.index, [m.index for m in now.members]) == (70, [71, 12])
    assert (now.options["primary"], now.options["active_slave"]) == (71, 71)
    assert now.options["miimon"] == 100


def test_a_link_that_left_is_not_taken_for_another_with_its_ifindex() -> None:
    pod = held(BOND, ETH1, veth(12, "eth7"))
    assert difference(located(WANTED, TAKEN, pod), pod) == (
        "bond net1: member eth2 not found in the pod",
    )
