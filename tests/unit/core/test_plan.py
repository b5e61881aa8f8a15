"""From configuration and state to steps, or to every reason against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.world import config, mac, nic, plan_for, space, veth

from bondcni.core.config import LinkRef
from bondcni.core.errors import Refused, TryAgain
from bondcni.core.plan import (
    HIGH_IFINDEX,
    AddAltname,
    ChangeLink,
    Claimed,
    CreateBond,
    DropAltname,
    Plan,
    new_ifindexes,
)
from bondcni.core.policy import Verdict
from bondcni.core.state import IFF_UP, Address, Link, Location, Namespace, Route

ETH1, ETH2 = nic(11, "eth1"), nic(12, "eth2")
EMPTY = space()
INFINIBAND = 32


def refusal(host: Namespace, pod: Namespace = EMPTY, **changes: Any) -> tuple[str, ...]:
    """Every reason against a bond of eth1 and eth2."""
    links = changes.pop("links", ("eth1", "eth2"))
    with pytest.raises(Refused) as caught:
        plan_for(config(*links, **changes), host, pod)
    return caught.value.reasons


def planned(host: Namespace, pod: Namespace = EMPTY, **changes: Any) -> Plan:
    links = changes.pop("links", ("eth1", "eth2"))
    return plan_for(config(*links, **changes), host, pod)


def changed(**changes: Any) -> Namespace:
    """A host whose eth2 is otherwise."""
    return space(ETH1, replace(ETH2, **changes))


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (space(ETH1), "link name eth2: not found on the host"),
        (
            space(ETH1, replace(ETH2, master=40), Link(40, "br0", kind="bridge")),
            "link eth2 already has a master: bridge br0",
        ),
        (changed(master=40), "link eth2 already has a master: ifindex 40"),
        (changed(flags=0x8 | IFF_UP), "link eth2 is the loopback interface"),
        (
            changed(altnames=("net1",)),
            "link eth2 has the same name as the bond",
        ),
        (
            changed(type=INFINIBAND),
            "the links are devices of different types: eth1 (ARPHRD 1), eth2 (ARPHRD 32)",
        ),
        (
            space(ETH1, ETH2, routes=(Route("0.0.0.0/0", "10.0.0.1", 12),)),
            "host link eth2 is in use: a default route goes through it",
        ),
        (
            space(ETH1, ETH2, routes=(Route("::/0", "fe80::1", 12),)),
            "host link eth2 is in use: a default route goes through it",
        ),
        (
            space(ETH1, ETH2, addresses=(Address(12, "10.0.0.5/24"),)),
            "host link eth2 is in use: it has the address 10.0.0.5/24",
        ),
        (
            space(ETH1, ETH2, Link(40, "eth2.5", kind="vlan", lower=12)),
            "host link eth2 is in use: vlan eth2.5 is on top of it",
        ),
        (
            space(ETH1, ETH2, Link(40, "mv0", kind="macvlan", lower=12)),
            "link eth2 has the macvlan mv0 on top of it",
        ),
        (
            space(ETH1, ETH2, Link(40, "ipv0", kind="ipvlan", lower=12)),
            "link eth2 has the ipvlan ipv0 on top of it",
        ),
    ],
)
def test_a_link_that_cannot_be_a_member_is_the_one_reason(host: Namespace, reason: str) -> None:
    assert refusal(host) == (reason,)


def test_the_bond_itself_is_no_link() -> None:
    reasons = refusal(space(ETH1, nic(12, "net1")), links=("eth1", "net1"))
    assert reasons == ("link net1 has the same name as the bond",)


@pytest.mark.parametrize(
    ("host", "pod", "name", "why"),
    [
        (space(ETH1, ETH2), EMPTY, "eth2", "link eth2 has this name"),
        (changed(altnames=("enp2",)), EMPTY, "enp2", "link eth2 has this name"),
        (space(ETH1, ETH2), space(nic(50, "up")), "up", "interface up of the pod has this name"),
        (
            space(ETH1, ETH2),
            space(nic(50, "x", altnames=("up",))),
            "up",
            "interface x of the pod has this name",
        ),
        (space(ETH1, ETH2), EMPTY, "net2", "Multus gives such names to the pod's networks"),
    ],
)
def test_10_2_an_ifname_that_is_taken_is_left_out(
    host: Namespace, pod: Namespace, name: str, why: str
) -> None:
    plan = planned(host, pod, ifname=name)
    assert plan.wanted.altname == ""
    assert not any(isinstance(step, AddAltname) for step in plan.steps)
    assert plan.warnings == (f"/ifname: alternative name {name} is left out: {why}",)


@pytest.mark.parametrize(
    ("claimed", "changes", "reason"),
    [
        (nic(50, "net1"), {}, "interface name net1 is already taken in the pod"),
        (nic(50, "x", altnames=("net1",)), {}, "interface name net1 is already taken in the pod"),
        (nic(50, "eth2"), {}, "link eth2: the pod already has an interface named eth2"),
        (nic(50, "enp2"), {}, "link eth2: the pod already has an interface named enp2"),
    ],
)
def test_a_name_that_is_taken_in_the_pod(
    claimed: Link, changes: dict[str, Any], reason: str
) -> None:
    assert refusal(changed(altnames=("enp2",)), space(claimed), **changes) == (reason,)


def test_infiniband_bonds_in_active_backup_only() -> None:
    host = space(replace(ETH1, type=INFINIBAND), replace(ETH2, type=INFINIBAND))
    assert planned(host).wanted.options["mode"] == 1
    assert refusal(host, mode=0) == (
        "link eth1 is InfiniBand, which supports only active-backup",
        "link eth2 is InfiniBand, which supports only active-backup",
    )


def test_10_15_ipv6_needs_members_of_its_least_mtu() -> None:
    host = space(nic(11, "eth1", mtu=1279), nic(12, "eth2", mtu=1000))
    assert planned(host, ips=("10.0.0.5/24",)).wanted.mtu == 1000
    assert refusal(host, ips=("10.0.0.5/24", "fd00::5/64")) == (
        (
            "mtu 1000 is below the minimum MTU for IPv6 (1280), which fd00::5/64 requires: raise the MTU "
            "of eth1 (1279), eth2 (1000), or give no IPv6 address"
        ),
    )
    wide = space(nic(11, "eth1", mtu=1280), nic(12, "eth2"))
    assert planned(wide, ips=("fd00::5/64",)).wanted.mtu == 1280


@pytest.mark.parametrize(
    ("mtu", "reason"),
    [
        (1501, "mtu 1501 exceeds the MTU of eth2 (1500): lower mtu or raise the MTU of eth2"),
        (60, "mtu 60 is below the minimum MTU of eth2 (68): raise mtu"),
    ],
)
def test_an_mtu_that_a_member_cannot_take(mtu: int, reason: str) -> None:
    host = space(replace(ETH1, mtu=9000, min_mtu=0), ETH2)
    assert refusal(host, mtu=mtu) == (reason,)


@pytest.mark.parametrize(
    "refs",
    [
        (LinkRef("name", "eth1"), LinkRef("name", "enp1")),
        (LinkRef("name", "eth1"), LinkRef("mac", mac(11))),
        (LinkRef("name", "eth1"), LinkRef("pci", "0000:0b:00.0")),
    ],
)
def test_one_nic_by_two_names_is_seen(refs: tuple[LinkRef, ...]) -> None:
    host = space(replace(ETH1, altnames=("enp1",)), ETH2)
    assert refusal(host, links=refs, mode=6) == ("link eth1 is listed 2 times in links",)


def test_one_nic_by_three_names_is_told_once() -> None:
    refs = (LinkRef("name", "eth1"), LinkRef("mac", mac(11)), LinkRef("pci", "0000:0b:00.0"))
    host = space(ETH1, ETH2, addresses=(Address(11, "10.0.0.5/24"),))
    assert refusal(host, links=refs) == (
        "host link eth1 is in use: it has the address 10.0.0.5/24",
        "link eth1 is listed 3 times in links",
    )


def test_the_nodes_policy_is_for_links_of_the_host_only() -> None:
    both = config("eth1", "eth2")
    no = dict.fromkeys((11, 12), Verdict(allowed=False, force=False, why="not for you"))
    with pytest.raises(Refused) as caught:
        plan_for(both, space(ETH1, ETH2), EMPTY, verdicts=no)
    assert caught.value.reasons == ("host link eth1: not for you", "host link eth2: not for you")
    inside = replace(both, links_in_container=True)
    assert plan_for(inside, EMPTY, space(ETH1, ETH2), verdicts=no).steps
    assert plan_for(inside, EMPTY, space(ETH1, ETH2), verdicts={}).steps


def test_a_host_link_without_a_verdict_is_never_taken() -> None:
    with pytest.raises(KeyError):
        plan_for(config("eth1", "eth2"), space(ETH1, ETH2), EMPTY, verdicts={})


def test_the_policy_can_give_away_what_the_host_uses() -> None:
    forced = dict.fromkeys((11, 12), Verdict(allowed=True, force=True, why=""))
    host = space(ETH1, ETH2, addresses=(Address(12, "10.0.0.5/24"),))
    assert plan_for(config("eth1", "eth2"), host, EMPTY, verdicts=forced).steps


def test_every_reason_is_told_at_once() -> None:
    host = space(
        nic(11, "eth1", mtu=1400),
        nic(12, "eth2", master=50),
        routes=(Route("0.0.0.0/0", "10.0.0.1", 11),),
    )
    reasons = refusal(host, space(nic(9, "net1")), links=("eth1", "eth2", "eth3"), mtu=1500)
    assert reasons == (
        "interface name net1 is already taken in the pod",
        "host link eth1 is in use: a default route goes through it",
        "link eth2 already has a master: ifindex 50",
        "link name eth3: not found on the host",
        "mtu 1500 exceeds the MTU of eth1 (1400): lower mtu or raise the MTU of eth1",
    )


def test_links_of_the_pod_are_not_guarded_as_the_hosts_are() -> None:
    pod = space(ETH1, ETH2, addresses=(Address(11, "10.0.0.5/24"), Address(12, "fe80::1/64", 253)))
    plan = planned(EMPTY, pod, links_in_container=True)
    assert plan.warnings == (
        "link eth1 has the address 10.0.0.5/24: it has no effect on a member of a bond",
    )


@pytest.mark.parametrize(
    ("mtus", "changes", "mtu", "warnings"),
    [
        ((1500, 9000), {}, 1500, ()),
        (
            (1500, 1450),
            {},
            1450,
            ("mtu is 1450, the MTU of eth2, instead of 1500",),
        ),
        ((9000, 9000), {"mtu": 4000}, 4000, ()),
        ((9000, 9000), {"mtu_inherit": True}, 9000, ()),
        (
            (9000, 8000),
            {"mtu_inherit": True},
            8000,
            ("mtu is 8000, the MTU of eth2: the members' MTUs differ",),
        ),
    ],
)
def test_the_mtu(
    mtus: tuple[int, int], changes: dict[str, Any], mtu: int, warnings: tuple[str, ...]
) -> None:
    host = space(replace(ETH1, mtu=mtus[0]), replace(ETH2, mtu=mtus[1]))
    plan = planned(host, **changes)
    assert (plan.wanted.mtu, plan.warnings) == (mtu, warnings)
    assert isinstance(plan.steps[0], CreateBond)
    assert plan.steps[0].mtu == mtu


@pytest.mark.parametrize("option", ["primary", "active_slave"])
@pytest.mark.parametrize("spelled", ["eth2", "enp2", mac(12), mac(12).upper(), "0000:0c:00.0"])
def test_an_option_that_names_a_member_comes_last_with_its_ifindex(
    option: str, spelled: str
) -> None:
    host = changed(altnames=("enp2",))
    pod = space(veth(12, "eth0"))  # so that eth2 cannot keep its ifindex
    plan = planned(host, pod, options={"miimon": 100, option: spelled})
    create, first, second, last = plan.steps
    assert isinstance(create, CreateBond)
    assert option not in create.options
    assert isinstance(first, ChangeLink)
    assert first.new_index == 0
    assert isinstance(second, ChangeLink)
    assert second.new_index not in (0, 11, 12, create.index)
    assert isinstance(last, ChangeLink)
    assert last.bond_options == {option: second.new_index}
    assert plan.wanted.options[option] == second.new_index
    assert plan.wanted.members[1].index == second.new_index


def test_a_name_goes_before_a_mac_that_is_spelled_like_it() -> None:
    host = space(ETH1, replace(ETH2, altnames=(mac(11),)))
    plan = planned(host, options={"primary": mac(11)})
    assert plan.wanted.options["primary"] == 12


def test_a_primary_that_is_none_of_the_links_is_refused() -> None:
    reasons = refusal(
        space(ETH1, ETH2), links=(LinkRef("mac", mac(11)), "eth2"), options={"primary": "eth3"}
    )
    assert reasons == ("primary eth3 is not one of the links (eth1, eth2): use one of these names",)


def test_a_primary_that_is_a_missing_link_is_no_second_reason() -> None:
    reasons = refusal(space(ETH1), options={"primary": "eth2"})
    assert reasons == ("link name eth2: not found on the host",)


def test_the_steps_for_host_links() -> None:
    refs = (LinkRef("name", "eth1", {"prio": 5}), LinkRef("name", "eth2"))
    host = space(ETH1, replace(ETH2, flags=0), Link(90, "last"))
    plan = planned(host, links=refs, ifname="up", mac=mac(0x70))
    options = {"mode": 1, "miimon": 100}
    assert plan.steps == (
        CreateBond("net1", 13, options, 1500, mac(0x70)),
        AddAltname(Location.POD, 13, "net1", "up"),
        ChangeLink(Location.HOST, 11, "eth1", to=Location.POD, change=IFF_UP, master=13),
        ChangeLink(Location.HOST, 12, "eth2", to=Location.POD, master=13),
        ChangeLink(Location.POD, 11, "eth1", member_options={"prio": 5}),
        ChangeLink(Location.POD, 13, "net1", flags=IFF_UP, change=IFF_UP),
    )
    assert plan.claimed == (
        Claimed(Location.HOST, ETH1),
        Claimed(Location.HOST, replace(ETH2, flags=0)),
    )
    assert (plan.wanted.index, plan.wanted.name, plan.wanted.altname) == (13, "net1", "up")
    assert [(m.index, m.name, m.options) for m in plan.wanted.members] == [
        (11, "eth1", {"prio": 5}),
        (12, "eth2", {}),
    ]


def test_the_steps_for_links_in_the_pod() -> None:
    plan = planned(space(veth(90, "cali1")), space(ETH1, ETH2), links_in_container=True)
    assert plan.steps == (
        CreateBond("net1", 13, {"mode": 1, "miimon": 100}, 1500),
        ChangeLink(Location.POD, 11, "eth1", change=IFF_UP, master=13),
        ChangeLink(Location.POD, 12, "eth2", change=IFF_UP, master=13),
        ChangeLink(Location.POD, 13, "net1", flags=IFF_UP, change=IFF_UP),
    )
    assert [item.home for item in plan.claimed] == [Location.POD, Location.POD]


def test_new_ifindexes_are_those_that_were_found_free() -> None:
    pod = space(veth(11, "eth0"), veth(12, "dummy0"), veth(HIGH_IFINDEX, "high"))
    assert new_ifindexes([ETH1, ETH2], pod) == range(HIGH_IFINDEX + 1, HIGH_IFINDEX + 4)
    free = range(HIGH_IFINDEX + 51, HIGH_IFINDEX + 54)
    made = plan_for(config("eth1", "eth2"), space(ETH1, ETH2), pod, free=free)
    assert [made.wanted.index, *(member.index for member in made.wanted.members)] == [*free]


def test_where_every_link_keeps_its_ifindex_the_bond_alone_gets_a_new_one() -> None:
    assert (
        new_ifindexes([ETH1, ETH2], EMPTY) == new_ifindexes((), space(ETH1, ETH2)) == range(13, 14)
    )
    for host, pod, inside in ((space(ETH1, ETH2), EMPTY, False), (EMPTY, space(ETH1, ETH2), True)):
        asked = config("eth1", "eth2", links_in_container=inside)
        made = plan_for(asked, host, pod, free=range(13, 14))
        assert [made.wanted.index, *(m.index for m in made.wanted.members)] == [13, 11, 12]


@pytest.mark.parametrize("index", [9, 13])
def test_ifindexes_that_changed_between_two_reads_are_tried_again(index: int) -> None:
    """9 is taken in the pod, and there is no free one for it; 13 is the bond's."""
    host = space(ETH1, replace(ETH2, index=index))
    with pytest.raises(TryAgain, match="the links changed while ADD waited"):
        plan_for(config("eth1", "eth2"), host, space(veth(9, "eth0")), free=range(13, 14))


def test_a_name_that_only_another_attachments_ifname_gave_yields() -> None:
    pod = space(nic(50, "x", altnames=("net1",)))
    made = plan_for(config("eth1", "eth2"), space(ETH1, ETH2), pod, yielding=frozenset({50}))
    assert made.steps[0] == DropAltname(Location.POD, 50, "x", "net1")
    assert made.warnings == (
        "alternative name net1 is removed from x: it is CNI_IFNAME of this ADD",
    )


def test_an_ifname_that_is_the_bonds_name_is_no_alternative_name() -> None:
    plan = planned(space(ETH1, ETH2), ifname="net1")
    assert plan.wanted.altname == ""
    assert not any(isinstance(step, AddAltname) for step in plan.steps)


def test_steps_of_different_kinds_are_never_equal() -> None:
    """As named tuples they were, with equal fields: a plan with the wrong one passed."""
    fields = (Location.POD, 5, "bond0", "storage")
    added: object = AddAltname(*fields)
    assert added != DropAltname(*fields)
