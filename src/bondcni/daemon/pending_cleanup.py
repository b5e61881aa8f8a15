"""What is owed from before: deletions that were queued while no daemon answered, attachments
that a crash or a caller that went away left.

It is done with the help of whoever calls next, a bounded part before each request, what was not
tried yet first. Whatever comes of it is told in the log and fails nobody else's request; what
was not done is not tried again at once. The queued deletion of a request's own attachment, or of
one that has the links it wants, is done before the request in any case.
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
from bondcni.daemon.delete_queue import Backlog
from bondcni.daemon.log import Event, Log
from bondcni.service.attachment import Service
from bondcni.service.index import Name
from bondcni.service.reconcile import condition, reclaim, records

AT_ONCE = 8
"""How many attachments are cleaned up before one request, which waits for it."""


class Waiting(NamedTuple):
    """How many deletions are queued, how many dead attachments are to be taken down, and of how
    many it is not known yet whether they are dead.
    """

    queued: int
    dead: int
    unexamined: int


class Due:
    """What is owed in one state folder; for any number of threads."""

    def __init__(self, backlog: Backlog, log: Log) -> None:
        self._backlog = backlog
        self._log = log
        self._dead: set[Name] = set()
        self._unexamined: set[Name] = set()
        self._tried: dict[Name, float] = {}
        self._draining = threading.Lock()
        self._at_work: set[Name] = set()
        self._changed = threading.Condition()

    def look(self, service: Service) -> None:
        """Note what is not active, as far as it can be seen; ``drain`` looks again."""
        for one in records(service):
            self._note((one.container_id, one.ifname), condition(service, one).state)

    def _note(self, name: Name, state: AttachmentState) -> None:
        """Note an attachment in this state, unless there is nothing to do about it."""
        self._drop(name)
        if state is AttachmentState.UNKNOWN:
            self._unexamined.add(name)
        elif action_of(Operation.CLEANUP, state).ends:
            self._dead.add(name)

    def _drop(self, name: Name) -> None:
        self._dead.discard(name)
        self._unexamined.discard(name)

    def _is_noted(self, name: Name) -> bool:
        return name in self._dead or name in self._unexamined

    def add(self, name: Name) -> None:
        """Note one attachment that is to be taken down."""
        self._note(name, AttachmentState.INTERRUPTED)

    def waiting(self) -> Waiting:
        """How much is owed."""
        return Waiting(len(self._backlog.names()), len(self._dead), len(self._unexamined))

    def is_queued(self, name: Name) -> bool:
        """Whether a deletion of this attachment is queued."""
        return name in self._backlog.names()

    def drain(
        self, service: Service, own: Name, links: Callable[[], Collection[str]] = tuple
    ) -> None:
        """Do a part; ``own`` is the attachment of the request that it is done before, ``links``
        tells what it wants to take: each link's name, MAC or PCI address.

        Raises ``TryAgain`` where another request is at work on one of these and does not end.
        """
        queued = self._backlog.names()
        first = self._in_its_way(service, own, links()) & set(queued) if queued else set()
        for name in sorted(first):
            with self._alone(name, service.timeouts.queued_delete):
                self._finish(service, name)
        known = {*first, own}
        noted = (*queued, *list(self._dead), *list(self._unexamined))
        others = self._ripe(
            [name for name in noted if name not in known], service.timeouts.cleanup_retry
        )
        if not others or not self._draining.acquire(blocking=False):
            return
        try:
            until = time.monotonic() + service.timeouts.cleanup
            for name in others[:AT_ONCE]:
                if time.monotonic() < until:  # one that somebody is at work on needs no second
                    with suppress(TryAgain), self._alone(name, 0.0):
                        self._finish(service, name)
        finally:
            self._draining.release()

    @staticmethod
    def _in_its_way(service: Service, own: Name, links: Collection[str]) -> set[Name]:
        """The attachment itself, and those that have its links. They may be at home already, for
        the shim sends them as they are: whoever took them then would take that for their state.
        """
        found = service.journal.naming(links, service.warn) if links else []
        return {own, *((record.container_id, record.ifname) for record in found)}

    def _ripe(self, names: list[Name], retry: float) -> list[Name]:
        """Those to try, each once: what was tried longest ago comes first."""
        before = time.monotonic() - retry
        tried = {name: self._tried.get(name, -math.inf) for name in names}
        return sorted((n for n in tried if tried[n] <= before), key=lambda n: (tried[n], n))

    @contextmanager
    def _alone(self, name: Name, patience: float) -> Iterator[None]:
        """Nobody else at work on ``name``: a deletion must not come late, after a new ADD."""
        with self._changed:
            if not self._changed.wait_for(lambda: name not in self._at_work, patience):
                raise TryAgain(f"a deletion of {name[1]} that was queued goes on")
            self._at_work.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.discard(name)
                self._changed.notify_all()

    def _finish(self, service: Service, name: Name) -> None:
        """Try one, and log what came of it."""
        was_queued = name in self._backlog.names()
        try:
            event, detail = self._attempt(service, name)
        except Exception as error:  # noqa: BLE001  it must not fail the request of another pod
            event, detail = Event.CLEANUP_DONE, f"{type(error).__name__}: {error}"
        if self._is_noted(name) or name in self._backlog.names():
            event = Event.CLEANUP_PENDING
            self._tried[name] = time.monotonic()
        else:
            self._tried.pop(name, None)
        if event is not Event.CLEANUP_DONE or was_queued or detail:
            said = {"detail": detail} if detail else {}
            self._log(event, container=name[0], ifname=name[1], **said)

    def _attempt(self, service: Service, name: Name) -> tuple[Event, str]:
        """The event to log, and its detail or ""."""
        left = self._backlog.finish(service, name)
        if left:
            return Event.QUEUED_DEL_REJECTED, left  # still queued: then it is pending
        if not self._is_noted(name):
            return Event.CLEANUP_DONE, ""
        messages: list[str] = []
        record = service.journal.read(*name, messages.append)
        if record is not None:
            found = reclaim(service, record, Operation.CLEANUP)
            if not found.done:
                if found.state is not AttachmentState.BUSY:  # the record was not examined
                    self._note(name, found.state)
                return Event.CLEANUP_PENDING, "; ".join(found.messages) or found.state
            if found.state is not AttachmentState.ACTIVE:
                messages.append(f"taken down: {found.state}")
        self._drop(name)
        return Event.CLEANUP_DONE, "; ".join(messages)
