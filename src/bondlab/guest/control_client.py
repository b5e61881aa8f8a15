"""Client side of a guest's control socket: one connection to the supervisor per request.

All messages from a supervisor are received here, so that one place turns a message that the guest
is lost, a closed connection and a missing answer into `LostGuest`, which is distinct from a
command that failed. The content of requests and answers is defined by the callers.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence

from bondlab.guest.lines import Lines, Message

GRACE_SECONDS = 10.0


class LostGuest(Exception):
    """The guest died or does not answer; says nothing about the command.

    ``why`` is one sentence, ``console`` the last lines of its console, ``log`` the file with the
    whole console, which exists as long as the supervisor runs.
    """

    def __init__(self, why: str, console: Sequence[str] = (), log: str = "") -> None:
        self.why = why
        self.console = list(console)
        self.log = log
        where = f"\nend of its console ({log}):" if console else ""
        super().__init__("\n  ".join([f"the guest is lost: {why}{where}", *console]))


class ControlClient:
    """Requests to one supervisor; ``path`` is its control socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self, order: Message) -> Lines:
        """Connect and send ``order``. Raises LostGuest."""
        lines = connect(self.path)
        lines.send(order)
        return lines

    def request(self, order: Message) -> Message:
        """Send one order, return its answer. Raises LostGuest, OSError with the supervisor's error."""
        lines = self.open(order)
        with contextlib.closing(lines):
            try:
                answer = receive(lines, time.monotonic() + GRACE_SECONDS)
            except TimeoutError:
                raise LostGuest("its supervisor does not answer") from None
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer

    def lost(self, why: str) -> LostGuest:
        """The exception for ``why``, with the end of the console."""
        try:
            self.request({"do": "console", "why": why})
        except LostGuest as error:
            return error
        return LostGuest(why)


def receive(lines: Lines, deadline: float) -> Message:
    """The next message. Raises LostGuest, TimeoutError at ``deadline`` (time.monotonic)."""
    try:
        return raise_if_lost(lines.wait(deadline))
    except EOFError:
        raise connection_lost() from None


def raise_if_lost(message: Message) -> Message:
    """The message; raises LostGuest if it says that the guest is lost."""
    if "lost" in message:
        raise LostGuest(message["lost"], message["console"], message["log"])
    return message


def connection_lost() -> LostGuest:
    """The exception for a connection that the supervisor closed."""
    return LostGuest("its supervisor has ended")


def connect(path: str) -> Lines:
    """Connect to a supervisor; LostGuest if no process listens at ``path``."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise LostGuest(f"no supervisor listens at {path} ({error.strerror})") from None
    return Lines(sock)
