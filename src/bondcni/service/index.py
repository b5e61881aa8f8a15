"""Which records may be of a link, for who asks again and again: the records' index.

Whoever changes a record, in whatever process of this kernel, inotify(7) tells of it.
"""

from __future__ import annotations

import os
import struct
from _thread import allocate_lock
from collections.abc import Callable, Collection, Iterable
from io import FileIO

from bondcni.core.errors import JournalError

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading rubbish raises: not JSON, or JSON of another shape."""

Name = tuple[str, str]
"""An attachment: container ID and interface name."""


def named(files: Iterable[str], ending: str = ".json") -> list[Name]:
    """The attachments that files of this ending are of."""
    parted = [f.removesuffix(ending).partition(":") for f in files if f.endswith(ending)]
    return [(container_id, ifname) for container_id, _, ifname in parted if ifname]


Spellings = Callable[[Name], frozenset[str]]
"""What of a record is looked for; empty where there is none. Raises ``UNREADABLE``."""

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x8, 0x40, 0x80, 0x200
IN_MOVE_SELF, IN_ONLYDIR = 0x800, 0x01000000
IN_LOST = 0x2000 | 0x4000 | 0x8000 | IN_MOVE_SELF  # unmounted, overflow, ignored, moved away
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows


class Index:
    """What is looked for in the records, read again where inotify(7) tells of a change.

    Whoever changes a record, in whatever process of this kernel: the event is there when the
    call returns that made the change. So this is exact, and costs nothing for a record that
    stays as it is.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = allocate_lock()
        self._events: FileIO | None = None
        self._known: dict[Name, frozenset[str]] = {}

    def naming(self, words: Collection[str], spellings: Spellings) -> list[Name]:
        """The records that have one of the words, and those that cannot be read.

        Raises ``OSError`` where the folder cannot be watched.
        """
        with self._lock:
            changed = self._heard()
            try:
                torn = [name for name in changed if not self._note(name, spellings)]
            except JournalError:
                self._events = None  # it is not known what has changed
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
        """The records that changed since the last call; at first all."""
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
            events = _watched(self._folder)
            files = dict.fromkeys(os.listdir(self._folder))
            self._known.clear()
            self._events = events
        return named(files)


def _watched(folder: str) -> FileIO:
    """An inotify descriptor that does not wait. Raises ``OSError``."""
    import ctypes  # noqa: PLC0415  2 ms, for who stays

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    events = FileIO(descriptor)
    mask = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_MOVE_SELF | IN_ONLYDIR
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        raise OSError(ctypes.get_errno(), f"inotify_add_watch {folder}")
    return events
