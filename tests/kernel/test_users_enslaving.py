"""Issue 10, item 25: a link that the kernel refuses as a member, and the advice in the error."""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Node, Space, config

KERNEL = 102


def macvlans(pod: Space, kind: str) -> None:
    """Two macvlans of one parent, in the pod."""
    pod.batch(
        "link add p0 type dummy",
        "link set p0 up",
        f"link add net1 link p0 type {kind}",
        f"link add net2 link p0 type {kind}",
    )


@pytest.mark.parametrize(
    ("mode", "helps"),
    [("active-backup", '"failOverMac": 1, so that each'), ("802.3ad", "whatever failOverMac")],
)
def test_25_macvlans_of_one_parent(node: Node, pod: Space, mode: str, helps: str) -> None:
    macvlans(pod, "macvlan mode bridge")
    asked = config(["net1", "net2"], mode, linksInContainer=True)
    first = pod.link("net1")["address"]
    before = node.everything(pod)
    said = node.cni("ADD", asked, pod).failed(KERNEL)
    for word in ("net2", first, "the MAC of net1, the first link", "EADDRINUSE", helps):
        assert word in said
    assert node.everything(pod) == before


def test_25_the_advice_to_macvlans_of_one_parent_works(node: Node, pod: Space) -> None:
    macvlans(pod, "macvlan mode bridge")
    before = node.everything(pod)
    asked = config(["net1", "net2"], linksInContainer=True, failOverMac=1)
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == {"net1", "net2"}
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def test_25_a_driver_that_sets_no_mac(node: Node, pod: Space) -> None:
    macvlans(pod, "ipvlan mode l2")
    before = node.everything(pod)
    said = node.cni("ADD", config(["net1", "net2"], "802.3ad", linksInContainer=True), pod)
    words = said.failed(KERNEL)
    assert "Operation not supported" in words
    assert "the driver of net1 cannot change the MAC" in words
    assert node.everything(pod) == before
