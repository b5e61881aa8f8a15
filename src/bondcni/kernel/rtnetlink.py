"""One rtnetlink socket: requests in batches, their acks, dumps, a deadline on each wait.

The socket acts in the namespace it was opened in, from whatever namespace and process
it is used. The kernel works through the messages of one send in their order, within
the call, and goes on after one that failed (net/netlink/af_netlink.c, netlink_rcv_skb);
an answer of its own comes for each. So a later message may build on an earlier one,
and must stand its failure.

Answers are matched by number and taken from the kernel alone. An error keeps what the
kernel said and names the bond option that its extended ack points at. A deadline is a
``time.monotonic()`` value, None for PATIENCE seconds from the first wait on; it bounds the
waits for an answer, not the kernel's own wait for its lock inside a send. An answer is
mostly there when the send returns, so each is first asked for without waiting, and no
clock is read for it.
"""

from __future__ import annotations

import _socket as socket  # without the 2 ms that the selectors and enums of socket cost
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
    Request,
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
_SOCK_FPROG = struct.Struct("@HP")  # instructions, where they are

RECEIVE_BUFFER = 1 << 20
DATAGRAM = 1 << 16
"""Above the largest datagram of a dump, 32 KiB (netlink_dump, SKB_WITH_OVERHEAD(32768))."""

BATCH = 64
"""Messages of one send: their acks, each with its echoed request, must find room in
the receive buffer before the first of them is read, or the kernel drops them."""

ASKED_AT_ONCE = 32
"""The same for questions: a link's answer takes up to 4 KiB there (if_nlmsg_size), and the
buffer is net.core.rmem_default where it could not be made larger, 208 KiB."""

PATIENCE = 20.0
"""Seconds to wait for the kernel; a busy node's rtnl lock can take many."""

DUMP_TRIES = 5


_FIRST = count(time.monotonic_ns(), 1 << 12)
"""The number of each socket's first request: an answer to another's is no answer."""


