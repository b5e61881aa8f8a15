"""The daemon's socket: one daemon for each path; a stale socket is replaced.

A lock file beside the socket shows that a daemon serves there; the lock ends with its process.
Also here: sd_notify(3), and the limit of open files.
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
"""Open files: enough for the largest number of waiting requests."""


class CannotServe(Exception):
    """The daemon cannot start; the message says why."""


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """The listening socket, for root and the daemon's own user; removed at the end.

    Raises ``CannotServe``, also if another daemon listens there.
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
            raise CannotServe(f"another daemon is listening on {path}") from None
        listener = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _require_free(path)
        _listen(listener, path)
        held.callback(_unlink, path)
        yield listener


def _listen(listener: socket.socket, path: str) -> None:
    """Bind under another name, listen, then rename over a stale socket: a client never finds a
    socket that is not listening. Raises ``CannotServe``.
    """
    fresh = f"{path}.new"
    before = os.umask(0o177)
    try:
        _unlink(fresh)  # left by a daemon that was killed
        listener.bind(fresh)
        listener.listen(socket.SOMAXCONN)
        os.rename(fresh, path)
    except OSError as error:
        raise CannotServe(f"{path}: {error.strerror or error}") from error
    finally:
        os.umask(before)


def _require_free(path: str) -> None:
    """Raise ``CannotServe`` if a process listens at ``path``, or it is not a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  its one parameter
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise CannotServe(f"{path} exists and is not a socket") from None
        except FileNotFoundError:
            pass
        except BlockingIOError:  # its backlog is full
            raise CannotServe(f"another daemon is listening on {path}") from None
        except OSError as error:
            raise CannotServe(f"{path}: {error.strerror or error}") from error
        else:
            raise CannotServe(f"another daemon is listening on {path}")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def raise_file_limit() -> None:
    """Raise the soft limit of open files to ``DESCRIPTORS`` or the hard limit: each waiting request
    has up to five, and the default under systemd is 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def notify(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Notify systemd, if NOTIFY_SOCKET is set. Source: sd_notify(3)."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
