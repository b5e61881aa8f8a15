"""Each mode, with a suitable partner, carries traffic, and continues when a link fails."""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for
from tests.kernel.lan import (
    LACP_OPTIONS,
    LEGS,
    POD,
    SWITCH,
    Flow,
    Legs,
    bridged,
    carrier,
    lag,
    member,
    shown,
    sysctl,
)

STATIC = "mode balance-xor miimon 50"
PARTNERS = {
    "balance-rr": STATIC,
    "active-backup": "",
    "balance-xor": STATIC,
    "broadcast": STATIC,
    "802.3ad": LACP_OPTIONS,
    "balance-tlb": "",
    "balance-alb": "",
}
"""Options of the bond at the other end; none: a bridge."""

WITH_ACTIVE = ("active-backup", "balance-tlb", "balance-alb")
IPS: Document = {"runtimeConfig": {"ips": [POD]}}
GAP = 2.0
"""Seconds without traffic that a link failure or its end may cause; miimon is 50 ms.

It takes 0.05 to 0.2 s; the rest is for a loaded machine.
"""

ALB_GAP = GAP + 2.0
"""balance-alb tells its peers by ARP where to send, at most every 2 s (RLB_UPDATE_DELAY,
include/net/bond_alb.h).
"""


def partner(node: Node, mode: str) -> dict[str, str]:
    return lag(node, PARTNERS[mode]) if PARTNERS[mode] else bridged(node)


def settled(pod: Space, mode: str) -> bool:
    """Whether both members carry traffic according to the driver."""
    links = pod.links()
    data = [links[leg]["linkinfo"]["info_slave_data"] for leg in LEGS]
    if any(one["mii_status"] != "UP" for one in data):
        return False
    if mode == "802.3ad":
        info = links["bond0"]["linkinfo"]["info_data"].get("ad_info", {})
        return info.get("num_ports") == 2 and all(
            one["ad_actor_oper_port_state"] & 0x3C == 0x3C for one in data
        )
    return True


def transmitted(pod: Space) -> dict[str, int]:
    """Packets that each member has sent, as counted by ``ip``."""
    found = {link["ifname"]: link for link in shown(pod, "-s", "link")}
    return {leg: found[leg]["stats64"]["tx"]["packets"] for leg in LEGS}


def assert_spread(pod: Space, mode: str) -> None:
    """Which members 20 pings leave through, in the modes where this is certain."""
    before = transmitted(pod)
    assert pod.ping(SWITCH, 20, 0.01) == 20
    sent = {leg: count - before[leg] for leg, count in transmitted(pod).items()}
    if mode == "balance-rr":
        assert min(sent.values()) >= 10
    elif mode == "broadcast":
        assert min(sent.values()) >= 20
    elif mode == "active-backup":
        active = pod.bond("bond0")["active_slave"]
        assert sent.pop(active) >= 20
        assert sum(sent.values()) < 10


@pytest.mark.parametrize("mode", PARTNERS)
def test_a_mode_carries_traffic_and_survives_a_cut_of_either_leg(
    node: Node, pod: Space, mode: str
) -> None:
    legs = Legs(node, pod, partner(node, mode))
    before = node.home()
    options = {"lacpRate": "fast"} if mode == "802.3ad" else {}
    asked = config(list(LEGS), mode, **IPS, **options) | {"miimon": 50}

    node.cni("ADD", asked, pod).ok()

    assert pod.bond("bond0")["mode"] == mode
    assert pod.bond("bond0")["miimon"] == 50
    assert pod.members("bond0") == set(LEGS)
    assert pod.addresses("bond0") == {POD}
    assert carrier(pod.link("bond0"))
    wait_for(lambda: settled(pod, mode))
    wait_for(lambda: pod.ping(SWITCH, 1))
    assert_spread(pod, mode)
    for leg, other in (LEGS, LEGS[::-1]):
        with Flow(pod) as cut:
            legs.cut(leg)
            assert member(pod, other)["mii_status"] == "UP"
            assert member(pod, leg)["link_failure_count"] >= 1
            if mode in WITH_ACTIVE:
                assert pod.bond("bond0")["active_slave"] == other
            wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)
        with Flow(pod) as mended:
            legs.mend(leg)
            wait_for(lambda: settled(pod, mode))
            wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)
        gap = ALB_GAP if mode == "balance-alb" else GAP
        assert cut.gap < gap, f"{leg} cut: {cut.gap:.2f} s without answers"
        assert mended.gap < gap, f"{leg} mended: {mended.gap:.2f} s without answers"
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


def test_the_first_active_member_is_the_primary(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, bridged(node))
    node.cni("ADD", config(list(LEGS), primary="m2", **IPS), pod).ok()
    assert pod.bond("bond0")["active_slave"] == "m2"
    legs.cut("m2")
    assert pod.bond("bond0")["active_slave"] == "m1"
    legs.mend("m2")
    wait_for(lambda: pod.bond("bond0")["active_slave"] == "m2")
    assert pod.ping(SWITCH, 3, 0.05) == 3


