"""Network namespaces of a guest, created and entered by short-lived threads, read by ``ip``.

A network namespace belongs to a thread, so the calling thread stays in its own, and a process
started by such a thread runs in that thread's namespace. Only ``ip`` is run as a process.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Document = dict[str, Any]
T = TypeVar("T")

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
FOLDER = Path("/run/netns")


class Space(NamedTuple):
    """A namespace at a path under /run/netns, where ``ip -n`` finds it."""

    name: str

    @classmethod
    def create(cls, name: str) -> Space:
        """Create a namespace with its loopback up. Raises FileExistsError, OSError."""
        space = cls(name)
        FOLDER.mkdir(exist_ok=True)
        Path(space.path).touch(exist_ok=False)
        in_thread(lambda: _make(space.path))
        return space

    @property
    def path(self) -> str:
        """The value of CNI_NETNS."""
        return str(FOLDER / self.name)

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread inside the namespace; return its result or raise its error."""

        def inside() -> T:
            with Path(self.path).open() as file:
                _checked(LIBC.setns(file.fileno(), CLONE_NEWNET))
            return work()

        return in_thread(inside)

    def batch(self, lines: Iterable[str]) -> None:
        """Run many ``ip`` commands in one process. Raises CalledProcessError."""
        text = "".join(f"{line}\n" for line in lines)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=text, text=True, check=True)

    def links(self) -> dict[str, Document]:
        """Every link by name, as ``ip -j -d addr`` shows it."""
        command = ["ip", "-n", self.name, "-j", "-d", "addr"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {link["ifname"]: link for link in json.loads(text or "[]")}

    def socket(self) -> socket.socket:
        """A socket for `raise_link`; it holds the namespace until it is closed."""
        return self.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def delete(self) -> None:
        """Remove its path; the kernel deletes it and its links asynchronously."""
        LIBC.umount2(self.path.encode(), MNT_DETACH)
        Path(self.path).unlink(missing_ok=True)


def raise_link(sock: socket.socket, name: str) -> None:
    """Set a link up in the socket's namespace if it is down; without process or netlink message."""
    request = struct.pack("16sH14x", name.encode(), 0)
    (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
    if not flags & IFF_UP:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | IFF_UP))


def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a short-lived thread; return its result or raise its error."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _make(path: str) -> None:
    _checked(LIBC.unshare(CLONE_NEWNET))
    _checked(LIBC.mount(b"/proc/thread-self/ns/net", path.encode(), b"none", MS_BIND, None))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raise_link(sock, "lo")


def _checked(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
