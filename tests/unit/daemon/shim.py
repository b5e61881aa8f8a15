"""The shim, played in Python: real sockets, real netlink sockets, our own namespace."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from bondcni.daemon.protocol import (
    HEADER,
    Field,
    Frame,
    Tag,
    Type,
    encoded,
    header,
    number,
    pack,
    unpack,
)

PATIENCE = 10.0
NETNS = "/run/netns/bondcni-none"
POD = "4:1"
CONFIG: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "bond",
    "mode": "active-backup",
    "miimon": 100,
    "links": [{"name": "bondcni-none0"}, {"name": "bondcni-none1"}],
}


def own() -> str:
    """The identity of our own namespace."""
    found = os.stat("/proc/self/ns/net")
    return f"{found.st_dev}:{found.st_ino}"


@contextmanager
def descriptors(letters: str = "hH") -> Iterator[list[int]]:
    """One for each letter, as the shim opens them; the pod's namespace is ours, too."""
    with contextlib.ExitStack() as held:
        found = []
        for letter in letters:
            if letter in "hp":
                kind = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
                found.append(held.enter_context(socket.socket(*kind)).fileno())
            else:
                found.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
                held.callback(os.close, found[-1])
        yield found


def fields(
    command: str, config: Any = None, letters: str = "hH", env: dict[str, str] | None = None
) -> list[Field]:
    """A REQUEST. ``config`` is bytes or what becomes JSON; None: ``CONFIG``."""
    whole = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_NETNS": NETNS,
        **(env or {}),
    }
    given = config if isinstance(config, bytes) else json.dumps(config or CONFIG).encode()
    pod = (Tag.POD, encoded(POD)) if "p" in letters else (Tag.POD_ERROR, number(2))
    entries = [(Tag.ENV, encoded(f"{name}={value}")) for name, value in whole.items()]
    return [
        (Tag.DESCRIPTORS, letters.encode()),
        (Tag.HOST, encoded(own())),
        pod,
        *entries,
        (Tag.STDIN, given),
    ]


class Answer(NamedTuple):
    status: int
    document: Any  # None: nothing was printed
    warnings: str = ""

    @property
    def code(self) -> int:
        """The code of the error document; 0 without one."""
        return int(self.document["code"]) if self.status else 0


class Shim:
    """One connection to a daemon; every wait ends after ``PATIENCE``."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(PATIENCE)

    @classmethod
    def to(cls, path: str) -> Self:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect(path)
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def raw(self, data: bytes, given: Iterable[int] = ()) -> None:
        rights = array.array("i", given)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        sent = self.socket.sendmsg([data], ancillary)
        if data[sent:]:
            self.socket.sendall(data[sent:])

    def send(self, kind: int, said: Iterable[Field] = (), given: Iterable[int] = ()) -> None:
        self.raw(pack(kind, said), given)

    def request(self, command: str, config: Any = None, letters: str = "hH", **env: str) -> None:
        """Hand over a request, as the shim does."""
        with descriptors(letters) as given:
            self.send(Type.REQUEST, fields(command, config, letters, env), given)

    def receive(self) -> Frame:
        kind, length = header(self._exactly(HEADER))
        return unpack(kind, self._exactly(length))

    def answer(self) -> Answer:
        """The ANSWER, which must come next, and then the end."""
        frame = self.receive()
        assert frame.type == Type.ANSWER, frame
        assert self.is_closed()
        output = frame.get(Tag.OUTPUT)
        warnings = (frame.get(Tag.WARNINGS) or b"").decode()
        return Answer(frame.number(Tag.STATUS), json.loads(output) if output else None, warnings)

    def is_closed(self) -> bool:
        """Whether the other end says no more; it may have left what we sent unread."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.socket.recv(size - len(data))
            assert got, f"the end after {len(data)} of {size} bytes"
            data += got
        return data


def open_descriptors(kind: str = "") -> int:
    """How many are open, of what begins so; not what a journal watches its folder with."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of this very listing
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(one.startswith(kind) and one != "anon_inode:inotify" for one in found)


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to be in time"
        time.sleep(0.01)