def test_a_primary_that_is_used_again_on_failure_only(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, bridged(node))
    asked = config(list(LEGS), primary="m1", primaryReselect="failure", **IPS)
    node.cni("ADD", asked, pod).ok()
    legs.cut("m1")
    legs.mend("m1")
    assert pod.bond("bond0")["active_slave"] == "m2"
    legs.cut("m2")
    assert pod.bond("bond0")["active_slave"] == "m1"


def test_the_member_of_higher_prio_takes_over(node: Node, pod: Space) -> None:
    far = {leg: node.veth(leg) for leg in ("m1", "m2", "m3")}
    node.switch.ip("addr", "add", f"{SWITCH}/24", "dev", "br0")
    legs = Legs(node, pod, far)
    asked = config([], **IPS)
    asked["links"] = [{"name": "m1", "prio": 30}, {"name": "m2"}, {"name": "m3", "prio": 20}]
    node.cni("ADD", asked, pod).ok()
    assert member(pod, "m3")["prio"] == 20
    legs.cut("m1")
    assert pod.bond("bond0")["active_slave"] == "m3"
    wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)


def test_updelay_keeps_a_mended_leg_out(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, bridged(node))
    node.cni("ADD", config(list(LEGS), updelay=1000, primary="m1", **IPS), pod).ok()
    legs.cut("m1")
    node.switch.ip("link", "set", legs.far["m1"], "up")
    wait_for(lambda: member(pod, "m1")["mii_status"] == "GOING_BACK")
    assert pod.bond("bond0")["active_slave"] == "m2"
    wait_for(lambda: pod.bond("bond0")["active_slave"] == "m1")


def detach(node: Node, end: str) -> None:
    """A failure without loss of carrier: the switch port of the cable is off."""
    node.switch.ip("link", "set", end, "nomaster")


@pytest.mark.parametrize("validate", ["none", "all"])
def test_arp_monitoring_sees_a_cut_that_carrier_does_not_show(
    node: Node, pod: Space, validate: str
) -> None:
    far = bridged(node)
    sysctl(node.switch, "ipv4/conf/all/arp_ignore", 1)  # answer on the bridge only
    before = node.home()
    options = {"arpInterval": 100, "arpIpTarget": [SWITCH], "arpValidate": validate}
    asked = config(list(LEGS), **IPS, options=options) | {"miimon": None}
    node.cni("ADD", asked, pod).ok()

    bond = pod.bond("bond0")
    assert (bond["miimon"], bond["arp_interval"]) == (0, 100)
    assert bond["arp_ip_target"] == [SWITCH]
    wait_for(lambda: pod.ping(SWITCH, 1))
    for _ in range(2):
        leg = pod.bond("bond0")["active_slave"]
        wait_for(lambda: settled(pod, "active-backup"))
        with Flow(pod) as flow:
            detach(node, far[leg])
            wait_for(lambda: pod.bond("bond0").get("active_slave") not in (None, leg))  # noqa: B023
            wait_for(lambda: pod.ping(SWITCH, 3, 0.02) == 3)
        assert carrier(pod.link(leg)), "the cut took carrier away: it shows nothing"
        assert flow.gap < GAP
        node.switch.ip("link", "set", far[leg], "master", "br0")
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


def test_arp_monitoring_with_an_ipv6_target(node: Node, pod: Space) -> None:
    far = bridged(node)
    node.switch.ip("addr", "add", "fd00:9::1/64", "dev", "br0", "nodad")
    options = {"arpInterval": 100, "nsIp6Target": ["fd00:9::1"]}
    asked = config(list(LEGS), options=options, runtimeConfig={"ips": ["fd00:9::2/64"]})
    node.cni("ADD", asked | {"miimon": None}, pod).ok()
    assert pod.bond("bond0")["ns_ip6_target"] == ["fd00:9::1"]
    wait_for(lambda: pod.ping("fd00:9::1", 1))
    leg = pod.bond("bond0")["active_slave"]
    (other,) = set(LEGS) - {leg}
    detach(node, far[leg])
    wait_for(lambda: pod.bond("bond0").get("active_slave") == other)
    wait_for(lambda: pod.ping("fd00:9::1", 3, 0.02) == 3)
    assert carrier(pod.link(leg))


def test_a_miimon_of_0_sees_no_cut(node: Node, pod: Space) -> None:
    far = bridged(node)
    answer = node.cni("ADD", config(list(LEGS), **IPS) | {"miimon": 0}, pod)
    answer.ok()
    assert "0 disables link monitoring" in answer.stderr
    assert pod.bond("bond0")["miimon"] == 0
    active = pod.bond("bond0")["active_slave"]
    node.switch.ip("link", "set", far[active], "down")
    assert not pod.ping(SWITCH, 5, 0.1)
    assert pod.bond("bond0")["active_slave"] == active
