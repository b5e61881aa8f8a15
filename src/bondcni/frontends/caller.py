"""The shim at the other end, as what a request can reach (``service/reach.py``).

It brought sockets and descriptors of the host's and the pod's namespace; what else must be done
as root, inside a namespace or by a delegate, it is asked to do, call by call. Everything it
brought is closed when the request ends: a descriptor kept would hold a dead pod's NICs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self

from bondcni.core.errors import BondError, DelegateError, KernelError, TryAgain
from bondcni.frontends.connection import Connection
from bondcni.frontends.protocol import (
    Field,
    Frame,
    ProtocolError,
    Tag,
    Type,
    encoded,
    number,
)
from bondcni.kernel.executor import Node, Side
from bondcni.kernel.namespace import (
    CLONE_NEWNET,
    NS_GET_NSTYPE,
    NamespaceGone,
    NotANamespace,
)
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.service.delegate import LIMIT, Ended
from bondcni.service.reach import without_cni

PATIENCE = 10.0
"""Seconds for a call that runs no delegate; one that does has its own deadline besides."""

VARIABLES = 4096
ENVIRONMENT = 2 << 20
STDIN = 4 << 20

ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Descriptors(NamedTuple):
    """What a frame brought, by its letters; None where it brought none."""

    host_socket: int | None = None
    host: int | None = None
    pod_socket: int | None = None
    pod: int | None = None


def descriptors(letters: bytes, given: list[int]) -> Descriptors:
    """Name what came. Raises ``ProtocolError`` where it is not what the letters say."""
    if len(letters) != len(given) or set(letters) - set(b"hHpP") or len(set(letters)) < len(given):
        raise ProtocolError(f"{len(given)} descriptors for {letters.decode(errors='replace')!r}")
    found = dict(zip(letters.decode(), given, strict=True))
    for letter, descriptor in found.items():
        if not (_is_rtnetlink if letter in "hp" else _is_namespace)(descriptor):
            raise ProtocolError(f"descriptor {letter} is not what it should be")
    if "h" not in found or "H" not in found or ("p" in found) != ("P" in found):
        raise ProtocolError("descriptors of a namespace are missing")
    return Descriptors(*(found.get(letter) for letter in "hHpP"))


def _is_rtnetlink(descriptor: int) -> bool:
    sock = socket.socket(fileno=os.dup(descriptor))
    with sock:
        return (sock.family, sock.proto) == (socket.AF_NETLINK, socket.NETLINK_ROUTE)


def _is_namespace(descriptor: int) -> bool:
    try:
        return bool(fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET)
    except OSError:
        return False


def environment(frame: Frame) -> dict[str, str]:
    """The environment that a frame tells. Raises ``ProtocolError`` above the limits."""
    entries = frame.all(Tag.ENV)
    if len(entries) > VARIABLES or sum(map(len, entries)) > ENVIRONMENT:
        raise ProtocolError(f"an environment of {len(entries)} variables is too large")
    parted = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries)
    return {name: value for name, _, value in parted}


class Caller:
    """One shim and its request; a context manager that closes what the shim brought."""

    def __init__(self, connection: Connection, request: Frame) -> None:
        self.env = environment(request)
        self.stdin = request.get(Tag.STDIN) or b""
        if len(self.stdin) > STDIN:
            raise ProtocolError(f"standard input of {len(self.stdin)} bytes is too much")
        self.host_id = request.text(Tag.HOST)
        self._connection = connection
        self._request = request
        given, connection.descriptors = connection.descriptors, []
        self._open = ExitStack()
        self._open.callback(Connection.drop, list(given))
        letters = request.get(Tag.DESCRIPTORS) or b""
        try:
            self._given = descriptors(letters, given)
        except BaseException:
            self._open.close()
            raise
        self._host = self._side(self._given.host_socket, self._given.host)
        self._pod = (
            self._side(self._given.pod_socket, self._given.pod)
            if self._given.pod_socket is not None
            else None
        )

    def close(self) -> None:
        """Close everything that the shim brought."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _side(self, sock: int | None, namespace: int | None) -> Side:
        if sock is None or namespace is None:
            raise ProtocolError("descriptors of a namespace are missing")
        rtnl = Rtnetlink.adopt(socket.socket(fileno=os.dup(sock)))
        self._open.callback(rtnl.close)
        return Side(rtnl, namespace)

    # What ``Reach`` promises.

    @contextmanager
    def node(self, netns: str) -> Iterator[Node]:
        """Through what the shim brought; another namespace than the request's is asked for."""
        if not netns:
            yield Node(self._host, None, netns)
        elif self._is_asked_for(netns):
            yield Node(self._host, self._own_pod(netns), netns, self._set_sysctls)
        else:
            with self._other(netns) as side:
                yield Node(self._host, side, netns, self._set_sysctls)

    def identity(self, netns: str) -> str:
        """As ``Reach``."""
        if self._is_asked_for(netns):
            return self._request.text(Tag.POD)
        try:
            return self._identify(netns)
        except BondError:
            return ""

    def is_own(self, netns: str) -> bool:
        """As ``Reach``."""
        if self._is_asked_for(netns):
            self._own_pod(netns)
            return self._request.text(Tag.POD) == self.host_id
        return self._identify(netns) == self.host_id

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """As ``Reach``."""
        done = self._call(Type.FIND, [(Tag.NAME, encoded(name)), *self._differences(env)])
        if done.number(Tag.STATUS):
            raise self._unstarted(name, env, done.number(Tag.STATUS))

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        fields = [
            (Tag.NAME, encoded(name)),
            *self._differences(env),
            (Tag.STDIN, stdin),
            (Tag.DEADLINE, number(int(deadline * 1000))),
        ]
        done = self._call(Type.EXEC, fields, deadline)
        status = done.number(Tag.STATUS)
        if status == errno.ETIMEDOUT:
            return Ended(None, b"")
        if status == errno.EFBIG:
            return Ended(0, bytes(LIMIT + 1))
        if status:
            raise self._unstarted(name, env, status)
        return Ended(done.signed(Tag.EXIT), done.get(Tag.OUTPUT) or b"")

    def surroundings(self) -> Mapping[str, str]:
        """As ``Reach``."""
        return without_cni(self.env)

    # How.

    def _is_asked_for(self, netns: str) -> bool:
        return bool(netns) and netns == self.env.get("CNI_NETNS")

    def _own_pod(self, netns: str) -> Side:
        if self._pod is None:
            raise _unopened(netns, self._request.number(Tag.POD_ERROR, errno.ENOENT))
        return self._pod

    @contextmanager
    def _other(self, netns: str) -> Iterator[Side]:
        done = self._call(Type.OPEN, [(Tag.PATH, encoded(netns))])
        given, self._connection.descriptors = self._connection.descriptors, []
        try:
            if done.number(Tag.STATUS):
                raise _unopened(netns, done.number(Tag.STATUS))
            if done.get(Tag.DESCRIPTORS) != b"pP" or len(given) != 2:
                raise TryAgain(f"the namespace {netns} was not handed over")
            if not _is_rtnetlink(given[0]) or not _is_namespace(given[1]):
                raise TryAgain(f"the namespace {netns} was not handed over as one")
            with Rtnetlink.adopt(socket.socket(fileno=os.dup(given[0]))) as rtnl:
                yield Side(rtnl, given[1])
        finally:
            Connection.drop(given)

    def _identify(self, netns: str) -> str:
        done = self._call(Type.IDENTIFY, [(Tag.PATH, encoded(netns))])
        if done.number(Tag.STATUS):
            raise _unopened(netns, done.number(Tag.STATUS))
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
        """What ``env`` has else than the shim's own environment."""
        changed = [f"{name}={value}" for name, value in env.items() if self.env.get(name) != value]
        unset = [name for name in self.env if name not in env]
        return [(Tag.ENV, encoded(entry)) for entry in (*changed, *unset)]

    def _unstarted(self, name: str, env: Mapping[str, str], status: int) -> DelegateError:
        if "/" in name:
            return DelegateError(f"IPAM plugin {name}: must be the name of a plugin, not a path")
        if status == errno.ENOENT:
            path = env.get("CNI_PATH") or "not set"
            return DelegateError(f"IPAM plugin {name} is not in CNI_PATH ({path})")
        return DelegateError(f"IPAM plugin {name} cannot be started: {os.strerror(status)}")

    def _call(self, kind: Type, fields: Iterable[Field], seconds: float = 0.0) -> Frame:
        """Ask the shim. Raises ``TryAgain`` where it went away or makes no sense."""
        try:
            self._connection.send(kind, fields)
            return _done(self._connection.receive(time.monotonic() + seconds + PATIENCE))
        except (ProtocolError, TimeoutError) as error:
            raise TryAgain(f"what called the daemon cannot do {kind.name}: {error}") from error


def _done(frame: Frame) -> Frame:
    """The frame, which must be the answer to a call. Raises ``ProtocolError``."""
    if frame.type != Type.DONE:
        raise ProtocolError(f"a frame of type {frame.type} where DONE is due")
    frame.number(Tag.STATUS)
    return frame


def _unopened(netns: str, number_: int) -> BondError:
    """Why a namespace could not be opened, as direct mode says it."""
    if number_ in ABSENT:
        return NamespaceGone(netns)
    if number_ == errno.ENOTTY:
        return NotANamespace(netns)
    return KernelError(f"open network namespace {netns}", number_)
