"""The parts of a request's time, measured in a daemon of its own. Call ``wrap`` before it serves.

Waiting for the kernel, the state directory or the shim is timed by wrapping the functions that do
it; the sums are added to the request's line in the log. The rest of its ``ms`` is Python itself.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import time
from collections.abc import Callable
from typing import Any

from bondcni.daemon.connection import Connection
from bondcni.kernel.rtnetlink import Rtnetlink

Function = Callable[..., Any]

SUMS: dict[str, list[float]] = {}
"""By kind of work: the number of calls, and milliseconds."""

FILES = ("fsync", "fdatasync", "open", "close", "rename", "replace", "unlink", "read", "stat")
FOLDERS = ("listdir", "mkdir", "makedirs", "lstat", "fstat", "pread", "pwrite", "link", "access")


def timed(kind: str, function: Function) -> Function:
    """Wrap a function so that its time is added up."""

    def run(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            known = SUMS.setdefault(kind, [0, 0.0])
            known[0] += 1
            known[1] += (time.perf_counter() - began) * 1000

    return run


def telling(write: Function) -> Function:
    """Wrap os.write: add the sums to the line of a request, and reset them."""
    plain, counted = write, timed("files", write)

    def run(descriptor: int, data: bytes) -> Any:
        if descriptor != 2:
            return counted(descriptor, data)
        if b" ms=" in data:
            sums = json.dumps(SUMS, separators=(",", ":"))
            SUMS.clear()
            data = data.rstrip(b"\n") + f" spent={sums}\n".encode()
        return plain(descriptor, data)

    return run


def wrap() -> None:
    """Wrap all of these functions."""
    for owner, name, kind in (
        (Rtnetlink, "_transmit", "netlink send"),
        (Rtnetlink, "_receive", "netlink receive"),
        (Rtnetlink, "read_events", "netlink receive"),
        (Connection, "send", "shim"),
        (Connection, "receive", "shim"),
        (fcntl, "fcntl", "files"),
        (builtins, "open", "files"),
        *((os, name, "fsync" if "sync" in name else "files") for name in (*FILES, *FOLDERS)),
    ):
        setattr(owner, name, timed(kind, getattr(owner, name)))
    os.write = telling(os.write)
