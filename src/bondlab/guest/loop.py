"""A loop over things that can be read, without threads; why not asyncio: docs/decisions/0013.

Each source has one reaction; `Lines` among them are also written when they have something to
say. One deadline bounds the wait, and whoever runs the loop decides what it means.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import Any

from bondlab.guest.lines import Lines


class Loop:
    """Readable things and what to do about each; sockets of `Lines` are also written."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.deadline: float | None = None

    def watch(self, source: Any, react: Callable[[], None]) -> None:
        """Call ``react`` whenever ``source`` (a descriptor or what has one) can be read."""
        self._selector.register(source, selectors.EVENT_READ, react)

    def forget(self, source: Any) -> None:
        """Watch it no more; missing is fine."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def turn(self) -> bool:
        """Wait for the next things and deal with them; False if the deadline came first."""
        wait = None if self.deadline is None else self.deadline - time.monotonic()
        if wait is not None and wait <= 0:
            return False
        for key, events in self._selector.select(wait):
            if events & selectors.EVENT_WRITE and isinstance(key.fileobj, Lines):
                key.fileobj.flush()
            if events & selectors.EVENT_READ:
                key.data()
        self._want_writes()
        return True

    def _want_writes(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Lines):
                write = selectors.EVENT_WRITE if key.fileobj.pending else 0
                if key.events != selectors.EVENT_READ | write:
                    self._selector.modify(key.fileobj, selectors.EVENT_READ | write, key.data)
