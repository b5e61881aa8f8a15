"""CHECK succeeds while the bond is as ADD made it, and reports each difference.

Changes that others may make are ignored: an interface of a chained plugin, one more address, a
failover. CHECK itself changes nothing.
"""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config

DIFFERS = 105
MODES = (
    *("balance-rr", "active-backup", "balance-xor", "broadcast"),
    *("802.3ad", "balance-tlb", "balance-alb"),
)


class Attached:
    """A bond that ADD made, and its CHECK."""

    def __init__(self, node: Node, pod: Space, asked: Document) -> None:
        self.node, self.pod, self.asked = node, pod, asked
        self.result = node.cni("ADD", asked, pod).ok()

    def check(self, **edit: object) -> Answer:
        asked = {**self.asked, "prevResult": self.result, **edit}
        return self.node.cni("CHECK", asked, self.pod)


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")


@pytest.fixture
def attached(node: Node, pod: Space) -> Attached:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.1.0.9"}]
    links: list[str | Document] = [{"name": "eth1", "queueId": 1}, "eth2"]
    ipam = node.host_local(routes=routes)
    asked = config(links, "balance-xor", xmitHashPolicy="layer2+3", ifname="fast0", ipam=ipam)
    asked |= {"mtu": 1500, "runtimeConfig": {"mac": "02:00:00:00:00:77"}}
    return Attached(node, pod, asked)


@pytest.mark.parametrize("mode", MODES)
def test_passes_after_add(node: Node, pod: Space, mode: str) -> None:
    made = Attached(node, pod, config(["eth1", "eth2"], mode, ipam=node.host_local()))
    before = node.everything(pod)
    answer = made.check()
    answer.ok()
    assert answer.document == {}
    assert node.everything(pod) == before
    node.cni("DEL", made.asked, pod).ok()


def test_passes_for_pod_links(node: Node, pod: Space) -> None:
    node.space.batch(f"link set eth1 netns {pod.name}", f"link set eth2 netns {pod.name}")
    made = Attached(node, pod, config(["eth1", "eth2"], linksInContainer=True))
    made.check().ok()
    pod.ip("link", "set", "eth2", "nomaster")
    assert "eth2 is not a member" in made.check().failed(DIFFERS)


