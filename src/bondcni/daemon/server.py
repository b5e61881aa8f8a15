"""``bondctl serve``: the resident server that the shim hands requests to.

One thread accepts connections and reads their first frame, so that silent ones cost nothing;
a bounded crew does the requests, those of one container in their order. It needs
CAP_NET_ADMIN and nothing else: what takes more, the shim does (``shim_client.py``). What was
queued while it was away, or is due since a crash, is done as soon as somebody calls who can;
what is at home by itself is put right at the start.

SIGTERM ends it when what runs is done, and DEL is still taken meanwhile; SIGHUP reads the
policy again. It tells readiness as systemd wants it, and each request in one line. Nothing that
a peer sends or leaves out ends the loop or makes it wait.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bondcni.core.errors import PolicyError
from bondcni.daemon import start_up
from bondcni.daemon.connection import Connection, Gone
from bondcni.daemon.log import Event, Log, configure, log
from bondcni.daemon.policy_cache import Rules
from bondcni.daemon.protocol import Frame, ProtocolError, Type
from bondcni.daemon.reply import refusal, send
from bondcni.daemon.worker import Verb, Visit, Worker
from bondcni.daemon.worker_pool import Crew
from bondcni.service import verbs
from bondcni.service.answer import Answer
from bondcni.service.paths import SOCKET
from bondcni.service.timeouts import DEFAULT, Timeouts

WORKERS = 16
WAITING = 1024
"""Requests that wait for a worker; a node has some hundred pods."""

SILENT = 128
"""Connections that have not completed their request; above, the oldest goes."""

SILENCE = 5.0
"""Seconds to complete a request in."""

REST = 0.5
"""Seconds until connections are accepted again where the process has no descriptors left."""


class Settings(NamedTuple):
    """What the command line says, and the limits."""

    socket: str = SOCKET
    state: str = ""
    policy: str = ""
    workers: int = WORKERS
    waiting: int = WAITING
    silence: float = SILENCE
    timeouts: Timeouts = DEFAULT
    log_level: str = "info"
    log_format: str = "logfmt"


class Pending(NamedTuple):
    """A connection whose request is not complete."""

    connection: Connection
    since: float


class Daemon:
    """The server; ``run`` returns when it was told to end and everything is done."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        log: Log = log,
        verb: Verb = verbs.serve,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._rules = Rules(settings.policy)
        self._worker = Worker(settings.state, self._rules, log, verb, settings.timeouts)
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, Pending] = {}
        self._woken, self._waker = socket.socketpair()
        self._crew = Crew(settings.workers, settings.waiting, self._ended, self._defect)
        self._ending = False
        self._reloading = False
        self._resting = 0.0  # until when nothing is accepted; 0: it is

    def prepare(self) -> None:
        """Do what is to be done before the first request."""
        self._worker.prepare()
        for sock in (self._listener, self._woken, self._waker):
            sock.setblocking(False)  # noqa: FBT003  its one parameter
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    # From other threads and from signal handlers: they leave word, and the loop does it.

    def end(self) -> None:
        """Finish what runs, take no more but DEL, then return from ``run``."""
        self._ending = True
        self._wake()

    def reload(self) -> None:
        """Read the policy again."""
        self._reloading = True
        self._wake()

    def _ended(self) -> None:
        """A request has ended; the loop wants to know only when it waits for the last."""
        if self._ending:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # enough of them wait there, or the loop has ended
            self._waker.send(b"\0")

    def _defect(self, error: Exception) -> None:
        self._log(Event.INTERNAL_ERROR, traceback="".join(traceback.format_exception(error)))

    # The loop.

    def run(self) -> None:
        """Serve until the end."""
        with contextlib.closing(self._worker), self._selector, self._woken, self._waker:
            while not (self._ending and not self._pending and not self._crew.busy()):
                for key, _ in self._selector.select(self._patience()):
                    self._turn(key)
                self._drop_silent()
                self._accept_again()
                if self._reloading:
                    self._reload()

    def _turn(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        elif pending := self._pending.get(key.fd):  # else it was dropped in this turn
            self._read(pending)

    def _patience(self) -> float | None:
        ends = [self._resting] if self._resting else []
        if self._pending:
            ends.append(next(iter(self._pending.values())).since + self._settings.silence)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _reload(self) -> None:
        self._reloading = False
        self._rules.forget()
        try:
            self._rules()
        except PolicyError as error:
            self._log(Event.POLICY_ERROR, error=error.message)
        else:
            self._log(Event.POLICY_RELOADED)

    # Connections.

    def _accept(self) -> None:
        for _ in range(SILENT):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptors: who is silent makes room
                self._log(Event.ACCEPT_FAILED, error=error.strerror)
                self._drop_oldest("too many open files")
                self._selector.unregister(self._listener)  # or it would be ready all the time
                self._resting = time.monotonic() + REST
                return
            self._greet(Connection(sock))

    def _accept_again(self) -> None:
        if self._resting and time.monotonic() >= self._resting:
            self._resting = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _greet(self, connection: Connection) -> None:
        if (user := connection.user()) not in (0, os.geteuid()):
            self._log(Event.CONNECTION_REFUSED, user=user)
            connection.close()
            return
        pending = Pending(connection, time.monotonic())
        self._pending[connection.socket.fileno()] = pending
        self._selector.register(connection.socket, selectors.EVENT_READ)
        if len(self._pending) > SILENT:
            self._drop_oldest(f"more than {SILENT} connections without a complete request")
        self._read(pending)

    def _drop_silent(self) -> None:
        before = time.monotonic() - self._settings.silence
        while self._pending and next(iter(self._pending.values())).since <= before:
            self._drop_oldest(f"no complete request within {self._settings.silence:g} s")

    def _drop_oldest(self, reason: str) -> None:
        if self._pending:
            oldest = next(iter(self._pending.values()))
            self._release(oldest)
            oldest.connection.close()
            self._log(Event.CONNECTION_DROPPED, reason=reason)

    def _release(self, pending: Pending) -> None:
        """Take a connection out of the loop."""
        descriptor = pending.connection.socket.fileno()
        del self._pending[descriptor]
        self._selector.unregister(descriptor)

    def _read(self, pending: Pending) -> None:
        """Go on reading a request; a complete one goes to the crew."""
        connection = pending.connection
        try:
            frame = connection.step()
        except ProtocolError as error:
            self._release(pending)
            self._reject(connection, error)
            return
        if frame is not None:
            self._release(pending)
            try:
                self._begin(connection, frame)
            except ProtocolError as error:
                self._reject(connection, error)

    def _reject(self, connection: Connection, error: ProtocolError) -> None:
        with connection:
            if not isinstance(error, Gone):
                self._log(Event.PROTOCOL_ERROR, error=str(error))
                send(connection, refusal(str(error)), seconds=0)

    def _begin(self, connection: Connection, frame: Frame) -> None:
        if frame.type == Type.PING:
            with connection:
                send(connection, Answer("", 0), seconds=0)
            return
        if frame.type != Type.REQUEST:
            raise ProtocolError(f"a frame of type {frame.type} where REQUEST is due")
        visit = Visit.of(connection, frame)
        if self._ending and visit.command != "DEL":
            self._worker.refuse(visit, "the bond daemon is ending")
        elif not self._crew.submit(visit.container, partial(self._worker.serve, visit)):
            self._worker.refuse(visit, f"more than {self._settings.waiting} requests wait")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ``starting.CannotServe``."""
    configure(settings.log_level, settings.log_format)
    start_up.make_room()
    with start_up.listening(settings.socket) as listener:
        daemon = Daemon(settings, listener)

        def end(*_: object) -> None:
            start_up.notify("STOPPING=1")
            daemon.end()

        handlers: dict[signal.Signals, Callable[..., Any]] = {
            signal.SIGTERM: end,
            signal.SIGINT: end,
            signal.SIGHUP: lambda *_: daemon.reload(),
        }
        for one, handler in handlers.items():
            signal.signal(one, handler)
        daemon.prepare()
        gc.collect()
        gc.freeze()  # what is there now stays: no need to look at it again
        start_up.notify("READY=1")
        daemon.run()
        log(Event.STOPPED)
