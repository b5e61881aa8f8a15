"""LACP with a real partner: a bond in the switch's namespace that speaks it, too.

What our side sends is read on both sides: with ``ip -j -d`` in the pod, and from what the partner
received.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for
from tests.kernel.lan import (
    LACP_OPTIONS,
    LEGS,
    POD,
    SWITCH,
    Legs,
    bridged,
    carrier,
    lag,
    member_attributes,
    proc,
)

ACTIVE, SHORT, AGGREGATING, IN_SYNC, COLLECTING, DISTRIBUTING = (1 << bit for bit in range(6))
CARRIES = AGGREGATING | IN_SYNC | COLLECTING | DISTRIBUTING
DEFAULTED = 0x40
IPS = {"runtimeConfig": {"ips": [POD]}}
IFLA_BOND_SLAVE_ACTOR_PORT_PRIO = 10


def lacp(**extra: Any) -> Document:
    return config(list(LEGS), "802.3ad", **IPS, **extra)


def ports(space: Space, bond: str = "bond0") -> dict[str, Document]:
    """The members of a bond as ``ip`` prints them."""
    return {
        name: link["linkinfo"]["info_slave_data"]
        for name, link in space.links().items()
        if link.get("master") == bond
    }


def aggregated(space: Space, bond: str = "bond0", count: int = 2) -> bool:
    """Whether ``count`` ports are in the active aggregator, collecting and distributing."""
    info = space.bond(bond).get("ad_info", {})
    good = [
        port
        for port in ports(space, bond).values()
        if port["mii_status"] == "UP"  # a port that is down keeps its last LACP state
        and port["ad_aggregator_id"] == info.get("aggregator")
        and port["ad_actor_oper_port_state"] & CARRIES == CARRIES
        and port["ad_partner_oper_port_state"] & CARRIES == CARRIES
    ]
    return bool(info.get("num_ports") == count == len(good))


def converge(node: Node, pod: Space) -> None:
    wait_for(lambda: aggregated(pod))
    wait_for(lambda: aggregated(node.switch, "lag"))


def heard(node: Node, what: str) -> list[str]:
    """What the partner received from each of our ports, from the driver's report."""
    report = proc(node.switch, "lag")
    parts = report.split("details partner lacp pdu:")[1:]
    return [re.findall(rf"{what}: (\S+)", part)[0] for part in parts]


@pytest.mark.parametrize(("rate", "partner_rate"), [("fast", "slow"), ("slow", "fast")])
def test_both_ports_join_one_aggregator(
    node: Node, pod: Space, rate: str, partner_rate: str
) -> None:
    lag(node, f"mode 802.3ad miimon 100 lacp_rate {partner_rate}")
    before = node.home()
    node.cni("ADD", lacp(lacpRate=rate), pod).ok()
    converge(node, pod)

    bond = pod.bond("bond0")
    assert bond["ad_lacp_rate"] == rate
    partner = node.switch.link("lag")
    assert bond["ad_info"]["partner_mac"] == partner["address"]
    theirs = partner["linkinfo"]["info_data"]["ad_info"]
    assert theirs["partner_mac"] == pod.link("bond0")["address"]
    assert theirs["partner_key"] == bond["ad_info"]["actor_key"]
    ours = 63 if rate == "fast" else 61
    other = 63 if partner_rate == "fast" else 61
    for port in ports(pod).values():
        assert port["ad_actor_oper_port_state"] == ours
        assert port["ad_partner_oper_port_state"] == other
    for port in ports(node.switch, "lag").values():
        assert port["ad_partner_oper_port_state"] == ours
    assert pod.ping(SWITCH, 5, 0.02) == 5
    node.cni("DEL", lacp(lacpRate=rate), pod).ok()
    assert node.home() == before


def test_a_cut_port_leaves_the_aggregator_and_returns(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, lag(node, LACP_OPTIONS))
    node.cni("ADD", lacp(lacpRate="fast"), pod).ok()
    converge(node, pod)
    legs.cut("m2")
    wait_for(lambda: aggregated(pod, count=1))
    assert pod.ping(SWITCH, 5, 0.02) == 5
    legs.mend("m2")
    converge(node, pod)


