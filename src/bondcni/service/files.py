"""Files put in place, and files of others read.

A file is put in place whole or not at all, and never over one that somebody executes.

It is written beside under a name of its own, flushed and renamed. Who executes or reads the
file that was there goes on with that one; writing over it is refused by the kernel while it is
executed (ETXTBSY) and leaves half a program behind where the writer is killed. Reading never
waits: what is at a path that others chose may be a FIFO or a device.
"""

from __future__ import annotations

import contextlib
import os
import stat

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISLNK, "a symbolic link"),
)


CHUNK = 1 << 16


class NotAFile(ValueError):
    """What is at a path is no regular file, or has more bytes than such a file ever has."""


def read_file(path: str, limit: int, *, follow: bool = True) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; ``follow``: also through a
    symbolic link at the path.

    Raises ``NotAFile`` and ``OSError``.
    """
    look = os.stat if follow else os.lstat
    _require_regular(look(path))  # before it is opened: opening a device may do anything
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags | (0 if follow else os.O_NOFOLLOW))
    try:
        _require_regular(os.fstat(descriptor))  # another may have been put there meanwhile
        chunks: list[bytes] = []
        rest = limit + 1
        while rest and (chunk := os.read(descriptor, min(rest, CHUNK))):
            chunks.append(chunk)
            rest -= len(chunk)
    finally:
        os.close(descriptor)
    if not rest:
        raise NotAFile(f"it has more than {limit} bytes")
    return b"".join(chunks)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_a, words in KINDS if is_a(found.st_mode)), "a special file")
        raise NotAFile(f"it is {kind}, not a regular file")


def put(path: str, content: bytes, mode: int) -> bool:
    """Put a file in place; False where it is there as it should be. Raises ``OSError``."""
    if _is_there(path, content, mode):
        return False
    folder, name = os.path.split(path)
    fresh = f"{folder}/.{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)  # of one who was killed
    try:
        _write(fresh, content, mode)
        os.rename(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    flush(folder)
    return True


def remove(path: str) -> bool:
    """Remove a file, durably; False where there is none. Raises ``OSError``."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    flush(os.path.dirname(path))
    return True


def _is_there(path: str, content: bytes, mode: int) -> bool:
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            return False
        same = read_file(path, len(content), follow=False) == content
    except (OSError, NotAFile):
        return False
    return same and stat.S_IMODE(found.st_mode) == mode and found.st_uid == os.geteuid()


def _write(path: str, content: bytes, mode: int) -> None:
    with open(path, "wb", opener=create) as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())  # else the rename may outlive the content


def create(path: str, flags: int) -> int:
    """Open a file that is not there yet, through no link: root must not write where somebody
    else who owns the folder has one point to.
    """
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def set_aside(path: str) -> str:
    """Give a file that cannot be read another name; what came of it, in words."""
    aside = set_aside_as(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it cannot be set aside: {error.strerror}"
    return f"set aside as {aside}"


def set_aside_as(path: str) -> str:
    """The name that a file has when it was set aside."""
    return f"{path}.unreadable"


def flush(folder: str) -> None:
    """Make what was renamed or removed in a folder durable. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
