"""What is put around a pod, and the commands that make it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.bondlab.labpods import bond, make_pod

from bondlab.manifests.ipam_substitute import Substitution, UnsupportedCase, substitute_ipam
from bondlab.manifests.manifests import Attachment, Network, Pool
from bondlab.manifests.multus import Sandbox, configs, environment, with_result
from bondlab.scenario import build, planning
from bondlab.scenario.topology import PEER, POD, SRIOV_NAMESPACE, NicKind

HOST = ("eth1000", "eth1001")


@pytest.mark.parametrize(
    ("mode", "partner", "kind"),
    [
        ("balance-rr", "balance-rr", NicKind.CABLE),
        ("active-backup", "", NicKind.CABLE),
        ("balance-xor", "balance-xor", NicKind.CABLE),
        ("broadcast", "active-backup", NicKind.CABLE),
        ("802.3ad", "802.3ad", NicKind.VETH),
        ("balance-tlb", "", NicKind.VETH),
        ("balance-alb", "", NicKind.VETH),
    ],
)
def test_far_end_and_nics_suit_the_mode(mode: str, partner: str, kind: NicKind) -> None:
    made = planning.plan(make_pod(("net1", bond(mode, *HOST))), hardware=True)
    (planned,) = made.bonds
    assert (planned.mode, planned.partner, planned.ports) == (mode, partner, ("p0", "p1"))
    assert [(nic.name, nic.kind) for nic in made.nics] == [(name, kind) for name in HOST]
    assert bool(made.notes) == (kind is NicKind.VETH)


def test_without_hardware_every_nic_is_a_veth() -> None:
    made = planning.plan(make_pod(("net1", bond("active-backup", *HOST))), hardware=False)
    assert {nic.kind for nic in made.nics} == {NicKind.VETH}


def test_functions_with_a_vlan_have_a_partner_inside_it() -> None:
    function = {"type": "sriov", "vlan": 1350}
    pod = make_pod(
        ("net1", function), ("net2", function), ("b", bond("802.3ad", "net1", "net2", inside=True))
    )
    made = planning.plan(pod, hardware=True)
    assert made.bonds[0].ports == ("p0.1350", "p1.1350")
    assert made.device(0)
    assert made.device(0) != made.device(1)
    assert made.device(2) == ""
    assert made.bonds[0].slow_detection
    assert [member.carrier_links for member in made.bonds[0].members] == [
        ((SRIOV_NAMESPACE, "vf0"),),
        ((SRIOV_NAMESPACE, "vf1"),),
    ]
    assert "stand-in" in made.notes[0]
    assert "1350" in made.notes[1]


def test_a_function_whose_link_state_is_forced_keeps_its_carrier() -> None:
    function = {"type": "sriov", "link_state": "enable"}
    pod = make_pod(
        ("net1", function), ("net2", function), ("b", bond("802.3ad", "net1", "net2", inside=True))
    )
    (planned,) = planning.plan(pod, hardware=True).bonds
    assert all(not member.carrier_links and member.silent_links for member in planned.members)


@pytest.mark.parametrize(
    ("config", "nic", "kind", "cut"),
    [
        ({"type": "macvlan", "master": "eth5"}, "eth5", NicKind.VETH, "lab-switch0"),
        ({"type": "vlan", "master": "eth5", "vlanId": 9}, "eth5", NicKind.VETH, "lab-switch0"),
        ({"type": "host-device", "device": "eth5"}, "eth5", NicKind.CABLE, POD),
        ({"type": "bridge"}, "cni0", NicKind.BRIDGE, PEER),
    ],
)
def test_members_that_other_plugins_bring(
    config: dict[str, Any], nic: str, kind: NicKind, cut: str
) -> None:
    other = {"type": "macvlan", "master": "eth6"}
    pod = make_pod(
        ("m", config), ("net2", other), ("b", bond("active-backup", "m", "net2", inside=True))
    )
    made = planning.plan(pod, hardware=True)
    assert (made.nics[0].name, made.nics[0].kind) == (nic, kind)
    assert made.bonds[0].members[0].carrier_links[0][0] == cut
    assert ("p0.9" in made.bonds[0].ports) == ("vlanId" in config)


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ([("b", bond("balance-rr", "x", "y", inside=True))], "no network of this pod creates x"),
        (
            [("x", {"type": "ptp"}), ("b", bond("balance-rr", "x", "y", inside=True))],
            "x is created by ptp",
        ),
        (
            [("x", {"type": "macvlan"}), ("b", bond("balance-rr", "x", "y", inside=True))],
            "add the NIC below it",
        ),
        (
            [
                (
                    "b",
                    bond("balance-rr")
                    | {"links": [{"pci": "0000:01:00.0"}, {"pci": "0000:01:00.1"}]},
                )
            ],
            "the lab has no PCI NICs",
        ),
    ],
)
def test_what_the_lab_does_not_support(networks: list[tuple[str, Any]], said: str) -> None:
    with pytest.raises(UnsupportedCase, match=said):
        planning.plan(make_pod(*networks), hardware=True)


def test_a_link_by_mac_gets_a_nic_of_that_mac() -> None:
    links = [{"mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:02"}]
    pod = make_pod(("b", bond("active-backup") | {"links": links}))
    made = planning.plan(pod, hardware=True)
    assert [nic.mac for nic in made.nics] == ["02:00:00:00:00:01", "02:00:00:00:00:02"]


def test_arp_monitoring_gets_a_silent_fault_and_a_target() -> None:
    config = bond("active-backup", *HOST, arpInterval=100, arpIpTarget=["10.0.0.1"])
    made = planning.plan(make_pod(("b", config)), hardware=True)
    assert made.bonds[0].silent
    lines = [line for batch in build.create(made) for line in batch.lines]
    assert "address add 10.0.0.1/32 dev lan" in lines


def test_all_nics_for_the_boot_each_once() -> None:
    pod = make_pod(("b", bond("active-backup", *HOST)))
    lacp = make_pod(("b", bond("802.3ad", "eth2000", "eth2001")))
    assert planning.host_nics([pod, lacp, pod]) == list(HOST)


def test_names_of_far_ends_fit() -> None:
    names = [build.far_name(name) for name in ("eth1000", "enp94s0f0np0v1", "enp94s0f0np0v2")]
    assert len(set(names)) == 3
    assert all(len(name) <= 15 for name in names)


def test_what_is_created_is_removed() -> None:
    made = planning.plan(make_pod(("b", bond("active-backup", *HOST))), hardware=True)
    spaces = {
        line.removeprefix("netns add ") for one in build.create(made) for line in one.lines
    } & {
        "lab-switch0",
        "lab-sriov",
    }
    gone = [line for one in build.remove(made) for line in one.lines]
    assert spaces == {"lab-switch0", "lab-sriov"}
    assert {f"netns del {space}" for space in spaces} <= set(gone)
    assert "link set eth1000 netns lab-unused" in gone
    assert all(one.force for one in build.remove(made))
    assert build.create(made)[0].argv() == ["ip", "-batch", "-"]


def test_the_stand_in_gets_its_functions() -> None:
    function = {"type": "sriov"}
    made = planning.plan(
        make_pod(("net1", function), ("net2", function), ("b", bond("balance-rr", *HOST))),
        hardware=True,
    )
    table = json.loads(build.functions_file(made))
    assert table["namespace"] == SRIOV_NAMESPACE
    assert next(iter(table["functions"].values())) == {
        "link": "ens1f0v0",
        "port": "vf0",
        "uplink": "up0",
    }


# What plugins get


def test_multus_injects_name_device_args_and_runtime_config() -> None:
    config = {"type": "sriov", "args": {"cni": {"a": 1, "b": 1}}, "capabilities": {"mac": True}}
    network = Network("default", "n", config, "x/y")
    attachment = Attachment(network, "net1", "02::", ("10.0.0.1/24",), {"b": 2})
    (made,) = configs(attachment, "0000:3b:02.0")
    assert made["name"] == "n"
    assert made["deviceID"] == made["pciBusID"] == "0000:3b:02.0"
    assert made["args"] == {"cni": {"a": 1, "b": 2}}
    assert made["runtimeConfig"] == {"mac": "02::"}
    assert config == {"type": "sriov"} | {key: config[key] for key in ("args", "capabilities")}


def test_a_chain_shares_name_and_version() -> None:
    chain = {"cniVersion": "0.4.0", "name": "c", "plugins": [{"type": "a"}, {"type": "b"}]}
    made = configs(Attachment(Network("d", "n", chain), "net1"))
    assert [(one["name"], one["cniVersion"]) for one in made] == [("c", "0.4.0")] * 2


def test_prev_result_from_0_4_0_on() -> None:
    assert "prevResult" not in with_result({"cniVersion": "0.3.1"}, {})
    assert with_result({"cniVersion": "0.4.0"}, {"a": 1})["prevResult"] == {"a": 1}
    assert "prevResult" not in with_result({"cniVersion": "1.0.0"}, None)


def test_the_environment_is_as_runtimes_give_it() -> None:
    sandbox = Sandbox(make_pod(), "c1", "u1", "pod-1")
    env = environment("ADD", sandbox, "net1", "/a:/b")
    assert env["CNI_ARGS"].split(";")[0] == "IgnoreUnknown=1"
    assert "K8S_POD_UID=u1" in env["CNI_ARGS"]
    assert (env["CNI_COMMAND"], env["CNI_NETNS"]) == ("ADD", "/run/netns/pod-1")


# Substitutes


POOLS = (Pool("four", "10.1.0.0/24"), Pool("six", "2001:db8::/64"))


@pytest.mark.parametrize(
    ("ipam", "subnets"),
    [
        ({"type": "calico-ipam"}, ["10.1.0.0/26"]),
        ({"type": "calico-ipam", "ipv4_pools": ["10.9.0.0/24"]}, ["10.9.0.0/26"]),
        (
            {"type": "calico-ipam", "ipv4_pools": ["four"], "assign_ipv6": "true"},
            ["10.1.0.0/26", "2001:db8::/122"],
        ),
        ({"type": "whereabouts", "range": "10.2.0.0/24"}, ["10.2.0.0/24"]),
        ({"type": "whereabouts", "ipRanges": [{"range": "10.3.0.5/24"}]}, ["10.3.0.0/24"]),
    ],
)
def test_host_local_takes_the_place(ipam: dict[str, Any], subnets: list[str]) -> None:
    made = substitute_ipam({"ipam": ipam}, POOLS, {"host-local"}, strict=False)
    assert [one[0]["subnet"] for one in made.config["ipam"]["ranges"]] == subnets
    assert str(ipam["type"]) in made.note
    assert "host-local" in made.note


def test_a_range_of_whereabouts_keeps_its_ends() -> None:
    ipam = {"type": "whereabouts", "range": "10.2.0.20-10.2.0.30/24", "gateway": "10.2.0.9"}
    ((made,),) = substitute_ipam({"ipam": ipam}, (), (), strict=False).config["ipam"]["ranges"]
    assert made == {
        "subnet": "10.2.0.0/24",
        "rangeStart": "10.2.0.20",
        "rangeEnd": "10.2.0.30",
        "gateway": "10.2.0.9",
    }


@pytest.mark.parametrize(
    ("ipam", "strict", "said"),
    [
        ({"type": "calico-ipam"}, True, "--strict"),
        ({"type": "calico-ipam", "ipv4_pools": ["none"]}, False, "no IPv4 IPPool"),
        ({"type": "calico-ipam", "assign_ipv4": "false"}, False, "neither IPv4 nor IPv6"),
        ({"type": "whereabouts"}, False, 'no "range"'),
        ({"type": "whereabouts", "range": "x"}, False, "10.30.0.0/24"),
        ({"type": "dhcp"}, False, "does not provide"),
        ({"type": "unheard-of"}, False, "is not installed"),
    ],
)
def test_what_cannot_be_replaced(ipam: dict[str, Any], strict: bool, said: str) -> None:  # noqa: FBT001
    with pytest.raises(UnsupportedCase, match=said):
        substitute_ipam({"ipam": ipam}, POOLS, {"host-local"}, strict=strict)


def test_what_is_there_is_left_alone() -> None:
    config = {"ipam": {"type": "calico-ipam"}}
    assert substitute_ipam(config, (), {"calico-ipam"}, strict=True) == Substitution(config)
