"""Locks of attachments, pods and links, between the processes of one node.

Each key is one byte of a file, locked by an open file description lock (F_OFD_SETLK). Such a lock
ends with its holder, however that ends, and threads do not share it. The delegates of the holder
inherit it: after the holder is killed it stays locked until they have ended. Otherwise DEL could
release an address before such a delegate reserves it. Several keys are locked in one order, so
that two requests never wait for each other. Waiting has a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Iterator

from bondcni.core.errors import JournalError, TryAgain
from bondcni.service.files import create
from bondcni.service.journal import make_directory, own_as_directory

POLL = 0.01

_FLOCK = struct.Struct("=hh4xqqi4x")  # l_type, l_whence, l_start, l_len, l_pid on 64 bits


@contextlib.contextmanager
def hold(directory: str, keys: Iterable[str], patience: float) -> Iterator[None]:
    """Hold the locks of ``keys`` for the context; wait at most ``patience`` seconds for them.

    Raises ``TryAgain`` naming the key that another request holds past the deadline, and
    ``JournalError`` when the state directory cannot be written.
    """
    path = f"{directory}/lock"
    try:
        descriptor = _opened(path, directory)
    except OSError as error:
        raise JournalError(f"cannot open the lock file {path}: {error.strerror}") from error
    os.set_inheritable(descriptor, True)  # noqa: FBT003  its one parameter
    try:
        for offset, key in sorted((zlib.crc32(key.encode()), key) for key in set(keys)):
            patience = _take(descriptor, offset, key, patience)
        yield
    finally:
        whole = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(
            descriptor, fcntl.F_OFD_SETLK, whole
        )  # a background process of a delegate may have it open, too
        os.close(descriptor)


def _opened(path: str, directory: str) -> int:
    """The lock file; the first request creates it. Raises ``OSError``."""
    try:
        return _existing(path)
    except FileNotFoundError:
        make_directory(directory)
    try:
        descriptor = create(path, os.O_RDWR)
    except FileExistsError:  # by another request
        return _existing(path)
    own_as_directory(descriptor, directory)
    return descriptor


def _existing(path: str) -> int:
    """The existing lock file, which must be a regular file: a lock on a FIFO or a device would
    not exclude other requests.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def _take(descriptor: int, offset: int, key: str, patience: float) -> float:
    """Lock one key; return the rest of the patience."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    until = 0.0
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):
            now = time.monotonic()
            until = until or now + patience
            if now >= until:
                raise TryAgain(f"another request holds the lock of {key}") from None
            time.sleep(POLL)
        else:
            return until - time.monotonic() if until else patience
