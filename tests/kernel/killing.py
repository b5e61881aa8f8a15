"""SIGKILL at a chosen event of the product, in a child: no trace of it in production code.

A child is forked from the test process, so that no interpreter has to start. In the child
alone the functions through which everything goes to the kernel, the disk and the delegates
are wrapped; each call is an event. Where the child shall die, it sends itself SIGKILL: no
handler, no ``finally``, no flush. The messages of one send go one by one there, so that it
can die between two of them: harsher than what a real kernel lets happen.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from bondcni.daemon.connection import Connection
from bondcni.daemon.protocol import Type
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import NLM_F_ACK, Ack, Request
from bondcni.service import journal

THICK = os.environ.get("BONDCNI_WAY") == "thick"
Work = Callable[[], object]

READS = "read"
FLEETING = (READS, "lock", "folder")
"""Kinds of events that change nothing, or nothing that outlives the process: it is enough to
die before them."""

UNLOCK = struct.pack("=h", fcntl.F_UNLCK)

CALLS: tuple[tuple[Any, str, str], ...] = (
    (os, "makedirs", "folder"),
    (os, "fsync", "fsync"),
    (os, "rename", "rename"),
    (os, "unlink", "unlink"),
    (os, "posix_spawn", "delegate"),
    (os, "waitpid", "delegate end"),
    (fcntl, "fcntl", "lock"),
)
"""Functions that are wrapped as they are, and what their call is called."""


class Event(NamedTuple):
    """One call at the seam."""

    kind: str
    label: str


LAST = Event("frame", "ANSWER")


class Point(NamedTuple):
    """Where to die: before, after or in the middle of an event."""

    number: int
    when: str  # "before", "half" or "after"
    event: Event

    def __str__(self) -> str:
        return f"{self.when} {self.event.kind} {self.number} ({self.event.label})"


class Seam:
    """Counts the events of this process, and kills it at one of them.

    Where ``lasting``, only events that change something are counted.
    """

    def __init__(self, number: int = -1, when: str = "", *, lasting: bool = False) -> None:
        self.events: list[Event] = []
        self._at = (number, when)
        self._lasting = lasting

    def install(self) -> None:
        """Wrap the functions, for the rest of this process's life."""
        for module, name, kind in CALLS:
            if not (THICK and kind.startswith("delegate")):  # there the shim runs them
                setattr(module, name, self._wrapped(kind, getattr(module, name)))
        vars(journal)["open"] = self._open
        transmit, send = Rtnetlink._transmit, Rtnetlink.send

        def transmitted(
            rtnl: Rtnetlink, requests: Sequence[Request], flags: int, end: float
        ) -> int:
            kind = "kernel" if flags & NLM_F_ACK else READS
            with self._event(kind, requests[0].operation):
                return transmit(rtnl, requests, flags, end)

        def sent(rtnl: Rtnetlink, requests: Sequence[Request], end: float) -> list[Ack]:
            return [ack for request in requests for ack in send(rtnl, [request], end)]

        for name, wrapped in (("_transmit", transmitted), ("send", sent)):
            setattr(Rtnetlink, name, wrapped)
        self._watch_frames()

    def _watch_frames(self) -> None:
        """What the daemon says to the shim: calls and the answer."""
        say = Connection.send

        def said(self_: Connection, kind: int, *args: Any, **kwargs: Any) -> None:
            with self._event("frame", Type(kind).name):
                say(self_, kind, *args, **kwargs)

        setattr(Connection, "send", said)  # noqa: B010  mypy lets no method be replaced

    def reach(self, when: str) -> None:
        """Die if this is the place."""
        counted = [e for e in self.events if not self._lasting or e.kind not in FLEETING]
        if self._at == (len(counted) - 1, when) and counted[-1] is self.events[-1]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _event(self, kind: str, label: str) -> _Around:
        return _Around(self, Event(kind, label))

    def _wrapped(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if kind == "lock" and args[2][:2] == UNLOCK:  # what the end of the process does, too
                return real(*args, **kwargs)
            with self._event(kind, str(args[0])):
                return real(*args, **kwargs)

        return wrapped

    def _open(self, path: str, mode: str, **how: Any) -> Any:
        if "w" not in mode:
            return open(path, mode, **how)
        with self._event("open", path):
            return _File(self, path, open(path, mode, **how))


class _Around:
    """Before and after one event."""

    def __init__(self, seam: Seam, event: Event) -> None:
        self._seam = seam
        self._event = event

    def __enter__(self) -> None:
        self._seam.events.append(self._event)
        self._number = len(self._seam.events)
        self._seam.reach("before")

    def __exit__(self, *_: object) -> None:
        if len(self._seam.events) == self._number:
            self._seam.reach("after")


class _File:
    """A file whose writing can be cut off in the middle."""

    def __init__(self, seam: Seam, path: str, real: Any) -> None:
        self._seam = seam
        self._path = path
        self._real = real

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def write(self, content: bytes) -> int:
        with self._seam._event("write", self._path):
            half = len(content) // 2
            self._real.write(content[:half])
            self._real.flush()
            self._seam.reach("half")
            self._real.write(content[half:])
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Ended(NamedTuple):
    """What became of a child: killed at its point, or through with its work."""

    killed: bool
    answer: Any
    events: list[Event]


class Child:
    """A process that does its work beside ours."""

    def __init__(self, work: Work, seam: Seam) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            _work(work, seam, writing)
        os.close(writing)
        self._reading = reading

    def end(self) -> Ended:
        """Wait for its end. A child that raised fails the test."""
        with open(self._reading, "rb") as pipe:  # delegates do not have it: close-on-exec
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status == -signal.SIGKILL:
            return Ended(killed=True, answer=None, events=[])
        assert status == 0, f"the child ended with {status}: {said.decode()}"
        answer, events = json.loads(said)
        return Ended(killed=False, answer=answer, events=[Event(*event) for event in events])


def run(work: Work, number: int = -1, when: str = "") -> Ended:
    """``work`` in a child that dies at an event; its answer (JSON) if it does not get there."""
    return Child(work, Seam(number, when)).end()


def _work(work: Work, seam: Seam, writing: int) -> None:
    status = 1
    try:
        seam.install()
        said = json.dumps([work(), seam.events])
        status = 0
    except BaseException:  # noqa: BLE001  told by the parent
        said = traceback.format_exc()
    finally:
        with open(writing, "wb") as pipe:
            pipe.write(said.encode())
        os._exit(status)


def points(events: Sequence[Event]) -> list[Point]:
    """Every place to die: both sides of what changes something, once in a row of readings."""
    found = []
    for number, event in enumerate(events):
        if event.kind in FLEETING:
            again = event.kind == READS and number > 0 and events[number - 1].kind == READS
            whens = [] if again else ["before"]
        else:
            whens = ["before", "half", "after"] if event.kind == "write" else ["before", "after"]
            if event == LAST:  # who asked may have ended the child before it comes there
                whens = ["before"]
        found += [Point(number, when, event) for when in whens]
    return found
