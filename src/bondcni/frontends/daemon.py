"""``bondctl serve``: the resident server that the shim hands requests to.

One thread accepts connections and reads their first frame, so that silent ones cost nothing;
a bounded crew does the requests, those of one container in their order. It needs
CAP_NET_ADMIN and nothing else: what takes more, the shim does (``caller.py``). What was
queued while it was away, or is due since a crash, is done as soon as somebody calls who can;
what is at home by itself is put right at the start. An ADD whose caller went away is undone.

SIGTERM ends it when what runs is done, and DEL is still taken meanwhile; SIGHUP reads the
policy again. It tells readiness as systemd wants it (sd_notify(3)), and each request in one line.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from bondcni.core.errors import BondError, PolicyError, TryAgain
from bondcni.core.policy import Policy
from bondcni.core.result import Object
from bondcni.frontends.backlog import Backlog, Name
from bondcni.frontends.caller import Caller
from bondcni.frontends.connection import Connection, Gone
from bondcni.frontends.crew import Crew
from bondcni.frontends.plugin import WARNING, Answer, answered
from bondcni.frontends.protocol import Field, Frame, ProtocolError, Tag, Type, encoded, number
from bondcni.service import policy, verbs
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.reach import Direct
from bondcni.service.reconcile import mend, reclaim, records, state_of
from bondcni.service.request import read_request

DEFAULT_SOCKET = "/run/bond-cni/bond.sock"

WORKERS = 16
WAITING = 1024
"""Requests that wait for a worker; a node has some hundred pods."""

SILENT = 128
"""Connections that have not completed their request; above, the oldest goes."""

SILENCE = 5.0
"""Seconds to complete a request in."""

DUE_AT_ONCE = 8
DUE_SECONDS = 2.0
"""So much of what is due is done before one request, which waits for it."""

Log = Callable[..., None]


def log(**fields: object) -> None:
    """One line to standard error: ``key=value`` with a space between."""
    print(" ".join(f"{key}={_plain(value)}" for key, value in fields.items()), file=sys.stderr)


def _plain(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and not set(text) & set(' ="') else json.dumps(text)


class CannotServe(Exception):
    """The daemon cannot start; the text says why."""


class Rules:
    """The policy file; it is read when it changed and when it is told to."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = (-1,)
        self._found: Policy | PolicyError = Policy()

    def forget(self) -> None:
        """Read it again at the next look."""
        self._stamp = (-1,)

    def __call__(self) -> Policy:
        """What it says now. Raises ``PolicyError``."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                try:
                    self._found = policy.load(self._path)
                except PolicyError as error:
                    self._found = error
                self._stamp = stamp
        if isinstance(self._found, PolicyError):
            raise PolicyError(self._found.message)
        return self._found


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)


class Settings(NamedTuple):
    """What the command line says."""

    socket: str = DEFAULT_SOCKET
    state: str = ""
    policy: str = ""
    workers: int = WORKERS


class Pending(NamedTuple):
    """A connection whose request is not complete."""

    connection: Connection
    since: float


class Daemon:
    """The server; ``run`` returns when it was told to end and everything is done."""

    def __init__(self, settings: Settings, listener: socket.socket, tell: Log = log) -> None:
        self._listener = listener
        self._journal = Journal(settings.state)
        self._backlog = Backlog(settings.state)
        self._rules = Rules(settings.policy)
        self._log = tell
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, Pending] = {}
        self._woken, self._waker = socket.socketpair()
        self._crew = Crew(settings.workers, WAITING, self._wake)
        self._due: set[Name] = set()
        self._draining = threading.Lock()
        self._ending = False
        self._strange = False

    # Before the first request.

    def prepare(self) -> None:
        """Put right what is at home, and note what waits for a caller."""
        service = Service(self._journal, self._warn, self._rules, Direct())
        try:
            mend(service)
            dead = (one for one in records(service) if state_of(service, one) != "live")
            self._due = {(one.container_id, one.ifname) for one in dead}
        except BondError as error:
            self._warn(error.message)
        for path in (self._listener, self._woken, self._waker):
            path.setblocking(False)  # noqa: FBT003  its one parameter
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        waiting = len(self._due), len(self._backlog.names())
        self._log(event="ready", due=waiting[0], queued=waiting[1])

    def _warn(self, text: str) -> None:
        self._log(event="warning", text=text)

    # The loop.

    def end(self) -> None:
        """Finish what runs, take no more but DEL, then return from ``run``."""
        self._ending = True
        self._wake()

    def reload(self) -> None:
        """Read the policy again."""
        self._rules.forget()
        try:
            self._rules()
        except PolicyError as error:
            self._warn(error.message)
        self._log(event="reload")

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # enough of them wait there
            self._waker.send(b"\0")

    def run(self) -> None:
        """Serve until the end."""
        while not (self._ending and not self._pending and not self._crew.busy()):
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    self._read(self._pending[key.fd])
            self._drop_silent()

    def _patience(self) -> float | None:
        if not self._pending:
            return None
        oldest = next(iter(self._pending.values()))
        return max(0.0, oldest.since + SILENCE - time.monotonic())

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptors: those that are silent make room
                self._warn(f"cannot accept: {error.strerror}")
                self._drop_oldest()
                return
            connection = Connection(sock)
            if (user := connection.user()) not in (0, os.geteuid()):
                self._log(event="refused", user=user)
                connection.close()
                continue
            pending = Pending(connection, time.monotonic())
            self._pending[sock.fileno()] = pending
            self._selector.register(sock, selectors.EVENT_READ)
            if len(self._pending) > SILENT:
                self._drop_oldest()
            self._read(pending)

    def _drop_silent(self) -> None:
        before = time.monotonic() - SILENCE
        while self._pending and next(iter(self._pending.values())).since <= before:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if self._pending:
            oldest = next(iter(self._pending.values()))
            self._release(oldest)
            oldest.connection.close()
            self._log(event="dropped", why="its request did not come")

    def _release(self, pending: Pending) -> None:
        """Take a connection out of the loop."""
        descriptor = pending.connection.socket.fileno()
        self._pending.pop(descriptor, None)
        self._selector.unregister(descriptor)

    def _read(self, pending: Pending) -> None:
        """Go on reading a request; a complete one goes to the crew."""
        connection = pending.connection
        if connection.socket.fileno() < 0:  # dropped in the meantime
            return
        try:
            frame = connection.step()
            if frame is None:
                return
            self._release(pending)
            self._begin(connection, frame)
        except ProtocolError as error:
            if connection.socket.fileno() in self._pending:
                self._release(pending)
            if not isinstance(error, Gone):
                self._log(event="rubbish", error=str(error))
                _send(connection, _refusal(str(error)))
            connection.close()

    def _begin(self, connection: Connection, frame: Frame) -> None:
        if frame.type == Type.PING:
            _send(connection, Answer("", 0))
            connection.close()
            return
        if frame.type != Type.REQUEST:
            raise ProtocolError(f"a frame of type {frame.type} where REQUEST is due")
        caller = Caller(connection, frame)
        visit = Visit(connection, caller, time.monotonic())
        if self._ending and caller.env.get("CNI_COMMAND") != "DEL":
            self._refuse(visit, "the bond daemon is ending")
        elif not self._crew.submit(
            caller.env.get("CNI_CONTAINERID", ""), partial(self._serve, visit)
        ):
            self._refuse(visit, f"more than {WAITING} requests wait")

    @staticmethod
    def _refuse(visit: Visit, why: str) -> None:
        with visit.connection, visit.caller:
            _send(visit.connection, _refusal(why, visit.caller.stdin))

    # In a worker.

    def _serve(self, visit: Visit) -> None:
        connection, caller, since = visit
        warnings: list[str] = []
        with connection, caller:
            service = Service(self._journal, warnings.append, self._rules, caller)
            work = partial(self._work, service, caller)
            answer = answered(work, lambda: caller.stdin, sys.stderr)
            delivered = _send(connection, answer, warnings)
            spent = (time.monotonic() - since) * 1000
            self._told(caller, answer, spent, warnings)
            if not delivered:
                self._undeliverable(service, caller, answer)

    def _work(self, service: Service, caller: Caller) -> Object | None:
        request = read_request(caller.env, caller.stdin)
        self._look_at_host(caller)
        self._drain(service, (request.container_id, request.ifname))
        if request.command == "STATUS":
            self._tell_waiting(service)
        return verbs.serve(service, request)

    def _look_at_host(self, caller: Caller) -> None:
        own = Direct().identity("/proc/self/ns/net")
        if caller.host_id != own and not self._strange:
            self._strange = True
            self._warn(
                "the daemon is in another network namespace than the runtime: after a restart it "
                "can put no NIC right before a request comes (hostNetwork: true is missing)"
            )

    def _drain(self, service: Service, own: Name) -> None:
        """Do what is queued or due; the request's own attachment in any case."""
        queued = self._backlog.names()
        if not queued and not self._due:
            return
        quiet = service._replace(warn=self._warn)
        if own in queued:
            self._finish(quiet, own)
        if not self._draining.acquire(blocking=False):
            return
        try:
            until = time.monotonic() + DUE_SECONDS
            for name in [*(n for n in queued if n != own), *sorted(self._due)][:DUE_AT_ONCE]:
                if time.monotonic() < until:
                    self._finish(quiet, name)
        finally:
            self._draining.release()

    def _finish(self, service: Service, name: Name) -> None:
        """One attachment that is queued for deletion, or dead."""
        left = self._backlog.finish(service, name) if name in self._backlog.names() else ""
        record, word = self._journal.read(*name)
        if record is not None and name in self._due:
            found = reclaim(service, record)
            left = left or "; ".join(found.words)
            if not found.done:
                self._log(event="waits", container=name[0], ifname=name[1], why=left or found.state)
                return
        self._due.discard(name)
        self._log(event="finished", container=name[0], ifname=name[1], left=left or word or "-")

    def _tell_waiting(self, service: Service) -> None:
        for what, count in (
            ("deletions are queued", len(self._backlog.names())),
            ("dead attachments wait to be taken down", len(self._due)),
        ):
            if count:
                service.warn(f"{count} {what}: the next requests do it, or bondctl recover")

    def _undeliverable(self, service: Service, caller: Caller, answer: Answer) -> None:
        """The caller went away. What was made for it is undone: it counts as failed."""
        if answer.code or caller.env.get("CNI_COMMAND") != "ADD":
            return
        name = caller.env.get("CNI_CONTAINERID", ""), caller.env.get("CNI_IFNAME", "")
        undo = {**caller.env, "CNI_COMMAND": "DEL"}
        try:
            verbs.serve(service._replace(warn=self._warn), read_request(undo, caller.stdin))
        except BondError as error:
            self._due.add(name)
            self._warn(error.message)
        self._log(event="undone", container=name[0], ifname=name[1])

    def _told(self, caller: Caller, answer: Answer, spent: float, warnings: list[str]) -> None:
        env = caller.env
        self._log(
            verb=env.get("CNI_COMMAND", ""),
            container=env.get("CNI_CONTAINERID", ""),
            ifname=env.get("CNI_IFNAME", ""),
            network=_network(caller.stdin),
            code=answer.code,
            ms=spent,
            **({"error": answer.message} if answer.message else {}),
            **({"warnings": "; ".join(warnings)} if warnings else {}),
        )


