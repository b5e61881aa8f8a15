"""Replaces files atomically, and reads files at paths that others chose.

A new file is written under a temporary name in the same directory, flushed and renamed. A process
that executes or reads the old file continues with the old one. Writing to a file in place would
fail while it is executed (ETXTBSY), and would leave half of it when the writer is killed. Reading
never blocks: the path may be a FIFO or a device.
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
    """The path is not a regular file, or the file is larger than any valid one."""


def read_file(path: str, limit: int, *, follow: bool = True) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; with ``follow`` the path may be a
    symbolic link.

    Raises ``NotAFile`` and ``OSError``.
    """
    look = os.stat if follow else os.lstat
    _require_regular(look(path))  # before opening: opening a device can have any effect
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags | (0 if follow else os.O_NOFOLLOW))
    try:
        _require_regular(os.fstat(descriptor))  # it may have been replaced since
        chunks: list[bytes] = []
        rest = limit + 1
        while rest and (chunk := os.read(descriptor, min(rest, CHUNK))):
            chunks.append(chunk)
            rest -= len(chunk)
    finally:
        os.close(descriptor)
    if not rest:
        raise NotAFile(f"it is larger than {limit} bytes")
    return b"".join(chunks)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_a, words in KINDS if is_a(found.st_mode)), "a special file")
        raise NotAFile(f"it is {kind}, not a regular file")


def put(path: str, content: bytes, mode: int) -> bool:
    """Replace a file; False where it has this content, mode and owner. Raises ``OSError``."""
    if _is_there(path, content, mode):
        return False
    directory, name = os.path.split(path)
    fresh = f"{directory}/.{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)  # left by a writer that was killed
    try:
        _write(fresh, content, mode)
        os.rename(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    flush(directory)
    return True


def remove(path: str) -> bool:
    """Remove a file, durably; False where it does not exist. Raises ``OSError``."""
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
        os.fsync(file.fileno())  # otherwise the rename may reach the disk before the content


def create(path: str, flags: int) -> int:
    """Create and open a file, without following symbolic links: the owner of the directory must not
    be able to direct what root writes to another file.
    """
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def set_aside(path: str) -> str:
    """Rename an invalid file, so that it is not read again; the outcome, for a message."""
    aside = set_aside_as(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"cannot rename it to {aside}: {error.strerror}"
    return f"renamed to {aside}"


def set_aside_as(path: str) -> str:
    """The name that ``set_aside`` gives a file."""
    return f"{path}.unreadable"


def flush(directory: str) -> None:
    """Make the renames and removals in a directory durable. Raises ``OSError``."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
