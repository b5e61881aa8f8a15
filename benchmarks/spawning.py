"""The driver (driver.c) from Python's side: jobs in, durations out."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.namespaces import Space

PATIENCE_SECONDS = 120.0
DIVIDER = "\x1f"


class Job(NamedTuple):
    """One process to start: standard input and output are files, the environment is whole."""

    argv: Sequence[str]
    env: Mapping[str, str]
    stdin: str
    stdout: str

    def line(self) -> str:
        """As driver.c reads it."""
        env = (f"{key}={value}" for key, value in self.env.items())
        return DIVIDER.join((self.stdin, self.stdout, str(len(self.argv)), *self.argv, *env))


class Span(NamedTuple):
    """When a job began and ended, in nanoseconds of one clock, and what waitpid(2) said."""

    began: int
    ended: int
    status: int

    @property
    def milliseconds(self) -> float:
        """From before the spawn until it was waited for."""
        return (self.ended - self.began) / 1e6


class Driver:
    """A driver that runs in a namespace; everything it starts does, too."""

    def __init__(self, binary: str, space: Space) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE_SECONDS)
        with theirs:
            end = theirs.fileno()
            self._process = space.run(lambda: subprocess.Popen([binary], stdin=end, stdout=end))
        self._rest = b""

    def run(self, jobs: Sequence[Job], at_a_time: int = 1) -> list[Span]:
        """Run jobs, so many at a time; a span each.

        Raises TimeoutError after PATIENCE_SECONDS without a word, ChildProcessError.
        """
        text = f"{at_a_time} {len(jobs)}\n" + "".join(f"{job.line()}\n" for job in jobs)
        self._socket.sendall(text.encode())
        return [Span(*map(int, self._line().split())) for _ in jobs]

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ChildProcessError("the driver ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """End it, and what it may still be waiting for is not waited for."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
