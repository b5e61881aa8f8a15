"""Issue 10, item 17: whether hardware that is not found is away or destroyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.core.world import mac, nic, space, veth

from bondcni.core.restore import why_destroyed
from bondcni.core.state import Device, Link
from bondcni.kernel.devices import device_of

WAS = nic(5, "eth2", parent="0000:01:10.0")
REMADE = nic(77, "eth2", permanent_mac=mac(99), mac=mac(99), parent="0000:01:10.0")
PORT = nic(6, "eth3", parent="0000:01:10.0")
ELSE = nic(7, "eth9")


@pytest.mark.parametrize(
    ("device", "links", "said"),
    [
        (None, (), ""),
        (Device(present=False), (), "was unplugged: the node has no device pci 0000:01:10.0"),
        (Device(present=False), (ELSE,), "was unplugged"),
        (Device(present=True), (ELSE,), "it has no interface now"),
        (Device(present=True, interfaces=1), (ELSE,), ""),  # in some namespace
        (Device(present=True, interfaces=1), (REMADE,), "its interface is eth2 now"),
        (Device(present=True, interfaces=2), (PORT,), ""),  # the function's other port
        (Device(present=True, interfaces=2), (PORT, REMADE), "its interface is eth3, eth2 now"),
    ],
)
def test_10_17_destroyed_or_away(device: Device | None, links: tuple[Link, ...], said: str) -> None:
    found = why_destroyed(WAS, device, (space(*links),))
    assert said in found
    assert bool(found) is bool(said)


def test_10_17_an_interface_in_the_pod_counts() -> None:
    one = Device(present=True, interfaces=1)
    assert why_destroyed(WAS, one, (space(), space(REMADE)))
    assert not why_destroyed(WAS, one, (space(), space(ELSE)))


@pytest.fixture
def buses(tmp_path: Path) -> Path:
    (tmp_path / "pci" / "devices" / "0000:01:10.0").mkdir(parents=True)
    if tmp_path.stat().st_nlink != 3:
        pytest.skip("this file system, unlike sysfs, does not count a directory's directories")
    return tmp_path


def test_10_17_what_sysfs_says(buses: Path) -> None:
    def now(link: Link = WAS) -> Device | None:
        return device_of(link, str(buses))

    here = buses / "pci" / "devices" / "0000:01:10.0"
    assert now() == Device(present=True)
    (here / "net").mkdir()
    assert now() == Device(present=True)
    (here / "net" / "eth2").mkdir()
    (here / "net" / "eth3").mkdir()
    assert now() == Device(present=True, interfaces=2)
    assert now(nic(9, "eth9")) == Device(present=False)


def test_10_17_where_nothing_can_be_said(buses: Path, tmp_path: Path) -> None:
    assert device_of(veth(5, "eth1"), str(buses)) is None
    assert device_of(replace(WAS, parent_bus=""), str(buses)) is None
    assert device_of(replace(WAS, parent_bus="usb"), str(buses)) is None  # no such bus
    assert device_of(WAS, str(tmp_path / "nothing")) is None
