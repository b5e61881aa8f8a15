"""One end of a connection between shim and daemon: frames with descriptors, as they come.

Reading never blocks in ``step``, so that many silent peers cost nothing; ``receive`` waits for
a whole frame until a deadline. Descriptors that came belong to the connection and are closed
with it. Whoever sends rubbish gets ``ProtocolError``; an end that went away is ``Gone``.
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
"""A frame brings at most so many."""

CHUNK = 1 << 18
SEND_SECONDS = 5.0

_INT = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(DESCRIPTORS * _INT)
_UCRED = struct.Struct("=iII")


class Gone(ProtocolError):
    """The other end closed the connection."""


class Connection:
    """A connected socket; a context manager that closes it and what came with it."""

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
        """Close the socket and the descriptors that nobody took."""
        self.socket.close()
        self.drop(self.descriptors)

    @staticmethod
    def drop(descriptors: list[int]) -> None:
        """Close descriptors and forget them."""
        while descriptors:
            os.close(descriptors.pop())

    def user(self) -> int:
        """The user ID of the process at the other end, as it was when it connected."""
        size = _UCRED.size
        return int(
            _UCRED.unpack(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
        )

    def step(self) -> Frame | None:
        """Read what is there; the frame when it is whole. Raises ``ProtocolError``, ``Gone``."""
        while True:
            need = self._missing()
            if not need:
                return self._whole()
            try:
                data, ancillary, flags, _ = self.socket.recvmsg(
                    min(need, CHUNK), _ROOM, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except OSError as error:
                raise Gone(f"the other end is gone: {error.strerror}") from error
            self._keep(ancillary)
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError(f"more than {DESCRIPTORS} descriptors, or no room for them")
            if not data:
                raise Gone("the other end closed the connection")
            self._data += data

    def _missing(self) -> int:
        """Bytes that the frame still lacks."""
        have = len(self._data)
        return HEADER - have if have < HEADER else HEADER + header(self._data)[1] - have

    def _whole(self) -> Frame:
        kind, _ = header(self._data)
        payload = bytes(memoryview(self._data)[HEADER:])
        self._data = bytearray()
        return unpack(kind, payload)

    def _keep(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(value) - len(value) % _INT
                self.descriptors += array.array("i", value[:whole])
        if len(self.descriptors) > DESCRIPTORS:
            raise ProtocolError(f"more than {DESCRIPTORS} descriptors")

    def receive(self, deadline: float) -> Frame:
        """The next frame. Raises ``TimeoutError`` past the deadline, and as ``step``."""
        while (frame := self.step()) is None:
            self._wait(select.POLLIN, deadline)
        return frame

    def send(self, kind: int, fields: Iterable[Field], seconds: float = SEND_SECONDS) -> None:
        """Send a frame. Raises ``Gone``, ``ProtocolError``, and ``TimeoutError`` where the other
        end does not read within so many seconds.
        """
        data = memoryview(pack(kind, fields))
        deadline = time.monotonic() + seconds
        while data:
            try:
                data = data[self.socket.send(data, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise Gone(f"the other end is gone: {error.strerror}") from error

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.socket, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("the other end did not go on in time")
