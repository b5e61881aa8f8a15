"""Frames with descriptors over real sockets: whole, in pieces, wrong, and never."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.unit.daemon.shim import Shim, descriptors, open_descriptors

from bondcni.daemon.connection import Connection, Disconnected
from bondcni.daemon.protocol import ProtocolError, Tag, Type, VersionUnknown, pack


class Pair:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection = Connection(ours)
        self.shim = Shim(theirs)


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = open_descriptors()
    pair = Pair()
    with pair.connection, pair.shim:
        yield pair
    assert open_descriptors() == before, "nothing is left open, whatever the test did"


FRAME = pack(Type.REQUEST, [(Tag.HOST, b"4:1"), (Tag.STDIN, bytes(1000))])


def test_a_frame_that_is_there_whole(pair: Pair) -> None:
    assert pair.connection.try_receive() is None
    pair.shim.raw(FRAME)
    frame = pair.connection.try_receive()
    assert frame is not None
    assert (frame.type, frame.get(Tag.HOST), frame.get(Tag.STDIN)) == (1, b"4:1", bytes(1000))


def test_byte_by_byte(pair: Pair) -> None:
    for at in range(len(FRAME) - 1):
        pair.shim.raw(FRAME[at : at + 1])
        assert pair.connection.try_receive() is None
    pair.shim.raw(FRAME[-1:])
    frame = pair.connection.try_receive()
    assert frame is not None
    assert frame.get(Tag.STDIN) == bytes(1000)


def test_two_frames_in_one_piece_are_two(pair: Pair) -> None:
    pair.shim.raw(pack(Type.DONE, [(Tag.EXIT, b"1234")]) + pack(Type.PING))
    first, second = pair.connection.try_receive(), pair.connection.try_receive()
    assert first is not None
    assert second is not None
    assert (first.type, first.get(Tag.EXIT), second.type) == (Type.DONE, b"1234", Type.PING)


def test_descriptors_belong_to_the_connection_and_do_not_survive_exec(pair: Pair) -> None:
    with descriptors("hHpP") as given:
        pair.shim.raw(FRAME, given)
        assert pair.connection.try_receive() is not None
        assert len(pair.connection.descriptors) == 4
        for ours, theirs in zip(pair.connection.descriptors, given, strict=True):
            assert os.path.sameopenfile(ours, theirs)
            assert not os.get_inheritable(ours)


@pytest.mark.parametrize("count", [5, 8, 250])
def test_more_descriptors_than_four_are_closed(pair: Pair, count: int) -> None:
    with ExitStack() as held:
        given = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
        for one in given:
            held.callback(os.close, one)
        pair.shim.raw(FRAME, given)
        with pytest.raises(ProtocolError, match="more than 4 descriptors"):
            pair.connection.try_receive()
        pair.connection.close()
        assert pair.connection.descriptors == []


def test_more_descriptors_than_four_in_several_pieces(pair: Pair) -> None:
    with descriptors("hH") as given:
        for at in range(2):
            pair.shim.raw(FRAME[at : at + 1], given)
            assert pair.connection.try_receive() is None
        pair.shim.raw(FRAME[2:3], given)
        with pytest.raises(ProtocolError, match="more than 4 descriptors"):
            pair.connection.try_receive()


def test_descriptors_for_which_the_process_has_no_room(pair: Pair) -> None:
    """The kernel hands over those that it can and says that there were more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptors("hHpP") as given:
        pair.shim.raw(FRAME, given)
        os.close(free := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            with pytest.raises(ProtocolError, match="too many open files"):
                pair.connection.try_receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(pair.connection.descriptors) == 1


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (struct.pack("<BBHI", 1, 1, 0, 0xFFFFFFFF), ProtocolError, "4294967295 bytes exceeds"),
        (struct.pack("<BBHI", 1, 1, 0, (8 << 20) + 1), ProtocolError, "8388609 bytes exceeds"),
        (struct.pack("<BBHI", 2, 1, 0, 0), VersionUnknown, "version 2"),
        (b"GET / HTTP/1.1\r\n\r\n", VersionUnknown, "version 71"),
        (struct.pack("<BBHI", 1, 1, 0, 3) + b"abc", ProtocolError, "incomplete field of 3 bytes"),
    ],
)
def test_what_is_no_frame(pair: Pair, data: bytes, error: type[Exception], said: str) -> None:
    pair.shim.raw(data)
    with pytest.raises(error, match=said):
        pair.connection.try_receive()


@pytest.mark.parametrize("sent", [0, 3, 8, 100])
def test_an_end_in_the_middle_of_a_frame(pair: Pair, sent: int) -> None:
    pair.shim.socket.sendall(FRAME[:sent])
    pair.shim.socket.close()
    with pytest.raises(Disconnected):
        pair.connection.receive(time.monotonic() + 10)


def test_receive_waits_for_the_whole_frame(pair: Pair) -> None:
    def slowly() -> None:
        for at in range(0, len(FRAME), 200):
            pair.shim.raw(FRAME[at : at + 200])
            time.sleep(0.01)

    thread = threading.Thread(target=slowly)
    thread.start()
    frame = pair.connection.receive(time.monotonic() + 10)
    thread.join(10)
    assert frame.get(Tag.STDIN) == bytes(1000)


def test_receive_ends_at_its_deadline_although_bytes_come(pair: Pair) -> None:
    ended = threading.Event()

    def trickle() -> None:
        for byte in FRAME:
            if ended.wait(0.02):
                return
            pair.shim.raw(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        pair.connection.receive(started + 0.3)
    ended.set()
    thread.join(10)
    assert 0.3 <= time.monotonic() - started < 5


def test_a_peer_that_goes_away_while_it_is_waited_for(pair: Pair) -> None:
    """EOF wakes the wait (POLLHUP), long before the deadline."""
    timer = threading.Timer(0.1, pair.shim.socket.shutdown, (socket.SHUT_RDWR,))
    timer.start()
    started = time.monotonic()
    with pytest.raises(Disconnected):
        pair.connection.receive(started + 10)
    timer.join()
    assert time.monotonic() - started < 5


def test_a_large_frame_goes_through_a_small_buffer(pair: Pair) -> None:
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(pair.shim.receive().get(Tag.STDIN)))
    thread.start()
    pair.connection.send(Type.EXEC, [(Tag.STDIN, bytes(4 << 20))])
    thread.join(10)
    assert found == [bytes(4 << 20)]


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_a_peer_that_does_not_read_is_waited_for_so_long(pair: Pair, seconds: float) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        pair.connection.send(Type.EXEC, [(Tag.STDIN, bytes(4 << 20))], seconds)
    assert seconds <= time.monotonic() - started < seconds + 2


def test_sending_to_who_is_gone(pair: Pair) -> None:
    pair.shim.socket.close()
    with pytest.raises(Disconnected):
        pair.connection.send(Type.PING, [])


def test_sending_what_is_too_long_sends_nothing(pair: Pair) -> None:
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        pair.connection.send(Type.EXEC, [(Tag.STDIN, bytes(9 << 20))])
    pair.connection.send(Type.PING, [])
    assert pair.shim.receive().type == Type.PING


def test_the_user_at_the_other_end(pair: Pair) -> None:
    assert pair.connection.user() == os.geteuid()
