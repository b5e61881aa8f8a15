"""The shim as a client of the daemon: implements ``Reach`` (``service/reach.py``) for one request.

The shim passed sockets and descriptors of the host's and the pod's namespace with the request.
What else needs root, another namespace or a delegate, the daemon asks the shim to do, one call at
a time. All its descriptors are closed when the request ends: one that stays open would keep a
dead pod's namespace, and the NICs in it, alive.
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
from bondcni.daemon.descriptors import by_letter, side
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

CALL_SECONDS = 10.0
"""Seconds for a call to the shim; a delegate's own deadline is added."""

VARIABLES = 4096
ENVIRONMENT = 2 << 20

ABSENT = (errno.ENOENT, errno.ENOTDIR)

SETTABLE = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")
"""Variables of a delegate that the shim lets the daemon set (shim/delegate.c)."""

MAX_ERRNO = 4095  # include/linux/err.h


def environment(frame: Frame) -> dict[str, str]:
    """The environment in a frame. Raises ``ProtocolError`` if it exceeds the limits."""
    entries = frame.all(Tag.ENV)
    size = sum(map(len, entries))
    if len(entries) > VARIABLES or size > ENVIRONMENT:
        raise ProtocolError(
            f"environment of {len(entries)} variables and {size} bytes exceeds the limit of "
            f"{VARIABLES} variables or {ENVIRONMENT} bytes"
        )
    parted = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries)
    return {name: value for name, _, value in parted}


class ShimClient:
    """One shim and its request; a context manager that closes the descriptors it passed."""

    def __init__(
        self,
        connection: Connection,
        request: Frame,
        env: dict[str, str],
        call_seconds: float = CALL_SECONDS,
        log: Log = log,
        watch: Watch | None = None,
    ) -> None:
        """Raises ``ProtocolError``, and ``TryAgain`` if the process has no free descriptors."""
        self.env = env
        self.stdin = request.get(Tag.STDIN) or b""
        if len(self.stdin) > STDIN_LIMIT:
            raise ProtocolError(
                f"standard input of {len(self.stdin)} bytes exceeds the limit of {STDIN_LIMIT}"
            )
        self.host_id = request.text(Tag.HOST)
        self._pod_id = request.text(Tag.POD)
        self._pod_error = _errno(request, Tag.POD_ERROR, errno.ENOENT)
        self._connection = connection
        self._call_seconds = call_seconds
        self._log = log
        self._watch = watch
        self._failure = ""  # why no more calls are possible
        given, connection.descriptors = connection.descriptors, []
        with ExitStack() as held:
            held.callback(Connection.close_all, given)
            found = by_letter(request.get(Tag.DESCRIPTORS) or b"", given)
            self._host = side(found, "hH", held)
            has_pod = not found.keys().isdisjoint("pP")
            self._pod = side(found, "pP", held) if has_pod else None
            if not self.host_id or bool(self._pod_id) != has_pod:
                raise ProtocolError("the identity of a network namespace is missing")
            self._open = held.pop_all()

    def close(self) -> None:
        """Close all descriptors that the shim passed."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The methods of ``Reach``.

    @contextmanager
    def node(self, netns: str) -> Iterator[Namespaces]:
        """As ``Reach``. A namespace other than the request's is opened by the shim."""
        if not netns:
            yield Namespaces(self._host, None, netns, watch=self._watch)
        elif self._is_requested(netns):
            yield Namespaces(
                self._host, self._own_pod(netns), netns, self._set_sysctls, self._watch
            )
        else:
            with self._open_other(netns) as side:
                yield Namespaces(self._host, side, netns, self._set_sysctls, self._watch)

    def presence(self, netns: str) -> Presence:
        """As ``Reach``. The shim is a process of the runtime and sees the same paths.

        Raises ``TryAgain`` if the call to the shim fails.
        """
        if self._is_requested(netns) and self._pod_id:
            return Presence(NamespaceState.PRESENT, self._pod_id)
        try:
            if self._is_requested(netns):
                raise _open_error(netns, self._pod_error)
            return Presence(NamespaceState.PRESENT, self._identify(netns))
        except (NamespaceGone, NotANamespace):  # any other error does not show that the pod is gone
            return GONE
        except KernelError as error:
            return Presence(NamespaceState.UNKNOWN, why=error.message)

    def is_own(self, netns: str) -> bool:
        """As ``Reach``."""
        if self._is_requested(netns):
            self._own_pod(netns)
            return self._pod_id == self.host_id
        return self._identify(netns) == self.host_id

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """As ``Reach``."""
        done = self._call(Type.FIND, [_delegate(name, self.env), *self._differences(env)])
        if status := done.number(Tag.STATUS):
            raise _start_error(name, self.env, status)

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
            raise _start_error(name, self.env, status)
        return Ended(done.signed(Tag.EXIT), done.get(Tag.OUTPUT) or b"", errors)

    def surroundings(self) -> Mapping[str, str]:
        """As ``Reach``."""
        return without_cni(self.env)

    # Helpers.

    def _log_stderr(self, name: str, env: Mapping[str, str], errors: bytes) -> None:
        """Log what a delegate wrote to standard error, in events of complete lines."""
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

    def _is_requested(self, netns: str) -> bool:
        return bool(netns) and netns == self.env.get("CNI_NETNS")

    def _own_pod(self, netns: str) -> Handle:
        if self._pod is None:
            raise _open_error(netns, self._pod_error)
        return self._pod

    @contextmanager
    def _open_other(self, netns: str) -> Iterator[Handle]:
        with ExitStack() as held:
            done = self._call(Type.OPEN, [(Tag.PATH, encoded(netns))], Tag.DESCRIPTORS)
            given, self._connection.descriptors = self._connection.descriptors, []
            held.callback(Connection.close_all, given)
            if status := done.number(Tag.STATUS):
                raise _open_error(netns, status)
            try:
                found = side(by_letter(done.get(Tag.DESCRIPTORS) or b"", given), "pP", held)
            except ProtocolError as error:
                raise TryAgain(f"cannot open network namespace {netns}: {error}") from error
            yield found

    def _identify(self, netns: str) -> str:
        done = self._call(Type.IDENTIFY, [(Tag.PATH, encoded(netns))], Tag.POD)
        if status := done.number(Tag.STATUS):
            raise _open_error(netns, status)
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
        """The variables of ``SETTABLE`` that differ from the shim's environment. Everything else,
        such as CNI_PATH, is the runtime's.
        """
        values = {name: (self.env.get(name), env.get(name)) for name in SETTABLE}
        entries = (
            name if wanted is None else f"{name}={wanted}"
            for name, (own, wanted) in values.items()
            if own != wanted
        )
        return [(Tag.ENV, encoded(entry)) for entry in entries]

    def _call(
        self, kind: Type, fields: Iterable[Field], needs: Tag | None = None, seconds: float = 0.0
    ) -> Frame:
        """Send a call and wait for DONE; ``needs`` is a field that it must have on success.

        Raises ``TryAgain`` if the shim went away, is too slow or answers with an invalid frame.
        Later calls then fail, too: a late answer would be taken for that of the next call.
        """
        if self._failure:
            raise TryAgain(self._failure)
        since = time.monotonic()
        try:
            self._connection.send(kind, fields)
            until = time.monotonic() + seconds + self._call_seconds
            done = _done(self._connection.receive(until), needs)
        except (ProtocolError, TimeoutError) as error:
            self._failure = f"the call {kind.name} to the executable bond failed: {error}"
            self._log_call(kind, since, {"error": str(error)})
            raise TryAgain(self._failure) from error
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
    """Check the answer to a call. Raises ``ProtocolError``."""
    if frame.type != Type.DONE:
        raise ProtocolError(f"unexpected frame of type {frame.type}, expected DONE")
    if frame.get(Tag.STATUS) is None:
        raise ProtocolError("DONE without STATUS")
    if not _errno(frame, Tag.STATUS) and needs is not None and not frame.get(needs):
        raise ProtocolError(f"DONE without {needs.name}")
    frame.signed(Tag.EXIT)
    return frame


