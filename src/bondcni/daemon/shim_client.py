"""The shim at the other end, as what a request can reach (``service/reach.py``).

It brought sockets and descriptors of the host's and the pod's namespace; what else must be done
as root, inside a namespace or by a delegate, it is asked to do, call by call. Everything it
brought is closed when the request ends: a descriptor kept would hold a dead pod's NICs.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Self

from bondcni.core.errors import (
    BondError,
    DelegateError,
    DelegateUnstarted,
    KernelError,
    NamespaceGone,
    NotANamespace,
    TryAgain,
)
from bondcni.core.lifecycle import NamespaceState
from bondcni.daemon.connection import Connection
from bondcni.daemon.descriptors import named, side
from bondcni.daemon.log import LONGEST, Event, Log, log
from bondcni.daemon.protocol import (
    Field,
    Frame,
    ProtocolError,
    Tag,
    Type,
    encoded,
    number,
)
from bondcni.kernel.namespaces import Handle, Namespaces
from bondcni.kernel.watch import Watch
from bondcni.service.answer import STDIN_LIMIT
from bondcni.service.delegate import ERRORS_LIMIT, LIMIT, Ended
from bondcni.service.reach import GONE, Presence, without_cni

PATIENCE = 10.0
"""Seconds for a call that runs no delegate; one that does has its own deadline besides."""

VARIABLES = 4096
ENVIRONMENT = 2 << 20

ABSENT = (errno.ENOENT, errno.ENOTDIR)

OPEN_TO_US = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")
"""Variables of a delegate that the shim lets us set (shim/delegate.c)."""
MAX_ERRNO = 4095  # include/linux/err.h


def environment(frame: Frame) -> dict[str, str]:
    """The environment that a frame tells. Raises ``ProtocolError`` above the limits."""
    entries = frame.all(Tag.ENV)
    if len(entries) > VARIABLES or sum(map(len, entries)) > ENVIRONMENT:
        raise ProtocolError(f"an environment of {len(entries)} variables is too large")
    parted = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries)
    return {name: value for name, _, value in parted}


class Caller:
    """One shim and its request; a context manager that closes what the shim brought."""

    def __init__(
        self,
        connection: Connection,
        request: Frame,
        env: dict[str, str],
        patience: float = PATIENCE,
        log: Log = log,
        watch: Watch | None = None,
    ) -> None:
        """Raises ``ProtocolError``, and ``TryAgain`` where there are no descriptors left."""
        self.env = env
        self.stdin = request.get(Tag.STDIN) or b""
        if len(self.stdin) > STDIN_LIMIT:
            raise ProtocolError(f"standard input of {len(self.stdin)} bytes is too much")
        self.host_id = request.text(Tag.HOST)
        self._pod_id = request.text(Tag.POD)
        self._pod_error = _errno(request, Tag.POD_ERROR, errno.ENOENT)
        self._connection = connection
        self._patience = patience
        self._log = log
        self._watch = watch
        self._unable = ""  # why nothing more can be asked
        given, connection.descriptors = connection.descriptors, []
        with ExitStack() as held:
            held.callback(Connection.drop, given)
            found = named(request.get(Tag.DESCRIPTORS) or b"", given)
            self._host = side(found, "hH", held)
            has_pod = not found.keys().isdisjoint("pP")
            self._pod = side(found, "pP", held) if has_pod else None
            if not self.host_id or bool(self._pod_id) != has_pod:
                raise ProtocolError("the identity of a namespace is missing")
            self._open = held.pop_all()

    def close(self) -> None:
        """Close everything that the shim brought."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What ``Reach`` promises.

    @contextmanager
    def node(self, netns: str) -> Iterator[Namespaces]:
        """Through what the shim brought; another namespace than the request's is asked for."""
        if not netns:
            yield Namespaces(self._host, None, netns, watch=self._watch)
        elif self._is_asked_for(netns):
            yield Namespaces(
                self._host, self._own_pod(netns), netns, self._set_sysctls, self._watch
            )
        else:
            with self._other(netns) as side:
                yield Namespaces(self._host, side, netns, self._set_sysctls, self._watch)

    def presence(self, netns: str) -> Presence:
        """As ``Reach``. What the shim does not see the runtime, whose process it is, does not see
        either. Raises ``TryAgain`` where the shim cannot be asked.
        """
        if self._is_asked_for(netns) and self._pod_id:
            return Presence(NamespaceState.PRESENT, self._pod_id)
        try:
            if self._is_asked_for(netns):
                raise _unopened(netns, self._pod_error)
            return Presence(NamespaceState.PRESENT, self._identify(netns))
        except (NamespaceGone, NotANamespace):  # nothing else says that a pod is gone
            return GONE
        except KernelError as error:
            return Presence(NamespaceState.UNKNOWN, why=error.message)

    def is_own(self, netns: str) -> bool:
        """As ``Reach``."""
        if self._is_asked_for(netns):
            self._own_pod(netns)
            return self._pod_id == self.host_id
        return self._identify(netns) == self.host_id

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """As ``Reach``."""
        done = self._call(Type.FIND, [_delegate(name, self.env), *self._differences(env)])
        if status := done.number(Tag.STATUS):
            raise _unstarted(name, self.env, status)

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        fields = [
            _delegate(name, self.env),
            *self._differences(env),
            (Tag.STDIN, stdin),
            (Tag.DEADLINE, number(int(deadline * 1000))),
        ]
        done = self._call(Type.EXEC, fields, Tag.EXIT, deadline)
        status = done.number(Tag.STATUS)
        errors = (done.get(Tag.STDERR) or b"")[-ERRORS_LIMIT:]
        self._log_stderr(name, env, errors)
        if status == errno.ETIMEDOUT:
            return Ended(None, b"", errors)
        if status == errno.EFBIG:
            return Ended(0, bytes(LIMIT + 1), errors)
        if status:
            raise _unstarted(name, self.env, status)
        return Ended(done.signed(Tag.EXIT), done.get(Tag.OUTPUT) or b"", errors)

    def surroundings(self) -> Mapping[str, str]:
        """As ``Reach``."""
        return without_cni(self.env)

    # How.

    def _log_stderr(self, name: str, env: Mapping[str, str], errors: bytes) -> None:
        """What a delegate wrote to standard error, whole lines in each of ours."""
        text = errors.decode(errors="replace")
        while text:
            cut = text.rfind("\n", 0, LONGEST) + 1 if len(text) > LONGEST else len(text)
            self._log(
                Event.DELEGATE_STDERR,
                plugin=name,
                verb=env.get("CNI_COMMAND", ""),
                container=env.get("CNI_CONTAINERID", ""),
                ifname=env.get("CNI_IFNAME", ""),
                stderr=text[: cut or LONGEST].rstrip("\n"),
            )
            text = text[cut or LONGEST :]

    def _is_asked_for(self, netns: str) -> bool:
        return bool(netns) and netns == self.env.get("CNI_NETNS")

    def _own_pod(self, netns: str) -> Handle:
        if self._pod is None:
            raise _unopened(netns, self._pod_error)
        return self._pod

    @contextmanager
    def _other(self, netns: str) -> Iterator[Handle]:
        with ExitStack() as held:
            done = self._call(Type.OPEN, [(Tag.PATH, encoded(netns))], Tag.DESCRIPTORS)
            given, self._connection.descriptors = self._connection.descriptors, []
            held.callback(Connection.drop, given)
            if status := done.number(Tag.STATUS):
                raise _unopened(netns, status)
            try:
                found = side(named(done.get(Tag.DESCRIPTORS) or b"", given), "pP", held)
            except ProtocolError as error:
                raise TryAgain(f"the namespace {netns} was not handed over: {error}") from error
            yield found

    def _identify(self, netns: str) -> str:
        done = self._call(Type.IDENTIFY, [(Tag.PATH, encoded(netns))], Tag.POD)
        if status := done.number(Tag.STATUS):
            raise _unopened(netns, status)
        return done.text(Tag.POD)

    def _set_sysctls(self, netns: str, link: str, values: Mapping[str, int]) -> None:
        settings = [(Tag.SETTING, encoded(f"{key}={value}")) for key, value in values.items()]
        done = self._call(
            Type.SYSCTL, [(Tag.PATH, encoded(netns)), (Tag.NAME, encoded(link)), *settings]
        )
        if status := done.number(Tag.STATUS):
            key = done.text(Tag.NAME)
            raise KernelError(f"set net.ipv6.conf.{link}.{key}={values.get(key)}", status)

    def _differences(self, env: Mapping[str, str]) -> list[Field]:
        """What ``env`` says else than the shim's own environment, of the attachment. The rest,
        such as where delegates are, is the runtime's that called.
        """
        said = {name: (self.env.get(name), env.get(name)) for name in OPEN_TO_US}
        entries = (
            name if wanted is None else f"{name}={wanted}"
            for name, (own, wanted) in said.items()
            if own != wanted
        )
        return [(Tag.ENV, encoded(entry)) for entry in entries]

    def _call(
        self, kind: Type, fields: Iterable[Field], needs: Tag | None = None, seconds: float = 0.0
    ) -> Frame:
        """Ask the shim; ``needs`` is what DONE must have where it was done.

        Raises ``TryAgain`` where the shim went away, is late or makes no sense. It is asked
        nothing more then: an answer that came late would be taken for the next one.
        """
        if self._unable:
            raise TryAgain(self._unable)
        since = time.monotonic()
        try:
            self._connection.send(kind, fields)
            until = time.monotonic() + seconds + self._patience
            done = _done(self._connection.receive(until), needs)
        except (ProtocolError, TimeoutError) as error:
            self._unable = f"what called the daemon cannot do {kind.name}: {error}"
            self._log_call(kind, since, {"error": str(error)})
            raise TryAgain(self._unable) from error
        status = done.number(Tag.STATUS)
        self._log_call(kind, since, {"error": os.strerror(status)} if status else {})
        return done

    def _log_call(self, kind: Type, since: float, error: Mapping[str, str]) -> None:
        self._log(
            Event.SHIM_CALL,
            call=kind.name,
            container=self.env.get("CNI_CONTAINERID", ""),
            ifname=self.env.get("CNI_IFNAME", ""),
            ms=(time.monotonic() - since) * 1000,
            **error,
        )


