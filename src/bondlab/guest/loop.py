"""An event loop without threads; why not asyncio: docs/decisions/0013.

Each source has one callback for readability; queued data of `Lines` is written when the socket is
writable. One deadline limits the wait; its meaning is decided by the caller.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import Any

from bondlab.guest.lines import Lines


class Loop:
    """Sources and their callbacks, and one deadline (time.monotonic, None: none)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.deadline: float | None = None

    def watch(self, source: Any, react: Callable[[], None]) -> None:
        """Call ``react`` when ``source`` (a descriptor, or an object with one) is readable."""
        self._selector.register(source, selectors.EVENT_READ, react)

    def forget(self, source: Any) -> None:
        """Stop watching ``source``; no error if it is not watched."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def turn(self) -> bool:
        """Wait for events and handle them; False if the deadline passed first."""
        wait = None if self.deadline is None else self.deadline - time.monotonic()
        if wait is not None and wait <= 0:
            return False
        for key, events in self._selector.select(wait):
            if events & selectors.EVENT_WRITE and isinstance(key.fileobj, Lines):
                key.fileobj.flush()
            if events & selectors.EVENT_READ:
                key.data()
        self._watch_writable()
        return True

    def _watch_writable(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Lines):
                write = selectors.EVENT_WRITE if key.fileobj.pending else 0
                if key.events != selectors.EVENT_READ | write:
                    self._selector.modify(key.fileobj, selectors.EVENT_READ | write, key.data)
