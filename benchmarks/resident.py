"""The daemon of thick mode on a party's node: a process of an unprivileged user.

It is started as in production, as a user with CAP_NET_ADMIN only, in the node's namespace, from
the copy of the package in the guest's memory. The node has its own state directory and socket.
Readiness is probed with PING, and the daemon is ended by its process ID.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.namespaces import Space
from bondcni.daemon.protocol import HEADER, Type, pack

T = TypeVar("T")

USER = 65534
RIGHTS = "-all,+net_admin"
SECONDS = 60.0
RETRY_SECONDS = 0.001

AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *(f"--{which}={RIGHTS}" for which in ("inh-caps", "ambient-caps", "bounding-set")),
)
PYTHON = (os.path.realpath(sys.executable), "-IS")

SERVE = """
import sys
sys.path.insert(0, {lib!r})
from bondcni.daemon.server import Settings, serve
serve(Settings({socket!r}, {state!r}, {policy!r}))
"""


class Place(NamedTuple):
    """The files of a daemon: a directory that its user may write to."""

    folder: Path

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return str(self.folder / "bond.sock")

    @property
    def state(self) -> Path:
        """The path of its state directory."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """The path of its log, with a line for each request."""
        return self.folder / "log"

    @property
    def number(self) -> int:
        """The path of the file with its process ID."""
        return int((self.folder / "pid").read_text())

    def make(self, user: int = USER) -> None:
        """Create the directories, owned by the daemon's user."""
        for one in (self.folder, self.state):
            one.mkdir(parents=True)
            os.chown(one, user, user)

    def program(self, lib: Path, text: str = SERVE) -> str:
        """The command of the daemon."""
        policy = str(self.folder / "policy.yaml")  # does not exist
        return text.format(lib=str(lib), socket=self.socket, state=str(self.state), policy=policy)


@contextlib.contextmanager
def daemon(
    place: Place, space: Space | None, program: str, prefix: Sequence[str] = AS_USER
) -> Iterator[float]:
    """Run a daemon in a namespace (None: this one).

    Yields the seconds from before its start to its answer.
    """
    with place.log.open("ab") as log:
        began = time.monotonic()
        argv = [*prefix, *PYTHON, "-c", program]
        process = in_space(space, lambda: start(argv, log.fileno()))
        try:
            await_answer(place.socket, process)
            took = time.monotonic() - began
            (place.folder / "pid").write_text(str(process.pid))
            yield took
        finally:
            end(process)


def in_space(space: Space | None, work: Callable[[], T]) -> T:
    """Run ``work`` in a namespace."""
    return space.run(work) if space else work()


def start(argv: Sequence[str], log: int) -> subprocess.Popen[bytes]:
    """Start a process that writes to a log."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def end(process: subprocess.Popen[bytes]) -> None:
    """End it as a service manager does."""
    process.terminate()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_answer(path: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until it answers PING. Raises ChildProcessError, TimeoutError."""
    until = time.monotonic() + SECONDS
    while not answers(path):
        if process.poll() is not None:
            raise ChildProcessError(f"the daemon ended with {process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError("the daemon does not answer")
        time.sleep(RETRY_SECONDS)


def answers(path: str) -> bool:
    """Whether a daemon answers PING at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(SECONDS)
        try:
            sock.connect(path)
            sock.sendall(pack(Type.PING))
            return len(sock.recv(HEADER)) == HEADER
        except (FileNotFoundError, ConnectionRefusedError):
            return False


def last_line(log: Path, mark: str) -> str:
    """The log's line with ``mark`` since the last call; it may be written after the answer.

    Raises TimeoutError.
    """
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        lines = [line for line in log.read_text().splitlines(keepends=True) if mark in line]
        if lines and lines[-1].endswith("\n"):
            os.truncate(log, 0)  # the daemon appends: its next line is the first
            return lines[-1]
        time.sleep(RETRY_SECONDS)
    raise TimeoutError(f"{log} has no line with {mark!r}")


def spent(log: Path) -> float:
    """The milliseconds inside of the last request."""
    return milliseconds(last_line(log, " ms="))


def milliseconds(line: str) -> float:
    """Pure: the time in a request's line."""
    words = (word.partition("=") for word in line.split())
    return next(float(value) for name, _, value in words if name == "ms")
