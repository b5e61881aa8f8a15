"""Which links become members, their state as members, and how they are restored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for
from tests.kernel.lan import LEGS, POD, SWITCH, Legs, bridged, member

IPS: Document = {"runtimeConfig": {"ips": [POD]}}


def cable(space: Space, first: str = "m1", second: str = "m2") -> None:
    """Two NICs with one cable between them: enough for tests that send nothing."""
    space.batch(
        f"link add {first} type veth peer name {second}",
        f"link set {first} up",
        f"link set {second} up",
    )


def added_and_deleted(node: Node, pod: Space, asked: Document) -> Document:
    """ADD, then DEL; the pod's links in between. The node must be as it was."""
    before = node.space.everything()
    node.cni("ADD", asked, pod).ok()
    between = pod.links()
    node.cni("DEL", asked, pod).ok()
    assert node.space.everything() == before
    assert set(pod.links()) == {"lo"}
    return between


def test_host_links_are_in_the_pod_and_come_home(node: Node, pod: Space) -> None:
    bridged(node)
    before = node.space.everything()
    answer = node.cni("ADD", config(list(LEGS)), pod).ok()
    assert set(node.space.links()) == {"lo"}
    assert pod.members("bond0") == set(LEGS)
    bond = pod.link("bond0")
    assert "UP" in bond["flags"]
    entry = {"name": "bond0", "mac": bond["address"], "sandbox": pod.path}
    assert answer["interfaces"] == [entry]
    node.cni("DEL", config(list(LEGS)), pod).ok()
    assert node.space.everything() == before
    assert set(pod.links()) == {"lo"}


def test_everything_that_a_link_was_at_home_it_is_again(node: Node, pod: Space) -> None:
    bridged(node)
    node.space.batch(
        "link set m1 up alias uplink-one txqueuelen 333 mtu 9000",
        "link set m1 promisc on allmulticast on group 7",
        "link property add dev m1 altname enp59s0f1v3 altname the-first-uplink-of-this-node",
        "link set m2 down",
        "link set m2 address 02:00:00:00:00:99 mtu 1600",
        "link property add dev m2 altname second",
    )
    between = added_and_deleted(node, pod, config(list(LEGS)))
    assert between["m1"]["mtu"] == between["m2"]["mtu"] == 1500
    assert between["m1"]["address"] == between["m2"]["address"]
    home = node.space.links()
    assert "UP" in home["m1"]["flags"]
    assert {"PROMISC", "ALLMULTI"} <= set(home["m1"]["flags"])
    assert home["m1"]["ifalias"] == "uplink-one"
    assert home["m1"]["txqlen"] == 333
    assert home["m1"]["mtu"] == 9000
    assert set(home["m1"]["altnames"]) == {"enp59s0f1v3", "the-first-uplink-of-this-node"}
    assert "UP" not in home["m2"]["flags"]
    assert home["m2"]["address"] == "02:00:00:00:00:99"


@pytest.mark.parametrize("how", ["altname", "mac", "upper-case mac", "mixed"])
def test_links_are_found_as_they_are_named(node: Node, pod: Space, how: str) -> None:
    bridged(node)
    node.space.batch(
        "link property add dev m1 altname first-uplink-with-a-long-name",
        "link property add dev m2 altname second",
    )
    macs = {name: node.space.link(name)["address"] for name in LEGS}
    links: dict[str, list[dict[str, str]]] = {
        "altname": [{"name": "first-uplink-with-a-long-name"}, {"name": "second"}],
        "mac": [{"mac": macs["m1"]}, {"mac": macs["m2"]}],
        "upper-case mac": [{"mac": mac.upper().replace(":", "-")} for mac in macs.values()],
        "mixed": [{"mac": macs["m1"]}, {"name": "m2"}],
    }
    between = added_and_deleted(node, pod, config([]) | {"links": links[how]})
    assert {n for n, link in between.items() if link.get("master") == "bond0"} == set(LEGS)


