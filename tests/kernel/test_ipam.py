"""Addresses and routes on the bond, with the IPAM plugins of Debian."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import DELEGATES, Document, Node, Space, config, wait_for
from tests.kernel.dhcpd import Dhcpd
from tests.kernel.lan import LACP_OPTIONS, LEGS, SWITCH, Flow, Legs, bridged, lag

SWITCH6 = "fd00:9::1"
STATIC: Document = {
    "type": "static",
    "addresses": [
        {"address": "10.9.0.2/24", "gateway": SWITCH},
        {"address": "fd00:9::2/64", "gateway": SWITCH6},
    ],
    "routes": [
        {"dst": "0.0.0.0/0"},
        {"dst": "::/0"},
        {"dst": "192.168.77.0/24", "gw": "10.9.0.3"},
        {"dst": "fd00:77::/64", "gw": "fd00:9::3"},
    ],
    "dns": {"nameservers": ["10.9.0.53"], "domain": "lab.example", "search": ["lab.example"]},
}


@pytest.fixture
def legs(node: Node, pod: Space) -> Legs:
    """Two NICs on a bridge that has an address of each family."""
    far = bridged(node)
    node.switch.ip("addr", "add", f"{SWITCH6}/64", "dev", "br0", "nodad")
    return Legs(node, pod, far)


def asked_for(ipam: Document, **extra: Any) -> Document:
    return config(list(LEGS), ipam=ipam, **extra)


def held(pod: Space, link: str = "bond0") -> dict[str, Document]:
    """Global addresses as ``ip`` prints them, by CIDR text."""
    found = json.loads(pod.ip("-j", "addr", "show", "dev", link))
    infos = [info for entry in found for info in entry.get("addr_info", [])]
    return {f"{i['local']}/{i['prefixlen']}": i for i in infos if i["scope"] == "global"}


def via(pod: Space, family: str = "-4") -> dict[str, str]:
    """Destination to gateway of each route through the bond that has one."""
    routes = [route for route in pod.routes(family) if route.get("dev") == "bond0"]
    return {route["dst"]: route["gateway"] for route in routes if "gateway" in route}


def host_local(node: Node, *subnets: str, **first: str) -> Document:
    ranges: list[list[Document]] = [[{"subnet": subnet}] for subnet in subnets]
    ranges[0][0] |= first
    return {"type": "host-local", "dataDir": str(leases(node)), "ranges": ranges}


def leases(node: Node) -> Path:
    return node.folder / "leases"


def leased(node: Node) -> set[str]:
    """The addresses that host-local has reserved, a file for each."""
    files = (leases(node) / "net").glob("*")
    return {file.name for file in files if not file.name.startswith(("last_reserved", "lock"))}


def test_static_addresses_routes_and_dns(node: Node, pod: Space, legs: Legs) -> None:
    before = node.home()
    asked = asked_for(STATIC, dns={"nameservers": ["10.9.0.54"], "search": ["svc.example"]})

    answer = node.cni("ADD", asked, pod).ok()

    addresses = held(pod)
    assert set(addresses) == {"10.9.0.2/24", "fd00:9::2/64"}
    assert not any(address.get("tentative") for address in addresses.values())
    assert addresses["10.9.0.2/24"]["broadcast"] == "10.9.0.255"
    assert via(pod) == {"default": SWITCH, "192.168.77.0/24": "10.9.0.3"}
    assert via(pod, "-6") == {"default": SWITCH6, "fd00:77::/64": "fd00:9::3"}
    assert pod.ping(SWITCH6, 3, 0.05) == 3
    assert pod.ping(SWITCH, 3, 0.05) == 3
    assert [ip["address"] for ip in answer["ips"]] == ["10.9.0.2/24", "fd00:9::2/64"]
    assert [ip["interface"] for ip in answer["ips"]] == [0, 0]
    assert answer["ips"][0]["gateway"] == SWITCH
    assert answer["dns"] == {
        "nameservers": ["10.9.0.53", "10.9.0.54"],
        "domain": "lab.example",
        "search": ["lab.example", "svc.example"],
    }
    with Flow(pod, SWITCH6) as flow:
        legs.cut("m1")
        wait_for(lambda: pod.ping(SWITCH6, 3, 0.02) == 3)
    assert flow.gap < 3
    assert set(held(pod)) == {"10.9.0.2/24", "fd00:9::2/64"}
    assert via(pod, "-6")["default"] == SWITCH6
    node.cni("CHECK", asked | {"prevResult": answer}, pod).ok()
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


@pytest.mark.parametrize(
    ("ipam", "extra"),
    [
        (None, {"runtimeConfig": {"ips": ["10.9.0.7/24", "fd00:9::7/64"]}}),
        (None, {"args": {"cni": {"ips": ["10.9.0.7/24", "fd00:9::7/64"]}}}),
        ({"type": "static"}, {"runtimeConfig": {"ips": ["10.9.0.7/24", "fd00:9::7/64"]}}),
    ],
    ids=["runtimeConfig", "args", "through static"],
)
@pytest.mark.usefixtures("legs")
def test_addresses_that_the_runtime_asks_for(
    node: Node, pod: Space, ipam: Document | None, extra: Document
) -> None:
    asked = config(list(LEGS), ipam=ipam, **extra)
    answer = node.cni("ADD", asked, pod).ok()
    addresses = held(pod)
    assert set(addresses) == {"10.9.0.7/24", "fd00:9::7/64"}
    assert not any(address.get("tentative") for address in addresses.values())
    assert [ip["address"] for ip in answer["ips"]] == ["10.9.0.7/24", "fd00:9::7/64"]
    assert pod.ping(SWITCH6, 2, 0.05) == 2


@pytest.mark.usefixtures("legs")
def test_a_bond_without_ipam_has_no_address(node: Node, pod: Space) -> None:
    answer = node.cni("ADD", config(list(LEGS)), pod).ok()
    assert held(pod) == {}
    assert not answer.get("ips")


@pytest.mark.usefixtures("legs")
def test_host_local_gives_each_pod_its_own_and_takes_it_back(node: Node, pod: Space) -> None:
    node.veth("n1")
    node.veth("n2")
    second = node.pod()
    before = node.home()
    ipam = host_local(node, "10.9.0.0/24", "fd00:9::/64", rangeStart="10.9.0.10")
    one = asked_for(ipam)
    two = one | {"links": [{"name": "n1"}, {"name": "n2"}]}
    node.cni("ADD", one, pod, container="c1").ok()
    node.cni("ADD", two, second, container="c2").ok()
    first, other = set(held(pod)), set(held(second))
    assert len(first) == len(other) == 2
    assert not first & other
    assert leased(node) == {address.split("/")[0] for address in first | other}
    peer = next(a for a in other if ":" not in a).split("/")[0]
    wait_for(lambda: pod.ping(peer, 2, 0.05) == 2)
    node.cni("DEL", one, pod, container="c1").ok()
    assert leased(node) == {address.split("/")[0] for address in other}
    assert set(held(second)) == other
    node.cni("DEL", two, second, container="c2").ok()
    assert leased(node) == set()
    assert node.home() == before


@pytest.mark.usefixtures("legs")
def test_host_local_that_has_none_left_is_told_and_undone(node: Node, pod: Space) -> None:
    node.veth("n1")
    node.veth("n2")
    second = node.pod()
    ipam = host_local(node, "10.9.0.0/24", rangeStart="10.9.0.10", rangeEnd="10.9.0.10")
    one = asked_for(ipam)
    two = one | {"links": [{"name": "n1"}, {"name": "n2"}]}
    node.cni("ADD", one, pod, container="c1").ok()
    between = node.home()
    answer = node.cni("ADD", two, second, container="c2")
    assert answer.status == 1
    assert "host-local: ADD failed" in answer.document["msg"]
    assert "no IP addresses available" in str(answer.document)
    assert node.home() == between
    assert set(second.links()) == {"lo"}
    assert leased(node) == {"10.9.0.10"}
    node.cni("DEL", one, pod, container="c1").ok()
    node.cni("ADD", two, second, container="c2").ok()
    assert set(held(second)) == {"10.9.0.10/24"}


@pytest.mark.usefixtures("legs")
def test_host_local_hands_out_the_address_that_the_runtime_asks_for(node: Node, pod: Space) -> None:
    ipam = host_local(node, "10.9.0.0/24")
    asked = asked_for(ipam, runtimeConfig={"ips": ["10.9.0.50/24"]})
    node.cni("ADD", asked, pod).ok()
    assert set(held(pod)) == {"10.9.0.50/24"}
    assert leased(node) == {"10.9.0.50"}


@pytest.mark.usefixtures("legs")
def test_an_address_that_another_node_has_is_refused_and_undone(node: Node, pod: Space) -> None:
    node.switch.ip("addr", "add", "fd00:9::5/64", "dev", "br0", "nodad")
    before = node.space.everything()
    ipam = host_local(node, "fd00:9::/64", rangeStart="fd00:9::5", rangeEnd="fd00:9::5")
    said = node.cni("ADD", asked_for(ipam), pod).failed(103)
    assert "another node on the link already has fd00:9::5/64" in said
    assert node.space.everything() == before
    assert set(pod.links()) == {"lo"}
    assert leased(node) == set()
    node.switch.ip("addr", "del", "fd00:9::5/64", "dev", "br0")
    node.cni("ADD", asked_for(ipam), pod).ok()
    assert set(held(pod)) == {"fd00:9::5/64"}


def test_an_lacp_bond_waits_for_its_partner_with_duplicate_detection(
    node: Node, pod: Space
) -> None:
    lag(node, LACP_OPTIONS)
    node.switch.ip("addr", "add", f"{SWITCH6}/64", "dev", "lag", "nodad")
    asked = config(list(LEGS), "802.3ad", lacpRate="fast", ipam=STATIC)
    node.cni("ADD", asked, pod).ok()
    addresses = held(pod)
    assert set(addresses) == {"10.9.0.2/24", "fd00:9::2/64"}
    assert not any(address.get("tentative") for address in addresses.values())
    wait_for(lambda: pod.ping(SWITCH6, 2, 0.05) == 2)


def test_ipv6_on_a_bond_without_carrier_is_a_warning(node: Node, pod: Space, legs: Legs) -> None:
    for end in legs.far.values():
        node.switch.ip("link", "set", end, "down")
    answer = node.cni("ADD", asked_for(STATIC), pod)
    answer.ok()
    assert "bond0 has no carrier yet" in answer.stderr
    assert held(pod)["fd00:9::2/64"]["tentative"]
    node.switch.ip("link", "set", legs.far["m1"], "up")
    wait_for(lambda: not held(pod)["fd00:9::2/64"].get("tentative"))
    assert pod.ping(SWITCH6, 2, 0.05) == 2


@pytest.mark.usefixtures("legs")
def test_our_result_is_appended_to_what_was_before(node: Node, pod: Space) -> None:
    previous: Document = {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "veth7", "mac": "02:00:00:00:00:07"},
            {"name": "eth0", "mac": "02:00:00:00:00:08", "sandbox": pod.path},
        ],
        "ips": [{"address": "10.77.0.5/24", "gateway": "10.77.0.1", "interface": 1}],
        "routes": [{"dst": "10.78.0.0/16", "gw": "10.77.0.1"}, {"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.77.0.53"], "search": ["first.example"]},
    }
    pod.batch(
        "link add eth0 up type dummy",
        "addr add 10.77.0.5/24 dev eth0",
        "route add default via 10.77.0.1",
    )
    ipam = STATIC | {"routes": STATIC["routes"][1:]}
    answer = node.cni("ADD", asked_for(ipam, prevResult=previous), pod).ok()
    assert answer["interfaces"][:2] == previous["interfaces"]
    assert answer["interfaces"][2]["name"] == "bond0"
    assert answer["interfaces"][2]["mac"] == pod.link("bond0")["address"]
    assert answer["ips"][0] == previous["ips"][0]
    assert [ip["interface"] for ip in answer["ips"]] == [1, 2, 2]
    assert answer["routes"] == [*previous["routes"], *ipam["routes"]]
    assert answer["dns"]["nameservers"] == ["10.77.0.53", "10.9.0.53"]
    assert answer["dns"]["search"] == ["first.example", "lab.example"]
    assert set(held(pod)) == {"10.9.0.2/24", "fd00:9::2/64"}
    assert via(pod) == {"192.168.77.0/24": "10.9.0.3"}, "other plugins' routes are not ours"
    node.cni("CHECK", asked_for(ipam, prevResult=answer), pod).ok()


@pytest.mark.usefixtures("legs")
def test_check_tells_what_is_gone(node: Node, pod: Space) -> None:
    asked = asked_for(STATIC)
    answer = node.cni("ADD", asked, pod).ok()
    for gone, told in (
        ("route del 192.168.77.0/24", "route 192.168.77.0/24 via 10.9.0.3 is missing"),
        ("route del default", "route 0.0.0.0/0 via 10.9.0.1 is missing"),
        ("-6 route del fd00:77::/64", "route fd00:77::/64 via fd00:9::3 is missing"),
        ("addr del fd00:9::2/64 dev bond0", "address fd00:9::2/64 is missing"),
    ):
        said = node.cni("CHECK", asked | {"prevResult": answer}, pod)
        assert told not in str(said.document)
        pod.ip(*gone.split())
        assert told in node.cni("CHECK", asked | {"prevResult": answer}, pod).failed(105)


# Routes as delegates return them


@pytest.mark.parametrize(
    ("route", "dst", "gateway"),
    [
        ({"dst": "10.50.0.0/16"}, "10.50.0.0/16", SWITCH),
        ({"dst": "10.50.0.9/16"}, "10.50.0.0/16", SWITCH),
        ({"dst": "10.50.0.0/16", "gw": "10.9.0.9"}, "10.50.0.0/16", "10.9.0.9"),
        ({"dst": "10.9.0.0/24"}, "", ""),
    ],
    ids=["gateway of the address", "host bits", "gateway of its own", "made by the address"],
)
@pytest.mark.usefixtures("legs")
def test_a_route(node: Node, pod: Space, route: Document, dst: str, gateway: str) -> None:
    result = {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.9.0.2/24", "gateway": SWITCH}],
        "routes": [route],
    }
    node.delegate("fixed", f"test $CNI_COMMAND = DEL || echo '{json.dumps(result)}'")
    node.cni("ADD", asked_for({"type": "fixed"}), pod).ok()
    assert via(pod) == ({dst: gateway} if dst else {})


# DHCP


@pytest.fixture
def dhcp(node: Node) -> Iterator[Document]:
    """The IPAM section for a dhcp daemon that runs on the node, as on a real one."""
    path = node.folder / "dhcp.sock"
    argv = [f"{DELEGATES}/dhcp", "daemon", "-socketpath", str(path)]
    daemon = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(path.exists)
        yield {"type": "dhcp", "daemonSocketPath": str(path)}
    finally:
        daemon.terminate()
        daemon.wait(10)


def test_dhcp_leases_and_releases(node: Node, pod: Space, legs: Legs, dhcp: Document) -> None:
    before = node.home()
    with Dhcpd(node.switch, "br0", SWITCH, "10.9.0.77") as server:
        answer = node.cni("ADD", asked_for(dhcp), pod).ok()
        mac = pod.link("bond0")["address"]
        assert set(held(pod)) == {"10.9.0.77/24"}
        assert via(pod) == {"default": SWITCH}
        assert answer["ips"][0]["address"] == "10.9.0.77/24"
        assert server.heard("DISCOVER")[:1] == [mac]
        assert server.heard("REQUEST")[:1] == [mac]
        assert not server.heard("RELEASE")
        assert pod.ping(SWITCH, 3, 0.05) == 3
        legs.cut("m1")
        wait_for(lambda: pod.ping(SWITCH, 2, 0.02) == 2)
        node.cni("DEL", asked_for(dhcp), pod).ok()
        wait_for(lambda: server.heard("RELEASE") == [mac])
    assert node.home() == before


def test_dhcp_without_its_daemon_is_told_and_undone(node: Node, pod: Space) -> None:
    bridged(node)
    before = node.home()
    ipam = {"type": "dhcp", "daemonSocketPath": str(node.folder / "nobody.sock")}
    answer = node.cni("ADD", asked_for(ipam), pod)
    assert answer.status == 1
    assert "IPAM plugin dhcp: ADD failed" in answer.document["msg"]
    assert "nobody.sock" in str(answer.document)
    assert node.home() == before
    assert set(pod.links()) == {"lo"}