def _done(frame: Frame, needs: Tag | None) -> Frame:
    """The frame, which must be the answer to a call. Raises ``ProtocolError``."""
    if frame.type != Type.DONE:
        raise ProtocolError(f"a frame of type {frame.type} where DONE is due")
    if frame.get(Tag.STATUS) is None:
        raise ProtocolError("DONE without STATUS")
    if not _errno(frame, Tag.STATUS) and needs is not None and not frame.get(needs):
        raise ProtocolError(f"DONE without {needs.name}")
    frame.signed(Tag.EXIT)
    return frame


def _errno(frame: Frame, tag: Tag, missing: int = 0) -> int:
    """A field's errno. Raises ``ProtocolError`` for a number that is none."""
    found = frame.number(tag, missing)
    if found > MAX_ERRNO:
        raise ProtocolError(f"{tag.name} {found} is no errno")
    return found


def _delegate(name: str, env: Mapping[str, str]) -> Field:
    """The NAME of a delegate. Raises ``DelegateUnstarted`` for what can be none."""
    if "/" in name:
        raise DelegateUnstarted(f"IPAM plugin {name}: must be the name of a plugin, not a path")
    try:
        return (Tag.NAME, encoded(name))
    except UnicodeEncodeError:
        raise _unstarted(name, env, errno.ENOENT) from None


def _unstarted(name: str, env: Mapping[str, str], number_: int) -> DelegateError:
    """Why a delegate could not be started, as direct mode says it."""
    if number_ == errno.ENOENT:
        path = env.get("CNI_PATH") or "not set"
        return DelegateUnstarted(f"IPAM plugin {name} is not in CNI_PATH ({path})")
    words = f"IPAM plugin {name} cannot be started: {os.strerror(number_)}"
    if number_ == errno.ENOMEM:  # the shim may have failed to wait for one that runs
        return DelegateError(words)
    return DelegateUnstarted(words)


def _unopened(netns: str, number_: int) -> BondError:
    """Why a namespace could not be opened, as direct mode says it."""
    if number_ in ABSENT:
        return NamespaceGone(netns)
    if number_ == errno.ENOTTY:
        return NotANamespace(netns)
    return KernelError(f"open network namespace {netns}", number_)