def test_two_partners_make_two_aggregators_of_which_one_is_used(node: Node, pod: Space) -> None:
    """Cables to two independent switches: half of the bond must not be used."""
    lag(node, LACP_OPTIONS, ("m1",))
    far = node.veth("m2", bridged=False)
    node.switch.batch(
        f"link add lag2 type bond {LACP_OPTIONS}",
        f"link set {far} down",
        f"link set {far} master lag2",
        "link set lag2 up",
    )
    node.cni("ADD", lacp(lacpRate="fast"), pod).ok()
    wait_for(lambda: aggregated(pod, count=1))
    ids = {port["ad_aggregator_id"] for port in ports(pod).values()}
    assert len(ids) == 2


def test_without_a_partner_one_port_carries(node: Node, pod: Space) -> None:
    """Bridges drop LACP frames: the driver then uses one port as if there were no LACP."""
    bridged(node)
    node.cni("ADD", lacp(lacpRate="fast"), pod).ok()
    info = pod.bond("bond0")["ad_info"]
    assert info["partner_mac"] == "00:00:00:00:00:00"
    assert info["num_ports"] == 1
    wait_for(lambda: all(p["ad_actor_oper_port_state"] & DEFAULTED for p in ports(pod).values()))


def test_a_passive_bond_answers_an_active_partner(node: Node, pod: Space) -> None:
    lag(node, LACP_OPTIONS)
    node.cni("ADD", lacp(lacpRate="fast", lacpActive="off"), pod).ok()
    assert pod.bond("bond0")["ad_lacp_active"] == "off"
    converge(node, pod)
    for port in ports(pod).values():
        assert port["ad_actor_oper_port_state"] == 63 - ACTIVE
    wait_for(
        lambda: all(
            port["ad_partner_oper_port_state"] == 63 - ACTIVE
            for port in ports(node.switch, "lag").values()
        )
    )


def test_the_partner_hears_system_priority_system_mac_and_key(node: Node, pod: Space) -> None:
    lag(node, LACP_OPTIONS)
    system = "02:00:5e:00:00:77"
    options = {"adActorSysPrio": 100, "adActorSystem": system, "adUserPortKey": 5}
    node.cni("ADD", lacp(lacpRate="fast", options=options), pod).ok()
    converge(node, pod)

    bond = pod.bond("bond0")
    assert bond["ad_actor_sys_prio"] == 100
    assert bond["ad_actor_system"] == system
    assert bond["ad_user_port_key"] == 5
    assert bond["ad_info"]["actor_key"] >> 6 == 5
    theirs = node.switch.bond("lag")["ad_info"]
    assert theirs["partner_mac"] == system
    assert theirs["partner_key"] == bond["ad_info"]["actor_key"]
    assert heard(node, "system priority") == ["100", "100"]
    assert heard(node, "system mac address") == [system, system]


def test_min_links_takes_the_carrier_when_too_few_are_left(node: Node, pod: Space) -> None:
    legs = Legs(node, pod, lag(node, LACP_OPTIONS))
    node.cni("ADD", lacp(lacpRate="fast", minLinks=2), pod).ok()
    converge(node, pod)
    assert carrier(pod.link("bond0"))
    legs.cut("m1")
    wait_for(lambda: not carrier(pod.link("bond0")))
    assert pod.link("bond0")["operstate"] == "DOWN"
    legs.mend("m1")
    wait_for(lambda: carrier(pod.link("bond0")))


def test_the_partner_hears_port_priorities(node: Node, pod: Space) -> None:
    """If this kernel has no actor_port_prio, ADD says so and everything is restored."""
    lag(node, LACP_OPTIONS)
    before = node.home()
    asked = lacp(lacpRate="fast")
    asked["links"] = [{"name": "m1", "actorPortPrio": 7}, {"name": "m2", "actorPortPrio": 9}]
    answer = node.cni("ADD", asked, pod)
    if answer.status:
        said = answer.failed(103)
        assert "m1: actorPortPrio 7 is not supported by this kernel" in said
        assert node.home() == before
        assert set(pod.links()) == {"lo"}
        return
    converge(node, pod)
    assert member_attributes(pod, "m1")[IFLA_BOND_SLAVE_ACTOR_PORT_PRIO] == b"\x07\0"
    assert sorted(heard(node, "port priority")) == ["7", "9"]
