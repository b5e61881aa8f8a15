"""The door to a guest: one conversation with its holder for each thing wanted.

Everything that hears from a holder hears through here, so that in one place a message that the
guest is lost, a holder that hung up and one that is silent become `LostGuest`, and never look
like a command that failed. What is asked and answered is the business of the caller.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence

from bondlab.guest.lines import Lines, Message

GRACE_SECONDS = 10.0


class LostGuest(Exception):
    """The guest died or does not answer; no command's fault.

    ``why`` is one sentence, ``console`` the last lines it printed, ``log`` the file they are
    in, which is there as long as the guest is held.
    """

    def __init__(self, why: str, console: Sequence[str] = (), log: str = "") -> None:
        self.why = why
        self.console = list(console)
        self.log = log
        where = f"\nlast on its console ({log}):" if console else ""
        super().__init__("\n  ".join([f"the guest is lost: {why}{where}", *console]))


class Door:
    """Where a guest's holder listens: the path of its control socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(self, order: Message) -> Lines:
        """Begin a conversation with ``order``. Raises LostGuest."""
        lines = connect(self.path)
        lines.send(order)
        return lines

    def question(self, order: Message) -> Message:
        """One order, one answer. Raises LostGuest; the holder's refusal is an OSError."""
        lines = self.ask(order)
        with contextlib.closing(lines):
            try:
                answer = hear(lines, time.monotonic() + GRACE_SECONDS)
            except TimeoutError:
                raise LostGuest("the process that holds it does not answer") from None
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer

    def lost(self, why: str) -> LostGuest:
        """The exception for ``why``, with what the console says now."""
        try:
            self.question({"do": "console", "why": why})
        except LostGuest as error:
            return error
        return LostGuest(why)


def hear(lines: Lines, deadline: float) -> Message:
    """The next message; raises LostGuest, and TimeoutError at ``deadline`` (time.monotonic)."""
    try:
        return verified(lines.wait(deadline))
    except EOFError:
        raise gone() from None


def verified(message: Message) -> Message:
    """The message itself, unless it says that the guest is lost (LostGuest)."""
    if "lost" in message:
        raise LostGuest(message["lost"], message["console"], message["log"])
    return message


def gone() -> LostGuest:
    """The exception for a conversation the holder broke off."""
    return LostGuest("the process that held it has ended")


def connect(path: str) -> Lines:
    """A connection to a holder; LostGuest if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise LostGuest(f"nobody holds a guest at {path} ({error.strerror})") from None
    return Lines(sock)
