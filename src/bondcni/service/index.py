"""An index of the records by their links, for the daemon, which searches them at each ADD."""

from __future__ import annotations

import os
import struct
from _thread import allocate_lock
from collections.abc import Callable, Collection, Iterable
from io import FileIO

from bondcni.core.errors import JournalError

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading an invalid record raises: not JSON, or JSON of another shape."""

Name = tuple[str, str]
"""An attachment: container ID and interface name."""


def named(files: Iterable[str], ending: str = ".json") -> list[Name]:
    """The attachments of the files with this ending."""
    parted = [f.removesuffix(ending).partition(":") for f in files if f.endswith(ending)]
    return [(container_id, ifname) for container_id, _, ifname in parted if ifname]


Spellings = Callable[[Name], frozenset[str]]
"""The words that a record is found by; empty where it does not exist. Raises ``UNREADABLE``."""

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x8, 0x40, 0x80, 0x200
IN_MOVE_SELF, IN_ONLYDIR = 0x800, 0x01000000
IN_LOST = 0x2000 | 0x4000 | 0x8000 | IN_MOVE_SELF  # unmounted, overflow, ignored, moved
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows


class Index:
    """The words that each record is found by. A record is read again when inotify(7) reports a
    change of it.

    The kernel queues the event before the system call that changes a file returns, in whichever
    process. So the index is exact, and an unchanged record costs nothing.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = allocate_lock()
        self._events: FileIO | None = None
        self._known: dict[Name, frozenset[str]] = {}

    def naming(self, words: Collection[str], spellings: Spellings) -> list[Name]:
        """The records that have one of the words, and those that are invalid.

        Raises ``OSError`` when the directory cannot be watched.
        """
        with self._lock:
            changed = self._heard()
            try:
                torn = [name for name in changed if not self._note(name, spellings)]
            except JournalError:
                self._events = None  # which records have changed is not known any more
                raise
            found = [name for name, has in self._known.items() if not has.isdisjoint(words)]
            return [*torn, *found]

    def _note(self, name: Name, spellings: Spellings) -> bool:
        self._known.pop(name, None)
        try:
            found = spellings(name)
        except UNREADABLE:
            return False
        if found:
            self._known[name] = found
        return True

    def _heard(self) -> list[Name]:
        """The records that changed since the last call; all at the first call."""
        files: dict[str, None] = {}
        while self._events and (data := self._events.read(1 << 16)):
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                files[os.fsdecode(data[at - length : at].rstrip(b"\0"))] = None
                if mask & IN_LOST:
                    self._events = None
        if self._events is None:
            events = _watched(self._directory)
            files = dict.fromkeys(os.listdir(self._directory))
            self._known.clear()
            self._events = events
        return named(files)


def _watched(directory: str) -> FileIO:
    """A non-blocking inotify descriptor. Raises ``OSError``."""
    import ctypes  # noqa: PLC0415  2 ms, paid by the daemon only

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    events = FileIO(descriptor)
    mask = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_MOVE_SELF | IN_ONLYDIR
    if libc.inotify_add_watch(descriptor, os.fsencode(directory), mask) < 0:
        raise OSError(ctypes.get_errno(), f"inotify_add_watch {directory}")
    return events
