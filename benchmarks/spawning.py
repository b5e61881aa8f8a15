"""Python's interface to the driver (driver.c): jobs in, durations out."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.namespaces import Space

PATIENCE_SECONDS = 120.0
DIVIDER = "\x1f"


class Job(NamedTuple):
    """One process to start: standard input and output are files, the environment is complete."""

    argv: Sequence[str]
    env: Mapping[str, str]
    stdin: str
    stdout: str

    def line(self) -> str:
        """The job in the format of driver.c."""
        env = (f"{key}={value}" for key, value in self.env.items())
        return DIVIDER.join((self.stdin, self.stdout, str(len(self.argv)), *self.argv, *env))


class Span(NamedTuple):
    """The begin and end of a job, in nanoseconds of CLOCK_MONOTONIC, and its waitpid(2) status."""

    began: int
    ended: int
    status: int

    @property
    def milliseconds(self) -> float:
        """Milliseconds from before the spawn to the end of waitpid(2)."""
        return (self.ended - self.began) / 1e6


class Driver:
    """A driver that runs in a namespace, as does everything that it starts."""

    def __init__(self, binary: str, space: Space) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE_SECONDS)
        with theirs:
            end = theirs.fileno()
            self._process = space.run(lambda: subprocess.Popen([binary], stdin=end, stdout=end))
        self._rest = b""

    def run(self, jobs: Sequence[Job], at_a_time: int = 1) -> list[Span]:
        """Run jobs, ``at_a_time`` concurrently; return a span for each.

        Raises TimeoutError after PATIENCE_SECONDS without output, and ChildProcessError.
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
        """End the driver; do not wait for what it may still run."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
