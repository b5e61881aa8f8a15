"""Hardware for tests: the vector NICs of the guest, in its first namespace.

The kernel returns a hardware NIC to the first namespace when its namespace is deleted; a veth is
destroyed. Tests of this need a node without a namespace of its own, and NICs that the guest had
when it booted.
"""

from __future__ import annotations

from pathlib import Path

from tests.kernel.conftest import LIBC, MS_BIND, NUMBERS, Node, Space, sh

NICS = ("eth1000", "eth1001")
FIRST = "/proc/1/ns/net"
PLAIN = "down mtu 1500 txqueuelen 1000 alias '' promisc off allmulticast off"
FACTORY: dict[str, tuple[str, str]] = {}
"""The device and the original MAC of each NIC."""


def hardware() -> dict[str, str]:
    """Device to current name of the NICs that are in the first namespace now."""
    paths = Path("/sys/class/net").glob("*/device")
    devices = {path.resolve().name: path.parent.name for path in paths}
    return {device: name for device, name in devices.items() if device in _known().values()}


def _known() -> dict[str, str]:
    """The device of each NIC, by its name at boot."""
    if not FACTORY:
        for name in NICS:
            folder = Path(f"/sys/class/net/{name}")
            if not (folder / "device").exists():
                return {}
            mac = (folder / "address").read_text().strip()
            FACTORY[name] = ((folder / "device").resolve().name, mac)
    return {name: device for name, (device, _) in FACTORY.items()}


def have_iron() -> bool:
    """Whether this guest has the NICs."""
    return len(_known()) == len(NICS)


class First(Space):
    """The first namespace under a name, so that ``ip -n`` finds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"
        Path(self.path).parent.mkdir(exist_ok=True)
        Path(self.path).touch()
        assert LIBC.mount(FIRST.encode(), self.path.encode(), b"none", MS_BIND, None) == 0


class IronNode(Node):
    """The guest itself as the node, with its NICs as they were at boot."""

    def __init__(self, folder: Path) -> None:
        self.number = next(NUMBERS)
        self.folder = folder
        self.space = First(f"first-{self.number}")
        self.spaces = [self.space]
        self.state = folder / "state"
        self.reset()

    def reset(self) -> None:
        """Restore names, MACs and everything else of the NICs to what they were at boot."""
        now = hardware()
        for number, device in enumerate(now):
            sh("ip", "link", "set", now[device], "down")
            sh("ip", "link", "set", now[device], "name", f"moving{number}")
        for number, device in enumerate(now):
            name = next(n for n, (d, _) in FACTORY.items() if d == device)
            mac = FACTORY[name][1]
            self.space.batch(f"link set moving{number} name {name} address {mac} {PLAIN}")
            for altname in self.space.link(name).get("altnames", []):
                self.space.ip("link", "property", "del", "dev", name, "altname", altname)
