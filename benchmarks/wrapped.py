"""Inside a daemon of its own: where a request's time goes. ``wrap`` before it serves.

What waits for the kernel, the state folder or the shim is timed by wrapping the functions that
do it; the request's line in the log gets the sums. The rest of its ``ms`` is Python itself.
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
"""By what was done: how often, and milliseconds."""

FILES = ("fsync", "fdatasync", "open", "close", "rename", "replace", "unlink", "read", "stat")
FOLDERS = ("listdir", "mkdir", "makedirs", "lstat", "fstat", "pread", "pwrite", "link", "access")


def timed(kind: str, function: Function) -> Function:
    """The function, its time added up."""

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
    """os.write: the line of a request gets the sums, and they start anew."""
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
    """Wrap everything."""
    for owner, name, kind in (
        (Rtnetlink, "_transmit", "netlink send"),
        (Rtnetlink, "_receive", "netlink receive"),
        (Rtnetlink, "heard", "netlink receive"),
        (Connection, "send", "shim"),
        (Connection, "receive", "shim"),
        (fcntl, "fcntl", "files"),
        (builtins, "open", "files"),
        *((os, name, "fsync" if "sync" in name else "files") for name in (*FILES, *FOLDERS)),
    ):
        setattr(owner, name, timed(kind, getattr(owner, name)))
    os.write = telling(os.write)
