"""Issue 10, item 1: routes of a bond beside the routes of the pod.

The behaviour of the reference plugins is measured in the same test: macvlan puts the same result of
the same IPAM plugin on an interface of a second pod, and both pods must have the same routes.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from tests.kernel.conftest import DELEGATES, Document, Node, Space, config

OWN = (
    "link add eth0 up type dummy",
    "addr add 10.244.0.5/24 dev eth0",
    "addr add fd00:244::5/64 dev eth0 nodad",
    "route add default via 10.244.0.1",
    "-6 route add default via fd00:244::1",
    "route add 192.168.77.0/24 via 10.244.0.9",
    "-6 route add fd00:77::/64 via fd00:244::9",
    "route add 192.168.78.0/24 dev eth0",
    "-6 route add fd00:78::/64 dev eth0",
)
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
GATEWAYS = {"10.9.0.2/24": "10.9.0.1", "fd00:9::2/64": "fd00:9::1"}
NO_GATEWAYS = dict.fromkeys(GATEWAYS, "")
V4_FRONT = [("default", "10.9.0.1", "net1"), ("default", "10.244.0.1", "eth0")]
V6_SHARED = [("default", "fd00:244::1", "eth0"), ("default", "fd00:9::1", "net1")]


@pytest.fixture
def pods(node: Node) -> tuple[Space, Space]:
    """Two pods with a network each; one has links of the host, the other a master for macvlan."""
    node.veth("m1")
    node.veth("m2")
    node.space.ip("link", "add", "parent", "up", "type", "dummy")
    ours, theirs = node.pod(), node.pod()
    for pod in (ours, theirs):
        for line in OWN:
            pod.ip(*line.split())
    return ours, theirs


def answered(addresses: dict[str, str], routes: list[Document]) -> Document:
    entries = [{"address": a} | ({"gateway": gw} if gw else {}) for a, gw in addresses.items()]
    return {"type": "static", "addresses": entries, "routes": routes}


def macvlan(node: Node, command: str, ipam: Document, pod: Space) -> None:
    """The reference plugin, as a runtime calls it."""
    asked = {"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "parent"}
    env, text = node.request(command, asked | {"ipam": ipam}, pod, ifname="net1")
    whole = {**os.environ, **env}
    done = subprocess.run(
        [f"{DELEGATES}/macvlan"], input=text, env=whole, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def hops(pod: Space, family: str) -> list[tuple[str, str, str]]:
    """Destination, gateway and interface of each next hop, in the kernel's order."""
    return [
        (route["dst"], hop.get("gateway", ""), hop["dev"])
        for route in pod.routes(family)
        if not route["dst"].startswith("fe80:")
        for hop in route.get("nexthops", [route])
    ]


def way_to(pod: Space, address: str) -> str:
    """The interface through which a packet to that address leaves."""
    (route,) = json.loads(pod.ip("-j", "route", "get", address))
    return str(route["dev"])


def asked_for(ipam: Document, **extra: Any) -> Document:
    return config(["m1", "m2"], ipam=ipam, **extra)


BESIDE = [
    *DEFAULTS,
    {"dst": "192.168.77.0/24"},
    {"dst": "fd00:77::/64"},
    {"dst": "192.168.78.0/24"},
    {"dst": "fd00:78::/64"},
]
TWICE = [
    {"dst": "10.50.0.0/16"},
    {"dst": "10.50.0.0/16", "gw": "10.9.0.8"},
    {"dst": "fd00:50::/64"},
    {"dst": "fd00:50::/64", "gw": "fd00:9::8"},
]


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [(GATEWAYS, BESIDE), (NO_GATEWAYS, BESIDE), (GATEWAYS, TWICE)],
    ids=["gateways", "no gateways", "two ways"],
)
def test_10_1_routes_are_where_macvlan_puts_them(
    node: Node,
    pods: tuple[Space, Space],
    addresses: dict[str, str],
    routes: list[Document],
) -> None:
    ours, theirs = pods
    ipam = answered(addresses, routes)
    before = hops(ours, "-4"), hops(ours, "-6")
    macvlan(node, "ADD", ipam, theirs)
    wanted = hops(theirs, "-4"), hops(theirs, "-6")

    answer = node.cni("ADD", asked_for(ipam), ours, ifname="net1").ok()

    assert (hops(ours, "-4"), hops(ours, "-6")) == wanted
    assert wanted != before
    node.cni("CHECK", asked_for(ipam, prevResult=answer), ours, ifname="net1").ok()
    node.cni("DEL", asked_for(ipam), ours, ifname="net1").ok()
    assert (hops(ours, "-4"), hops(ours, "-6")) == before


def test_10_1_the_default_route_of_the_bond_is_in_front(
    node: Node, pods: tuple[Space, Space]
) -> None:
    """IPv4 leaves through the bond; IPv6 has two next hops, as with the reference plugins."""
    pod, _ = pods
    ipam = answered(GATEWAYS, DEFAULTS)
    assert way_to(pod, "192.0.2.1") == "eth0"

    node.cni("ADD", asked_for(ipam), pod, ifname="net1").ok()

    assert [hop for hop in hops(pod, "-4") if hop[0] == "default"] == V4_FRONT
    assert [hop for hop in hops(pod, "-6") if hop[0] == "default"] == V6_SHARED
    assert way_to(pod, "192.0.2.1") == "net1"
    assert {way_to(pod, f"2001:db8::{n:x}") for n in range(1, 64)} == {"eth0", "net1"}
    node.cni("DEL", asked_for(ipam), pod, ifname="net1").ok()
    assert way_to(pod, "192.0.2.1") == "eth0"
    assert {way_to(pod, f"2001:db8::{n:x}") for n in range(1, 64)} == {"eth0"}


def test_10_1_a_route_that_is_told_twice_is_added_once(
    node: Node, pods: tuple[Space, Space]
) -> None:
    """The reference plugins fail with "file exists" here."""
    pod, _ = pods
    routes = [{"dst": "10.50.0.0/16"}, {"dst": "fd00:50::/64"}]
    ipam = answered(GATEWAYS, routes * 2)
    answer = node.cni("ADD", asked_for(ipam), pod, ifname="net1").ok()
    for family, hop in (
        ("-4", ("10.50.0.0/16", "10.9.0.1", "net1")),
        ("-6", ("fd00:50::/64", "fd00:9::1", "net1")),
    ):
        assert hops(pod, family).count(hop) == 1
    node.cni("CHECK", asked_for(ipam, prevResult=answer), pod, ifname="net1").ok()
