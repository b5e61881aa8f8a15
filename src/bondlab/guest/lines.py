"""JSON lines over a stream socket: the protocol between launcher, supervisor and agent.

One object per line; ``bytes`` values are base64. Only `Lines.wait` blocks; it reads and writes at
the same time, so that two sides with much data to send do not wait for each other. Data that is
not written yet and lines that are incomplete are buffered; the end of the stream is EOFError. The
messages are defined by the modules that send them.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

Message = dict[str, Any]

CHUNK = 1 << 18


class Lines:
    """One end of a connection; owns its socket.

    With a ``window``, at most that many bytes are sent before the other side confirms some.
    """

    def __init__(self, sock: socket.socket, window: int | None = None) -> None:
        sock.setblocking(False)  # noqa: FBT003 the standard library's signature
        self._sock = sock
        self._out = bytearray()
        self._in = bytearray()
        self._messages: list[Message] = []
        self._window = window

    def fileno(self) -> int:
        """The socket's file descriptor, for a selector."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether queued bytes may be sent as soon as the socket is writable."""
        return bool(self._out) and self._window != 0

    @property
    def waiting(self) -> int:
        """The number of queued bytes that are not written yet."""
        return len(self._out)

    def send(self, message: Message) -> None:
        """Queue a message and write what can be written; a closed connection is no error here."""
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write as much as possible without blocking."""
        try:
            while self.pending:
                sent = self._sock.send(self._out[: self._window or CHUNK])
                del self._out[:sent]
                if self._window is not None:
                    self._window -= sent
        except BlockingIOError:
            pass
        except OSError:  # receive() reports the end of the connection
            self._out.clear()

    def confirm(self, count: int) -> None:
        """The other side has confirmed ``count`` bytes: enlarge the window."""
        if self._window is not None:
            self._window += count
        self.flush()

    def receive(self) -> list[Message]:
        """The complete messages received, without blocking; EOFError at the end of the stream."""
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self._in += data
        if b"\n" not in data:
            return []
        *whole, self._in = self._in.split(b"\n")
        return [json.loads(line) for line in whole]

    def wait(self, deadline: float) -> Message:
        """The next message; TimeoutError at ``deadline`` (time.monotonic), EOFError at the end."""
        while not self._messages:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            writers = [self] if self.pending else []
            readable, writable, _ = select.select([self], writers, [], left)
            if writable:
                self.flush()
            if readable:
                self._messages = self.receive()
        return self._messages.pop(0)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()
