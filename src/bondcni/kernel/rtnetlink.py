"""An rtnetlink socket: sends requests in batches, reads acknowledgements, answers and dumps.

The socket acts in the namespace in which it was opened, whichever process uses it. The kernel
processes the messages of one send in order, within the system call, acknowledges each, and
continues after an error (net/netlink/af_netlink.c, netlink_rcv_skb). So a message may depend on
an earlier one of the same send, and must be harmless if that one failed.

Answers are matched by sequence number, and accepted from the kernel only. A KernelError has the
kernel's text, and the bond option at the offset of the extended acknowledgement.

A deadline is a ``time.monotonic()`` value; None means ANSWER_TIMEOUT seconds after the start of a
wait. It limits the wait for an answer, not the time in which the kernel waits for the rtnl lock
during a send. Most answers are ready when the send returns, so a receive first does not wait.
"""

from __future__ import annotations

import _socket as socket  # importing socket takes 2 ms more, for selectors and enums
import errno
import struct
import time
from array import array
from collections.abc import Sequence
from itertools import count
from typing import Self

from bondcni.core.errors import KernelError, TryAgain
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS
from bondcni.kernel.link import IFLA_INFO_DATA, IFLA_INFO_SLAVE_DATA, IFLA_LINKINFO
from bondcni.kernel.wire import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Ack,
    Message,
    NetlinkRequest,
    ack,
    headers,
    messages,
    pack_message,
    path_at,
)

SOL_NETLINK = 270
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NETLINK_ADD_MEMBERSHIP = 1
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33

_SOCK_FILTER = struct.Struct("=HBBI")  # code, jt, jf, k
_SOCK_FPROG = struct.Struct("@HP")  # number of instructions, pointer to them

RECEIVE_BUFFER = 1 << 20
DATAGRAM = 1 << 16
"""Size for a receive: more than a datagram of a dump, 32 KiB (SKB_WITH_OVERHEAD(32768))."""

BATCH = 64
"""Requests in one send. All their acknowledgements, each with a copy of its request, must fit
into the receive buffer, else the kernel drops them."""

QUERY_BATCH = 32
"""Queries in one send. The answer about a link needs up to 4 KiB (if_nlmsg_size) of the receive
buffer, which has 208 KiB (net.core.rmem_default) if it could not be enlarged."""

ANSWER_TIMEOUT = 20.0
"""Seconds to wait for an answer; on a busy node the rtnl lock can be held for many seconds."""

DUMP_TRIES = 5


_FIRST = count(time.monotonic_ns(), 1 << 12)
"""The first sequence number of each socket, so that answers to other sockets do not match."""


