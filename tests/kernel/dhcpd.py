"""A DHCP server with one address, which logs the messages that it receives (RFC 2131)."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tests.kernel.lan import inside

if TYPE_CHECKING:
    from tests.kernel.conftest import Space

DISCOVER, OFFER, REQUEST, ACK, RELEASE = 1, 2, 3, 5, 7
NAMES = {DISCOVER: "DISCOVER", REQUEST: "REQUEST", RELEASE: "RELEASE"}
COOKIE = bytes((99, 130, 83, 99))
SO_BINDTODEVICE = 25
HEADER = 236
"""Bytes before the magic cookie: op to file."""


class Dhcpd(threading.Thread):
    """Offers ``address`` on a link of a namespace until the context ends.

    ``log`` holds the kind and the client's MAC of each message.
    """

    def __init__(self, space: Space, link: str, server: str, address: str) -> None:
        super().__init__(daemon=True)
        self.log: list[tuple[str, str]] = []
        self._server = ipaddress.ip_address(server).packed
        self._address = ipaddress.ip_address(address).packed
        with inside(space):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, link.encode())
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.settimeout(0.1)
        self._socket.bind(("", 67))
        self._running = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._running = False
        self.join()
        self._socket.close()

    def run(self) -> None:
        while self._running:
            try:
                message = self._socket.recv(2048)
            except TimeoutError:
                continue
            kind = _options(message[HEADER + 4 :]).get(53, b"\0")[0]
            self.log.append((NAMES.get(kind, str(kind)), message[28:34].hex(":")))
            if kind in (DISCOVER, REQUEST):
                answer = self._answer(message, OFFER if kind == DISCOVER else ACK)
                self._socket.sendto(answer, ("255.255.255.255", 68))

    def heard(self, kind: str) -> list[str]:
        """The MACs that sent a message of this kind."""
        return [mac for name, mac in self.log if name == kind]

    def _answer(self, message: bytes, kind: int) -> bytes:
        xid, flags = message[4:8], message[10:12]
        head = struct.pack("!BBBB4sH2s", 2, 1, 6, 0, xid, 0, flags)
        head += bytes(4) + self._address + self._server + bytes(4) + message[28:44]
        options = (
            (53, bytes([kind])),
            (54, self._server),
            (51, struct.pack("!I", 3600)),
            (1, bytes((255, 255, 255, 0))),
            (3, self._server),
        )
        body = b"".join(bytes((code, len(value))) + value for code, value in options)
        return head.ljust(HEADER, b"\0") + COOKIE + body + b"\xff"


def _options(data: bytes) -> dict[int, bytes]:
    found = {}
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found
