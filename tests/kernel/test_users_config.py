"""Issue 10, items 2, 13, 15, 16, 23, 24, 26: configurations, and what the kernel holds after ADD.

The Go bond-cni starts pods with each of these configurations.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for


@pytest.fixture(autouse=True)
def links(node: Node, pod: Space) -> None:
    """Two links of the host, and two of the pod."""
    for name in ("eth1", "eth2"):
        node.veth(name)
    for name in ("m1", "m2"):
        node.veth(name, pod)


def inside(**extra: Any) -> Document:
    return config(["m1", "m2"], linksInContainer=True, **extra)


def altnames(pod: Space, name: str) -> list[str]:
    found: list[str] = pod.link(name).get("altnames", [])
    return found


def checked(node: Node, asked: Document, pod: Space, **named: Any) -> Document:
    """ADD; CHECK accepts the bond; the result."""
    added = node.cni("ADD", asked, pod, **named)
    result = added.ok()
    node.cni("CHECK", {**asked, "prevResult": result}, pod, **named).ok()
    return {"result": result, "told": added.stderr}


# 2: ifname is given if possible.


def test_10_2_two_definitions_of_one_pod_with_the_same_ifname(node: Node, pod: Space) -> None:
    first = checked(node, inside(ifname="bond0"), pod, ifname="net1")
    assert first["told"] == ""
    assert altnames(pod, "net1") == ["bond0"]
    other = config(["eth1", "eth2"], ifname="bond0", name="other")
    second = checked(node, other, pod, ifname="net2")
    assert "alternative name bond0 is left out: interface net1 of the pod" in second["told"]
    assert altnames(pod, "net2") == []
    node.cni("DEL", other, pod, ifname="net2").ok()
    assert altnames(pod, "net1") == ["bond0"]
    node.cni("DEL", inside(ifname="bond0"), pod, ifname="net1").ok()
    assert node.records() == set()


@pytest.mark.parametrize(
    ("ifname", "why"),
    [
        ("eth0", "interface eth0 of the pod has this name"),
        ("second", "interface eth0 of the pod has this name"),
        ("eth2", "link eth2 has this name"),
        ("uplink", "link eth1 has this name"),
        ("net7", "Multus gives such names"),
        ("a-name-of-twenty-byt", "at most 15 bytes"),
        ("a b", "white space"),
        (5, "alternative name 5 is left out"),
    ],
)
def test_10_2_an_ifname_that_cannot_be_given(
    node: Node, pod: Space, ifname: str | int, why: str
) -> None:
    pod.batch("link add eth0 type dummy", "link property add dev eth0 altname second")
    node.space.ip("link", "property", "add", "dev", "eth1", "altname", "uplink")
    before = node.everything(pod)
    asked = config(["eth1", "eth2"], ifname=ifname)
    told = checked(node, asked, pod)["told"]
    assert "left out" in told
    assert why in told
    assert altnames(pod, "bond0") == []
    assert pod.members("bond0") == {"eth1", "eth2"}
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def test_10_2_an_ifname_that_a_member_in_the_pod_has(node: Node, pod: Space) -> None:
    told = checked(node, inside(ifname="m2"), pod)["told"]
    assert "alternative name m2 is left out: link m2 has this name" in told
    assert pod.members("bond0") == {"m1", "m2"}


def test_10_2_an_ifname_yields_to_the_attachment_of_that_name(node: Node, pod: Space) -> None:
    """The first has the second's name as its alternative name; CHECK accepts both."""
    first = inside(ifname="bond0")
    result = checked(node, first, pod, ifname="net1")["result"]
    other = config(["eth1", "eth2"], ifname="bond0", name="other")
    told = checked(node, other, pod, ifname="bond0")["told"]
    assert "alternative name bond0 is removed from net1" in told
    assert altnames(pod, "net1") == []
    assert pod.members("bond0") == {"eth1", "eth2"}
    node.cni("CHECK", {**first, "prevResult": result}, pod, ifname="net1").ok()
    node.cni("DEL", other, pod, ifname="bond0").ok()
    node.cni("DEL", first, pod, ifname="net1").ok()
    assert node.records() == set()
    assert pod.members("net1") == set()


def test_10_2_a_name_that_is_not_a_wish_of_ours_does_not_yield(node: Node, pod: Space) -> None:
    node.cni("ADD", inside(ifname="fast0"), pod, ifname="net1").ok()
    pod.ip("link", "property", "add", "dev", "net1", "altname", "bond0")
    said = node.cni("ADD", config(["eth1", "eth2"]), pod).failed(101)
    assert "interface name bond0 is already taken in the pod" in said


