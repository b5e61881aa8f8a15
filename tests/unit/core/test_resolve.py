"""A link as a user names it."""

from __future__ import annotations

import pytest
from tests.unit.core.world import mac, nic, space, veth

from bondcni.core.config import LinkRef
from bondcni.core.resolve import find_link
from bondcni.core.state import Link, Location

PF = nic(11, "eth1", altnames=("enp11s0",))


@pytest.mark.parametrize(
    ("by", "value"),
    [("name", "eth1"), ("name", "enp11s0"), ("mac", mac(11)), ("pci", "0000:0b:00.0")],
)
def test_each_way_to_name_a_link(by: str, value: str) -> None:
    assert find_link(LinkRef(by, value), space(PF, nic(12, "eth2")), Location.HOST) == (PF, "")


@pytest.mark.parametrize(
    ("home", "place"), [(Location.HOST, "on the host"), (Location.POD, "in the pod")]
)
def test_a_missing_link_is_named_with_its_place(home: Location, place: str) -> None:
    link, why = find_link(LinkRef("mac", mac(9)), space(PF), home)
    assert link is None
    assert why == f"link mac {mac(9)}: not found {place}"


def test_a_mac_means_the_nic_and_not_what_is_stacked_on_it() -> None:
    vlan = Link(20, "eth1.5", mac(11), kind="vlan", lower=11)
    bond = Link(21, "bond0", mac(11), kind="bond")
    assert find_link(LinkRef("mac", mac(11)), space(bond, vlan, PF), Location.HOST)[0] == PF


def test_a_mac_of_a_virtual_link_means_the_link_below() -> None:
    below = veth(11, "v1")
    vlan = Link(20, "v1.5", mac(11), kind="vlan", lower=11)
    assert find_link(LinkRef("mac", mac(11)), space(vlan, below), Location.HOST)[0] == below


def test_a_member_of_a_bond_is_found_by_the_mac_that_it_had_before() -> None:
    member = veth(11, "v1", mac=mac(99), member={"perm_hwaddr": mac(11)})
    where = space(member, veth(99, "v2"))
    assert find_link(LinkRef("mac", mac(11)), where, Location.HOST)[0] == member
    assert find_link(LinkRef("mac", mac(99)), where, Location.HOST)[0] == veth(99, "v2")


@pytest.mark.parametrize(
    ("ref", "links", "why"),
    [
        (
            LinkRef("mac", mac(11)),
            (veth(11, "v1"), veth(12, "v2", mac=mac(11))),
            f"link mac {mac(11)} is ambiguous on the host (v1, v2): use its name",
        ),
        (
            LinkRef("pci", "0000:0b:00.0"),
            (PF, nic(12, "eth2", parent=PF.parent)),  # two ports of one function
            "link pci 0000:0b:00.0 is ambiguous on the host (eth1, eth2): use its name",
        ),
    ],
)
def test_what_means_several_links_means_none(
    ref: LinkRef, links: tuple[Link, ...], why: str
) -> None:
    assert find_link(ref, space(*links), Location.HOST) == (None, why)


def test_a_parent_that_is_not_on_the_pci_bus_is_no_pci_address() -> None:
    link = nic(11, "eth1", parent_bus="auxiliary")
    assert find_link(LinkRef("pci", link.parent), space(link), Location.HOST)[0] is None
