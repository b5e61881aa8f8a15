"""A delegate as a process: found by name in CNI_PATH, run, and its end awaited.

It gets our whole environment and a process group of its own, so that when it outlives the
deadline everything it started ends with it, and its output is bounded. What it writes to standard
error goes to ours when it has ended. What its answer means is ``ipam``'s business.

Source: CNI SPEC 1.1.0, section "Plugin Delegation".
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from bondcni.core.errors import DelegateUnstarted

LIMIT = 1 << 20
"""Bytes of a delegate's output that are read."""

ERRORS_LIMIT = 64 << 10
"""Bytes of a delegate's standard error that are kept, the last ones."""

CHUNK = 1 << 16
STDERR = 2

BUSY_TRIES = 5  # a plugin that is just being replaced: ETXTBSY
BUSY_PAUSE = 0.2  # seconds between two of them


class Ended(NamedTuple):
    """How a delegate ended: its exit status, minus the signal that killed it, or None where it
    was ended at the deadline; its output, of which more than ``LIMIT`` bytes is too much; and
    what it wrote to standard error, at most the last ``ERRORS_LIMIT`` bytes.
    """

    status: int | None
    output: bytes
    errors: bytes = b""


def find(name: str, path: str) -> str:
    """The executable ``name`` in the folders of CNI_PATH. Raises ``DelegateUnstarted``."""
    if "/" in name:
        raise DelegateUnstarted(f"IPAM plugin {name}: must be the name of a plugin, not a path")
    for folder in path.split(":"):
        candidate = f"{folder}/{name}"
        if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise DelegateUnstarted(f"IPAM plugin {name} is not in CNI_PATH ({path or 'not set'})")


def changeable(program: str) -> str:
    """What of a program's path somebody else than root can change: itself or a folder; "": nothing.

    In a folder with the sticky bit others can change only what is theirs.
    """
    path = os.path.realpath(program)
    while True:
        found = os.stat(path)
        if found.st_uid or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
            return path
        if path == "/":
            return ""
        path = os.path.dirname(path)


def run(name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
    """Run a delegate whose output is read. ``deadline`` is in seconds.

    Raises ``DelegateUnstarted`` where it is missing or cannot be started.
    """
    program = find(name, env.get("CNI_PATH", ""))
    until = time.monotonic() + deadline
    output, errors = os.pipe(), os.pipe()
    try:
        try:
            pid = _start(program, stdin, (output[1], errors[1]), env)
        finally:
            os.close(output[1])
            os.close(errors[1])
        ended = _collect(pid, output[0], errors[0], until)
    finally:
        os.close(output[0])
        os.close(errors[0])
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(STDERR, ended.errors)
    return ended


def _start(program: str, stdin: bytes, streams: tuple[int, int], env: Mapping[str, str]) -> int:
    """Spawn; the process ID. posix_spawn, for importing subprocess costs 3 ms a request."""
    given = os.memfd_create("config")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        tries = BUSY_TRIES
        while True:
            try:
                return _spawn(program, (given, *streams), env)
            except OSError as error:
                tries -= 1
                if error.errno != errno.ETXTBSY or not tries:
                    raise DelegateUnstarted(
                        f"IPAM plugin {program} cannot be started: {error.strerror}"
                    ) from error
                time.sleep(BUSY_PAUSE)
    finally:
        os.close(given)


def _spawn(program: str, descriptors: tuple[int, int, int], env: Mapping[str, str]) -> int:
    """Standard input, output and error are ``descriptors``; the signals that Python ignores act
    again.
    """
    import signal  # noqa: PLC0415  its enums are paid by requests with IPAM only

    return os.posix_spawn(
        program,
        [program],
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _collect(pid: int, output: int, errors: int, until: float) -> Ended:
    """Output up to ``LIMIT``, standard error, and exit status; None when it had to be killed at
    the deadline.

    The end of the process counts, not that of its output: what it left in the background
    may hold the pipes. Of standard error no more is read then than a pipe holds.
    """
    import signal  # noqa: PLC0415

    out = said = b""
    process = os.pidfd_open(pid)
    watched = {process, output, errors}
    in_time = True
    try:
        while len(out) <= LIMIT:
            ready = _ready(watched, until)
            if not ready or (process not in ready and time.monotonic() > until):
                in_time = False
                break
            if errors in ready:
                more = os.read(errors, CHUNK)
                said = (said + more)[-ERRORS_LIMIT:]
                watched -= set() if more else {errors}
            if output in ready:
                more = os.read(output, CHUNK)
                out += more
                watched -= set() if more else {output}
            elif process in ready:
                break
    finally:
        os.close(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(status if in_time else None, out, said)


def _ready(descriptors: Collection[int], until: float) -> set[int]:
    """Those with something to read or at their end; none at the deadline."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
