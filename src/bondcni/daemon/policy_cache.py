"""The policy as the daemon caches it: the file is read again after it changed, and at SIGHUP.

Only a valid policy is cached. A missing, unreadable or invalid file is looked at again each time,
so that the error goes away with its cause.
"""

from __future__ import annotations

import os
import threading

from bondcni.core.policy import Policy
from bondcni.service import policy


class PolicyCache:
    """The current policy, or its errors; can be used by several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._found = Policy()

    def invalidate(self) -> None:
        """Read the file again at the next call."""
        with self._lock:
            self._stamp = ()

    def __call__(self) -> Policy:
        """The current policy. Raises ``PolicyError``."""
        with self._lock:
            stamp = _stamp(self._path)
            if not stamp or stamp != self._stamp:
                self._stamp = ()  # the cached policy is outdated, even if load() fails
                self._found, self._stamp = policy.load(self._path), stamp
            return self._found


def _stamp(path: str) -> tuple[int, ...]:
    """A value that changes with the file, its owner and mode; empty if stat() fails."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
