"""Locks among the processes of one node: an attachment's, a NIC's.

One file, and in it one byte range for each key, locked as an open file description
(F_OFD_SETLK): a lock dies with its holder however that ends, threads do not share it,
and no lock file is ever left over. The holder's delegates inherit it: when the holder is
killed it stays held while one of them is at work, else DEL might release an address before
the delegate that nobody waits for any more has reserved it. Several keys are taken in one
order, so that two requests never wait for each other. Waiting has a deadline.
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
from bondcni.service.journal import make_folder, own_as_folder

POLL = 0.01

_FLOCK = struct.Struct("=hh4xqqi4x")  # l_type, l_whence, l_start, l_len, l_pid on 64 bits


@contextlib.contextmanager
def hold(folder: str, keys: Iterable[str], patience: float) -> Iterator[None]:
    """Hold the locks of ``keys`` for the context.

    Raises ``TryAgain`` (code 11) naming what is busy past the deadline, and
    ``JournalError`` when the folder cannot be written.
    """
    path = f"{folder}/lock"
    try:
        descriptor = _opened(path, folder)
    except OSError as error:
        raise JournalError(f"the lock {path} cannot be opened: {error.strerror}") from error
    os.set_inheritable(descriptor, True)  # noqa: FBT003  its one parameter
    try:
        for offset, key in sorted((zlib.crc32(key.encode()), key) for key in set(keys)):
            patience = _take(descriptor, offset, key, patience)
        yield
    finally:
        whole = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)  # a delegate's daemon may have it, too
        os.close(descriptor)


def _opened(path: str, folder: str) -> int:
    """The file of locks; the first request makes it. Raises ``OSError``."""
    try:
        return _existing(path)
    except FileNotFoundError:
        make_folder(folder)
    try:
        descriptor = create(path, os.O_RDWR)
    except FileExistsError:  # by another request
        return _existing(path)
    own_as_folder(descriptor, folder)
    return descriptor


def _existing(path: str) -> int:
    """The file that is there. A socket or a directory the kernel refuses by itself; a lock on a
    FIFO or a device would be one, but not one that everybody has.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def _take(descriptor: int, offset: int, key: str, patience: float) -> float:
    """Lock one key; how much of the patience is left."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    until = 0.0
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):
            now = time.monotonic()
            until = until or now + patience
            if now >= until:
                raise TryAgain(f"another request is at work on {key}") from None
            time.sleep(POLL)
        else:
            return until - time.monotonic() if until else patience
