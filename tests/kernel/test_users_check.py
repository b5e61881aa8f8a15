"""Issue 10, items 4 and 19: CHECK in a chain, and the warnings of CHECK.

The later plugin of the chain is the reference plugin ``tuning``, which changes what ADD made.
"""

from __future__ import annotations

import json
import os

import pytest
from tests.kernel.conftest import DELEGATES, Answer, Document, Node, Space, config, sh, wait_for

DIFFERS = 105
MAC = "02:00:00:00:00:99"


class Chain:
    """A bond with ``tuning`` after it."""

    def __init__(self, node: Node, pod: Space, bond: Document, tuning: Document) -> None:
        self.node, self.pod = node, pod
        self.bond = bond
        self.tuning = {
            "cniVersion": "1.0.0",
            "name": bond["name"],
            "type": "tuning",
            "dataDir": str(node.folder / "tuning"),
            **tuning,
        }

    def tune(self, command: str, previous: Document) -> Document:
        env = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": self.pod.path,
            "CNI_IFNAME": "bond0",
            "CNI_PATH": DELEGATES,
        }
        asked = json.dumps({**self.tuning, "prevResult": previous})
        variables = [f"{key}={value}" for key, value in env.items()]
        out = sh("env", "-i", *variables, f"{DELEGATES}/tuning", stdin=asked)
        return json.loads(out) if out.strip() else {}

    def add(self) -> Document:
        """ADD of both; the result of the chain."""
        first = self.node.cni("ADD", self.bond, self.pod).ok()
        return self.tune("ADD", first)

    def check(self, result: Document) -> Answer:
        """CHECK of ``bond``; CHECK of ``tuning`` succeeds (it fails for a MAC in capitals)."""
        if "A" not in self.tuning.get("mac", ""):
            self.tune("CHECK", result)
        return self.node.cni("CHECK", {**self.bond, "prevResult": result}, self.pod)

    def delete(self, result: Document) -> None:
        """DEL of both, in the order of the specification."""
        self.tune("DEL", result)
        self.node.cni("DEL", {**self.bond, "prevResult": result}, self.pod).ok()


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")


TUNINGS: dict[str, Document] = {
    "mtu": {"mtu": 1400},
    "mac": {"mac": "02:00:00:00:0b:99"},
    "mac in capitals": {"mac": "02:00:00:00:0A:99"},
    "promisc": {"promisc": True},
    "allmulti": {"allmulti": True},
    "all": {"mtu": 1400, "mac": MAC, "promisc": True, "allmulti": True},
}

BONDS: dict[str, Document] = {
    "defaults": {},
    "mac written": {"runtimeConfig": {"mac": "02:00:00:00:00:77"}},
    "follows the active member": {"failOverMac": 1},
    "802.3ad": {"mode": "802.3ad"},
}


@pytest.mark.parametrize("bond", BONDS)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_10_4_check_passes_after_tuning(node: Node, pod: Space, tuning: str, bond: str) -> None:
    if "mac" in TUNINGS[tuning] and "active" in bond:
        pytest.skip("the kernel ignores a MAC for this bond, and tuning's own CHECK fails")
    before = node.everything(pod)
    asked = config(["eth1", "eth2"], ipam=node.host_local(), **BONDS[bond])
    chain = Chain(node, pod, asked, TUNINGS[tuning])
    result = chain.add()
    link = pod.link("bond0")
    assert link["mtu"] == TUNINGS[tuning].get("mtu", 1500)
    if "mac" in TUNINGS[tuning]:
        assert link["address"] == TUNINGS[tuning]["mac"].lower()
    chain.check(result).ok()
    chain.delete(result)
    assert node.everything(pod) == before


def test_10_4_a_mac_that_the_chain_gave_is_held(node: Node, pod: Space) -> None:
    chain = Chain(node, pod, config(["eth1", "eth2"]), {"mac": MAC})
    result = chain.add()
    chain.check(result).ok()
    pod.ip("link", "set", "bond0", "address", "02:00:00:00:00:aa")
    said = node.cni("CHECK", {**chain.bond, "prevResult": result}, pod).failed(DIFFERS)
    assert f"mac is 02:00:00:00:00:aa, not {MAC}" in said


def test_10_4_a_mac_of_the_configuration_is_held(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], runtimeConfig={"mac": "02:00:00:00:00:77"})
    result = node.cni("ADD", asked, pod).ok()
    pod.ip("link", "set", "bond0", "address", "02:00:00:00:00:aa")
    said = node.cni("CHECK", {**asked, "prevResult": result}, pod).failed(DIFFERS)
    assert "mac is 02:00:00:00:00:aa, not 02:00:00:00:00:77" in said


