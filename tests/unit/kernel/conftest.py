"""Recorded bytes, and a fake kernel: a function at the other end of a socket pair."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Message, messages

Answer = Callable[[list[Message]], list[bytes]]
"""The messages of one send -> the datagrams that the kernel answers."""


def recorded(name: str) -> dict[str, bytes]:
    """Title -> bytes of a file in golden/: lines of ``## title`` and hex below."""
    lines = (Path(__file__).parent / "golden" / name).read_text(encoding="ascii").splitlines()
    return {a[3:]: bytes.fromhex(b) for a, b in pairwise(lines) if a.startswith("## ")}


@pytest.fixture(scope="session")
def from_ip() -> dict[str, bytes]:
    return recorded("requests.txt")


@pytest.fixture(scope="session")
def answers() -> dict[str, bytes]:
    return recorded("answers.txt")


@pytest.fixture
def soon() -> float:
    """A deadline that no test reaches."""
    return time.monotonic() + 10


@pytest.fixture
def kernel() -> Iterator[Callable[..., Rtnetlink]]:
    """Start a fake kernel that answers with the function. Returns a socket to it."""
    opened: list[Rtnetlink] = []

    def start(answer: Answer, kind: type[socket.socket] = socket.socket) -> Rtnetlink:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=serve, args=(theirs, answer), daemon=True).start()
        opened.append(Rtnetlink(kind(fileno=ours.detach())))
        return opened[-1]

    yield start
    for rtnl in opened:
        rtnl.close()


def serve(theirs: socket.socket, answer: Answer) -> None:
    with theirs:
        while data := theirs.recv(1 << 20):
            for datagram in answer(list(messages(data))):
                theirs.send(datagram)
