"""Network namespaces by path: sockets opened inside one, and work that must run inside one.

Each thread has its own network namespace. So a temporary thread enters the namespace, does the
work and ends; the calling thread never changes its namespace, not even after an error. A socket
stays in the namespace that it was opened in. Files under /proc/sys/net show the sysctls of the
namespace of the thread that opens them.

What is returned here keeps the namespace alive, and with it the NICs of a deleted pod, until it
is closed: use it within one request. Entering a namespace needs CAP_SYS_ADMIN (setns(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from bondcni.core.errors import KernelError, NamespaceGone, NotANamespace
from bondcni.kernel.rtnetlink import Rtnetlink

CLONE_NEWNET = 0x40000000
CAP_SYS_ADMIN = 21
NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h

T = TypeVar("T")


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
    """Raise ``NotANamespace`` unless the path is a regular file, as a namespace is (fs/nsfs.c).
    Opening a FIFO waits for a writer, and opening a device can have any effect. Raises ``OSError``.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotANamespace(path)


def _require_network(fd: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:  # ENOTTY: not a namespace, such as the file that an unmount left
        kind = 0
    if kind != CLONE_NEWNET:
        raise NotANamespace(path)


def in_namespace(path: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a temporary thread inside the namespace; return its result or raise its error.

    Raises NamespaceGone, NotANamespace, or KernelError (EPERM without CAP_SYS_ADMIN).
    """
    import threading  # noqa: PLC0415  with ctypes 2 ms, which the daemon never needs

    results: list[T] = []
    errors: list[BaseException] = []

    def run(fd: int) -> None:
        try:
            _enter(fd, path)
            results.append(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller
            errors.append(error)

    with namespace_fd(path) as fd:
        thread = threading.Thread(target=run, args=(fd,))
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(fd: int, path: str) -> None:
    import ctypes  # noqa: PLC0415  os.setns exists since Python 3.12

    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        raise NotANamespace(path)
    raise KernelError(f"enter network namespace {path}", number)


def may_enter() -> bool:
    """Whether this process has the capability to enter a namespace (setns(2))."""
    with open("/proc/self/status") as file:
        found = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(found.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def open_in(path: str) -> Rtnetlink:
    """An rtnetlink socket of the namespace. Raises as ``in_namespace``."""
    return in_namespace(path, Rtnetlink.open)


def same_namespace(path: str) -> bool:
    """Whether ``path`` is the network namespace of the calling thread.

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