CHANGES = {
    "member taken out": (["link set eth1 nomaster"], ["eth1 is not a member"]),
    "member unplugged": (["link del eth1"], ["member eth1 not found in the pod"]),
    "both members out": (
        ["link set eth1 nomaster", "link set eth2 nomaster"],
        ["eth1 is not a member", "eth2 is not a member"],
    ),
    "member renamed and out": (
        ["link set eth1 nomaster", "link set eth1 down name nic5"],
        ["eth1"],
    ),
    "foreign member": (
        ["link add d0 type dummy", "link set d0 master bond0"],
        ["d0 is a member, but not one of the configured links"],
    ),
    "mtu": (["link set bond0 mtu 1400"], ["bond0", "mtu is 1400, not 1500"]),
    "mac": (["link set bond0 address 02:00:00:00:00:aa"], ["mac is 02:00:00:00:00:aa"]),
    "bond deleted": (["link del bond0"], ["bond0 not found"]),
    "bond renamed": (["link set bond0 down", "link set bond0 name lag0"], ["bond0 not found"]),
    "no bond of that name": (
        ["link del bond0", "link add bond0 type dummy"],
        ["bond0 is not a bond: its kind is dummy"],
    ),
    "down": (["link set bond0 down"], ["bond0 is down"]),
    "altname": (["link property del dev bond0 altname fast0"], ["fast0 is missing"]),
    "address": (["addr flush dev bond0 scope global"], ["address 10.1.0.2/24 is missing"]),
    "other address": (
        ["addr flush dev bond0 scope global", "addr add 10.1.0.77/24 dev bond0"],
        ["address 10.1.0.2/24 is missing"],
    ),
    "other prefix length": (
        ["addr flush dev bond0 scope global", "addr add 10.1.0.2/25 dev bond0"],
        ["address 10.1.0.2/24 is missing"],
    ),
    "address elsewhere": (
        [
            *("addr flush dev bond0 scope global", "link add d0 up type dummy"),
            "addr add 10.1.0.2/24 dev d0",
        ],
        ["address 10.1.0.2/24 is missing"],
    ),
    "route": (["route del 192.0.2.0/24"], ["route 192.0.2.0/24 via 10.1.0.9 is missing"]),
    "default route": (["route del default"], ["route 0.0.0.0/0 via 10.1.0.1 is missing"]),
    "other gateway": (
        ["route replace 192.0.2.0/24 via 10.1.0.8"],
        ["route 192.0.2.0/24 via 10.1.0.9 is missing"],
    ),
    "option": (
        ["link set bond0 type bond xmit_hash_policy layer3+4"],
        ["xmitHashPolicy is layer3+4, not layer2+3"],
    ),
    "miimon": (["link set bond0 type bond miimon 50"], ["miimon is 50, not 100"]),
    "member option": (["link set eth1 type bond_slave queue_id 5"], ["queueId is 5, not 1"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fails_and_names_what_differs(attached: Attached, change: str) -> None:
    commands, words = CHANGES[change]
    attached.pod.batch(*commands)
    before = attached.node.everything(attached.pod)
    said = attached.check().failed(DIFFERS)
    for word in words:
        assert word in said
    assert attached.node.everything(attached.pod) == before


def test_fails_for_another_mode(node: Node, pod: Space) -> None:
    made = Attached(node, pod, config(["eth1", "eth2"]))
    pod.batch(
        *("link set eth1 nomaster", "link set eth2 nomaster", "link set bond0 down"),
        "link set bond0 type bond mode balance-rr",
        *("link set eth1 down master bond0", "link set eth2 down master bond0"),
        "link set bond0 up",
    )
    assert "mode is balance-rr, not active-backup" in made.check().failed(DIFFERS)


def test_every_difference_is_told(attached: Attached) -> None:
    attached.pod.batch(
        *("link set eth1 nomaster", "link set bond0 mtu 1400", "route del 192.0.2.0/24"),
        "link set bond0 type bond miimon 50",
    )
    said = attached.check().failed(DIFFERS)
    for word in ("eth1 is not a member", "mtu is 1400", "192.0.2.0/24", "miimon is 50"):
        assert word in said


def test_what_others_add_is_let_be(attached: Attached) -> None:
    """An address, a route, a VLAN or an interface of a chained plugin is not a difference."""
    attached.pod.batch(
        "addr add 198.51.100.7/24 dev bond0",
        "addr add 2001:db8::7/64 dev bond0 nodad",
        "route add 203.0.113.0/24 via 10.1.0.77",
        "link add link bond0 name bond0.5 type vlan id 5",
        "link add wg0 type dummy",
        "addr add 198.51.100.9/32 dev wg0",
    )
    later = {"name": "wg0", "mac": "02:00:00:00:00:01", "sandbox": attached.pod.path}
    far = {"name": "veth77"}
    result = {
        **attached.result,
        "interfaces": [*attached.result["interfaces"], later, far],
        "ips": [*attached.result["ips"], {"address": "198.51.100.9/32", "interface": 1}],
    }
    attached.check(prevResult=result).ok()


def test_an_earlier_plugins_interfaces_are_let_be(node: Node, pod: Space) -> None:
    earlier = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth9"}, {"name": "eth0", "sandbox": pod.path}],
        "ips": [{"address": "192.0.2.9/24", "interface": 1}],
        "routes": [],
    }
    asked = config(["eth1", "eth2"], prevResult=earlier, ipam=node.host_local())
    made = Attached(node, pod, asked)
    assert [entry["name"] for entry in made.result["interfaces"]] == ["veth9", "eth0", "bond0"]
    assert [entry["interface"] for entry in made.result["ips"]] == [1, 2]
    made.check().ok()


def test_failover_is_let_be_and_told(node: Node, pod: Space) -> None:
    made = Attached(node, pod, config(["eth1", "eth2"], activeSlave="eth1"))
    pod.ip("link", "set", "bond0", "type", "bond", "active_slave", "eth2")
    made.check().ok()
    node.switch.ip("link", "set", f"s{node.number}eth1", "down")
    answer = made.check()
    answer.ok()
    assert "eth1" in answer.stderr
    assert "carrier" in answer.stderr


def test_mac_that_moves_with_the_active_member(node: Node, pod: Space) -> None:
    made = Attached(node, pod, config(["eth1", "eth2"], failOverMac="active", primary="eth1"))
    pod.ip("link", "set", "bond0", "type", "bond", "primary", "eth2")
    assert pod.link("bond0")["address"] != made.result["interfaces"][0]["mac"]
    assert "primary is" in made.check().failed(DIFFERS)
    pod.ip("link", "set", "bond0", "type", "bond", "primary", "eth1")
    pod.ip("link", "set", "bond0", "type", "bond", "active_slave", "eth1")
    made.check().ok()


def test_lease_gone(attached: Attached) -> None:
    """CHECK of the delegate is called, and its answer counts."""
    for path in attached.node.folder.glob("leases/*/10.1.0.2"):
        path.unlink()
    answer = attached.check()
    assert answer.status == 1
    assert "host-local" in answer.document["msg"]


def test_delegate_gone(attached: Attached) -> None:
    asked = {**attached.asked, "prevResult": attached.result}
    env = {"CNI_PATH": str(attached.node.folder)}
    said = attached.node.cni("CHECK", asked, attached.pod, env=env).failed(104)
    assert "host-local is not in CNI_PATH" in said


def test_previous_result_missing(attached: Attached) -> None:
    assert "prevResult" in attached.check(prevResult=None).failed(6)


@pytest.mark.parametrize("ips", ["none", [{"address": 5}], [5]])
def test_previous_result_is_rubbish(attached: Attached, ips: object) -> None:
    rubbish = {**attached.result, "ips": ips}
    assert "/prevResult/ips" in attached.check(prevResult=rubbish).failed(7)


def test_previous_result_without_our_interface(attached: Attached) -> None:
    stranger = {**attached.result, "interfaces": [{"name": "eth0"}]}
    assert "no interface bond0" in attached.check(prevResult=stranger).failed(DIFFERS)


def test_never_added(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], prevResult={"cniVersion": "1.0.0"})
    before = node.everything(pod)
    assert "no record of c1 bond0" in node.cni("CHECK", asked, pod).failed(DIFFERS)
    assert node.everything(pod) == before


def test_namespace_gone(attached: Attached) -> None:
    attached.pod.delete()
    assert attached.pod.path in attached.check().failed(3)


def test_version_without_check(attached: Attached) -> None:
    assert "0.4.0" in attached.check(cniVersion="0.3.1").failed(1)
