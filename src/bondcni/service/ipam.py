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


def find(name: str, path: str) -> str:
    """The executable ``name`` in the folders of CNI_PATH. Raises ``DelegateError``."""
    for folder in path.split(":"):
        candidate = f"{folder}/{name}"
        if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise DelegateError(f"IPAM plugin {name} is not in CNI_PATH ({path or 'not set'})")


def add(config: Mapping[str, Any], env: Mapping[str, str]) -> Result:
    """IPAM ADD: the addresses reserved. Raises ``DelegateError``, ``TryAgain``.

    After any failure the caller owes the delegate a DEL: it may have reserved before
    it failed.
    """
    name = str(config["ipam"]["type"])
    answer = execute("ADD", config, env)
    try:
        document = json.loads(answer)
        result = read(document if isinstance(document, dict) else {})
    except ValueError as error:
        raise DelegateError(f"IPAM plugin {name} answered no CNI result: {error}") from error
    if not result.ips:
        raise DelegateError(f"IPAM plugin {name} answered no address")
    return result


def execute(command: str, config: Mapping[str, Any], env: Mapping[str, str]) -> bytes:
    """Run the IPAM plugin for one verb; its standard output.

    Raises ``DelegateError`` (missing, failed) and ``TryAgain`` (did not end in time).
    """
    name = str(config["ipam"]["type"])
    program = find(name, env.get("CNI_PATH", ""))
    until = time.monotonic() + DEADLINE
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
            f"IPAM plugin {name} did not answer {command} within {DEADLINE:.0f} s and was ended"
        )
    if len(out) > LIMIT:
        raise DelegateError(f"IPAM plugin {name} answered {command} with more than {LIMIT} bytes")
    if status:
        raise _failure(name, command, status, out)
    return out


def _start(
    program: str, stdin: bytes, stdout: int, env: Mapping[str, str], command: str
) -> int:
    """Spawn; the process ID. posix_spawn, for importing subprocess costs 3 ms a request."""
    given = os.memfd_create("config")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        for left in reversed(range(BUSY_TRIES)):
            try:
                return os.posix_spawn(
                    program,
                    [program],
                    {**env, "CNI_COMMAND": command},
                    file_actions=actions,
                    setpgroup=0,
                )
            except OSError as error:
                if error.errno != errno.ETXTBSY or not left:
                    raise DelegateError(
                        f"IPAM plugin {program} cannot be started: {error.strerror}"
                    ) from error
                time.sleep(0.2)
    finally:
        os.close(given)
    raise AssertionError  # the loop returns or raises


def _collect(pid: int, reading: int, until: float) -> tuple[bytes, int | None]:
    """Output up to ``LIMIT`` and exit status; None when it had to be killed at the deadline."""
    import signal  # noqa: PLC0415  its enums are paid by requests with IPAM only

    out = b""
    process = os.pidfd_open(pid)
    try:
        while _ready(reading, until) and len(out) <= LIMIT:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            out += chunk
        in_time = _ready(process, until) if len(out) <= LIMIT else True
    finally:
        os.close(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return out, status if in_time else None


def _ready(descriptor: int, until: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))


def _failure(name: str, command: str, status: int, out: bytes) -> DelegateError:
    """What the delegate says of its failure, with its own code where it gives one."""
    what = f"IPAM plugin {name} failed at {command}"
    try:
        document = json.loads(out)
        code, message = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError):
        said = out.decode(errors="replace").strip()[:500]
        return DelegateError(f"{what} with status {status}" + (f": {said}" if said else ""))
    details = str(document.get("details") or "")
    return DelegateError(f"{what}: {message}", details, code if isinstance(code, int) else None)
