"""SIGKILL at a chosen event of the product, in a child process, without test code in the product.

The child is forked from the test process, so no interpreter has to start. Only in the child, the
functions that reach the kernel, the disk and the delegates are wrapped; each call is an event. At
the chosen event the child sends itself SIGKILL: no handler, no ``finally``, no flush. The messages
of one send are sent one by one there, so that the child can be killed between two of them: a real
kernel does not allow this.
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
from bondcni.kernel.wire import NLM_F_ACK, Ack, NetlinkRequest
from bondcni.service import journal

THICK = os.environ.get("BONDCNI_WAY") == "thick"
Work = Callable[[], object]

READS = "read"
FLEETING = (READS, "lock", "folder")
"""Kinds of events that change nothing, or nothing that outlives the process: killing before them is
enough.
"""

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
"""Functions that are wrapped unchanged, and the name of their event."""


class Event(NamedTuple):
    """One call of a wrapped function."""

    kind: str
    label: str


LAST = Event("frame", "ANSWER")


class Point(NamedTuple):
    """Where to kill: before, after or in the middle of an event."""

    number: int
    when: str  # "before", "half" or "after"
    event: Event

    def __str__(self) -> str:
        return f"{self.when} {self.event.kind} {self.number} ({self.event.label})"


class Seam:
    """Counts the events of this process, and kills it at one of them.

    With ``lasting`` only events that change something are counted.
    """

    def __init__(self, number: int = -1, when: str = "", *, lasting: bool = False) -> None:
        self.events: list[Event] = []
        self._at = (number, when)
        self._lasting = lasting

    def install(self) -> None:
        """Wrap the functions, until this process ends."""
        for module, name, kind in CALLS:
            if not (THICK and kind.startswith("delegate")):  # there by the executable
                setattr(module, name, self._wrapped(kind, getattr(module, name)))
        vars(journal)["open"] = self._open
        transmit, send = Rtnetlink._transmit, Rtnetlink.send

        def transmitted(
            rtnl: Rtnetlink, requests: Sequence[NetlinkRequest], flags: int, end: float
        ) -> int:
            kind = "kernel" if flags & NLM_F_ACK else READS
            with self._event(kind, requests[0].operation):
                return transmit(rtnl, requests, flags, end)

        def sent(rtnl: Rtnetlink, requests: Sequence[NetlinkRequest], end: float) -> list[Ack]:
            return [ack for request in requests for ack in send(rtnl, [request], end)]

        for name, wrapped in (("_transmit", transmitted), ("send", sent)):
            setattr(Rtnetlink, name, wrapped)
        self._watch_frames()

    def _watch_frames(self) -> None:
        """Frames from the daemon to the executable are events: calls and the answer."""
        say = Connection.send

        def said(self_: Connection, kind: int, *args: Any, **kwargs: Any) -> None:
            with self._event("frame", Type(kind).name):
                say(self_, kind, *args, **kwargs)

        setattr(Connection, "send", said)  # noqa: B010  mypy lets no method be replaced

    def reach(self, when: str) -> None:
        """Kill the process if this is the chosen place."""
        counted = [e for e in self.events if not self._lasting or e.kind not in FLEETING]
        if self._at == (len(counted) - 1, when) and counted[-1] is self.events[-1]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _event(self, kind: str, label: str) -> _Around:
        return _Around(self, Event(kind, label))

    def _wrapped(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if kind == "lock" and args[2][:2] == UNLOCK:  # the end of the process does this, too
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
    """A file; writing it can be interrupted in the middle."""

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
    """The end of a child: killed at its point, or completed."""

    killed: bool
    answer: Any
    events: list[Event]


class Child:
    """A process that runs beside the test."""

    def __init__(self, work: Work, seam: Seam) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            _work(work, seam, writing)
        os.close(writing)
        self._reading = reading

    def end(self) -> Ended:
        """Wait for its end. A child that raised an exception fails the test."""
        with open(self._reading, "rb") as pipe:  # delegates do not inherit it: close-on-exec
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status == -signal.SIGKILL:
            return Ended(killed=True, answer=None, events=[])
        assert status == 0, f"the child ended with {status}: {said.decode()}"
        answer, events = json.loads(said)
        return Ended(killed=False, answer=answer, events=[Event(*event) for event in events])


def run(work: Work, number: int = -1, when: str = "") -> Ended:
    """Run ``work`` in a child that is killed at an event; its answer (JSON) if the event is not
    reached.
    """
    return Child(work, Seam(number, when)).end()


def _work(work: Work, seam: Seam, writing: int) -> None:
    status = 1
    try:
        seam.install()
        said = json.dumps([work(), seam.events])
        status = 0
    except BaseException:  # noqa: BLE001  the parent reports it
        said = traceback.format_exc()
    finally:
        with open(writing, "wb") as pipe:
            pipe.write(said.encode())
        os._exit(status)


def points(events: Sequence[Event]) -> list[Point]:
    """Every point to kill at: before and after each change, and once in a sequence of reads."""
    found = []
    for number, event in enumerate(events):
        if event.kind in FLEETING:
            again = event.kind == READS and number > 0 and events[number - 1].kind == READS
            whens = [] if again else ["before"]
        else:
            whens = ["before", "half", "after"] if event.kind == "write" else ["before", "after"]
            if event == LAST:  # the child may have been ended before it gets here
                whens = ["before"]
        found += [Point(number, when, event) for when in whens]
    return found
