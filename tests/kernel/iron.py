"""Hardware for tests: the guest's vector NICs, in its first namespace.

A real NIC returns to the first namespace of the machine when the one that it is in dies;
a veth dies with it. So what is to be told of that takes a node without a namespace of its
own, and NICs that the guest was given at its boot.
"""

from __future__ import annotations

from pathlib import Path

from tests.kernel.conftest import LIBC, MS_BIND, NUMBERS, Node, Space, sh

NICS = ("eth1000", "eth1001")
FIRST = "/proc/1/ns/net"
PLAIN = "down mtu 1500 txqueuelen 1000 alias '' promisc off allmulticast off"
FACTORY: dict[str, tuple[str, str]] = {}
"""Of each NIC, its device and the MAC it came with."""


def hardware() -> dict[str, str]:
    """Device to present name of the NICs that are in the first namespace now."""
    paths = Path("/sys/class/net").glob("*/device")
    devices = {path.resolve().name: path.parent.name for path in paths}
    return {device: name for device, name in devices.items() if device in _known().values()}


def _known() -> dict[str, str]:
    """Device of each of our NICs, by its name at the boot."""
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
    """The guest itself as the node, its NICs as they came."""

    def __init__(self, folder: Path) -> None:
        self.number = next(NUMBERS)
        self.folder = folder
        self.space = First(f"first-{self.number}")
        self.spaces = [self.space]
        self.state = folder / "state"
        self.reset()

    def reset(self) -> None:
        """Names, MACs and the rest as at the boot, whatever a test left."""
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
