"""Cables between a guest's NICs, and NICs that behave as hardware.

A NIC is user-mode Linux's vector device on a Unix socket of ours (SOCK_SEQPACKET, one frame a
packet); a cable carries frames between two of them. Unlike veth or tap such a NIC belongs to
no namespace: when a pod's dies it comes back to the first one, down, with its own MAC. It
reports no speed, so LACP does not form on it (veth for that).

What a cut is: frames vanish, both ways, and are counted. The member keeps its carrier, as a NIC
behind a switch or a VF does, so MII monitoring does not notice; ARP monitoring does (0.3 s with
arp_interval 100). Nothing makes such a NIC lose its carrier, tried on 6.1 and 7.2: not closing
its socket, not ``ip link set carrier off`` or ``protodown on`` (not supported), and mconsole
refuses to remove a device that is up. With miimon the honest drill is ``ip link set MEMBER
down`` in the pod's namespace: the bond fails over within miimon, and back when it is up again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

FRAME = 1 << 16
MTU = 9000


class Port:
    """Where one NIC plugs in: it connects anew each time the guest opens the NIC."""

    def __init__(self, number: int, name: str, folder: Path) -> None:
        self.number = number
        self.name = name
        self.path = folder / f"nic{number}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.connection: socket.socket | None = None

    @property
    def mac(self) -> str:
        """The address burned in, the same at each boot."""
        return f"52:54:00:b0:0d:{self.number:02x}"

    @property
    def argument(self) -> str:
        """What the guest's kernel command line says about this NIC."""
        return f"vec{self.number}:transport=bess,dst={self.path},vec=0,mac={self.mac}"

    def accept(self) -> None:
        """The NIC was opened: its new connection takes the place of the old one."""
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
        """The frames that wait to be carried; ends the connection when the NIC was closed."""
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
        """Hand a frame to the NIC; False if it is closed or its buffer is full."""
        try:
            return bool(self.connection and self.connection.send(frame))
        except OSError:
            return False


class Wire:
    """Two ports and what runs between them."""

    def __init__(self, one: Port, two: Port) -> None:
        self.ports = (one, two)
        self.whole = True
        self.carried = 0
        self.dropped = 0

    @property
    def name(self) -> str:
        """The names of both ends, ``a/b``: no interface name holds a slash."""
        return "/".join(port.name for port in self.ports)

    def relay(self, source: Port) -> None:
        """Carry what waits at ``source`` to the other end, or drop it if the wire is cut."""
        target = self.ports[source is self.ports[0]]
        for frame in source.frames():
            if self.whole and target.deliver(frame):
                self.carried += 1
            else:
                self.dropped += 1


def wires(pairs: Sequence[Sequence[str]], folder: Path) -> list[Wire]:
    """A wire for each pair of NIC names; NIC numbers count through the pairs."""
    return [
        Wire(Port(2 * place, one, folder), Port(2 * place + 1, two, folder))
        for place, (one, two) in enumerate(pairs)
    ]
