"""A command that runs in a guest, and a cable of one, as whoever asked for it sees them.

A command has a conversation of its own with the holder: output comes as it is written, the
status beside it, and to hang up kills the command. A wait that runs out kills it too and tells
so; only a guest that does not even do that is lost.
"""

from __future__ import annotations

import base64
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bondlab.guest.control_client import GRACE_SECONDS, Door, hear
from bondlab.guest.lines import Message

CHUNK = 48 * 1024


class Completed(NamedTuple):
    """How a command ended: its status (minus the signal's number if killed) and its output."""

    returncode: int
    stdout: bytes
    stderr: bytes


class CableState(NamedTuple):
    """A cable: whether it is whole, and the frames it carried and dropped since boot."""

    whole: bool
    carried: int
    dropped: int


class Process:
    """A command that runs in the guest; the guest kills it when this is closed."""

    def __init__(self, door: Door, argv: Sequence[str], order: Message, given: bytes) -> None:
        self.argv = list(argv)
        self._door = door
        self._lines = door.ask(order | {"do": "run", "argv": self.argv})
        self._output = {"out": bytearray(), "err": bytearray()}
        self._status: int | None = None
        for data in (*chunks(given), b""):
            self._lines.send({"do": "in", "data": base64.b64encode(data).decode()})

    def wait(self, timeout: float = 60.0) -> Completed:
        """Its end, at most ``timeout`` seconds from now.

        Raises subprocess.TimeoutExpired (and the command is killed), OSError if it could not
        be started, LostGuest.
        """
        self.follow(lambda stream, data: self._output[stream].extend(data), timeout)
        return Completed(self._status or 0, bytes(self._output["out"]), bytes(self._output["err"]))

    def follow(self, on_data: Callable[[str, bytes], object], timeout: float) -> int:
        """Call ``on_data("out" | "err", bytes)`` as output comes; its status. Raises as `wait`."""
        deadline = time.monotonic() + timeout
        try:
            self._listen(on_data, deadline)
        except TimeoutError:
            self._end_late(on_data)
            partial = {name: bytes(data) for name, data in self._output.items()}
            raise subprocess.TimeoutExpired(
                self.argv, timeout, partial["out"], partial["err"]
            ) from None
        finally:
            self._lines.close()
        assert self._status is not None  # noqa: S101 _listen returns with a status or raises
        return self._status

    def _listen(self, on_data: Callable[[str, bytes], object], deadline: float) -> None:
        while self._status is None:
            message = hear(self._lines, deadline)
            if "exit" in message:
                self._status = message["exit"]
            elif "error" in message:
                raise OSError(message["errno"], message["error"])
            for stream in message.keys() & self._output.keys():
                on_data(stream, base64.b64decode(message[stream]))

    def _end_late(self, on_data: Callable[[str, bytes], object]) -> None:
        """Kill the command; a guest that does not even do that is lost."""
        self.kill()
        try:
            self._listen(on_data, time.monotonic() + GRACE_SECONDS)
        except TimeoutError:
            raise self._door.lost(f"no answer: {self.argv[0]} could not be ended") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and what it started in its process group."""
        self._lines.send({"do": "signal", "signal": int(number)})


def chunks(data: bytes) -> list[bytes]:
    """``data`` in pieces that fit a message."""
    return [data[place : place + CHUNK] for place in range(0, len(data), CHUNK)]


class Cable:
    """The cable between two NICs of a guest; see `bondlab.guest.cable` for what a cut does."""

    def __init__(self, door: Door, name: str) -> None:
        self.name = name
        self._door = door

    def cut(self) -> None:
        """Drop every frame from now on, both ways; the NICs' carrier stays."""
        self._turn(whole=False)

    def mend(self) -> None:
        """Carry frames again."""
        self._turn(whole=True)

    @property
    def state(self) -> CableState:
        """Whether it is whole, and its frame counters."""
        return self._turn(whole=None)

    def _turn(self, *, whole: bool | None) -> CableState:
        answer = self._door.question({"do": "cable", "name": self.name, "whole": whole})
        return CableState(answer["whole"], answer["carried"], answer["dropped"])
