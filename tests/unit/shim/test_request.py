"""What the shim asks of the daemon, and what it makes of every kind of answer."""

from __future__ import annotations

import errno
import os
import pty
import socket
import stat
import time
from pathlib import Path

import pytest
from tests.protocol.golden import frame
from tests.unit.shim.bench import (
    COMMON,
    CONFIG,
    HERE,
    Bond,
    Netns,
    changed,
    ended,
    golden,
    identity,
    parsed,
    socket_identity,
)

from bondcni.daemon.protocol import Tag, Type, number, pack

NOBODY = 65534


@pytest.mark.parametrize(
    ("name", "command", "netns"),
    [
        ("request", "ADD", HERE),
        ("request-gone", "DEL", "/proc/self/ns/none"),
        ("request-status", "STATUS", None),
    ],
)
def test_the_request_is_golden(any_bond: Bond, name: str, command: str, netns: str | None) -> None:
    any_bond.listen()
    process = any_bond.start(command, **({"CNI_NETNS": netns} if netns else {}))
    peer = any_bond.accept()
    own = identity(HERE)
    assert peer.receive() == golden(name, own, own)
    peer.send("answer")
    assert ended(process) == (0, b'{"cniVersion": "1.0.0"}\n', "bond: warning: mtu is less\n")


def test_descriptors_are_what_their_letters_say(inside: Bond, netns: Netns) -> None:
    host, pod = identity(netns("host")), identity(netns("pod"))
    inside.listen()
    process = inside.start("ADD", CNI_NETNS=netns("pod"))
    peer = inside.accept()
    request = peer.request()
    assert (request.get(Tag.DESCRIPTORS), host != pod) == (b"hHpP", True)
    assert (request.get(Tag.HOST), request.get(Tag.POD)) == (host, pod)
    sockets = [socket_identity(fd) for fd in peer.fds[::2]]
    assert sockets == [host, pod]
    assert [identity(fd) for fd in peer.fds[1::2]] == [host, pod]
    for fd in peer.fds[::2]:
        own = socket.socket(fileno=os.dup(fd))
        assert (own.family, own.type) == (socket.AF_NETLINK, socket.SOCK_RAW)
        own.close()
    peer.send("answer-nothing")
    assert ended(process) == (0, b"", "")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("file", errno.ENOTTY),
        ("fifo", errno.ENOTTY),
        ("folder", errno.ENOTTY),
        ("/dev/zero", errno.ENOTTY),
        ("socket", errno.ENOTTY),
        ("missing", errno.ENOENT),
        ("file/below", errno.ENOTDIR),
        ("/proc/self/ns/mnt", errno.ENOTTY),
    ],
)
def test_what_is_no_namespace(bond: Bond, tmp_path: Path, kind: str, error: int) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    bond.listen()
    process = bond.start("ADD", CNI_NETNS=kind)
    peer = bond.accept()
    request = peer.request()
    assert request.number(Tag.POD_ERROR) == error
    assert (request.get(Tag.DESCRIPTORS), len(peer.fds)) == (b"hH", 2)
    assert request.get(Tag.POD) is None
    for call in ("identify", "open"):
        done = peer.call(changed(call, PATH=kind.encode()))
        assert done.fields == ((Tag.STATUS, number(error)),)
        assert peer.fds == []
    peer.send("answer-nothing")
    assert ended(process).status == 0


def test_an_empty_netns_is_not_set(bond: Bond) -> None:
    bond.listen()
    process = bond.start("DEL", CNI_NETNS="")
    peer = bond.accept()
    request = peer.request()
    assert request.get(Tag.POD_ERROR) is request.get(Tag.POD) is None
    peer.send("answer-nothing")
    assert ended(process).status == 0


@pytest.mark.parametrize("size", [1 << 16, 4 << 20])
def test_a_long_input_arrives_whole(any_bond: Bond, size: int) -> None:
    any_bond.listen()
    process = any_bond.start("ADD", b"x" * size)
    peer = any_bond.accept()
    assert peer.request().get(Tag.STDIN) == b"x" * size
    peer.send("answer-nothing")
    assert ended(process).status == 0


def test_an_error_is_printed_and_its_status_kept(bond: Bond) -> None:
    process, peer = bond.asked()
    peer.send("answer-error")
    assert ended(process) == (1, b'{"cniVersion": "1.0.0", "code": 7, "msg": "no"}\n', "")


def test_a_long_answer_byte_by_byte(bond: Bond) -> None:
    process, peer = bond.asked()
    head, text = frame("answer-later-field"), b"y" * (1 << 20)
    for byte in head[:40]:
        peer.send(bytes([byte]))
    peer.send(head[40:])
    assert ended(process) == (0, b"{}\n", "")
    process, peer = bond.asked()
    peer.send(changed("answer", OUTPUT=text))
    assert ended(process).stdout == text


def test_a_refusal_before_the_whole_request(bond: Bond) -> None:
    bond.listen()
    process = bond.start("ADD", bytes(4 << 20))
    peer = bond.accept()
    peer.sock.recv(8)
    peer.send("answer-error")
    peer.close()
    assert ended(process).error == (7, "no")


