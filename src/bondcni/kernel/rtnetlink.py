"""One rtnetlink socket: requests in batches, their acks, dumps, a deadline on each wait.

The socket acts in the namespace it was opened in, from whatever namespace and process
it is used. The kernel works through the messages of one send in their order, within
the call, and goes on after one that failed (net/netlink/af_netlink.c, netlink_rcv_skb);
an answer of its own comes for each. So a later message may build on an earlier one,
and must stand its failure.

Answers are matched by number and taken from the kernel alone. An error keeps what the
kernel said and names the bond option that its extended ack points at. A deadline is a
``time.monotonic()`` value; it bounds the waits for an answer, not the kernel's own
wait for its lock inside a send.
"""

from __future__ import annotations

import _socket as socket  # without the 2 ms that the selectors and enums of socket cost
import errno
import time
from collections.abc import Sequence
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
    messages,
    pack_message,
    path_at,
)

SOL_NETLINK = 270
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
SO_RCVBUFFORCE = 33

RECEIVE_BUFFER = 1 << 20
DATAGRAM = 1 << 16
"""Above the largest datagram of a dump, 32 KiB (netlink_dump, SKB_WITH_OVERHEAD(32768))."""

BATCH = 64
"""Messages of one send: their acks, each with its echoed request, must find room in
the receive buffer before the first of them is read, or the kernel drops them."""

DUMP_TRIES = 5


class Rtnetlink:
    """A socket to rtnetlink; a context manager that closes it.

    ``sock`` is ready to use (``adopt`` and ``open`` make it so). Methods raise TryAgain
    past their deadline; what was sent by then may have been done. They raise KernelError
    for what the kernel refused.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._seq = time.monotonic_ns() & 0x3FFFFFFF

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

    def send(self, requests: Sequence[Request], deadline: float) -> list[Ack]:
        """One ack for each request, in their order. A refused request raises nothing."""
        acks: list[Ack] = []
        for at in range(0, len(requests), BATCH):
            acks += self._send_batch(requests[at : at + BATCH], deadline)
        return acks

    def execute(self, requests: Sequence[Request], deadline: float) -> None:
        """Send them all, then raise KernelError for the first that the kernel refused."""
        for request, answer in zip(requests, self.send(requests, deadline), strict=True):
            if answer.number:
                raise failure(request, answer)

    def get(self, request: Request, deadline: float) -> bytes:
        """The body of the one message that answers ``request``."""
        seq = self._transmit([request], 0, deadline)
        while True:
            for message in self._receive(request, deadline):
                if message.seq == seq:
                    _raise_refused(request, message)
                    return message.body

    def dump(self, request: Request, deadline: float) -> list[bytes]:
        """The bodies of a dump, from one undisturbed pass.

        A pass that the kernel marks as interrupted (NLM_F_DUMP_INTR) or that overran the
        socket's buffer is read to its end, for until then another is EBUSY, and done
        again, DUMP_TRIES times before TryAgain.
        """
        for _ in range(DUMP_TRIES):
            bodies = self._dump_once(request, deadline)
            if bodies is not None:
                return bodies
        raise TryAgain(f"{request.operation}: changed each of the {DUMP_TRIES} times it was read")

    def _send_batch(self, requests: Sequence[Request], deadline: float) -> list[Ack]:
        first = self._transmit(requests, NLM_F_ACK, deadline)
        seqs = range(first, first + len(requests))
        acks: dict[int, Ack] = {}
        while len(acks) < len(requests):
            waiting = next(r for r, seq in zip(requests, seqs, strict=True) if seq not in acks)
            for message in self._receive(waiting, deadline):
                if message.type == NLMSG_ERROR and message.seq in seqs:
                    acks[message.seq] = ack(message)
        return [acks[seq] for seq in seqs]

    def _dump_once(self, request: Request, deadline: float) -> list[bytes] | None:
        seq = self._transmit([request], NLM_F_DUMP, deadline)
        bodies: list[bytes] = []
        whole = True
        while True:
            try:
                received = self._receive(request, deadline)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole, received = False, []
            for message in received:
                if message.seq != seq:
                    continue
                whole = whole and not message.flags & NLM_F_DUMP_INTR
                if message.type in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_refused(request, message)
                    return bodies if whole else None
                bodies.append(message.body)

    def _transmit(self, requests: Sequence[Request], flags: int, deadline: float) -> int:
        """Send as one datagram; the number of the first message."""
        first = self._seq
        self._seq += len(requests)
        data = b"".join(
            pack_message(r.type, r.flags | flags | NLM_F_REQUEST, first + n, r.body)
            for n, r in enumerate(requests)
        )
        self._socket.settimeout(_left(requests[0], deadline))
        self._socket.send(data)
        return first

    def _receive(self, waiting: Request, deadline: float) -> list[Message]:
        """The messages of the next datagram."""
        self._socket.settimeout(_left(waiting, deadline))
        try:
            return list(messages(self._socket.recv(DATAGRAM)))
        except TimeoutError:
            raise _late(waiting) from None


def failure(request: Request, answer: Ack) -> KernelError:
    """The error of a refused request, with the bond option at fault where that is known."""
    option = option_at(path_at(request, answer.offset))
    return KernelError(request.operation, answer.number, answer.text, option)


def option_at(path: tuple[int, ...]) -> str:
    """The kernel's name of the bond or member option at an attribute path, or ""."""
    tables = {IFLA_INFO_DATA: BOND_OPTIONS, IFLA_INFO_SLAVE_DATA: MEMBER_OPTIONS}
    if len(path) < 3 or path[0] != IFLA_LINKINFO or path[1] not in tables:
        return ""
    return next((row.kernel for row in tables[path[1]] if row.number == path[2]), "")


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
