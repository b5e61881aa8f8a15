"""Issue 10, items 5, 7 and 21: what IPAM plugins and earlier plugins say, or fail to say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config


@pytest.fixture
def members(node: Node) -> None:
    """Two NICs of the host."""
    node.veth("eth1")
    node.veth("eth2")


def asked_for(kind: Any = "ours", **extra: Any) -> Document:
    return config(["eth1", "eth2"], ipam={"type": kind}, **extra)


def delegate(node: Node, answer: Document | str, name: str = "ours", script: str = "") -> None:
    """An IPAM plugin that writes down its verbs, does ``script``, and gives an answer to ADD."""
    said = answer if isinstance(answer, str) else json.dumps(answer)
    log = node.folder / "verbs"
    node.delegate(
        name, f"echo $CNI_COMMAND >> {log}\n{script}\n[ $CNI_COMMAND != ADD ] || echo '{said}'"
    )


def verbs(node: Node) -> list[str]:
    """What the delegate was asked, in order."""
    log = node.folder / "verbs"
    return log.read_text().split() if log.exists() else []


GOOD = {"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]}


@pytest.mark.parametrize(
    ("answer", "place", "value"),
    [
        ({"ips": [{"address": "10.9.0.2"}]}, "/ips/0/address", "10.9.0.2"),
        (
            {"ips": [{"address": "10.9.0.2/255.255.255.0"}]},
            "/ips/0/address",
            "10.9.0.2/255.255.255.0",
        ),
        ({"ips": [{"address": "fe80::1%eth0/64"}]}, "/ips/0/address", "fe80::1%eth0/64"),
        ({"ips": [{"address": "10.9.0.2/24", "gateway": "gw"}]}, "/ips/0/gateway", "gw"),
        ({**GOOD, "routes": [{"dst": "10.50.0.0"}]}, "/routes/0/dst", "10.50.0.0"),
        ({**GOOD, "routes": [{"dst": "0.0.0.0/0", "gw": "gw"}]}, "/routes/0/gw", "gw"),
        ({**GOOD, "routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}, "/routes/0/mtu", "-1"),
    ],
)
@pytest.mark.usefixtures("members")
def test_10_7_a_bad_answer_is_refused_and_undone(
    node: Node, pod: Space, answer: Document, place: str, value: str
) -> None:
    delegate(node, answer)
    before = node.everything(pod)
    said = node.cni("ADD", asked_for(), pod).failed(104)
    assert f"IPAM plugin ours answered no CNI result: {place}: " in said
    assert value in said
    assert verbs(node) == ["ADD", "DEL"]
    assert node.everything(pod) == before


@pytest.mark.usefixtures("members")
def test_10_7_a_bad_prevresult_is_refused_before_anything(node: Node, pod: Space) -> None:
    delegate(node, GOOD)
    before = node.everything(pod)
    previous = {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.77.0.5", "gateway": "gw"}],
        "routes": [{"dst": "default"}],
    }
    said = node.cni("ADD", asked_for(prevResult=previous), pod).failed(7)
    for place in ("ips/0/address", "ips/0/gateway", "routes/0/dst"):
        assert f"/prevResult/{place}: " in said
    assert verbs(node) == []
    assert node.everything(pod) == before
    node.cni("DEL", asked_for(prevResult=previous), pod).ok()