def test_primary_may_be_named_as_the_link_is(node: Node, pod: Space) -> None:
    bridged(node)
    node.space.ip("link", "property", "add", "dev", "m2", "altname", "preferred")
    asked = config([], primary="preferred") | {"links": [{"name": "m1"}, {"name": "preferred"}]}
    node.cni("ADD", asked, pod).ok()
    assert pod.bond("bond0")["primary"] == "m2"


def test_a_pci_device_is_looked_for_where_the_plugin_runs(node: Node, pod: Space) -> None:
    pci = [
        path.resolve().name
        for path in Path("/sys/class/net").glob("*/device")
        if (path / "subsystem").resolve().name == "pci"
    ]
    if not pci:
        pytest.skip("this guest has no PCI network device (user-mode Linux has no PCI)")
    address = pci[0]
    cable(node.space)
    asked = config([]) | {"links": [{"pci": address}, {"name": "m1"}]}
    assert f"link pci {address}: not found on the host" in node.cni("ADD", asked, pod).failed(101)


def test_a_pci_address_that_is_not_there_is_named(node: Node, pod: Space) -> None:
    cable(node.space)
    before = node.space.everything()
    asked = config([]) | {"links": [{"pci": "3b:02.1"}, {"name": "m1"}]}
    assert "0000:3b:02.1" in node.cni("ADD", asked, pod).failed(101)
    assert node.space.everything() == before


def test_members_of_several_kinds(node: Node, pod: Space) -> None:
    node.veth("up1")
    node.space.batch(
        "link add d1 type dummy",
        "link set up1 up",
        "link add link up1 name v10 type vlan id 10",
        "link add m1 type veth peer name m2",
        "link set m2 up",
    )
    asked = config(["d1", "v10", "m1"], "balance-xor")
    between = added_and_deleted(node, pod, asked)
    assert {n for n, link in between.items() if link.get("master")} == {"d1", "v10", "m1"}


def test_a_link_whose_ifindex_is_taken_in_the_pod(node: Node, pod: Space) -> None:
    cable(node.space)
    indexes = [node.space.link(name)["ifindex"] for name in LEGS]
    pod.batch(*(f"link add d{i} index {i} type dummy" for i in indexes))
    before, inside = node.space.everything(), pod.everything()
    node.cni("ADD", config(list(LEGS)), pod).ok()
    assert pod.members("bond0") == set(LEGS)
    node.cni("DEL", config(list(LEGS)), pod).ok()
    assert pod.everything() == inside
    after = node.space.everything()
    for links in (before["links"], after["links"]):
        for link in links.values():
            link.pop("ifindex")
            link.pop("link", None)
    assert after == before


def test_two_pods_do_not_disturb_each_other(node: Node, pod: Space) -> None:
    second = node.pod()
    cable(node.space)
    cable(node.space, "n1", "n2")
    before = node.space.everything()
    node.cni("ADD", config(["m1", "m2"]), pod, container="c1").ok()
    node.cni("ADD", config(["n1", "n2"]), second, container="c2").ok()
    node.cni("DEL", config(["m1", "m2"]), pod, container="c1").ok()
    assert second.members("bond0") == {"n1", "n2"}
    assert set(node.space.links()) == {"lo", "m1", "m2"}
    node.cni("DEL", config(["n1", "n2"]), second, container="c2").ok()
    assert node.space.everything() == before


def test_two_bonds_in_one_pod(node: Node, pod: Space) -> None:
    cable(node.space)
    cable(node.space, "n1", "n2")
    before = node.space.everything()
    node.cni("ADD", config(["m1", "m2"]), pod, ifname="net1").ok()
    node.cni("ADD", config(["n1", "n2"], "balance-rr"), pod, ifname="net2").ok()
    assert (pod.members("net1"), pod.members("net2")) == ({"m1", "m2"}, {"n1", "n2"})
    node.cni("DEL", config(["m1", "m2"]), pod, ifname="net1").ok()
    assert pod.members("net2") == {"n1", "n2"}
    node.cni("DEL", config(["n1", "n2"], "balance-rr"), pod, ifname="net2").ok()
    assert node.space.everything() == before


# In-container links