class Visit(NamedTuple):
    """One request on its way to a worker."""

    connection: Connection
    caller: Caller
    since: float


def _network(stdin: bytes) -> str:
    try:
        return str(json.loads(stdin)["name"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _refusal(why: str, stdin: bytes = b"") -> Answer:
    def work() -> Object | None:
        raise TryAgain(why)

    return answered(work, lambda: stdin, sys.stderr)


def _send(connection: Connection, answer: Answer, warnings: list[str] | None = None) -> bool:
    """Send ANSWER; False where nobody is there to take it."""
    told = "".join(WARNING.format(text) + "\n" for text in warnings or ())
    fields: list[Field] = [
        (Tag.STATUS, number(1 if answer.code else 0)),
        (Tag.OUTPUT, encoded(answer.output)),
        (Tag.WARNINGS, encoded(told)),
    ]
    try:
        connection.send(Type.ANSWER, fields)
    except (ProtocolError, TimeoutError):
        return False
    return True


# Starting.


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """The socket, for root and ourselves only; removed at the end.

    Raises ``CannotServe`` where another daemon serves there.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        guard = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(f"{error.filename}: {error.strerror}") from error
    with contextlib.ExitStack() as held:
        held.callback(os.close, guard)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotServe(f"another daemon serves at {path}") from None
        listener = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _take_over(path)
        before = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise CannotServe(f"{path}: {error.strerror}") from error
        finally:
            os.umask(before)
        held.callback(_unlink, path)
        listener.listen(socket.SOMAXCONN)
        yield listener


def _take_over(path: str) -> None:
    """Remove a socket that nobody listens at. Raises ``CannotServe`` where somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CannotServe(f"{path}: {error.strerror}") from error
        else:
            raise CannotServe(f"another daemon serves at {path}")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def notify(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, where it wants to know. Source: sd_notify(3)."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ``CannotServe``."""
    with listening(settings.socket) as listener:
        daemon = Daemon(settings, listener)
        handlers: dict[signal.Signals, Callable[..., Any]] = {
            signal.SIGTERM: lambda *_: daemon.end(),
            signal.SIGINT: lambda *_: daemon.end(),
            signal.SIGHUP: lambda *_: daemon.reload(),
        }
        for one, handler in handlers.items():
            signal.signal(one, handler)
        daemon.prepare()
        gc.collect()
        gc.freeze()  # what is there now stays: no need to look at it again
        notify("READY=1")
        daemon.run()
        notify("STOPPING=1")
        log(event="ended")
