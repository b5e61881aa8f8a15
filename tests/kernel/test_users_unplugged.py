"""Issue 10, item 17: the record of unplugged hardware ends; a missing NIC keeps its record.

The guest's NICs cannot be unplugged. So one is moved to an unknown namespace, and another
``devices`` directory is mounted over that of its bus, as it would be without the device, without
its interface or with another one. What sysfs shows with real VFs is in
``docs/decisions/0012-destroyed-or-away.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kernel.conftest import (
    LIBC,
    MNT_DETACH,
    MS_BIND,
    Document,
    Node,
    Space,
    config,
    setns,
    wait_for,
)
from tests.kernel.iron import NICS, IronNode, hardware, have_iron
from tests.kernel.thick import recovered

BUS = "/sys/bus/platform/devices"
pytestmark = pytest.mark.skipif(not have_iron(), reason=f"the guest has no NICs {NICS}")


class Bus:
    """The bus of the NICs, as sysfs shows it from now on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices = {path.name: path.resolve() for path in Path(BUS).iterdir()}
        self.mounted = False

    def show(self, device: str, interfaces: int | None, *, present: bool = True) -> None:
        """The device with this number of interfaces in all namespaces; None: without a ``net``."""
        for name, real in self.devices.items():
            if name != device:
                (self.folder / name).symlink_to(real)
        if present:
            (self.folder / device).mkdir()
            for number in range(interfaces or 0):
                (self.folder / device / "net" / f"eth{number}").mkdir(parents=True)
        assert LIBC.mount(str(self.folder).encode(), BUS.encode(), b"none", MS_BIND, None) == 0
        self.mounted = True

    def close(self) -> None:
        if self.mounted:
            LIBC.umount2(BUS.encode(), MNT_DETACH)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = IronNode(tmp_path)
    setns(made.space.path)
    try:
        yield made
    finally:
        made.delete()


@pytest.fixture
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    folder = tmp_path_factory.mktemp("devices")
    folder.chmod(0o755)
    made = Bus(folder)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def asked(node: Node, pod: Space) -> Document:
    whole = config(list(NICS), ipam=node.host_local())
    node.cni("ADD", whole, pod).ok()
    return whole


@pytest.fixture
def hidden(node: Node, pod: Space, asked: Document) -> Iterator[str]:
    """The device of the second NIC; the NIC itself is in an unknown namespace."""
    assert asked
    device = str(pod.link(NICS[1])["parentdev"])
    where = node.other()
    pod.ip("link", "set", NICS[1], "nomaster")
    pod.ip("link", "set", NICS[1], "netns", where.name)
    yield device
    where.ip("link", "set", NICS[1], "down")
    where.ip("link", "set", NICS[1], "netns", "1")
    wait_for(lambda: len(hardware()) == len(NICS))


Show = Callable[[Bus, str], None]
GONE: dict[str, tuple[Show, str]] = {
    "no device": (lambda bus, device: bus.show(device, None, present=False), "was unplugged"),
    "no interface": (lambda bus, device: bus.show(device, None), "it has no interface now"),
}


def delete(node: Node, pod: Space | None, asked: Document) -> str:
    answer = node.cni("DEL", asked, pod)
    answer.ok()
    return answer.stderr


@pytest.mark.parametrize("alive", [True, False], ids=["pod there", "pod gone"])
@pytest.mark.parametrize("how", GONE)
def test_10_17_the_record_ends_with_the_device(
    node: Node, pod: Space, asked: Document, hidden: str, bus: Bus, how: str, *, alive: bool
) -> None:
    show, said = GONE[how]
    show(bus, hidden)
    if not alive:
        pod.delete()
    since = time.monotonic()
    told = delete(node, pod if alive else None, asked)
    assert time.monotonic() - since < 4
    assert f"link {NICS[1]} was" in told
    assert said in told
    assert "platform uml-vector" in told
    assert node.records() == set()
    assert node.leases() == set()
    assert NICS[0] in node.space.links()
    assert recovered(node.state) == []
    assert delete(node, None, asked) == ""


def test_10_17_what_is_away_keeps_its_record(
    node: Node, pod: Space, asked: Document, hidden: str
) -> None:
    """sysfs unchanged: the interface is in an unknown namespace. Then it returns."""
    assert hidden
    told = delete(node, pod, asked)
    assert NICS[1] in told
    assert node.records() == {"c1:bond0.json"}
    assert [one.done for one in recovered(node.state)] == [False]


def test_10_17_the_next_add_goes_on(
    node: Node, pod: Space, asked: Document, hidden: str, bus: Bus
) -> None:
    """ADD of the same attachment waits for what may return, not for what was destroyed."""
    pod.delete()
    wait_for(lambda: NICS[0] in hardware().values())
    node.space.ip("link", "add", "d1", "type", "dummy")
    again, other = {**asked, "links": [{"name": NICS[0]}, {"name": "d1"}]}, node.pod()
    try:
        assert "not back yet" in node.cni("ADD", again, other).failed(11)
        bus.show(hidden, None, present=False)
        answer = node.cni("ADD", again, other)
        answer.ok()
        assert "was unplugged" in answer.stderr
        assert delete(node, other, again) == ""
    finally:
        node.space.ip("link", "del", "d1", check=False)
    assert node.records() == set()