def test_container_links_are_back_as_they_were(node: Node, pod: Space) -> None:
    for leg in LEGS:
        node.veth(leg, pod)
    node.switch.ip("addr", "add", f"{SWITCH}/24", "dev", "br0")
    pod.batch(
        "link set m1 up mtu 2000 alias one txqueuelen 77",
        "link property add dev m1 altname first",
        "link set m2 address 02:00:00:00:00:99",
    )
    before, node_before = pod.everything(), node.space.everything()
    asked = config(list(LEGS), linksInContainer=True, **IPS)
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == set(LEGS)
    assert pod.link("m2")["address"] == pod.link("bond0")["address"]
    wait_for(lambda: pod.ping(SWITCH, 1))
    node.cni("DEL", asked, pod).ok()
    assert pod.everything() == before
    assert "UP" in pod.link("m1")["flags"]
    assert "UP" not in pod.link("m2")["flags"]
    assert node.space.everything() == node_before


def test_container_links_by_mac(node: Node, pod: Space) -> None:
    cable(pod)
    macs = [pod.link(name)["address"] for name in LEGS]
    asked = config([], linksInContainer="true") | {"links": [{"mac": mac} for mac in macs]}
    before = pod.everything()
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == set(LEGS)
    node.cni("DEL", asked, pod).ok()
    assert pod.everything() == before


def test_host_links_are_not_taken_for_container_links(node: Node, pod: Space) -> None:
    cable(node.space)
    before = node.space.everything()
    asked = config(list(LEGS), linksInContainer=True)
    said = node.cni("ADD", asked, pod).failed(101)
    assert "link name m1: not found in the pod" in said
    assert "link name m2: not found in the pod" in said
    assert node.space.everything() == before


# MTU


@pytest.mark.parametrize(
    ("members", "asked", "expected", "warning"),
    [
        ((1500, 1500), {}, 1500, ""),
        ((9000, 9000), {}, 1500, ""),
        ((9000, 9000), {"mtu": 9000}, 9000, ""),
        ((9000, 9000), {"mtu": "8000"}, 8000, ""),
        ((1500, 1500), {"mtu": 1280}, 1280, ""),
        ((9000, 9000), {"mtu": "inherit"}, 9000, ""),
        ((9000, 4000), {"mtu": "inherit"}, 4000, "mtu is 4000, the MTU of m2"),
        ((1500, 1400), {}, 1400, "mtu is 1400, the MTU of m2, instead of 1500"),
    ],
)
def test_the_mtu_of_bond_and_members(
    node: Node, pod: Space, members: tuple[int, int], asked: Document, expected: int, warning: str
) -> None:
    cable(node.space)
    node.space.batch(*(f"link set {n} mtu {mtu}" for n, mtu in zip(LEGS, members, strict=True)))
    before = node.home()
    answer = node.cni("ADD", config(list(LEGS), **asked), pod)
    answer.ok()
    links = pod.links()
    assert [links[name]["mtu"] for name in ("bond0", *LEGS)] == [expected] * 3
    assert warning in answer.stderr
    assert bool(answer.stderr) is bool(warning)
    node.cni("DEL", config(list(LEGS), **asked), pod).ok()
    assert node.home() == before


def test_an_mtu_above_a_members_is_refused_by_name(node: Node, pod: Space) -> None:
    cable(node.space)
    node.space.ip("link", "set", "m1", "mtu", "9000")
    before = node.space.everything()
    said = node.cni("ADD", config(list(LEGS), mtu=9000), pod).failed(101)
    assert "mtu 9000 exceeds the MTU of m2 (1500)" in said
    assert node.space.everything() == before


def test_jumbo_frames_pass_through_the_bond(node: Node, pod: Space) -> None:
    far = bridged(node)
    node.switch.batch(*(f"link set {end} mtu 9000" for end in far.values()))
    node.switch.ip("link", "set", "br0", "mtu", "9000")
    node.space.batch(*(f"link set {leg} mtu 9000" for leg in LEGS))
    node.cni("ADD", config(list(LEGS), mtu="inherit", **IPS), pod).ok()
    wait_for(lambda: pod.ping(SWITCH, 1))
    argv = ("ping", "-n", "-c", "2", "-i", "0.1", "-M", "do", "-s", "8972", SWITCH)
    assert " 0% packet loss" in pod.exec(*argv)


