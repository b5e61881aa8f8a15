"""Issue 10, item 3: members with one MAC get different ones in balance-tlb and balance-alb."""

from __future__ import annotations

import errno

import pytest
from tests.kernel.conftest import Document, Node, Space, config, thick_only, wait_for
from tests.kernel.faults import faults
from tests.kernel.thick import recovered

from bondcni.kernel.wire import NetlinkRequest
from bondcni.service.journal import Journal

MAC = "02:00:00:00:00:11"
MODES = ["balance-tlb", "balance-alb"]
LINKS = ["eth1", "eth2", "eth3"]


def equal(node: Node, inside: Space | None = None) -> None:
    """Three NICs with one MAC, two of them up."""
    for name in LINKS:
        node.veth(name, inside)
    space = inside or node.space
    space.batch(*(f"link set {name} address {MAC}" for name in LINKS))
    space.batch("link set eth1 up", "link set eth2 up")


def own_macs(pod: Space) -> list[str]:
    """The MAC of each member when it joined the bond."""
    links = pod.links()
    return [links[n]["linkinfo"]["info_slave_data"]["perm_hwaddr"] for n in LINKS]


@pytest.mark.parametrize("home", ["host", "pod"])
@pytest.mark.parametrize("mode", MODES)
def test_3_equal_macs(node: Node, pod: Space, mode: str, home: str) -> None:
    equal(node, pod if home == "pod" else None)
    before = node.everything(pod)
    asked = config(LINKS, mode, linksInContainer=home == "pod")
    made = node.cni("ADD", asked, pod)
    result = made.ok()
    assert pod.members("bond0") == set(LINKS)
    macs = own_macs(pod)
    assert macs[0] == MAC
    assert len(set(macs)) == 3
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    for name, mac in zip(LINKS[1:], macs[1:], strict=True):
        assert f"link {name} has the same MAC as eth1 ({MAC})" in made.stderr
        assert mac in made.stderr
    node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before
    node.cni("ADD", asked, pod).ok()
    assert own_macs(pod) == macs, "a repeated ADD gives the same MACs"
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize("home", ["host", "pod"])
def test_3_cut_off_at_the_end_of_add(node: Node, pod: Space, home: str) -> None:
    """What recover finds after a crash: members with the new MACs, no complete record."""
    equal(node, pod if home == "pod" else None)
    before = node.everything(pod)
    node.cni("ADD", config(LINKS, "balance-alb", linksInContainer=home == "pod"), pod).ok()
    journal = Journal(str(node.state))
    record = journal.read("c1", "bond0", print)
    assert record
    journal.complete(record._replace(result=None))
    recovered(node.state)
    assert node.everything(pod) == before


def test_3_a_mac_that_cannot_be_changed(node: Node, pod: Space) -> None:
    """ipvlans have the MAC of their parent, and refuse another one."""
    pod.batch("link add p0 type dummy", "link set p0 up")
    pod.batch(*(f"link add {n} link p0 type ipvlan mode l2" for n in LINKS))
    before = node.everything(pod)
    said = node.cni("ADD", config(LINKS, "balance-tlb", linksInContainer=True), pod).failed(102)
    assert "the driver of eth1 cannot change the MAC" in said
    assert node.everything(pod) == before


@thick_only("without it the executable sends links home")
def test_3_sent_home_by_the_executable(node: Node) -> None:
    equal(node)
    before: Document = node.everything()
    pod = node.pod()
    asked = config(LINKS, "balance-tlb")
    node.cni("ADD", asked, pod).ok()
    node.daemon().end()
    node.cni("DEL", asked, pod).ok()
    links = node.space.links()
    assert {links[name]["address"] for name in LINKS} == {MAC}
    pod.delete()
    node.end_daemon()
    node.daemon()
    other = node.pod()
    node.veth("eth8")
    node.veth("eth9")
    node.cni("ADD", config(["eth8", "eth9"]), other, container="c2").ok()
    node.cni("DEL", config(["eth8", "eth9"]), other, container="c2").ok()
    node.space.batch("link del eth8", "link del eth9")
    wait_for(lambda: not node.records())
    assert node.everything() == before


def test_11_a_mac_that_the_pf_assigned_ends_the_record(node: Node, pod: Space) -> None:
    """``ip link set PF vf N mac`` while the pod has the VF: the VF has that MAC after its next
    reset, and its driver refuses every other one.
    """
    for name in LINKS[:2]:
        node.veth(name)
    asked = config(LINKS[:2], ipam=node.host_local())
    mac = node.space.link("eth2")["address"]
    node.cni("ADD", asked, pod).ok()
    pod.ip("link", "set", "eth2", "nomaster")
    pod.ip("link", "set", "eth2", "netns", node.space.name)
    node.space.ip("link", "set", "eth2", "address", MAC)

    def refuse(_number: int, request: NetlinkRequest) -> int | None:
        return errno.EADDRNOTAVAIL if f"change eth2 (mac {mac})" in request.operation else None

    with faults(refuse):
        answer = node.cni("DEL", asked, pod)
    answer.ok()
    assert f"link eth2 keeps the MAC {MAC}, before ADD it had {mac}" in answer.stderr
    assert "EADDRNOTAVAIL" in answer.stderr
    assert node.records() == set()
    assert node.leases() == set()
    assert node.space.link("eth1")
    node.cni("ADD", asked, pod).ok()
    node.cni("DEL", asked, pod).ok()
    assert node.space.link("eth2")["address"] == MAC
