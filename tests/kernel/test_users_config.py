"""Issue 10, numbers 2, 13, 15, 16, 23, 24, 26: what a configuration asks for, what comes of it.

Configurations that the Go bond-cni starts pods with, and what the kernel holds then.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config


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
    """ADD; CHECK accepts what it made; the result."""
    added = node.cni("ADD", asked, pod, **named)
    result = added.ok()
    node.cni("CHECK", {**asked, "prevResult": result}, pod, **named).ok()
    return {"result": result, "told": added.stderr}


# 2: ifname is a wish.


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


# 23, 24, 26: every problem at once, with what to write, in both ways.


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
    assert "/plugins: this is a list of plugins (a conflist)" in said
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