# MAC


def test_the_bond_has_the_mac_that_the_runtime_asks_for(node: Node, pod: Space) -> None:
    bridged(node)
    mac = "02:11:22:33:44:55"
    asked = config(list(LEGS), runtimeConfig={"mac": mac, "ips": [POD]})
    before = node.home()
    answer = node.cni("ADD", asked, pod).ok()
    assert answer["interfaces"][0]["mac"] == mac
    assert {pod.link(name)["address"] for name in ("bond0", *LEGS)} == {mac}
    wait_for(lambda: pod.ping(SWITCH, 1))
    neighbours = json.loads(node.switch.ip("-j", "neigh", "show", "dev", "br0"))
    assert {entry["lladdr"] for entry in neighbours if entry["dst"] == "10.9.0.2"} == {mac}
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


def macs(node: Node) -> dict[str, str]:
    return {name: node.space.link(name)["address"] for name in LEGS}


@pytest.mark.parametrize("how", [None, 0, "none"])
def test_all_members_have_the_first_ones_mac(node: Node, pod: Space, how: Any) -> None:
    cable(node.space)
    own = macs(node)
    between = added_and_deleted(node, pod, config(list(LEGS), failOverMac=how))
    assert {between[name]["address"] for name in ("bond0", *LEGS)} == {own["m1"]}


def test_fail_over_mac_active_changes_the_bonds_mac(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, bridged(node))
    own, before = macs(node), node.home()
    asked = config(list(LEGS), failOverMac=1, **IPS)
    node.cni("ADD", asked, pod).ok()
    assert pod.bond("bond0")["fail_over_mac"] == "active"
    assert {name: pod.link(name)["address"] for name in LEGS} == own
    assert pod.link("bond0")["address"] == own["m1"]
    legs.cut("m1")
    assert pod.link("bond0")["address"] == own["m2"]
    wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


def test_fail_over_mac_follow_hands_the_bonds_mac_on(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, bridged(node))
    own, before = macs(node), node.home()
    asked = config(list(LEGS), failOverMac="follow", **IPS)
    node.cni("ADD", asked, pod).ok()
    assert pod.bond("bond0")["fail_over_mac"] == "follow"
    assert pod.link("m1")["address"] == pod.link("bond0")["address"] == own["m1"]
    assert pod.link("m2")["address"] == own["m2"]
    legs.cut("m1")
    assert pod.link("m2")["address"] == pod.link("bond0")["address"] == own["m1"]
    assert pod.link("m1")["address"] == own["m2"]
    wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


@pytest.mark.parametrize("mode", ["balance-rr", "802.3ad"])
def test_members_with_the_same_mac(node: Node, pod: Space, mode: str) -> None:
    cable(node.space)
    node.space.batch(*(f"link set {name} address 02:00:00:00:00:77" for name in LEGS))
    between = added_and_deleted(node, pod, config(list(LEGS), mode))
    assert between["bond0"]["address"] == "02:00:00:00:00:77"


# Names


def test_both_names_work_where_the_configuration_has_another(node: Node, pod: Space) -> None:
    cable(node.space)
    asked = config(list(LEGS), ifname="uplink")
    before = node.home()
    answer = node.cni("ADD", asked, pod, ifname="net1").ok()
    assert answer["interfaces"][0]["name"] == "net1"
    bond = pod.link("net1")
    assert bond["altnames"] == ["uplink"]
    assert json.loads(pod.ip("-j", "link", "show", "dev", "uplink"))[0]["ifname"] == "net1"
    node.cni("DEL", asked, pod, ifname="net1").ok()
    assert node.home() == before


def test_queue_and_prio_of_each_member(node: Node, pod: Space) -> None:
    cable(node.space)
    asked = config([]) | {
        "links": [
            {"name": "m1", "queueId": 2, "prio": 10},
            {"name": "m2", "queue_id": "5", "prio": -3},
        ]
    }
    node.cni("ADD", asked, pod).ok()
    assert [member(pod, name)["queue_id"] for name in LEGS] == [2, 5]
    assert [member(pod, name)["prio"] for name in LEGS] == [10, -3]