def _errno(frame: Frame, tag: Tag, missing: int = 0) -> int:
    """A field's errno. Raises ``ProtocolError`` if the number is not an errno."""
    found = frame.number(tag, missing)
    if found > MAX_ERRNO:
        raise ProtocolError(f"{tag.name} {found} is not an errno")
    return found


def _delegate(name: str, env: Mapping[str, str]) -> Field:
    """The NAME of a delegate. Raises ``DelegateUnstarted`` for an invalid name."""
    if "/" in name:
        raise DelegateUnstarted(f"IPAM plugin {name}: must be the name of a plugin, not a path")
    try:
        return (Tag.NAME, encoded(name))
    except UnicodeEncodeError:
        raise _start_error(name, env, errno.ENOENT) from None


def _start_error(name: str, env: Mapping[str, str], number_: int) -> DelegateError:
    """Why a delegate could not be started, in the words of direct mode."""
    if number_ == errno.ENOENT:
        path = env.get("CNI_PATH") or "not set"
        return DelegateUnstarted(f"IPAM plugin {name} is not in CNI_PATH ({path})")
    words = f"IPAM plugin {name} cannot be started: {os.strerror(number_)}"
    if number_ == errno.ENOMEM:  # it may have been started, and waiting for it failed
        return DelegateError(words)
    return DelegateUnstarted(words)


def _open_error(netns: str, number_: int) -> BondError:
    """Why a namespace could not be opened, in the words of direct mode."""
    if number_ in ABSENT:
        return NamespaceGone(netns)
    if number_ == errno.ENOTTY:
        return NotANamespace(netns)
    return KernelError(f"open network namespace {netns}", number_)
