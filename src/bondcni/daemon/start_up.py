"""How the daemon comes to its socket: one daemon for each, and a stale one is taken over.

A lock beside the socket says who serves there; it dies with its holder. Also here: what the
service manager is told (sd_notify(3)), and room for the descriptors that requests bring.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping

DESCRIPTORS = 16384
"""Open files that are enough for every request that may wait."""


class CannotServe(Exception):
    """The daemon cannot start; the text says why."""


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """The socket, for root and ourselves only; removed at the end.

    Raises ``CannotServe`` where another daemon serves there.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        guard = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(f"{error.filename}: {error.strerror}") from error
    with contextlib.ExitStack() as held:
        held.callback(os.close, guard)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotServe(f"another daemon serves at {path}") from None
        listener = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _require_free(path)
        _listen(listener, path)
        held.callback(_unlink, path)
        yield listener


def _listen(listener: socket.socket, path: str) -> None:
    """Put the socket in place when it can be connected to, over a stale one: who calls finds the
    old one or the new one. Raises ``CannotServe``.
    """
    fresh = f"{path}.new"
    before = os.umask(0o177)
    try:
        _unlink(fresh)  # of one that was killed
        listener.bind(fresh)
        listener.listen(socket.SOMAXCONN)
        os.rename(fresh, path)
    except OSError as error:
        raise CannotServe(f"{path}: {error.strerror or error}") from error
    finally:
        os.umask(before)


def _require_free(path: str) -> None:
    """Raise ``CannotServe`` where somebody listens at a socket, and where it is no socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  its one parameter
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise CannotServe(f"{path} is there and is no socket") from None
        except FileNotFoundError:
            pass
        except BlockingIOError:  # so many wait there that no more can
            raise CannotServe(f"another daemon serves at {path}") from None
        except OSError as error:
            raise CannotServe(f"{path}: {error.strerror or error}") from error
        else:
            raise CannotServe(f"another daemon serves at {path}")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_room() -> None:
    """As many open files as ``DESCRIPTORS``, where the hard limit allows: each request that
    waits has up to five, and what systemd gives without being asked is 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def notify(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, where it wants to know. Source: sd_notify(3)."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
