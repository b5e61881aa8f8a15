"""The delegate: an IPAM plugin, executed as the CNI specification says.

It is found by name in CNI_PATH and given our whole environment and the complete
configuration. It gets a process group of its own, so that when it outlives the
deadline everything it started ends with it, and its output is bounded. Its error
document keeps its code and text. Whether it is due to be undone is the caller's.

Source: CNI SPEC 1.1.0, section "Plugin Delegation".
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import time
from collections.abc import Mapping
from typing import Any

from bondcni.core.errors import DelegateError, TryAgain
from bondcni.core.result import Result, read

DEADLINE = 60.0
"""Seconds that a delegate may take; a DHCP exchange with retries fits."""

LIMIT = 1 << 20
"""Bytes of a delegate's output that are read."""

BUSY_TRIES = 5  # a plugin that is just being replaced: ETXTBSY
BUSY_PAUSE = 0.2  # seconds between two of them


def find(name: str, path: str) -> str:
    """The executable ``name`` in the folders of CNI_PATH. Raises ``DelegateError``."""
    if "/" in name:
        raise DelegateError(f"IPAM plugin {name}: must be the name of a plugin, not a path")
    for folder in path.split(":"):
        candidate = f"{folder}/{name}"
        if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise DelegateError(f"IPAM plugin {name} is not in CNI_PATH ({path or 'not set'})")


def add(config: Mapping[str, Any], env: Mapping[str, str], deadline: float = DEADLINE) -> Result:
    """IPAM ADD: the addresses reserved. Raises ``DelegateError``, ``TryAgain``.

    After any failure the caller owes the delegate a DEL: it may have reserved before
    it failed.
    """
    name = str(config["ipam"]["type"])
    answer = execute("ADD", config, env, deadline)
    try:
        result = read(json.loads(answer))
    except (ValueError, RecursionError) as error:
        raise DelegateError(f"IPAM plugin {name} answered no CNI result: {error}") from error
    if not result.ips:
        raise DelegateError(f"IPAM plugin {name} answered no address")
    return result


def execute(
    command: str, config: Mapping[str, Any], env: Mapping[str, str], deadline: float = DEADLINE
) -> bytes:
    """Run the IPAM plugin for one verb; its standard output.

    ``deadline`` is in seconds. Raises ``DelegateError`` (missing, failed) and ``TryAgain``
    (did not end in time).
    """
    name = str(config["ipam"]["type"])
    program = find(name, env.get("CNI_PATH", ""))
    until = time.monotonic() + deadline
    reading, writing = os.pipe()
    try:
        try:
            pid = _start(program, json.dumps(config).encode(), writing, env, command)
        finally:
            os.close(writing)
        out, status = _collect(pid, reading, until)
    finally:
        os.close(reading)
    if status is None:
        raise TryAgain(
            f"IPAM plugin {name} did not answer {command} within {deadline:g} s and was ended"
        )
    if len(out) > LIMIT:
        raise DelegateError(f"IPAM plugin {name} answered {command} with more than {LIMIT} bytes")
    if status:
        raise _failure(name, command, status, out)
    return out


def _start(program: str, stdin: bytes, stdout: int, env: Mapping[str, str], command: str) -> int:
    """Spawn; the process ID. posix_spawn, for importing subprocess costs 3 ms a request."""
    given = os.memfd_create("config")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        tries = BUSY_TRIES
        while True:
            try:
                return _spawn(program, (given, stdout), {**env, "CNI_COMMAND": command})
            except OSError as error:
                tries -= 1
                if error.errno != errno.ETXTBSY or not tries:
                    raise DelegateError(
                        f"IPAM plugin {program} cannot be started: {error.strerror}"
                    ) from error
                time.sleep(BUSY_PAUSE)
    finally:
        os.close(given)


def _spawn(program: str, descriptors: tuple[int, int], env: Mapping[str, str]) -> int:
    """Standard input and output are ``descriptors``; the signals that Python ignores act again."""
    import signal  # noqa: PLC0415  its enums are paid by requests with IPAM only

    return os.posix_spawn(
        program,
        [program],
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _collect(pid: int, reading: int, until: float) -> tuple[bytes, int | None]:
    """Output up to ``LIMIT`` and exit status; None when it had to be killed at the deadline.

    The end of the process counts, not that of its output: what it left in the background
    may hold the pipe.
    """
    import signal  # noqa: PLC0415

    out = b""
    process = os.pidfd_open(pid)
    try:
        while len(out) <= LIMIT and reading in _ready((reading, process), until):
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            out += chunk
        in_time = len(out) > LIMIT or bool(_ready((process,), until))
    finally:
        os.close(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return out, status if in_time else None


def _ready(descriptors: tuple[int, ...], until: float) -> set[int]:
    """Those with something to read or at their end; none at the deadline."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}


def _failure(name: str, command: str, status: int, out: bytes) -> DelegateError:
    """What the delegate says of its failure, with its own code where it gives one."""
    what = f"IPAM plugin {name} failed at {command}"
    try:
        document = json.loads(out)
        code, message = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError, RecursionError):
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        said = out.decode(errors="replace").strip()[:500]
        return DelegateError(f"{what} {how}" + (f": {said}" if said else ""))
    details = str(document.get("details") or "")
    kept = code if type(code) is int and code > 0 else None
    return DelegateError(f"{what}: {message}", details, kept)
