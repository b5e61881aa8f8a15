"""The policy file as the daemon keeps it: read when it changed, and when it is told to.

Only rules that hold are kept. That there is no file, that it cannot be read and that it has
mistakes is found out anew each time, so that each ends with its cause.
"""

from __future__ import annotations

import os
import threading

from bondcni.core.policy import Policy
from bondcni.service import policy


class Rules:
    """What the file says now, or its mistakes; for any number of threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._found = Policy()

    def forget(self) -> None:
        """Read it again at the next look."""
        with self._lock:
            self._stamp = ()

    def __call__(self) -> Policy:
        """What it says now. Raises ``PolicyError``."""
        with self._lock:
            stamp = _stamp(self._path)
            if not stamp or stamp != self._stamp:
                self._stamp = ()  # what is kept does not hold any more, whatever comes
                self._found, self._stamp = policy.load(self._path), stamp
            return self._found


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when the file does, its owner and mode too; empty where it cannot be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
