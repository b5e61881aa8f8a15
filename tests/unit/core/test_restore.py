"""The way home from every point of the way there, and after what may have happened since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.world import (
    World,
    apply,
    config,
    die,
    mac,
    marked,
    nic,
    plan_for,
    restored,
    space,
    veth,
)

from bondcni.core.plan import ChangeLink, DeleteLink, Plan
from bondcni.core.restore import (
    RestorePlan,
    adopt,
    lookup_is_enough,
    lookup_keys,
    our_bond,
    plan_restore,
)
from bondcni.core.state import IFF_PROMISC, IFF_UP, Link, Location, Namespace

FOREIGN_BOND = Link(60, "theirs", mac(0x60), kind="bond", bond={"mode": 0}, max_mtu=9990)
THEIRS = (  # in the host, and in the pod: nothing here is ever ours
    (veth(40, "cali1", max_mtu=9980), veth(41, "bond0", max_mtu=9981)),
    # its ifindex is that of the host link that will move: each namespace counts its own
    (veth(11, "eth0", mac=mac(0x99), max_mtu=9982), FOREIGN_BOND),
)


class Case(NamedTuple):
    """A world before ADD, and the plan."""

    world: World
    plan: Plan


def case(*links: Link, home: Location = Location.HOST) -> Case:
    host, pod = THEIRS
    world = World(
        space(*host, *(links if home == Location.HOST else ())),
        space(*pod, *(links if home == Location.POD else ())),
    )
    wanted = config(
        *(link.name for link in links), ifname="up", links_in_container=home == Location.POD
    )
    assert world.pod is not None
    return Case(world, plan_for(wanted, world.host, world.pod))


HARDWARE = (
    nic(11, "eth1", altnames=("enp11s0", "lan"), mtu=9000, alias="uplink", txqlen=500),
    nic(12, "eth2", flags=IFF_UP | IFF_PROMISC),
    nic(13, "eth3", flags=0),
)
VIRTUAL = (
    veth(11, "eth1", altnames=("enp11s0",), mtu=9000),
    veth(12, "eth2", altnames=("second",)),
)
CASES = {
    "hardware": case(*HARDWARE),
    "virtual": case(*VIRTUAL),
    "in the pod": case(
        *(replace(link, index=link.index + 10) for link in HARDWARE), home=Location.POD
    ),
    "virtual in the pod": case(
        *(replace(v, index=v.index + 10) for v in VIRTUAL), home=Location.POD
    ),
}


def after(start: Case, steps: int) -> World:
    world = start.world
    for step in start.plan.steps[:steps]:
        world, error = apply(world, step)
        assert not error, step
    return world


def as_before(link: Link) -> Link:
    """Without what no one can give back."""
    return replace(link, index=0, altnames=tuple(sorted(link.altnames)))


@pytest.mark.parametrize("name", CASES)
def test_from_every_step_of_add_everything_is_as_before(name: str) -> None:
    start = CASES[name]
    for done in range(len(start.plan.steps) + 1):
        world, told = restored(after(start, done), start.plan)
        assert told == ()
        assert marked(world).keys() == marked(start.world).keys()
        for mark, (where, link) in marked(world).items():
            was_where, was = marked(start.world)[mark]
            assert (where, as_before(link)) == (was_where, as_before(was)), done


def test_a_link_gets_its_ifindex_back() -> None:
    start = CASES["hardware"]  # eth1 has another one in the pod: 11 is taken there
    assert start.plan.wanted.members[0].index != 11
    world, _ = restored(after(start, len(start.plan.steps)), start.plan)
    assert {link.name: link.index for link in world.host.links if link.parent} == {
        "eth1": 11,
        "eth2": 12,
        "eth3": 13,
    }


@pytest.mark.parametrize("name", ["hardware", "in the pod"])
def test_nothing_to_do_is_no_step(name: str) -> None:
    start = CASES[name]
    home = plan_restore(start.plan.wanted, start.plan.claimed, *start.world)
    assert home == RestorePlan((), (), ())


Damage = Callable[[World, Plan], World]


def _change(world: World, mark: int, **changes: Any) -> World:
    """Another hand changes a link, where the kernel would let it."""
    if mark not in marked(world):
        return world
    where, link = marked(world)[mark]
    old = world.host if where == Location.HOST else world.pod
    assert old is not None
    new = replace(link, **changes)
    others = Namespace(tuple(one for one in old.links if one is not link))
    names = (new.name, *new.altnames)
    if any(others.named(name) for name in names) or len(set(names)) < len(names):
        return world
    links = tuple(new if one is link else one for one in old.links)
    side = replace(old, links=links)
    return world._replace(host=side) if where == Location.HOST else world._replace(pod=side)


def rename(mark: int, name: str) -> Damage:
    return lambda world, _: _change(world, mark, name=name)


def swap(one: int, other: int) -> Damage:
    def damage(world: World, _: Plan) -> World:
        if not {one, other} <= marked(world).keys():
            return world
        names = [marked(world)[mark][1].name for mark in (one, other)]
        swapped = _change(_change(world, one, name="tmp"), other, name=names[0])
        return _change(swapped, one, name=names[1])

    return damage


def bonds_mac_stays(mark: int) -> Damage:
    def damage(world: World, plan: Plan) -> World:
        return _change(world, mark, mac=plan.claimed[0].link.mac)

    return damage


def drop_altnames(mark: int) -> Damage:
    return lambda world, _: _change(world, mark, altnames=())


def pod_adds_altname(mark: int, name: str) -> Damage:
    def damage(world: World, _: Plan) -> World:
        where, link = marked(world).get(mark, (None, None))
        if where != Location.POD or link is None:
            return world
        return _change(world, mark, altnames=(*link.altnames, name))

    return damage


def unplug(mark: int) -> Damage:
    def damage(world: World, _: Plan) -> World:
        host, pod = (
            side and replace(side, links=tuple(n for n in side.links if n.max_mtu != mark))
            for side in world
        )
        assert host is not None
        return World(host, pod)

    return damage


def take_name(name: str) -> Damage:
    """A new link at home has the name by now."""

    def damage(world: World, _: Plan) -> World:
        if world.host.named(name):
            return world
        index = max(link.index for link in world.host.links) + 50
        link = veth(index, name, mac=mac(0xEE), max_mtu=20_000 + index)
        return world._replace(host=replace(world.host, links=(*world.host.links, link)))

    return damage


def rename_bond(world: World, plan: Plan) -> World:
    if world.pod is None:
        return world
    links = tuple(
        replace(link, name="renamed") if link.index == plan.wanted.index else link
        for link in world.pod.links
    )
    return world._replace(pod=replace(world.pod, links=links))


def namespace_dies(world: World, _: Plan) -> World:
    return die(world) if world.pod else world


def set_mtu(mark: int) -> Damage:
    return lambda world, _: _change(world, mark, mtu=1400)


MARKS = st.sampled_from([link.max_mtu for link in HARDWARE])
NAMES = st.sampled_from(["eth1", "eth2", "eth3", "enp11s0", "lan", "eth9", "dev12"])
DAMAGE = st.one_of(
    st.builds(rename, MARKS, NAMES),
    st.builds(swap, MARKS, MARKS),
    st.builds(bonds_mac_stays, MARKS),
    st.builds(drop_altnames, MARKS),
    st.builds(pod_adds_altname, MARKS, NAMES),
    st.builds(unplug, MARKS),
    st.builds(take_name, NAMES),
    st.builds(set_mtu, MARKS),
    st.just(rename_bond),
    st.just(namespace_dies),
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(0, 12), st.lists(DAMAGE, max_size=5))
def test_whatever_happens_it_ends_at_home_or_is_told(
    name: str, done: int, damages: list[Damage]
) -> None:
    start = CASES[name]
    world = after(start, done)
    for damage in damages:
        world = damage(world, start.plan)
    found = marked(world)
    world, told = restored(world, start.plan)
    now = marked(world)
    ours = {item.link.max_mtu: item for item in start.plan.claimed}
    homeless = {
        mark
        for mark in ours
        if ours[mark].home == Location.POD and found.get(mark, (None, None))[0] != Location.POD
    }
    for mark, (where, link) in found.items():
        if mark not in ours or mark in homeless:
            assert now[mark] == (where, link), "a link that is not ours was touched"
    for mark, item in ours.items():
        if mark in now and mark not in homeless:
            where, link = now[mark]
            about = [text for text in told if text.startswith(f"link {item.link.name}")]
            if where != item.home or as_before(link) != as_before(_but_told(item.link, link, told)):
                lost = [text for text in about if "nowhere" in text]
                assert lost, (where, link, told)
                assert not link.parent, "hardware is always known again"


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(0, 12), st.lists(DAMAGE, max_size=5))
def test_the_links_that_clues_find_say_as_much_as_all_or_do_not_suffice(
    name: str, done: int, damages: list[Damage]
) -> None:
    start = CASES[name]
    bond, claimed = start.plan.wanted, start.plan.claimed
    world = after(start, done)
    for damage in damages:
        world = damage(world, start.plan)
    near = replace(world.host, links=tuple(found_by(lookup_keys(bond, claimed), world.host)))
    if lookup_is_enough(bond, claimed, near, world.pod):
        assert plan_restore(bond, claimed, near, world.pod) == plan_restore(bond, claimed, *world)


def found_by(clue: tuple[list[str], list[int]], host: Namespace) -> Iterator[Link]:
    """What the kernel answers to these names and ifindexes."""
    for link in host.links:
        if link.index in clue[1] or not {link.name, *link.altnames}.isdisjoint(clue[0]):
            yield link


def test_on_an_undisturbed_node_the_clues_suffice() -> None:
    for start in CASES.values():
        bond, claimed = start.plan.wanted, start.plan.claimed
        for done in range(len(start.plan.steps) + 1):
            world = after(start, done)
            near = replace(
                world.host, links=tuple(found_by(lookup_keys(bond, claimed), world.host))
            )
            assert lookup_is_enough(bond, claimed, near, world.pod)
            assert len(near.links) <= len(claimed) + 1


@pytest.mark.parametrize(
    "world",
    [
        World(space(*HARDWARE[1:]), None),  # nowhere, or under any name
        World(space(replace(HARDWARE[0], name="a", index=99, altnames=()), *HARDWARE[1:]), None),
        World(replace(space(*HARDWARE, veth(90, "x")), links=(veth(90, "eth1"),)), None),
    ],
)
def test_where_a_name_is_another_links_or_hardware_is_missing_clues_do_not_suffice(
    world: World,
) -> None:
    bond, claimed = CASES["hardware"].plan.wanted, CASES["hardware"].plan.claimed
    near = replace(world.host, links=tuple(found_by(lookup_keys(bond, claimed), world.host)))
    assert not lookup_is_enough(bond, claimed, near, world.pod)


def _but_told(was: Link, now: Link, told: tuple[str, ...]) -> Link:
    """How a link must be, given what was told of it; extra altnames at home are let be."""
    named = any(text.startswith(f"link {was.name} is restored as {now.name}:") for text in told)
    kept = {
        name
        for name in was.altnames
        if f"link {was.name}: another link has its alternative name {name}" not in told
    }
    extra = set(now.altnames) - set(was.altnames)
    return replace(was, name=now.name if named else was.name, altnames=tuple(kept | extra))


def test_a_link_of_the_pod_with_the_same_ifindex_and_kind_is_not_ours() -> None:
    start = CASES["virtual"]
    assert plan_restore(start.plan.wanted, start.plan.claimed, *start.world).steps == ()


def test_a_link_of_the_same_name_that_is_another_device_is_left_alone() -> None:
    start = CASES["hardware"]
    other = nic(70, "eth1", max_mtu=9970)
    world = World(space(other), start.world.pod)
    home = plan_restore(start.plan.wanted, start.plan.claimed, *world)
    assert home.steps == ()
    assert home.warnings == ()
    assert home.missing == ("eth1", "eth2", "eth3")


@pytest.mark.parametrize(
    "other",
    [
        {"name": "new", "mac": mac(0x70), "altnames": ()},  # its ifindex, given anew
        {"index": 99, "mac": mac(0x70)},  # its name
        {"index": 99, "name": "new"},  # its MAC and its alternative name
        {"kind": "dummy"},
        {"kind": "", "parent": "0000:0b:00.0"},
    ],
)
def test_one_sign_is_not_enough_to_know_a_virtual_link_again(other: dict[str, Any]) -> None:
    start = CASES["virtual"]
    host = space(replace(VIRTUAL[0], **other), VIRTUAL[1])
    home = plan_restore(start.plan.wanted, start.plan.claimed, host, start.world.pod)
    assert home.steps == ()
    assert [told.partition(":")[0] for told in home.warnings] == ["link eth1 was not found"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": mac(12)},  # the bond's, that of another member
        {"mac": mac(12), "name": "new", "altnames": ()},
        {"mac": mac(0x70), "name": "new"},  # its alternative name is left
        {"index": 99},
    ],
)
def test_two_signs_are_enough(changes: dict[str, Any]) -> None:
    start = CASES["virtual"]
    host = space(replace(VIRTUAL[0], **changes), VIRTUAL[1])
    world, told = restored(World(host, None), start.plan)
    assert told == ()
    back = world.host.named("eth1")
    assert back is not None
    assert as_before(back) == as_before(VIRTUAL[0])


def test_a_link_whose_name_became_its_alternative_name() -> None:
    start = CASES["hardware"]
    renamed = replace(HARDWARE[0], name="uplink0", altnames=("enp11s0", "eth1", "lan"))
    world, told = restored(World(space(renamed, *HARDWARE[1:]), None), start.plan)
    assert told == ()
    assert world.host.named("eth1") == HARDWARE[0]


def test_hardware_that_is_nowhere_is_awaited() -> None:
    """Its namespace may be dying; a virtual link is gone for good."""
    for name, awaited in (("hardware", ("eth1", "eth2", "eth3")), ("virtual", ())):
        plan = CASES[name].plan
        home = plan_restore(plan.wanted, plan.claimed, space(), None)
        assert (home.steps, home.missing) == ((), awaited)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "theirs"},  # the same ifindex by accident: no name and no member of ours
        {"index": 99},  # the same name, made by someone else
        {"kind": "dummy"},
    ],
)
def test_a_foreign_bond_is_not_deleted(changes: dict[str, Any]) -> None:
    plan = CASES["hardware"].plan
    bond = replace(Link(plan.wanted.index, "net1", mac(0x50), kind="bond"), **changes)
    assert our_bond(plan.wanted, plan.claimed, space(bond)) is None


def test_our_bond_is_known_when_it_was_renamed_by_its_members() -> None:
    start = CASES["hardware"]
    world = rename_bond(after(start, len(start.plan.steps)), start.plan)
    home = plan_restore(start.plan.wanted, start.plan.claimed, *world)
    assert home.steps[0] == DeleteLink(Location.POD, start.plan.wanted.index, "renamed")


@pytest.mark.parametrize(("name", "moves"), [("hardware", 3), ("virtual", 2), ("in the pod", 0)])
def test_members_move_in_one_go_with_the_bonds_end(name: str, moves: int) -> None:
    start = CASES[name]
    world = after(start, len(start.plan.steps))
    home = plan_restore(start.plan.wanted, start.plan.claimed, *world)
    assert [type(step) for step in home.steps] == [DeleteLink, *[ChangeLink] * moves]
    for step in home.steps[1:]:
        assert isinstance(step, ChangeLink)
        assert (step.to, step.mac, step.mtu) == (Location.HOST, "", 0)
    for step in home.steps:
        world, error = apply(world, step)
        assert not error
    if moves:
        assert plan_restore(start.plan.wanted, start.plan.claimed, *world).steps == ()


def test_members_come_home_where_the_bond_cannot_be_deleted() -> None:
    start = CASES["hardware"]
    world = after(start, len(start.plan.steps))
    for step in plan_restore(start.plan.wanted, start.plan.claimed, *world).steps[1:]:
        world, error = apply(world, step)
        assert not error
    world, told = restored(world, start.plan)
    assert told == ()
    assert {n.name for n in world.host.links if n.parent} == {"eth1", "eth2", "eth3"}


def test_a_link_that_has_another_master_at_home_is_left_to_it() -> None:
    start = CASES["hardware"]
    links = [
        replace(link, master=40, mac=mac(0x77)) if link.name == "eth1" else link
        for link in start.world.host.links
    ]
    home = plan_restore(start.plan.wanted, start.plan.claimed, Namespace(tuple(links)), None)
    assert home.steps == ()
    assert home.warnings == ("link eth1 has a master now; it is left unchanged",)


def test_names_that_came_home_swapped_are_put_right() -> None:
    start = CASES["hardware"]
    world = die(swap(9011, 9012)(after(start, 9), start.plan))
    assert {n.name: n.max_mtu for n in world.host.links if n.max_mtu in (9011, 9012)} == {
        "eth2": 9011,
        "eth1": 9012,
    }
    world, told = restored(world, start.plan)
    assert told == ()
    assert {n.name: n.max_mtu for n in world.host.links if n.max_mtu in (9011, 9012)} == {
        "eth1": 9011,
        "eth2": 9012,
    }


def test_a_taken_home_name_does_not_keep_a_link_in_the_pod() -> None:
    start = CASES["hardware"]
    claimed = ("eth1", "dev12", "dev13")
    world = after(start, 9)
    for name in claimed:
        world = take_name(name)(world, start.plan)
    world, told = restored(world, start.plan)
    assert world.pod is not None
    assert [link.name for link in world.pod.links] == ["lo", "eth0", "theirs"]
    assert [text for text in told if "is restored as" in text] == list(told)
    assert len(told) == 1


def test_an_altname_that_the_pod_gave_cannot_keep_a_link_there() -> None:
    start = CASES["hardware"]
    world = pod_adds_altname(9012, "cali1")(after(start, 9), start.plan)  # the host has one
    world, told = restored(world, start.plan)
    assert told == ()
    assert world.host.named("eth2") == HARDWARE[1]


def test_adopt_takes_a_bond_whose_members_are_all_configured() -> None:
    start = CASES["hardware"]
    world = after(start, len(start.plan.steps))
    assert world.pod is not None
    found = adopt("net1", ("eth1", mac(12), "0000:0d:00.0"), Location.HOST, world.pod)
    assert found is not None
    lost = replace(start.plan, wanted=found[0], claimed=found[1])
    home, told = restored(world, lost)
    assert told == ()
    for mark in (9011, 9012, 9013):
        where, link = marked(home)[mark]
        _, was = marked(start.world)[mark]
        assert (where, link.name, link.mac, link.mtu) == (Location.HOST, was.name, was.mac, was.mtu)


@pytest.mark.parametrize(
    ("ifname", "links"),
    [
        ("net1", ("eth1", "eth2")),  # eth3 is in it, too
        ("net2", ("eth1", "eth2", "eth3")),
        ("eth0", ("eth1", "eth2", "eth3")),  # no bond
    ],
)
def test_adopt_leaves_what_is_not_surely_ours(ifname: str, links: tuple[str, ...]) -> None:
    start = CASES["hardware"]
    pod = after(start, len(start.plan.steps)).pod
    assert pod is not None
    assert adopt(ifname, links, Location.HOST, pod) is None


def test_each_attribute_at_home_is_mended_by_itself() -> None:
    """One that the kernel refuses must not stop the others."""
    start = CASES["hardware"]
    host = start.world.host
    off = tuple(
        replace(n, mac=mac(0x70), mtu=1300, alias="", txqlen=1) if n.name == "eth1" else n
        for n in host.links
    )
    steps = plan_restore(start.plan.wanted, start.plan.claimed, Namespace(off), None).steps
    assert [type(step) for step in steps] == [ChangeLink] * 4
    assert {
        (step.mac, step.mtu, step.txqlen, step.alias)
        for step in steps
        if isinstance(step, ChangeLink)
    } == {
        (mac(11), 0, None, None),
        ("", 9000, None, None),
        ("", 0, 500, None),
        ("", 0, None, "uplink"),
    }
