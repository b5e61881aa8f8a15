"""Network namespaces by path: a socket born inside, and the little that must run there.

A thread has a network namespace of its own, so a throw-away thread enters the one that
is asked for, does its work and ends; the calling thread never moves, not even after an
error. A socket stays in the namespace that it was opened in. Sysctls under
/proc/sys/net are those of the thread that opens the file.

Whatever is returned here holds the namespace, and with it a dead pod's NICs, until it
is closed: use it within one request. Entering needs CAP_SYS_ADMIN (setns(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from bondcni.core.errors import BondError, EnvironError, KernelError
from bondcni.kernel.rtnetlink import Rtnetlink

CLONE_NEWNET = 0x40000000
CAP_SYS_ADMIN = 21
NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h

T = TypeVar("T")


class NamespaceGone(BondError):
    """There is no namespace at the path any more."""

    code = 3  # "Container unknown or does not exist" (CNI SPEC 1.1.0, "Error")

    def __init__(self, path: str) -> None:
        super().__init__(f"network namespace {path} does not exist")


class NotANamespace(EnvironError):
    """The path exists and is no network namespace."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is not a network namespace")


@contextmanager
def namespace_fd(path: str) -> Iterator[int]:
    """An open file descriptor of the namespace, for IFLA_NET_NS_FD.

    Raises NamespaceGone, NotANamespace, and KernelError where the path cannot be opened.
    """
    try:
        _require_file(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise NamespaceGone(path) from None
    except OSError as error:
        raise KernelError(f"open network namespace {path}", error.errno or 0) from None
    try:
        _require_network(fd, path)
        yield fd
    finally:
        os.close(fd)


def _require_file(path: str) -> None:
    """Raise ``NotANamespace`` for what is not a regular file, as a namespace is (fs/nsfs.c): opening
    a FIFO waits for its writer, and opening a device may do anything. Raises ``OSError``.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotANamespace(path)


def _require_network(fd: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:  # ENOTTY: no namespace of any kind, such as the file that a mount left
        kind = 0
    if kind != CLONE_NEWNET:
        raise NotANamespace(path)


def in_namespace(path: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a throw-away thread inside the namespace; its result or error.

    Raises NamespaceGone, NotANamespace, or KernelError (EPERM without CAP_SYS_ADMIN).
    """
    import threading  # noqa: PLC0415  with ctypes 2 ms, which the resident server never needs

    results: list[T] = []
    errors: list[BaseException] = []

    def run(fd: int) -> None:
        try:
            _enter(fd, path)
            results.append(work())
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller
            errors.append(error)

    with namespace_fd(path) as fd:
        thread = threading.Thread(target=run, args=(fd,))
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(fd: int, path: str) -> None:
    import ctypes  # noqa: PLC0415  os.setns is there from Python 3.12 on

    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        raise NotANamespace(path)
    raise KernelError(f"enter network namespace {path}", number)


def may_enter() -> bool:
    """Whether this process has the right to enter a namespace (setns(2))."""
    with open("/proc/self/status") as file:
        found = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(found.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def open_in(path: str) -> Rtnetlink:
    """A socket that acts inside the namespace. Raises as ``in_namespace``."""
    return in_namespace(path, Rtnetlink.open)


def same_namespace(path: str) -> bool:
    """Whether ``path`` is the namespace of the calling thread.

    Raises NamespaceGone and NotANamespace.
    """
    with namespace_fd(path) as fd:
        return os.path.samestat(os.fstat(fd), os.stat("/proc/thread-self/ns/net"))


def set_ipv6_sysctls(path: str, link: str, values: Mapping[str, int]) -> None:
    """Write net.ipv6.conf.LINK.* inside the namespace, as ``{"disable_ipv6": 0}``.

    Raises as ``in_namespace``; KernelError with ENOENT where the kernel has no IPv6 or
    no such link, EROFS where /proc/sys is not writable.
    """

    def write() -> None:
        for key, value in values.items():
            try:
                with open(f"/proc/sys/net/ipv6/conf/{link}/{key}", "w") as file:
                    file.write(str(value))
            except OSError as error:
                operation = f"set net.ipv6.conf.{link}.{key}={value}"
                raise KernelError(operation, error.errno or 0) from None

    in_namespace(path, write)
