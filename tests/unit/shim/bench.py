"""The shim started in a folder of its own, and the daemon that it finds there: the test."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.protocol.golden import HOST, POD, frame

from bondcni.daemon.protocol import HEADER, Field, Frame, Tag, header, pack, unpack

SOON = 10.0
"""Seconds; nothing here comes near but by a defect."""

SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h: the namespace of a socket
HERE = "/proc/self/ns/net"
CONFIG = b'{"cniVersion": "1.0.0", "name": "net", "type": "bond"}'
COMMON = {
    "CNI_CONTAINERID": "abc",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "none::bin",
    "BONDCNI_SOCKET": "bond.sock",
    "BONDCNI_STATE": "state",
    "ODD": "a=b \udcff",
}
"""The environment of the golden requests, after CNI_COMMAND and CNI_NETNS."""


Build = Callable[[str], Path]
"""Kind of build -> the program."""

Netns = Callable[[str], str]
"""Name -> path of a network namespace of its own."""


class Answer(NamedTuple):
    status: int
    stdout: bytes
    stderr: str

    @property
    def error(self) -> tuple[int, str]:
        """Code and sentence of the error document, which is all that there may be."""
        assert self.status == 1
        document: dict[str, Any] = json.loads(self.stdout)
        assert document.keys() == {"cniVersion", "code", "msg"}
        return document["code"], document["msg"]


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []

    def receive(self) -> bytes:
        """The next frame; the descriptors that came with it are in ``fds``."""
        self.close_fds()
        room = socket.CMSG_SPACE(8 * array.array("i").itemsize)
        data, control, _, _ = self.sock.recvmsg(HEADER, room)
        for level, kind, value in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            self.fds = [*array.array("i", value)]
        whole = HEADER + header(data)[1]
        while len(data) < whole:
            chunk = self.sock.recv(whole - len(data))
            assert chunk, "the shim went away"
            data += chunk
        return data

    def request(self) -> Frame:
        return parsed(self.receive())

    def send(self, what: str | bytes) -> None:
        """Bytes, or those of a golden frame."""
        self.sock.sendall(frame(what) if isinstance(what, str) else what)

    def call(self, what: str | bytes) -> Frame:
        self.send(what)
        return parsed(self.receive())

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def close(self) -> None:
        self.close_fds()
        self.sock.close()


class Bond:
    """The shim, time after time."""

    def __init__(self, program: Path, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        self.program, self.folder, self.prefix = program, folder, prefix
        self.listener: socket.socket | None = None
        self.peers: list[Peer] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(SOON)
        self.listener.bind(f"{self.folder}/bond.sock")
        self.listener.listen()

    def start(
        self, command: str | None, stdin: bytes | int = CONFIG, /, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start it; ``stdin`` is its text or a descriptor."""
        given = {"CNI_COMMAND": command} if command is not None else {}
        first = {"CNI_NETNS": env.pop("CNI_NETNS")} if "CNI_NETNS" in env else {}
        with tempfile.TemporaryFile() as file:
            if isinstance(stdin, bytes):
                file.write(stdin)
                file.seek(0)
            process = subprocess.Popen(
                [*self.prefix, self.program],
                stdin=file if isinstance(stdin, bytes) else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**given, **first, **COMMON, **env},
                cwd=self.folder,
                restore_signals=False,
            )
        self.processes.append(process)
        return process

    def accept(self) -> Peer:
        assert self.listener
        sock, _ = self.listener.accept()
        sock.settimeout(SOON)
        self.peers.append(Peer(sock))
        return self.peers[-1]

    def asked(self, command: str = "ADD", /, **env: str) -> tuple[subprocess.Popen[bytes], Peer]:
        """Started, and its request taken."""
        if not self.listener:
            self.listen()
        process = self.start(command, **env)
        peer = self.accept()
        peer.receive()
        return process, peer

    def run(self, command: str | None, stdin: bytes | int = CONFIG, /, **env: str) -> Answer:
        return ended(self.start(command, stdin, **env))

    def delegate(self, script: str) -> None:
        """What ``bin/delegate`` in the folder is."""
        path = self.folder / "bin" / "delegate"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        if self.listener:
            self.listener.close()
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                process.communicate()


def used(bond: Bond) -> Iterator[Bond]:
    """For a fixture to yield from."""
    if os.geteuid():
        pytest.skip("entering network namespaces needs root")
    try:
        yield bond
    finally:
        bond.close()


def ended(process: subprocess.Popen[bytes]) -> Answer:
    stdout, stderr = process.communicate(timeout=SOON)
    return Answer(process.returncode, stdout, stderr.decode())


def parsed(data: bytes) -> Frame:
    kind, length = header(data)
    assert len(data) == HEADER + length
    return unpack(kind, data[HEADER:])


def identity(of: str | int) -> bytes:
    """Which namespace a path or a descriptor is, as HOST and POD say it."""
    stat = os.stat(of)
    return b"%d:%d" % (stat.st_dev, stat.st_ino)


def socket_identity(fd: int) -> bytes:
    """The namespace that a socket acts in."""
    namespace = fcntl.ioctl(fd, SIOCGSKNS)
    try:
        return identity(namespace)
    finally:
        os.close(namespace)


def golden(name: str, host: bytes, pod: bytes) -> bytes:
    """A golden frame, of these namespaces."""
    found = parsed(frame(name))
    value: Mapping[bytes, bytes] = {HOST: host, POD: pod}
    return pack(found.type, [(tag, value.get(text, text)) for tag, text in found.fields])


def changed(name: str, **fields: bytes | None) -> bytes:
    """A golden frame with fields of other values, added where there is none; None: without."""
    found = parsed(frame(name))
    new: dict[int, bytes | None] = {Tag[tag]: value for tag, value in fields.items()}
    kept: list[Field] = [each for each in found.fields if each[0] not in new]
    return pack(found.type, [*kept, *((tag, v) for tag, v in new.items() if v is not None)])


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)


def number_in(path: Path) -> int:
    """The process ID that a script wrote with a line's end."""
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def is_gone(pid: int) -> bool:
    """No such process, or one that nobody has waited for yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
