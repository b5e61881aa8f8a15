"""Issue item 3: members with equal MACs, in modes that need different ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.core.test_restore import CASES, after, as_before
from tests.unit.core.world import (
    World,
    apply,
    config,
    mac,
    marked,
    nic,
    plan_for,
    restored,
    space,
    veth,
)

from bondcni.core.macs import replacement_macs
from bondcni.core.plan import ChangeLink, Plan
from bondcni.core.restore import lookup_is_enough, lookup_keys, plan_restore
from bondcni.core.state import IFF_UP, Link, Location, Namespace

SAME = (
    veth(11, "eth1", mac=mac(0x11)),
    veth(12, "eth2", mac=mac(0x11)),
    veth(13, "eth3", mac=mac(0x11), flags=0),
)
VFS = tuple(nic(n, f"eth{n - 10}", mac=mac(0x11), permanent_mac=mac(0x11)) for n in (11, 12))


def planned(
    links: tuple[Link, ...], mode: int, home: Location = Location.HOST, seed: str = "c1 net1"
) -> Plan:
    here, there = space(*links), space(veth(90, "eth0", max_mtu=9990))
    host, pod = (here, there) if home == Location.HOST else (space(), here)
    asked = config(*(n.name for n in links), mode=mode, links_in_container=home == Location.POD)
    return plan_for(asked, host, pod, seed=seed)


@pytest.mark.parametrize("mode", range(7))
def test_3_only_modes_that_need_different_macs_change_any(mode: int) -> None:
    macs = [member.mac for member in planned(SAME, mode).wanted.members]
    assert macs[0] == ""
    if mode < 5:
        assert macs[1:] == ["", ""]
        return
    assert len({*macs[1:], mac(0x11)}) == 3
    for new in macs[1:]:
        assert int(new[:2], 16) & 0x03 == 0x02, "locally administered, and unicast"


@pytest.mark.parametrize("mode", ["balance-tlb", "balance-alb"])
def test_3_different_macs_stay(mode: str) -> None:
    assert replacement_macs((nic(11, "eth1"), nic(12, "eth2")), mode, "c1 net1") == {}
    assert (
        replacement_macs((nic(11, "eth1", mac=""), nic(12, "eth2", mac="")), mode, "c1 net1") == {}
    )


def test_3_a_repeated_add_gives_the_same_macs_and_another_pod_gets_others() -> None:
    first = planned(SAME, 5).wanted.members
    assert planned(SAME, 5).wanted.members == first
    other = planned(SAME, 5, seed="c2 net1").wanted.members
    assert not {m.mac for m in first[1:]} & {m.mac for m in other}


def test_3_a_new_mac_differs_from_those_of_all_links() -> None:
    (new,) = replacement_macs(SAME[:2], "balance-alb", "c1 net1").values()
    neighbour = veth(50, "cali1", mac=new)
    (next_one,) = replacement_macs(SAME[:2], "balance-alb", "c1 net1", (neighbour,)).values()
    assert next_one != new
    third = nic(51, "eth9", permanent_mac=new)
    (next_one,) = replacement_macs((*SAME[:2], third), "balance-alb", "c1 net1").values()
    assert next_one != new


def test_3_the_warning_names_links_and_macs() -> None:
    plan = planned(SAME[:2], 5)
    assert plan.warnings == (
        (
            f"link eth2 has the same MAC as eth1 ({mac(0x11)}), but balance-tlb needs a different "
            f"MAC for each member: eth2 gets {plan.wanted.members[1].mac} until DEL"
        ),
    )


@pytest.mark.parametrize("home", ["host", "pod"])
def test_3_the_mac_changes_while_the_link_is_down_and_before_it_is_a_member(home: Location) -> None:
    plan = planned(SAME[:2], 6, home)
    new = plan.wanted.members[1].mac
    to = Location.POD if home == Location.HOST else None
    steps = [s for s in plan.steps if isinstance(s, ChangeLink) and s.label == "eth2"]
    assert steps == [
        ChangeLink(home, 12, "eth2", to=to, change=IFF_UP),
        ChangeLink(Location.POD, 12, "eth2", mac=new),
        ChangeLink(Location.POD, 12, "eth2", master=plan.wanted.index),
    ]


@pytest.mark.parametrize("links", [SAME, VFS])
@pytest.mark.parametrize("home", ["host", "pod"])
def test_3_from_every_step_of_add_the_macs_are_as_before(
    links: tuple[Link, ...], home: Location
) -> None:
    plan = planned(links, 6, home)
    here, there = space(*links), space(veth(90, "eth0", max_mtu=9990))
    start = World(*((here, there) if home == Location.HOST else (space(), here)))
    for done in range(len(plan.steps) + 1):
        world = start
        for step in plan.steps[:done]:
            world, error = apply(world, step)
            assert not error, step
        near = found(lookup_keys(plan.wanted, plan.claimed), world.host)
        if home == Location.HOST:
            assert lookup_is_enough(plan.wanted, plan.claimed, near, world.pod)
        world, told = restored(world, plan)
        assert told == ()
        for mark, (where, link) in marked(start).items():
            assert marked(world)[mark][0] == where
            assert as_before(marked(world)[mark][1]) == as_before(link), (done, link)


def found(clue: tuple[list[str], list[int]], host: Namespace) -> Namespace:
    return replace(
        host, links=tuple(n for n in host.links if n.index in clue[1] or n.name in clue[0])
    )


def test_3_a_link_that_returned_with_the_new_mac_and_another_ifindex_is_found() -> None:
    """Emergency return moves links without the daemon; their ifindex may be taken on the host."""
    plan = planned(SAME[:2], 5)
    new = plan.wanted.members[1].mac
    host = space(SAME[0], replace(SAME[1], index=77, mac=new, flags=0))
    world, told = restored(World(host, None), plan)
    assert told == ()
    back = world.host.named("eth2")
    assert back is not None
    assert (back.mac, back.up) == (mac(0x11), True)


def test_3_records_without_new_macs_are_undone_as_before() -> None:
    start = CASES["hardware"]
    assert {member.mac for member in start.plan.wanted.members} == {""}
    world = after(start, len(start.plan.steps))
    assert plan_restore(start.plan.wanted, start.plan.claimed, *world).steps
