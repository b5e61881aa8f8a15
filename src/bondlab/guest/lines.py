"""JSON lines over a stream socket: how launcher, holder and agent talk.

One object a line, ``bytes`` inside it as base64. Nothing here blocks but `Lines.wait`, which
reads and writes at the same time, so that two sides that both have much to say never wait
for each other. What is not yet written is kept; what was half received is kept; the end of
the stream is EOFError. What the messages mean is the business of whoever sends them.
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
    """One end of a conversation; owns its socket.

    With a ``window`` at most that many bytes go out before the other side confirms some.
    """

    def __init__(self, sock: socket.socket, window: int | None = None) -> None:
        sock.setblocking(False)  # noqa: FBT003 the standard library's signature
        self._sock = sock
        self._out = bytearray()
        self._in = bytearray()
        self._messages: list[Message] = []
        self._window = window

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether bytes wait that may go out as soon as the socket takes them."""
        return bool(self._out) and self._window != 0

    @property
    def waiting(self) -> int:
        """How many bytes have been queued and are not yet written."""
        return len(self._out)

    def send(self, message: Message) -> None:
        """Queue a message and write what goes out at once; a gone reader is not an error here."""
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the other side takes without waiting."""
        try:
            while self.pending:
                sent = self._sock.send(self._out[: self._window or CHUNK])
                del self._out[:sent]
                if self._window is not None:
                    self._window -= sent
        except BlockingIOError:
            pass
        except OSError:  # its end is told by receive()
            self._out.clear()

    def confirm(self, count: int) -> None:
        """The other side has taken ``count`` bytes out of the window."""
        if self._window is not None:
            self._window += count
        self.flush()

    def receive(self) -> list[Message]:
        """The messages that are here, perhaps none; EOFError once the other side has gone."""
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
        """Hang up."""
        self._sock.close()