class Rtnetlink:
    """An rtnetlink socket; a context manager that closes it.

    ``open`` and ``adopt`` create it. Methods raise TryAgain at their deadline; the kernel may
    have processed the requests nevertheless. They raise KernelError if the kernel refuses a
    request.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._seq = next(_FIRST) & 0x3FFFFFFF

    @classmethod
    def adopt(cls, sock: socket.socket) -> Self:
        """Configure a netlink socket, which may come from another process.

        It is connected to the kernel, so that no other process can send to it (af_netlink.c,
        netlink_getsockbyportid).
        """
        sock.connect((0, 0))
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN net.core.rmem_max is the limit
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return cls(sock)

    @classmethod
    def open(cls) -> Self:
        """A new socket in the calling thread's namespace."""
        return cls.adopt(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))

    def close(self) -> None:
        """Close the socket; a second call has no effect."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, requests: Sequence[NetlinkRequest], deadline: float | None = None) -> list[Ack]:
        """The acknowledgement of each request, in order. A refused request raises no error."""
        acks: list[Ack] = []
        for at in range(0, len(requests), BATCH):
            acks += self._send_batch(requests[at : at + BATCH], deadline)
        return acks

    def execute(self, requests: Sequence[NetlinkRequest], deadline: float | None = None) -> None:
        """Send all requests, then raise KernelError for the first that was refused."""
        for request, answer in zip(requests, self.send(requests, deadline), strict=True):
            if answer.number:
                raise failure(request, answer)

    def get(self, request: NetlinkRequest, deadline: float | None = None) -> bytes:
        """The body of the message that answers ``request``."""
        (answer,) = self.ask([request], deadline)
        if isinstance(answer, Ack):
            raise failure(request, answer)
        return answer

    def ask(
        self, requests: Sequence[NetlinkRequest], deadline: float | None = None
    ) -> list[bytes | Ack]:
        """The body of the message that answers each request, or its refusal, in order.

        Several requests go into one send; the kernel answers each with a separate datagram.
        """
        answers: list[bytes | Ack] = []
        for at in range(0, len(requests), QUERY_BATCH):
            answers += self._ask_batch(requests[at : at + QUERY_BATCH], deadline)
        return answers

    def dump(
        self, request: NetlinkRequest, deadline: float | None = None, needles: Sequence[bytes] = ()
    ) -> list[bytes]:
        """The bodies of a consistent dump; with ``needles`` only those that contain one of them,
        so that only a few of thousands of links are decoded.

        A dump that is marked as interrupted (NLM_F_DUMP_INTR) or that overflowed the receive
        buffer is read to its end, because the next dump would fail with EBUSY, and repeated.
        Raises TryAgain after DUMP_TRIES tries.
        """
        for _ in range(DUMP_TRIES):
            bodies = self._dump_once(request, deadline, needles)
            if bodies is not None:
                return bodies
        raise TryAgain(f"{request.operation}: the state changed during each of {DUMP_TRIES} dumps")

    def subscribe(
        self, groups: Sequence[int], program: Sequence[tuple[int, int, int, int]]
    ) -> None:
        """Subscribe to the events of groups (RTNLGRP_*) that a BPF program accepts."""
        code = array("B", b"".join(_SOCK_FILTER.pack(*line) for line in program))
        whole = _SOCK_FPROG.pack(len(program), code.buffer_info()[0])
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, whole)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def read_events(self) -> list[Message] | None:
        """The events since the last call, oldest first; None if some were lost.

        The kernel sends an event before the system call that causes it returns.
        """
        events: list[Message] = []
        whole = True
        while True:
            try:
                events += messages(self._socket.recv(DATAGRAM, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return events if whole else None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False

    def _send_batch(self, requests: Sequence[NetlinkRequest], deadline: float | None) -> list[Ack]:
        first = self._transmit(requests, NLM_F_ACK, deadline)
        seqs = range(first, first + len(requests))
        acks: dict[int, Ack] = {}
        while len(acks) < len(requests):
            waiting = next(r for r, seq in zip(requests, seqs, strict=True) if seq not in acks)
            for message in messages(self._receive(waiting, deadline)):
                if message.type == NLMSG_ERROR and message.seq in seqs:
                    acks[message.seq] = ack(message)
        return [acks[seq] for seq in seqs]

    def _ask_batch(
        self, requests: Sequence[NetlinkRequest], deadline: float | None
    ) -> list[bytes | Ack]:
        first = self._transmit(requests, 0, deadline)
        seqs = range(first, first + len(requests))
        found: dict[int, bytes | Ack] = {}
        while len(found) < len(requests):
            waiting = next(r for r, seq in zip(requests, seqs, strict=True) if seq not in found)
            for message in messages(self._receive(waiting, deadline)):
                if message.seq in seqs:
                    error = message.type == NLMSG_ERROR
                    found[message.seq] = ack(message) if error else message.body
        return [found[seq] for seq in seqs]

    def _dump_once(
        self, request: NetlinkRequest, deadline: float | None, needles: Sequence[bytes]
    ) -> list[bytes] | None:
        seq = self._transmit([request], NLM_F_DUMP, deadline)
        bodies: list[bytes] = []
        whole = True
        while True:
            try:
                data = self._receive(request, deadline)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            near = not needles or any(needle in data for needle in needles)
            for kind, flags, number, start, end in headers(data):
                if number != seq:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_refused(request, Message(kind, flags, number, data[start:end]))
                    return bodies if whole else None
                if near:
                    bodies += _with(needles, data[start:end])

    def _transmit(
        self, requests: Sequence[NetlinkRequest], flags: int, deadline: float | None
    ) -> int:
        """Send all in one datagram. Returns the sequence number of the first message."""
        first = self._seq
        self._seq += len(requests)
        data = b"".join(
            pack_message(r.type, r.flags | flags | NLM_F_REQUEST, first + n, r.body)
            for n, r in enumerate(requests)
        )
        if deadline is not None:
            _left(requests[0], deadline)
        self._socket.send(data)
        return first

    def _receive(self, waiting: NetlinkRequest, deadline: float | None) -> bytes:
        """The next datagram."""
        try:
            return self._socket.recv(DATAGRAM, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        self._socket.settimeout(ANSWER_TIMEOUT if deadline is None else _left(waiting, deadline))
        try:
            return self._socket.recv(DATAGRAM)
        except TimeoutError:
            raise _late(waiting) from None
        finally:
            self._socket.settimeout(None)


def _with(needles: Sequence[bytes], body: bytes) -> list[bytes]:
    return [body] if not needles or any(needle in body for needle in needles) else []


def failure(request: NetlinkRequest, answer: Ack) -> KernelError:
    """The error for a refused request, with the bond option if the kernel points at one."""
    option = option_at(path_at(request, answer.offset))
    return KernelError(request.operation, answer.number, answer.text, option)


def option_at(path: tuple[int, ...]) -> str:
    """The key of the bond or member option at an attribute path, or ""."""
    tables = {IFLA_INFO_DATA: BOND_OPTIONS, IFLA_INFO_SLAVE_DATA: MEMBER_OPTIONS}
    if len(path) < 3 or path[0] != IFLA_LINKINFO or path[1] not in tables:
        return ""
    return next((row.key for row in tables[path[1]] if row.number == path[2]), "")


def _raise_refused(request: NetlinkRequest, message: Message) -> None:
    if message.type in (NLMSG_DONE, NLMSG_ERROR):
        answer = ack(message)
        if answer.number:
            raise failure(request, answer)


def _late(waiting: NetlinkRequest) -> TryAgain:
    return TryAgain(f"{waiting.operation}: the kernel did not answer before the deadline")


def _left(waiting: NetlinkRequest, deadline: float) -> float:
    """Seconds until the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _late(waiting)
    return left
