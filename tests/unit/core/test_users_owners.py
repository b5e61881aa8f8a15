"""Issue 10, item 6: whose bond it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.core.world import BOND_MAC, mac, space, veth

from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.restore import claims, unlike
from bondcni.core.state import Link, Location, Namespace

A1, A2 = veth(11, "net1"), veth(12, "net2")
RECORD = Wanted(50, "bond0", "", {}, 1500, "", (Member(11, "net1", {}), Member(12, "net2", {})))
TAKEN = (Claimed(Location.POD, A1), Claimed(Location.POD, A2))


def bond(index: int, name: str, *members: Link) -> Namespace:
    made = Link(index, name, BOND_MAC, kind="bond", bond={"mode": 1, "miimon": 100})
    return space(
        made,
        *(
            replace(link, master=index, mac=BOND_MAC, member={"perm_hwaddr": link.mac})
            for link in members
        ),
    )


OTHER = veth(21, "far1")


@pytest.mark.parametrize(
    ("index", "name", "members", "claimed"),
    [
        (50, "bond0", (A1, A2), True),
        (50, "lag0", (OTHER,), True),  # its ifindex
        (51, "bond0", (OTHER,), True),  # its name
        (51, "lag0", (OTHER, A2), True),  # one of its links
        (51, "lag0", (replace(A1, name="nic5"),), True),
        (51, "lag0", (OTHER,), False),
        (51, "lag0", (veth(13, "net1"),), False),  # another device by that name
    ],
)
def test_10_6_a_record_claims_a_bond(
    index: int, name: str, members: tuple[Link, ...], *, claimed: bool
) -> None:
    assert claims(RECORD, TAKEN, index, bond(index, name, *members)) is claimed


def test_10_6_nothing_is_claimed_that_is_not_there() -> None:
    assert not claims(RECORD, TAKEN, 51, space(A1))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"mode": 1, "miimon": 100}, ""),
        ({"mode": 0}, "its mode is active-backup, not balance-rr"),
        ({"mode": 1, "miimon": 50}, "its miimon is 100, not 50"),
        ({"updelay": 5}, ""),  # the kernel did not report it
    ],
)
def test_10_6_what_makes_a_bond_unlike_its_configuration(asked: dict[str, int], said: str) -> None:
    assert unlike(RECORD, asked, bond(50, "bond0", A1)) == said
    assert unlike(RECORD, asked, space(veth(50, "bond0", mac=mac(1)))) == ""
