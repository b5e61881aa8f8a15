"""``bondctl serve``: the resident server that receives requests from the shim.

One thread accepts connections and reads requests, so that silent connections cost nothing; a
worker pool runs the requests, those of one container in their order. The daemon needs
CAP_NET_ADMIN and nothing else; what needs more, the shim does (``shim_client.py``). Links that
are back on the host are restored at the start; other pending cleanup waits for requests
(``pending_cleanup.py``).

SIGTERM ends the daemon after the running requests, and until then DEL is still accepted; SIGHUP
reads the policy again. Readiness is reported to systemd. Nothing that a peer sends or omits ends
the loop or blocks it.
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
from bondcni.daemon.connection import Connection, Disconnected
from bondcni.daemon.log import Event, Log, configure, log
from bondcni.daemon.policy_cache import PolicyCache
from bondcni.daemon.protocol import Frame, ProtocolError, Type
from bondcni.daemon.reply import refusal, send
from bondcni.daemon.worker import IncomingRequest, Verb, Worker
from bondcni.daemon.worker_pool import WorkerPool
from bondcni.service import verbs
from bondcni.service.answer import Answer
from bondcni.service.paths import SOCKET
from bondcni.service.timeouts import DEFAULT, Timeouts

WORKERS = 16
MAX_WAITING = 1024
"""Requests that may wait for a worker; a node has a few hundred pods."""

MAX_INCOMPLETE = 128
"""Connections without a complete request; above this the oldest is closed."""

REQUEST_SECONDS = 5.0
"""Seconds from the connection to a complete request."""

ACCEPT_PAUSE = 0.5
"""Seconds without accepting after the process ran out of descriptors."""


class Settings(NamedTuple):
    """The options of the command line, and limits."""

    socket: str = SOCKET
    state: str = ""
    policy: str = ""
    workers: int = WORKERS
    max_waiting: int = MAX_WAITING
    request_timeout: float = REQUEST_SECONDS
    timeouts: Timeouts = DEFAULT
    log_level: str = "info"
    log_format: str = "logfmt"


class IncompleteRequest(NamedTuple):
    """A connection whose request is not complete yet."""

    connection: Connection
    since: float


class Daemon:
    """The server; ``run`` returns after ``stop``, when all requests are done."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        log: Log = log,
        verb: Verb = verbs.serve,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._policy = PolicyCache(settings.policy)
        self._worker = Worker(settings.state, self._policy, log, verb, settings.timeouts)
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._incomplete: dict[int, IncompleteRequest] = {}
        self._woken, self._waker = socket.socketpair()
        self._pool = WorkerPool(
            settings.workers, settings.max_waiting, self._job_ended, self._job_failed
        )
        self._stopping = False
        self._reloading = False
        self._paused_until = 0.0  # when to accept again; 0: not paused

    def prepare(self) -> None:
        """Do what comes before the first request."""
        self._worker.prepare()
        for sock in (self._listener, self._woken, self._waker):
            sock.setblocking(False)  # noqa: FBT003  its one parameter
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    # Called from other threads and signal handlers; the loop does the work.

    def stop(self) -> None:
        """Accept only DEL from now on; ``run`` returns when the running requests are done."""
        self._stopping = True
        self._wake()

    def reload(self) -> None:
        """Read the policy again."""
        self._reloading = True
        self._wake()

    def _job_ended(self) -> None:
        """The loop waits for the end of a request only while the daemon is stopping."""
        if self._stopping:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the buffer is full, or the loop has ended
            self._waker.send(b"\0")

    def _job_failed(self, error: Exception) -> None:
        self._log(Event.INTERNAL_ERROR, traceback="".join(traceback.format_exception(error)))

    # The loop.

    def run(self) -> None:
        """Serve until ``stop``."""
        with contextlib.closing(self._worker), self._selector, self._woken, self._waker:
            while not (self._stopping and not self._incomplete and not self._pool.busy()):
                for key, _ in self._selector.select(self._timeout()):
                    self._handle(key)
                self._drop_expired()
                self._resume_accepting()
                if self._reloading:
                    self._reload()

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        elif incomplete := self._incomplete.get(key.fd):  # else it was closed in this round
            self._read(incomplete)

    def _timeout(self) -> float | None:
        ends = [self._paused_until] if self._paused_until else []
        if self._incomplete:
            ends.append(
                next(iter(self._incomplete.values())).since + self._settings.request_timeout
            )
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _reload(self) -> None:
        self._reloading = False
        self._policy.invalidate()
        try:
            self._policy()
        except PolicyError as error:
            self._log(Event.POLICY_ERROR, error=error.message)
        else:
            self._log(Event.POLICY_RELOADED)

    # Connections.

    def _accept(self) -> None:
        for _ in range(MAX_INCOMPLETE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no free descriptors: close a connection without a request
                self._log(Event.ACCEPT_FAILED, error=error.strerror)
                self._drop_oldest("too many open files")
                self._selector.unregister(self._listener)  # else select() would return at once
                self._paused_until = time.monotonic() + ACCEPT_PAUSE
                return
            self._admit(Connection(sock))

    def _resume_accepting(self) -> None:
        if self._paused_until and time.monotonic() >= self._paused_until:
            self._paused_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _admit(self, connection: Connection) -> None:
        if (user := connection.user()) not in (0, os.geteuid()):
            self._log(Event.CONNECTION_REFUSED, user=user)
            connection.close()
            return
        incomplete = IncompleteRequest(connection, time.monotonic())
        self._incomplete[connection.socket.fileno()] = incomplete
        self._selector.register(connection.socket, selectors.EVENT_READ)
        if len(self._incomplete) > MAX_INCOMPLETE:
            self._drop_oldest(f"more than {MAX_INCOMPLETE} connections without a complete request")
        self._read(incomplete)

    def _drop_expired(self) -> None:
        before = time.monotonic() - self._settings.request_timeout
        while self._incomplete and next(iter(self._incomplete.values())).since <= before:
            self._drop_oldest(f"no complete request within {self._settings.request_timeout:g} s")

    def _drop_oldest(self, reason: str) -> None:
        if self._incomplete:
            oldest = next(iter(self._incomplete.values()))
            self._release(oldest)
            oldest.connection.close()
            self._log(Event.CONNECTION_DROPPED, reason=reason)

    def _release(self, incomplete: IncompleteRequest) -> None:
        """Remove a connection from the loop."""
        descriptor = incomplete.connection.socket.fileno()
        del self._incomplete[descriptor]
        self._selector.unregister(descriptor)

    def _read(self, incomplete: IncompleteRequest) -> None:
        """Continue to read a request; a complete one goes to the worker pool."""
        connection = incomplete.connection
        try:
            frame = connection.try_receive()
        except ProtocolError as error:
            self._release(incomplete)
            self._reject(connection, error)
            return
        if frame is not None:
            self._release(incomplete)
            try:
                self._begin(connection, frame)
            except ProtocolError as error:
                self._reject(connection, error)

    def _reject(self, connection: Connection, error: ProtocolError) -> None:
        with connection:
            if not isinstance(error, Disconnected):
                self._log(Event.PROTOCOL_ERROR, error=str(error))
                send(connection, refusal(str(error)), seconds=0)

    def _begin(self, connection: Connection, frame: Frame) -> None:
        if frame.type == Type.PING:
            with connection:
                send(connection, Answer("", 0), seconds=0)
            return
        if frame.type != Type.REQUEST:
            raise ProtocolError(f"unexpected frame of type {frame.type}, expected REQUEST")
        incoming = IncomingRequest.of(connection, frame)
        if self._stopping and incoming.command != "DEL":
            self._worker.refuse(incoming, "the bond daemon is shutting down")
        elif not self._pool.submit(incoming.container, partial(self._worker.serve, incoming)):
            self._worker.refuse(
                incoming, f"too many waiting requests (limit: {self._settings.max_waiting})"
            )


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ``start_up.CannotServe``."""
    configure(settings.log_level, settings.log_format)
    start_up.raise_file_limit()
    with start_up.listening(settings.socket) as listener:
        daemon = Daemon(settings, listener)

        def stop(*_: object) -> None:
            start_up.notify("STOPPING=1")
            daemon.stop()

        handlers: dict[signal.Signals, Callable[..., Any]] = {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGHUP: lambda *_: daemon.reload(),
        }
        for one, handler in handlers.items():
            signal.signal(one, handler)
        daemon.prepare()
        gc.collect()
        gc.freeze()  # these objects stay: the collector need not look at them
        start_up.notify("READY=1")
        daemon.run()
        log(Event.STOPPED)
