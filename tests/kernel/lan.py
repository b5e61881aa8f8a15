"""The other end of the cables, and programs of others that read the state.

A partner is a bond in the switch's namespace: a static LAG, or one that speaks LACP. Cutting a link
sets its far end down, so the pod's NIC loses its carrier. A flow is traffic that runs meanwhile.
``attributes`` reads what Debian's ``ip`` does not print yet.
"""

from __future__ import annotations

import ctypes
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kernel.conftest import CLONE_NEWNET, Document, Node, Space, setns, wait_for

SWITCH = "10.9.0.1"
POD = "10.9.0.2/24"
LEGS = ("m1", "m2")
LACP_OPTIONS = "mode 802.3ad miimon 100 lacp_rate fast"


def bridged(node: Node) -> dict[str, str]:
    """Two NICs on the switch's bridge; the far end of each."""
    far = {leg: node.veth(leg) for leg in LEGS}
    node.switch.ip("addr", "add", f"{SWITCH}/24", "dev", "br0")
    return far


def lag(node: Node, options: str, legs: tuple[str, ...] = LEGS) -> dict[str, str]:
    """NICs whose far ends are ports of the switch's bond ``lag``; the far end of each."""
    far = {leg: node.veth(leg, bridged=False) for leg in legs}
    node.switch.batch(
        f"link add lag type bond {options}",
        *(f"link set {end} down" for end in far.values()),
        *(f"link set {end} master lag" for end in far.values()),
        f"addr add {SWITCH}/24 dev lag",
        "link set lag up",
    )
    return far


class Legs:
    """The bond ``bond0`` in a pod, whose members end at ``far`` on the switch."""

    def __init__(self, node: Node, pod: Space, far: dict[str, str]) -> None:
        self.node = node
        self.pod = pod
        self.far = far

    def cut(self, leg: str) -> None:
        """Remove the carrier of a member, and wait until the bond has noticed."""
        self.node.switch.ip("link", "set", self.far[leg], "down")
        wait_for(lambda: member(self.pod, leg)["mii_status"] == "DOWN")

    def mend(self, leg: str) -> None:
        """Restore the carrier of a member, and wait until the bond has noticed."""
        self.node.switch.ip("link", "set", self.far[leg], "up")
        wait_for(lambda: member(self.pod, leg)["mii_status"] == "UP")


def member(space: Space, name: str) -> Document:
    """A link as a member of a bond, as ``ip`` prints it."""
    data: Document = space.link(name)["linkinfo"]["info_slave_data"]
    return data


def carrier(link: Document) -> bool:
    """Whether ``ip`` prints a link with carrier."""
    return "LOWER_UP" in link["flags"]


class Flow(threading.Thread):
    """Pings from a namespace while the context is open, one every 20 ms.

    It starts with the first answer. ``ping`` is not used: starting it takes longer than a failover,
    and it prints the number of answers only, not the longest gap between them.
    """

    EACH = 0.02

    def __init__(self, space: Space, address: str = SWITCH) -> None:
        super().__init__(daemon=True)
        six = ":" in address
        with inside(space):
            self._socket = socket.socket(
                socket.AF_INET6 if six else socket.AF_INET,
                socket.SOCK_RAW,
                socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP,
            )
        self._socket.connect((address, 0))
        self._echo, self._reply, self._skip = (128, 129, 0) if six else (8, 0, 20)
        self._answers: list[float] = []
        self._running = True

    def __enter__(self) -> Self:
        self.start()
        wait_for(lambda: self._answers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._running = False
        self.join()
        self._socket.close()
        self._answers.append(time.monotonic())

    def run(self) -> None:
        due = time.monotonic()
        while self._running:
            with suppress(OSError):  # no route while there is no carrier
                self._socket.send(_echo_request(self._echo))
            due = max(due + self.EACH, time.monotonic() + self.EACH / 2)
            while (left := due - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._receive()

    def _receive(self) -> None:
        with suppress(OSError):
            if self._socket.recv(2048)[self._skip] == self._reply:
                self._answers.append(time.monotonic())

    @property
    def gap(self) -> float:
        """The longest time without an answer, in seconds."""
        return max(later - earlier for earlier, later in pairwise(self._answers))


def _echo_request(kind: int) -> bytes:
    """An ICMP echo request; the kernel fills in the checksum of ICMPv6 (RFC 3542)."""
    words = (kind << 8, 0, 0xB0, 0xD0)
    total = sum(words)
    return struct.pack("!4H", words[0], ~total & 0xFFFF, *words[2:])


@contextmanager
def inside(space: Space) -> Iterator[None]:
    """Run this thread in another namespace."""
    with Path("/proc/thread-self/ns/net").open() as before:
        setns(space.path)
        try:
            yield
        finally:
            assert ctypes.CDLL(None).setns(before.fileno(), CLONE_NEWNET) == 0


def attributes(space: Space, name: str, *path: int) -> dict[int, bytes]:
    """A link's raw netlink attributes, or those of a nest in them, by number."""
    with inside(space):
        rtnl = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with rtnl:
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        wanted = struct.pack("=HH", 4 + len(name) + 1, 3) + name.encode().ljust(16, b"\0")
        text = body + wanted[: 4 + (len(name) + 4) // 4 * 4]
        rtnl.send(struct.pack("=IHHII", 16 + len(text), 18, 1, 1, 0) + text)
        answer = rtnl.recv(1 << 16)
    length, kind = struct.unpack_from("=IH", answer)
    assert kind == 16, f"no link {name}"
    found = _split(answer[32:length])
    for number in path:
        found = _split(found.get(number, b""))
    return found


def _split(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        found[number & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def sysctl(space: Space, key: str, value: int) -> None:
    """Set net.KEY, such as ``ipv4/conf/all/arp_ignore``, in a namespace."""
    with inside(space):
        Path(f"/proc/sys/net/{key}").write_text(str(value), encoding="ascii")


def bond_attributes(space: Space, name: str) -> dict[int, bytes]:
    """A bond's options as the kernel sends them (IFLA_LINKINFO, IFLA_INFO_DATA)."""
    return attributes(space, name, 18, 2)


def member_attributes(space: Space, name: str) -> dict[int, bytes]:
    """A member's options as the kernel sends them (IFLA_LINKINFO, IFLA_INFO_SLAVE_DATA)."""
    return attributes(space, name, 18, 5)


def proc(space: Space, bond: str) -> str:
    """The bonding driver's report in /proc."""
    with inside(space):
        return Path(f"/proc/thread-self/net/bonding/{bond}").read_text(encoding="ascii")


def shown(space: Space, *args: str) -> Any:
    """The output of ``ip -j`` as JSON."""
    return json.loads(space.ip("-j", *args) or "[]")