REFUSED = {
    "a later version": frame("bad-version"),
    "a field that matters": frame("bad-critical"),
    "4 GiB": frame("bad-length"),
    "above the limit": bytes([1, 2, 0, 0]) + number((8 << 20) + 1),
    "a field beyond": frame("bad-field"),
    "half a field": frame("bad-rest"),
    "no status": pack(Type.ANSWER, []),
    "a short status": pack(Type.ANSWER, [(Tag.STATUS, b"\0")]),
    "a request": frame("request-status"),
    "a DONE": frame("done"),
    "a PING": frame("ping"),
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
}


@pytest.mark.parametrize("name", REFUSED)
def test_rubbish_is_refused(any_bond: Bond, name: str) -> None:
    process, peer = any_bond.asked()
    peer.send(REFUSED[name])
    code, message = ended(process).error
    assert code == 11
    assert message == (
        "the bond daemon does not answer at bond.sock (invalid frame for this version "
        "of the protocol): is `bondctl serve` running?"
    )


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 20])
def test_half_a_frame_and_the_end(any_bond: Bond, size: int) -> None:
    process, peer = any_bond.asked()
    peer.send(frame("answer")[:size])
    peer.close()
    code, message = ended(process).error
    assert (code, "connection closed before the answer" in message) == (11, True)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 20])
def test_half_a_frame_and_silence(hasty: Bond, size: int) -> None:
    process, peer = hasty.asked()
    before = time.monotonic()
    peer.send(frame("answer")[:size])
    code, message = ended(process).error
    assert (code, "timed out" in message) == (11, True)
    assert 0.2 < time.monotonic() - before < 2


def test_a_daemon_that_reads_nothing(hasty: Bond) -> None:
    hasty.listen()
    process = hasty.start("ADD", bytes(4 << 20))
    hasty.accept()
    assert "timed out" in ended(process).error[1]


def test_a_daemon_that_does_not_accept(hasty: Bond) -> None:
    hasty.listen()
    assert hasty.listener
    hasty.listener.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(f"{hasty.folder}/bond.sock")
    assert "timed out" in hasty.run("ADD").error[1]
    waiting.close()


@pytest.mark.parametrize(("owner", "good"), [(0, False), (NOBODY, True)])
def test_a_socket_of_another_user(bond: Bond, tmp_path: Path, owner: int, *, good: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    bond.listener = socket.socket(socket.AF_UNIX)
    bond.listener.settimeout(10)
    bond.listener.bind(f"{folder}/bond.sock")
    os.chown(folder, owner, owner)
    os.seteuid(NOBODY)
    try:
        bond.listener.listen()
    finally:
        os.seteuid(0)
    process = bond.start("STATUS", BONDCNI_SOCKET="run/bond.sock")
    if good:
        peer = bond.accept()
        peer.receive()
        peer.send("answer-nothing")
        assert ended(process).status == 0
    else:
        code, message = ended(process).error
        assert code == 50
        assert "it runs neither as root nor as the owner of its directory" in message


def test_input_that_does_not_end(hasty: Bond) -> None:
    reading, writing = os.pipe()
    code, message = hasty.run("ADD", reading).error
    assert (code, "standard input was not closed in time" in message) == (6, True)
    os.close(reading)
    os.close(writing)


def test_input_above_the_limit(bond: Bond) -> None:
    for command in ("ADD", "VERSION"):
        assert bond.run(command, bytes((4 << 20) + 1)).error == (
            6,
            "standard input exceeds 4194304 bytes",
        )


def test_input_that_cannot_be_read(bond: Bond) -> None:
    folder = os.open(bond.folder, os.O_RDONLY)
    assert bond.run("ADD", folder).error == (6, "cannot read standard input: Is a directory")
    os.close(folder)


def test_an_environment_above_the_limit(bond: Bond) -> None:
    bond.listen()
    code, message = bond.run("ADD", **{f"V{i}": "" for i in range(4096)}).error
    assert (code, message) == (4, "the environment exceeds 4096 variables or 2 MiB")
    process, peer = bond.asked(**{f"V{i}": "" for i in range(4096 - len(COMMON) - 1)})
    peer.send("answer-nothing")
    assert ended(process).status == 0


def test_closed_standard_descriptors(bond: Bond) -> None:
    bond.listen()
    bond.prefix = ("/bin/sh", "-c", 'exec "$0" >&- 2>&-')
    process = bond.start("ADD", CONFIG)
    peer = bond.accept()
    assert peer.request().get(Tag.DESCRIPTORS) == b"hH"
    peer.send("answer-error")
    assert ended(process) == (1, b"", "")


def test_usage_at_a_terminal(bond: Bond) -> None:
    controller, terminal = pty.openpty()
    answer = bond.run(None, terminal)
    os.close(controller)
    os.close(terminal)
    assert (answer.status, answer.stdout) == (0, b"")
    assert "The command line is bondctl." in answer.stderr


def test_the_frame_is_as_long_as_it_says(bond: Bond) -> None:
    bond.listen()
    process = bond.start("STATUS")
    peer = bond.accept()
    assert parsed(peer.receive()).type == Type.REQUEST
    peer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)
    peer.send("answer-nothing")
    assert ended(process).status == 0