# 23, 24, 26: every problem at once, with its remedy, in both modes.


def test_10_23_what_kubectl_describe_shows_of_a_misspelled_key(node: Node, pod: Space) -> None:
    asked = {**inside(failOverMac="activ"), "mdoe": 1}
    del asked["mode"]
    document = node.cni("ADD", asked, pod).document
    assert document["code"] == 7
    assert "/mode: is required: write one of balance-rr, " in document["msg"]
    assert '/failOverMac: "activ" is not allowed: write "active"' in document["msg"]
    assert document["details"] == 'warnings: /mdoe: unknown key, ignored: did you mean "mode"?'


def test_10_23_a_list_of_plugins(node: Node, pod: Space) -> None:
    whole = {"cniVersion": "1.0.0", "name": "net", "plugins": [inside()]}
    said = node.cni("ADD", whole, pod).failed(7)
    assert "/plugins: this is a list of plugins (conflist)" in said
    assert "/links" not in said


def test_10_23_an_ipam_plugin_that_was_misspelled(node: Node, pod: Space) -> None:
    said = node.cni("ADD", inside(ipam={"type": "hostlocal"}), pod).failed(104)
    assert "hostlocal" in said
    assert 'did you mean "host-local"?' in said


def test_10_26_check_names_options_and_links_as_users_do(node: Node, pod: Space) -> None:
    asked = inside(failOverMac=1, primary="m1")
    result = node.cni("ADD", asked, pod).ok()
    pod.ip("link", "set", "bond0", "type", "bond", "primary", "m2", "primary_reselect", "better")
    said = node.cni("CHECK", {**asked, "prevResult": result}, pod).failed(105)
    assert "bond bond0: primary is m2, not m1" in said


def test_10_26_what_the_kernel_refuses_is_named_as_the_user_wrote_it(
    node: Node, pod: Space
) -> None:
    links: list[str | Document] = [{"name": "m1", "queueId": 17}, "m2"]
    said = node.cni("ADD", config(links, linksInContainer=True), pod).failed(102)
    assert "queueId" in said
    assert "queue_id" not in json.dumps(said)


# 13: a key without effect causes a warning.


@pytest.mark.parametrize(
    "asked",
    [
        {"runtimeConfig": {"ips": ["10.9.0.5/24", "fd00:9::5/64"]}},
        {"runtimeConfig": {"ips": ["10.9.0.5/24", "fd00:9::5/64"]}, "ipam": {}},
        {"runtimeConfig": {"ips": ["10.9.0.5/24", "fd00:9::5/64"]}, "ipam": {"type": ""}},
        {"args": {"cni": {"ips": ["10.9.0.5/24", "fd00:9::5/64"]}}},
    ],
)
def test_10_13_addresses_asked_for_without_ipam_are_put_on(
    node: Node, pod: Space, asked: Document
) -> None:
    result = checked(node, inside(**asked), pod)["result"]
    assert pod.addresses("bond0") == {"10.9.0.5/24", "fd00:9::5/64"}
    assert {ip["address"] for ip in result["ips"]} == {"10.9.0.5/24", "fd00:9::5/64"}


def answering(node: Node, *addresses: str) -> Document:
    """An IPAM plugin that returns these addresses in any case."""
    ips = [{"address": address} for address in addresses]
    document = json.dumps({"cniVersion": "1.0.0", "ips": ips})
    node.delegate("headstrong", f"[ $CNI_COMMAND != ADD ] || echo '{document}'")
    return {"type": "headstrong"}


def test_10_13_addresses_that_the_ipam_plugin_did_not_give(node: Node, pod: Space) -> None:
    asked = inside(ipam=answering(node, "10.9.0.9/24"), runtimeConfig={"ips": ["10.9.0.5/24"]})
    told = checked(node, asked, pod)["told"]
    assert "IPAM plugin headstrong did not assign the requested addresses: 10.9.0.5/24" in told
    assert pod.addresses("bond0") == {"10.9.0.9/24"}


def test_10_13_dns_without_ipam_is_in_the_result(node: Node, pod: Space) -> None:
    result = node.cni("ADD", inside(dns={"nameservers": ["10.9.0.1"]}), pod).ok()
    assert result["dns"] == {"nameservers": ["10.9.0.1"]}


def test_10_13_what_has_no_effect_is_warned_about(node: Node, pod: Space) -> None:
    asked = inside(runtimeConfig={"portMappings": []}, mac="02:00:00:00:00:77", trust="on")
    told = node.cni("ADD", asked, pod).stderr
    for key in ("/runtimeConfig/portMappings", "/mac", "/trust"):
        assert f"{key}: has no effect on a bond" in told


