"""The thick mode's daemon on a party's node: a process of its own, of a user without rights.

It is started as in production, as a user with CAP_NET_ADMIN and nothing else, in the node's
namespace, from the copy of the package in the guest's memory. State and socket are the node's
own. It is asked whether it is ready as a probe asks (PING), and ended by its process ID.
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
    """Where a daemon has its things: a folder that its user may write to."""

    folder: Path

    @property
    def socket(self) -> str:
        """Where the shim finds it."""
        return str(self.folder / "bond.sock")

    @property
    def state(self) -> Path:
        """Its journal."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What it tells, a line for each request."""
        return self.folder / "log"

    @property
    def number(self) -> int:
        """The running daemon's process ID: what ends it needs no more."""
        return int((self.folder / "pid").read_text())

    def make(self, user: int = USER) -> None:
        """The folders, of the daemon's user."""
        for one in (self.folder, self.state):
            one.mkdir(parents=True)
            os.chown(one, user, user)

    def program(self, lib: Path, text: str = SERVE) -> str:
        """What the daemon runs."""
        policy = str(self.folder / "policy.yaml")  # is not there
        return text.format(lib=str(lib), socket=self.socket, state=str(self.state), policy=policy)


@contextlib.contextmanager
def daemon(
    place: Place, space: Space | None, program: str, prefix: Sequence[str] = AS_USER
) -> Iterator[float]:
    """A daemon that runs in a namespace (None: this one); the seconds from before its start to its answer."""
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
    """A process that writes to a log."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def end(process: subprocess.Popen[bytes]) -> None:
    """As a service manager ends it."""
    process.terminate()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_answer(path: str, process: subprocess.Popen[bytes]) -> None:
    """Come back when it answers PING. Raises ChildProcessError, TimeoutError."""
    until = time.monotonic() + SECONDS
    while not answers(path):
        if process.poll() is not None:
            raise ChildProcessError(f"the daemon ended with {process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError("the daemon does not answer")
        time.sleep(RETRY_SECONDS)


def answers(path: str) -> bool:
    """Whether somebody answers PING there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(SECONDS)
        try:
            sock.connect(path)
            sock.sendall(pack(Type.PING))
            return len(sock.recv(HEADER)) == HEADER
        except (FileNotFoundError, ConnectionRefusedError):
            return False


def last_line(log: Path, mark: str) -> str:
    """The log's line with ``mark`` since the last call: it may come a little after the answer.

    Raises TimeoutError.
    """
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        lines = [line for line in log.read_text().splitlines(keepends=True) if mark in line]
        if lines and lines[-1].endswith("\n"):
            os.truncate(log, 0)  # it is open for appending: the next line comes first
            return lines[-1]
        time.sleep(RETRY_SECONDS)
    raise TimeoutError(f"{log} has no line with {mark!r}")


def spent(log: Path) -> float:
    """Milliseconds inside of the request that ended last."""
    return milliseconds(last_line(log, " ms="))


def milliseconds(line: str) -> float:
    """Pure: what a request's line says of its time."""
    words = (word.partition("=") for word in line.split())
    return next(float(value) for name, _, value in words if name == "ms")
