"""The policy file as the daemon keeps it: read when it changed, and when it is told to."""

from __future__ import annotations

import os
import threading

from bondcni.core.errors import PolicyError
from bondcni.core.policy import Policy
from bondcni.service import policy

NEVER = (-1,)


class Rules:
    """What the file says now, or its mistakes; for any number of threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = NEVER
        self._found: Policy | PolicyError = Policy()

    def forget(self) -> None:
        """Read it again at the next look."""
        with self._lock:
            self._stamp = NEVER

    def __call__(self) -> Policy:
        """What it says now. Raises ``PolicyError``."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._found, self._stamp = _read(self._path), stamp
            found = self._found
        if isinstance(found, PolicyError):
            raise PolicyError(found.message)
        return found


def _read(path: str) -> Policy | PolicyError:
    try:
        return policy.load(path)
    except PolicyError as error:
        return error


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)