def test_10_13_a_mac_in_cni_args_is_warned_about(node: Node, pod: Space) -> None:
    env = {"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:77"}
    told = node.cni("ADD", inside(), pod, env=env).stderr
    assert "CNI_ARGS: MAC=02:00:00:00:00:77 has no effect on a bond" in told


# 15: IPv6 needs an MTU of 1280.


def refused(node: Node, asked: Document, pod: Space, code: int) -> str:
    """The text of a refusal that changes nothing."""
    before = node.everything(pod)
    said = node.cni("ADD", asked, pod).failed(code)
    assert node.everything(pod) == before
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before
    return said


def test_10_15_a_configured_mtu_that_is_too_small_for_ipv6(node: Node, pod: Space) -> None:
    ipam = node.host_local(subnet="fd00:9::/64")
    said = refused(node, inside(mtu=1000, ipam=ipam), pod, 7)
    assert "/mtu: 1000 is below the minimum MTU for IPv6 (1280), which fd00:9::/64 requires" in said
    assert "kernel says" not in said


def test_10_15_members_whose_mtu_is_too_small_for_ipv6(node: Node, pod: Space) -> None:
    pod.ip("link", "set", "m2", "mtu", "1000")
    asked = inside(runtimeConfig={"ips": ["fd00:9::5/64"]})
    said = refused(node, asked, pod, 101)
    assert "mtu 1000 is below the minimum MTU for IPv6 (1280)" in said
    assert "raise the MTU of m2 (1000)" in said


def test_10_15_an_ipv6_address_that_only_the_ipam_plugin_knows(node: Node, pod: Space) -> None:
    asked = inside(mtu=1000, ipam=answering(node, "10.9.0.9/24", "fd00:9::9/64"))
    said = refused(node, asked, pod, 101)
    assert "mtu 1000 is below the minimum MTU for IPv6 (1280), which fd00:9::9/64 requires" in said


def test_10_15_ipv4_works_with_such_an_mtu_and_ipv6_with_1280(node: Node, pod: Space) -> None:
    asked = inside(mtu=1000, ipam=answering(node, "10.9.0.9/24"))
    checked(node, asked, pod)
    assert pod.link("bond0")["mtu"] == 1000
    node.cni("DEL", asked, pod).ok()
    checked(node, inside(mtu=1280, ipam=answering(node, "fd00:9::9/64")), pod)
    assert pod.addresses("bond0") == {"fd00:9::9/64"}


# 16: a MAC together with failOverMac 1.

MAC = "02:00:00:00:00:77"


@pytest.mark.parametrize(
    "asked",
    [
        {"capabilities": {"mac": True}, "runtimeConfig": {"mac": MAC}},
        {"args": {"cni": {"mac": MAC}}},
    ],
)
def test_10_16_a_mac_from_the_runtime_with_fail_over_mac_1(
    node: Node, pod: Space, asked: Document
) -> None:
    own = pod.link("m1")["address"]
    told = checked(node, inside(failOverMac=1, **asked), pod)["told"]
    assert f"{MAC} is not set: with failOverMac 1 the bond takes the MAC of its active mem" in told
    assert "write failOverMac 0 or 2" in told
    assert pod.link("bond0")["address"] == own


def test_10_16_both_in_the_configuration_itself_is_an_error(node: Node, pod: Space) -> None:
    asked = inside(failOverMac=1, runtimeConfig={"mac": MAC})
    said = refused(node, asked, pod, 7)
    assert f"/runtimeConfig/mac: {MAC} cannot be set" in said
    assert "write failOverMac 0 or 2" in said


@pytest.mark.parametrize("how", [0, 2])
def test_10_16_the_remedy_gives_the_mac(node: Node, pod: Space, how: int) -> None:
    """Also after a failover."""
    asked = inside(
        failOverMac=how, capabilities={"mac": True}, runtimeConfig={"mac": MAC}, primary="m1"
    )
    assert checked(node, asked, pod)["told"] == ""
    wait_for(lambda: pod.bond("bond0").get("active_slave") == "m1")
    assert pod.link("bond0")["address"] == pod.link("m1")["address"] == MAC
    pod.ip("link", "set", "m1", "down")
    wait_for(lambda: pod.bond("bond0").get("active_slave") == "m2")
    assert pod.link("bond0")["address"] == pod.link("m2")["address"] == MAC