class Rtnetlink:
    """A socket to rtnetlink; a context manager that closes it.

    ``sock`` is ready to use (``adopt`` and ``open`` make it so). Methods raise TryAgain
    past their deadline; what was sent by then may have been done. They raise KernelError
    for what the kernel refused.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._seq = next(_FIRST) & 0x3FFFFFFF

    @classmethod
    def adopt(cls, sock: socket.socket) -> Self:
        """Set a netlink socket's options; it may come from another process.

        Connected to the kernel, it takes no answer that a pod's process forges
        (af_netlink.c, netlink_getsockbyportid).
        """
        sock.connect((0, 0))
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # no CAP_NET_ADMIN: as much as net.core.rmem_max grants
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return cls(sock)

    @classmethod
    def open(cls) -> Self:
        """A new socket in the calling thread's namespace."""
        return cls.adopt(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))

    def close(self) -> None:
        """Close the socket; twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, requests: Sequence[Request], deadline: float | None = None) -> list[Ack]:
        """One ack for each request, in their order. A refused request raises nothing."""
        acks: list[Ack] = []
        for at in range(0, len(requests), BATCH):
            acks += self._send_batch(requests[at : at + BATCH], deadline)
        return acks

    def execute(self, requests: Sequence[Request], deadline: float | None = None) -> None:
        """Send them all, then raise KernelError for the first that the kernel refused."""
        for request, answer in zip(requests, self.send(requests, deadline), strict=True):
            if answer.number:
                raise failure(request, answer)

    def get(self, request: Request, deadline: float | None = None) -> bytes:
        """The body of the one message that answers ``request``."""
        (answer,) = self.ask([request], deadline)
        if isinstance(answer, Ack):
            raise failure(request, answer)
        return answer

    def ask(self, requests: Sequence[Request], deadline: float | None = None) -> list[bytes | Ack]:
        """The body of the one message that answers each request, or the refusal; in their order.

        They go in few sends: what the kernel says to each comes as a datagram of its own.
        """
        answers: list[bytes | Ack] = []
        for at in range(0, len(requests), ASKED_AT_ONCE):
            answers += self._ask_batch(requests[at : at + ASKED_AT_ONCE], deadline)
        return answers

    def dump(
        self, request: Request, deadline: float | None = None, needles: Sequence[bytes] = ()
    ) -> list[bytes]:
        """The bodies of a dump, from one undisturbed pass; with ``needles`` those alone in which
        the bytes of one stand: of thousands of links few are worth a closer look.

        A pass that the kernel marks as interrupted (NLM_F_DUMP_INTR) or that overran the
        socket's buffer is read to its end, for until then another is EBUSY, and done
        again, DUMP_TRIES times before TryAgain.
        """
        for _ in range(DUMP_TRIES):
            bodies = self._dump_once(request, deadline, needles)
            if bodies is not None:
                return bodies
        raise TryAgain(f"{request.operation}: changed each of the {DUMP_TRIES} times it was read")

    def follow(self, groups: Sequence[int], program: Sequence[tuple[int, int, int, int]]) -> None:
        """Listen to the events of groups (RTNLGRP_*), those that a BPF program lets through."""
        code = array("B", b"".join(_SOCK_FILTER.pack(*line) for line in program))
        whole = _SOCK_FPROG.pack(len(program), code.buffer_info()[0])
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, whole)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def heard(self) -> list[Message] | None:
        """The events since the last call, oldest first; None where some were lost.

        The kernel tells an event before the call returns that made it.
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

    def _send_batch(self, requests: Sequence[Request], deadline: float | None) -> list[Ack]:
        first = self._transmit(requests, NLM_F_ACK, deadline)
        seqs = range(first, first + len(requests))
        acks: dict[int, Ack] = {}
        while len(acks) < len(requests):
            waiting = next(r for r, seq in zip(requests, seqs, strict=True) if seq not in acks)
            for message in messages(self._receive(waiting, deadline)):
                if message.type == NLMSG_ERROR and message.seq in seqs:
                    acks[message.seq] = ack(message)
        return [acks[seq] for seq in seqs]

    def _ask_batch(self, requests: Sequence[Request], deadline: float | None) -> list[bytes | Ack]:
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
        self, request: Request, deadline: float | None, needles: Sequence[bytes]
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

    def _transmit(self, requests: Sequence[Request], flags: int, deadline: float | None) -> int:
        """Send as one datagram; the number of the first message."""
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

    def _receive(self, waiting: Request, deadline: float | None) -> bytes:
        """The next datagram."""
        try:
            return self._socket.recv(DATAGRAM, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        self._socket.settimeout(PATIENCE if deadline is None else _left(waiting, deadline))
        try:
            return self._socket.recv(DATAGRAM)
        except TimeoutError:
            raise _late(waiting) from None
        finally:
            self._socket.settimeout(None)


def _with(needles: Sequence[bytes], body: bytes) -> list[bytes]:
    return [body] if not needles or any(needle in body for needle in needles) else []


def failure(request: Request, answer: Ack) -> KernelError:
    """The error of a refused request, with the bond option at fault where that is known."""
    option = option_at(path_at(request, answer.offset))
    return KernelError(request.operation, answer.number, answer.text, option)


def option_at(path: tuple[int, ...]) -> str:
    """The key of the bond or member option at an attribute path, or ""."""
    tables = {IFLA_INFO_DATA: BOND_OPTIONS, IFLA_INFO_SLAVE_DATA: MEMBER_OPTIONS}
    if len(path) < 3 or path[0] != IFLA_LINKINFO or path[1] not in tables:
        return ""
    return next((row.key for row in tables[path[1]] if row.number == path[2]), "")


def _raise_refused(request: Request, message: Message) -> None:
    if message.type in (NLMSG_DONE, NLMSG_ERROR):
        answer = ack(message)
        if answer.number:
            raise failure(request, answer)


def _late(waiting: Request) -> TryAgain:
    return TryAgain(f"{waiting.operation}: no answer from the kernel before the deadline")


def _left(waiting: Request, deadline: float) -> float:
    """Seconds until the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _late(waiting)
    return left