def test_10_4_a_mac_that_nobody_asked_for_is_a_warning(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"])
    result = node.cni("ADD", asked, pod).ok()
    given = result["interfaces"][0]["mac"]
    checked = {**asked, "prevResult": result}
    assert "mac" not in node.cni("CHECK", checked, pod).stderr
    pod.ip("link", "set", "bond0", "address", "02:00:00:00:00:aa")
    answer = node.cni("CHECK", checked, pod)
    answer.ok()
    assert f"mac is 02:00:00:00:00:aa, in the result of ADD it is {given}" in answer.stderr


@pytest.mark.parametrize("written", [None, 1500, "1500", "inherit"])
def test_10_4_an_mtu_is_held_where_it_is_written(
    node: Node, pod: Space, written: int | str | None
) -> None:
    asked = config(["eth1", "eth2"], mtu=written)
    result = node.cni("ADD", asked, pod).ok()
    pod.ip("link", "set", "bond0", "mtu", "1400")
    answer = node.cni("CHECK", {**asked, "prevResult": result}, pod)
    if written is None:
        answer.ok()
        return
    said = answer.failed(DIFFERS)
    assert "mtu is 1400, not 1500" in said
    assert "remove mtu from the configuration of bond" in said


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_10_4_an_mtu_that_the_chain_tells_is_held(node: Node, pod: Space, version: str) -> None:
    asked = config(["eth1", "eth2"], cniVersion=version, mtu=1500)
    result = node.cni("ADD", asked, pod).ok()
    told = [{**entry, "mtu": 1400} for entry in result["interfaces"]]
    checked = {**asked, "prevResult": {**result, "interfaces": told}}
    assert "mtu is 1500, not 1400" in node.cni("CHECK", checked, pod).failed(DIFFERS)
    pod.ip("link", "set", "bond0", "mtu", "1400")
    node.cni("CHECK", checked, pod).ok()


def test_10_19_a_member_that_the_arp_monitor_holds_down(node: Node, pod: Space) -> None:
    """Both members have carrier, and the ARP probes get no answer."""
    asked = config(["eth1", "eth2"], arpInterval=100, arpIpTarget="10.1.0.254")
    asked = {key: value for key, value in asked.items() if key != "miimon"}
    asked |= {"arpValidate": "all", "ipam": node.host_local()}
    result = node.cni("ADD", asked, pod).ok()
    checked = {**asked, "prevResult": result}
    wait_for(lambda: statuses(pod).get("eth1") != "UP" and statuses(pod).get("eth2") != "UP")
    assert "LOWER_UP" in pod.link("eth1")["flags"]
    answer = node.cni("CHECK", checked, pod)
    answer.ok()
    assert "eth1 of bond0 has carrier" in answer.stderr
    assert "eth2 of bond0 has carrier" in answer.stderr
    assert "no answer from 10.1.0.254" in answer.stderr
    node.switch.ip("addr", "add", "10.1.0.254/24", "dev", "br0")
    wait_for(lambda: statuses(pod)["eth1"] == "UP" or statuses(pod)["eth2"] == "UP")


def statuses(pod: Space) -> dict[str, str]:
    """The mii_status of each member, by name."""
    return {
        name: link["linkinfo"]["info_slave_data"]["mii_status"]
        for name, link in pod.links().items()
        if link.get("master")
    }


MODES = (
    *("balance-rr", "active-backup", "balance-xor", "broadcast"),
    *("802.3ad", "balance-tlb", "balance-alb"),
)


@pytest.mark.parametrize("mode", MODES)
def test_10_19_an_active_member_with_another_mac(node: Node, pod: Space, mode: str) -> None:
    asked = config(["eth1", "eth2"], mode)
    result = node.cni("ADD", asked, pod).ok()
    checked = {**asked, "prevResult": result}
    wait_for(lambda: set(statuses(pod).values()) == {"UP"})
    first = node.cni("CHECK", checked, pod)
    first.ok()
    assert "MAC" not in first.stderr
    active = pod.bond("bond0").get("active_slave", "eth1")
    pod.ip("link", "set", active, "address", "02:00:00:00:00:bb")
    answer = node.cni("CHECK", checked, pod)
    answer.ok()
    assert f"active member {active} of bond0 has the MAC 02:00:00:00:00:bb" in answer.stderr
    assert "failOverMac" in answer.stderr
    node.cni("DEL", asked, pod).ok()


def test_10_19_a_backup_member_may_have_another_mac(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], failOverMac=2)
    result = node.cni("ADD", asked, pod).ok()
    active = pod.bond("bond0")["active_slave"]
    backup = ({"eth1", "eth2"} - {active}).pop()
    pod.ip("link", "set", backup, "address", "02:00:00:00:00:bb")
    answer = node.cni("CHECK", {**asked, "prevResult": result}, pod)
    answer.ok()
    assert "MAC" not in answer.stderr
