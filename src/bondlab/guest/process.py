"""Client side of a command that runs in a guest, and of a guest's cable.

Each command has a connection of its own to the supervisor: output is received as it is written,
the exit status as a separate message, and closing the connection kills the command. A timeout
kills the command too and raises TimeoutExpired; if the command cannot be killed, the guest is lost.
"""

from __future__ import annotations

import base64
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bondlab.guest.control_client import GRACE_SECONDS, ControlClient, receive
from bondlab.guest.lines import Message

CHUNK = 48 * 1024


class Completed(NamedTuple):
    """An ended command: exit status (the negative signal number if killed) and output."""

    returncode: int
    stdout: bytes
    stderr: bytes


class CableState(NamedTuple):
    """Whether a cable is connected, and the frames it relayed and dropped since boot."""

    connected: bool
    carried: int
    dropped: int


class Process:
    """A command that runs in the guest; it is killed when its connection is closed."""

    def __init__(
        self, client: ControlClient, argv: Sequence[str], order: Message, given: bytes
    ) -> None:
        self.argv = list(argv)
        self._client = client
        self._lines = client.open(order | {"do": "run", "argv": self.argv})
        self._output = {"out": bytearray(), "err": bytearray()}
        self._status: int | None = None
        for data in (*chunks(given), b""):
            self._lines.send({"do": "in", "data": base64.b64encode(data).decode()})

    def wait(self, timeout: float = 60.0) -> Completed:
        """Wait at most ``timeout`` seconds for the end of the command.

        Raises subprocess.TimeoutExpired (the command is killed), OSError if it could not be
        started, LostGuest.
        """
        self.follow(lambda stream, data: self._output[stream].extend(data), timeout)
        return Completed(self._status or 0, bytes(self._output["out"]), bytes(self._output["err"]))

    def follow(self, on_data: Callable[[str, bytes], object], timeout: float) -> int:
        """Call ``on_data("out" | "err", bytes)`` for output; exit status. Raises like `wait`."""
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
            message = receive(self._lines, deadline)
            if "exit" in message:
                self._status = message["exit"]
            elif "error" in message:
                raise OSError(message["errno"], message["error"])
            for stream in message.keys() & self._output.keys():
                on_data(stream, base64.b64decode(message[stream]))

    def _end_late(self, on_data: Callable[[str, bytes], object]) -> None:
        """Kill the command; if this fails, the guest is lost."""
        self.kill()
        try:
            self._listen(on_data, time.monotonic() + GRACE_SECONDS)
        except TimeoutError:
            raise self._client.lost(f"{self.argv[0]} did not end after SIGKILL") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process group of the command."""
        self._lines.send({"do": "signal", "signal": int(number)})


def chunks(data: bytes) -> list[bytes]:
    """``data`` in pieces of the size of one message."""
    return [data[place : place + CHUNK] for place in range(0, len(data), CHUNK)]


class Cable:
    """The cable between two NICs of a guest; see `bondlab.guest.cable`."""

    def __init__(self, client: ControlClient, name: str) -> None:
        self.name = name
        self._client = client

    def disconnect(self) -> None:
        """Drop all frames from now on, in both directions; the NICs keep their carrier."""
        self._set(connected=False)

    def reconnect(self) -> None:
        """Relay frames again."""
        self._set(connected=True)

    @property
    def state(self) -> CableState:
        """The state and the frame counters."""
        return self._set(connected=None)

    def _set(self, *, connected: bool | None) -> CableState:
        answer = self._client.request({"do": "cable", "name": self.name, "connected": connected})
        return CableState(answer["connected"], answer["carried"], answer["dropped"])
