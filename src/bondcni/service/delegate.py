"""Runs a delegate: finds it in CNI_PATH, starts it, and waits until it ends.

A delegate gets the plugin's whole environment and a process group of its own: when it exceeds its
deadline, it and all its children are killed. Its output is limited. Its standard error is copied
to that of the plugin when it has ended. ``ipam`` interprets the result.

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
"""Bytes of standard output that are read."""

ERRORS_LIMIT = 64 << 10
"""Bytes of standard error that are kept: the last ones."""

CHUNK = 1 << 16
STDERR = 2

BUSY_TRIES = 5  # ETXTBSY: the plugin is being replaced at this moment
BUSY_PAUSE = 0.2  # seconds between two of them


class Ended(NamedTuple):
    """The end of a delegate.

    ``status`` is the exit status, or minus the number of the signal that killed it, or None when it
    was killed at the deadline. ``output`` has more than ``LIMIT`` bytes where it was too long.
    ``errors`` is the end of its standard error, at most ``ERRORS_LIMIT`` bytes.
    """

    status: int | None
    output: bytes
    errors: bytes = b""


def find(name: str, path: str) -> str:
    """The executable ``name`` in the directories of CNI_PATH. Raises ``DelegateUnstarted``."""
    if "/" in name:
        raise DelegateUnstarted(f"IPAM plugin {name}: must be the name of a plugin, not a path")
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise DelegateUnstarted(f"IPAM plugin {name} is not in CNI_PATH ({path or 'not set'})")


def changeable(program: str) -> str:
    """The part of a program's path (itself or a directory) that users other than root can change;
    "" when there is none.

    In a directory with the sticky bit users can change only their own files.
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
    """Run a delegate for at most ``deadline`` seconds.

    Raises ``DelegateUnstarted`` when it is missing or cannot be started.
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
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(STDERR, ended.errors)
    return ended


def _start(program: str, stdin: bytes, streams: tuple[int, int], env: Mapping[str, str]) -> int:
    """Start the process, and return its ID. Importing subprocess instead would take 3 ms."""
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
    """``descriptors`` are its standard input, output and error. The signals that Python ignores
    have their default actions again.
    """
    import signal  # noqa: PLC0415  slow to import, and only requests with IPAM need it

    return os.posix_spawn(
        program,
        [program],
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _collect(pid: int, output: int, errors: int, until: float) -> Ended:
    """Read its output until the process ends, or until the deadline, and kill its process group.

    The end of the process counts, not that of its output: a background process that it started may
    keep the pipes open. After the end at most one pipe buffer of standard error is read.
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
    """The descriptors that can be read or are at their end; none at the deadline."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
