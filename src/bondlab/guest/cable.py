"""Cables between NICs of a guest that behave like hardware NICs.

A NIC is a vector device of user-mode Linux on a Unix socket of the supervisor (SOCK_SEQPACKET,
one frame per packet); a cable relays frames between two NICs. When the network namespace of such
a NIC is destroyed, the kernel moves it to the initial namespace, down and with its own MAC, as it
does with hardware; a veth or tap is deleted. The NIC reports no link speed, so LACP does not
aggregate it (use a veth).

A disconnected cable drops and counts all frames in both directions. The NIC keeps its carrier,
as one whose fault is beyond the next switch: MII monitoring does not detect it, ARP monitoring
does (0.3 s with arp_interval 100). Nothing takes the carrier of such a NIC away (tried on 6.1 and
7.2): not closing its socket, not ``ip link set carrier off`` or ``protodown on`` (not supported),
and mconsole refuses to remove a device that is up. With miimon, test failover by ``ip link set
MEMBER down`` in the pod's namespace: the bond fails over within miimon, and back when it is up.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

FRAME = 1 << 16
MTU = 9000


class Port:
    """The socket of one NIC; the guest connects to it each time the NIC is set up."""

    def __init__(self, number: int, name: str, directory: Path) -> None:
        self.number = number
        self.name = name
        self.path = directory / f"nic{number}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.connection: socket.socket | None = None

    @property
    def mac(self) -> str:
        """The permanent MAC address, the same at each boot."""
        return f"52:54:00:b0:0d:{self.number:02x}"

    @property
    def argument(self) -> str:
        """The parameter for this NIC on the guest's kernel command line."""
        return f"vec{self.number}:transport=bess,dst={self.path},vec=0,mac={self.mac}"

    def accept(self) -> None:
        """The guest opened the NIC: replace the old connection by the new one."""
        connection, _ = self.listener.accept()
        connection.setblocking(False)  # noqa: FBT003 the standard library's signature
        self.unplug()
        self.connection = connection

    def unplug(self) -> None:
        """Close the connection, if there is one."""
        if self.connection:
            self.connection.close()
        self.connection = None

    def frames(self) -> Iterator[bytes]:
        """The frames received so far; drops the connection when the NIC was closed."""
        with contextlib.suppress(BlockingIOError):
            while self.connection:
                try:
                    frame = self.connection.recv(FRAME)
                except ConnectionError:
                    frame = b""
                if frame:
                    yield frame
                else:
                    self.unplug()

    def deliver(self, frame: bytes) -> bool:
        """Send a frame to the NIC; False if it is closed or its buffer is full."""
        try:
            return bool(self.connection and self.connection.send(frame))
        except OSError:
            return False


class CableRelay:
    """Relays frames between two ports."""

    def __init__(self, one: Port, two: Port) -> None:
        self.ports = (one, two)
        self.connected = True
        self.carried = 0
        self.dropped = 0

    @property
    def name(self) -> str:
        """The names of both ends, ``a/b``: interface names contain no slash."""
        return "/".join(port.name for port in self.ports)

    def forward(self, source: Port) -> None:
        """Relay the frames received from ``source``; drop them if disconnected."""
        target = self.ports[source is self.ports[0]]
        for frame in source.frames():
            if self.connected and target.deliver(frame):
                self.carried += 1
            else:
                self.dropped += 1


def cable_relays(pairs: Sequence[Sequence[str]], directory: Path) -> list[CableRelay]:
    """A cable for each pair of NIC names; NICs are numbered across the pairs."""
    return [
        CableRelay(Port(2 * place, one, directory), Port(2 * place + 1, two, directory))
        for place, (one, two) in enumerate(pairs)
    ]
