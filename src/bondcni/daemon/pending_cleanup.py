"""Pending cleanup: queued DELs, and attachments left by a crash, by an interrupted request or by a
caller that went away.

Entering pods and running IPAM plugins needs a caller's rights, so cleanup is done with the help of
the next requests: before each one a bounded part, the least recently tried first. Its outcome is
logged and never fails a request of another pod; what failed is tried again after
``RETRY_SECONDS``. A queued DEL of the request's own attachment, or of one that claimed the links
the request wants, is always done before the request.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from bondcni.core.errors import TryAgain
from bondcni.core.lifecycle import AttachmentState, Operation, action_of
from bondcni.daemon.delete_queue import DeleteQueue
from bondcni.daemon.log import Event, Log
from bondcni.service.attachment import Service
from bondcni.service.index import Name
from bondcni.service.reconcile import condition, reclaim, records

BATCH = 8
"""How many attachments are cleaned up before one request, which waits for it."""


class Counts(NamedTuple):
    """The number of queued DELs, of stale attachments (to be taken down), and of attachments whose
    state is not known yet.
    """

    queued: int
    stale: int
    unexamined: int


class PendingCleanup:
    """The pending cleanup of one state directory; can be used by several threads."""

    def __init__(self, queue: DeleteQueue, log: Log) -> None:
        self._queue = queue
        self._log = log
        self._stale: set[Name] = set()
        self._unexamined: set[Name] = set()
        self._tried: dict[Name, float] = {}
        self._draining = threading.Lock()
        self._active: set[Name] = set()
        self._changed = threading.Condition()

    def scan(self, service: Service) -> None:
        """Note every attachment that is not active, as far as this process can see; ``drain``
        examines the others.
        """
        for one in records(service):
            self._note((one.container_id, one.ifname), condition(service, one).state)

    def _note(self, name: Name, state: AttachmentState) -> None:
        """Note what an attachment of that state needs."""
        self._drop(name)
        if state is AttachmentState.UNKNOWN:
            self._unexamined.add(name)
        elif action_of(Operation.CLEANUP, state).ends:
            self._stale.add(name)

    def _drop(self, name: Name) -> None:
        self._stale.discard(name)
        self._unexamined.discard(name)

    def _is_noted(self, name: Name) -> bool:
        return name in self._stale or name in self._unexamined

    def add(self, name: Name) -> None:
        """Note one attachment that must be taken down."""
        self._note(name, AttachmentState.INTERRUPTED)

    def counts(self) -> Counts:
        """How much is pending."""
        return Counts(len(self._queue.names()), len(self._stale), len(self._unexamined))

    def is_queued(self, name: Name) -> bool:
        """Whether a DEL of this attachment is queued."""
        return name in self._queue.names()

    def drain(
        self, service: Service, own: Name, links: Callable[[], Collection[str]] = tuple
    ) -> None:
        """Do a part before a request. ``own`` is the request's attachment; ``links`` returns the
        links it wants to claim, each by name, MAC or PCI address.

        Raises ``TryAgain`` if another request holds one that must come first for too long.
        """
        queued = self._queue.names()
        first = self._conflicting(service, own, links()) & set(queued) if queued else set()
        for name in sorted(first):
            with self._exclusive(name, service.timeouts.queued_delete):
                self._finish(service, name)
        known = {*first, own}
        noted = (*queued, *list(self._stale), *list(self._unexamined))
        others = self._ready_to_try(
            [name for name in noted if name not in known], service.timeouts.cleanup_retry
        )
        if not others or not self._draining.acquire(blocking=False):
            return
        try:
            until = time.monotonic() + service.timeouts.cleanup
            for name in others[:BATCH]:
                if time.monotonic() < until:  # one that another request works on is skipped
                    with suppress(TryAgain), self._exclusive(name, 0.0):
                        self._finish(service, name)
        finally:
            self._draining.release()

    @staticmethod
    def _conflicting(service: Service, own: Name, links: Collection[str]) -> set[Name]:
        """The attachment itself, and those that claimed its links. The shim may have returned these
        links without restoring them: an ADD before the DEL would record the wrong original state.
        """
        found = service.journal.naming(links, service.warn) if links else []
        return {own, *((record.container_id, record.ifname) for record in found)}

    def _ready_to_try(self, names: list[Name], retry: float) -> list[Name]:
        """Those not tried within ``retry`` seconds, each once; the least recently tried first."""
        before = time.monotonic() - retry
        tried = {name: self._tried.get(name, -math.inf) for name in names}
        return sorted((n for n in tried if tried[n] <= before), key=lambda n: (tried[n], n))

    @contextmanager
    def _exclusive(self, name: Name, wait: float) -> Iterator[None]:
        """Keep other threads from ``name``: a queued DEL must never run after a new ADD."""
        with self._changed:
            if not self._changed.wait_for(lambda: name not in self._active, wait):
                raise TryAgain(f"the queued DEL of {name[1]} is still in progress")
            self._active.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._active.discard(name)
                self._changed.notify_all()

    def _finish(self, service: Service, name: Name) -> None:
        """Try one, and log the outcome."""
        was_queued = name in self._queue.names()
        try:
            event, detail = self._attempt(service, name)
        except Exception as error:  # noqa: BLE001  it must not fail the request of another pod
            event, detail = Event.CLEANUP_DONE, f"{type(error).__name__}: {error}"
        if self._is_noted(name) or name in self._queue.names():
            event = Event.CLEANUP_PENDING
            self._tried[name] = time.monotonic()
        else:
            self._tried.pop(name, None)
        if event is not Event.CLEANUP_DONE or was_queued or detail:
            said = {"detail": detail} if detail else {}
            self._log(event, container=name[0], ifname=name[1], **said)

    def _attempt(self, service: Service, name: Name) -> tuple[Event, str]:
        """Try one; the event to log, and its detail or ""."""
        left = self._queue.execute(service, name)
        if left:
            return Event.QUEUED_DEL_REJECTED, left  # pending, if it is still queued
        if not self._is_noted(name):
            return Event.CLEANUP_DONE, ""
        messages: list[str] = []
        record = service.journal.read(*name, messages.append)
        if record is not None:
            found = reclaim(service, record, Operation.CLEANUP)
            if not found.done:
                if found.state is not AttachmentState.BUSY:  # then it was not examined
                    self._note(name, found.state)
                return Event.CLEANUP_PENDING, "; ".join(found.messages) or found.state
            if found.state is not AttachmentState.ACTIVE:
                messages.append(f"taken down: {found.state}")
        self._drop(name)
        return Event.CLEANUP_DONE, "; ".join(messages)
