"""One end of a connection between the shim and the daemon: frames, and descriptors with them.

``try_receive`` never blocks, so that many silent peers cost nothing; ``receive`` waits for a
complete frame until a deadline. Received descriptors belong to the connection and are closed
with it. Invalid bytes raise ``ProtocolError``, a closed connection ``Disconnected``.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from typing import Self

from bondcni.daemon.protocol import (
    HEADER,
    Field,
    Frame,
    ProtocolError,
    header,
    pack,
    unpack,
)

DESCRIPTORS = 4
"""The most that may come with a frame."""

CHUNK = 1 << 18
SEND_SECONDS = 5.0

_INT = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(DESCRIPTORS * _INT)
_UCRED = struct.Struct("=iII")


class Disconnected(ProtocolError):
    """The peer closed the connection."""


class Connection:
    """A connected socket; a context manager that closes it and the received descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003  its one parameter
        self.socket = sock
        self.descriptors: list[int] = []
        self._data = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and the descriptors that are still in ``descriptors``."""
        self.socket.close()
        self.close_all(self.descriptors)

    @staticmethod
    def close_all(descriptors: list[int]) -> None:
        """Close descriptors and empty the list."""
        while descriptors:
            os.close(descriptors.pop())

    def user(self) -> int:
        """The user ID of the peer when it connected."""
        size = _UCRED.size
        return int(
            _UCRED.unpack(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
        )

    def try_receive(self) -> Frame | None:
        """Read what has arrived; the frame when it is complete.

        Raises ``ProtocolError`` and ``Disconnected``.
        """
        while True:
            need = self._missing()
            if not need:
                return self._take_frame()
            try:
                data, ancillary, flags, _ = self.socket.recvmsg(
                    min(need, CHUNK), _ROOM, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except OSError as error:
                raise Disconnected(f"connection lost: {error.strerror}") from error
            self._keep_descriptors(ancillary)
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError(f"more than {DESCRIPTORS} descriptors, or too many open files")
            if not data:
                raise Disconnected("the peer closed the connection")
            self._data += data

    def _missing(self) -> int:
        """Bytes until the frame is complete."""
        have = len(self._data)
        return HEADER - have if have < HEADER else HEADER + header(self._data)[1] - have

    def _take_frame(self) -> Frame:
        kind, _ = header(self._data)
        payload = bytes(memoryview(self._data)[HEADER:])
        self._data = bytearray()
        return unpack(kind, payload)

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(value) - len(value) % _INT
                self.descriptors += array.array("i", value[:whole])
        if len(self.descriptors) > DESCRIPTORS:
            raise ProtocolError(f"more than {DESCRIPTORS} descriptors")

    def receive(self, deadline: float) -> Frame:
        """The next frame. Raises ``TimeoutError`` at the deadline, and as ``try_receive``."""
        while (frame := self.try_receive()) is None:
            self._wait(select.POLLIN, deadline)
        return frame

    def send(self, kind: int, fields: Iterable[Field], seconds: float = SEND_SECONDS) -> None:
        """Send a frame. Raises ``Disconnected``, ``ProtocolError``, and ``TimeoutError`` if the
        peer does not read it within ``seconds``.
        """
        data = memoryview(pack(kind, fields))
        deadline = time.monotonic() + seconds
        while data:
            try:
                data = data[self.socket.send(data, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise Disconnected(f"connection lost: {error.strerror}") from error

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.socket, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("timed out waiting for the peer")
