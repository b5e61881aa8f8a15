"""Issue 10, item 12: STATUS knows whether a bond can be made, and ADD names the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.conftest import Document, Node, Space, config, sh

LOADER = Path("/proc/sys/kernel/modprobe")
MODULE = Path("/sys/module/bonding")
LINKS = ["eth1", "eth2"]
UNAVAILABLE, KERNEL = 50, 102


@pytest.fixture
def unloaded(node: Node) -> Iterator[None]:
    """The driver is not loaded; it is loaded again afterwards, for the other tests."""
    for name in LINKS:
        node.veth(name)
    before = LOADER.read_text()
    if sh("rmmod", "bonding", check=False) or MODULE.exists():
        pytest.skip("this kernel's bonding driver cannot be unloaded")
    try:
        yield
    finally:
        LOADER.write_text(before)
        sh("modprobe", "bonding", "max_bonds=0")


def asked() -> Document:
    return {**config(LINKS), "cniVersion": "1.1.0"}


@pytest.mark.parametrize("loader", ["\n", "/bin/false\n"])
def test_12_without_driver_and_loading(node: Node, pod: Space, unloaded: None, loader: str) -> None:
    del unloaded
    LOADER.write_text(loader)
    said = node.cni("STATUS", asked(), container="", ifname="").failed(UNAVAILABLE)
    assert f"kernel.modprobe is {loader.strip()!r}" in said
    assert "run `modprobe bonding max_bonds=0` on the node" in said
    assert not MODULE.exists()
    before = node.everything(pod)
    said = node.cni("ADD", asked(), pod).failed(KERNEL)
    assert "Unknown device type; the bonding driver is not loaded" in said
    assert "run `modprobe bonding max_bonds=0` on the node" in said
    assert node.everything(pod) == before
    assert node.records() == set()


def test_12_status_leaves_no_trace(node: Node, pod: Space, unloaded: None) -> None:
    """STATUS does not load a driver that can be loaded; ADD does."""
    del unloaded
    node.cni("STATUS", asked(), container="", ifname="").ok()
    assert not MODULE.exists()
    node.cni("ADD", asked(), pod).ok()
    node.cni("DEL", asked(), pod).ok()
    sh("ip", "-n", node.space.name, "link", "del", "bond0", check=False)
