"""The records of attachments, in the state directory.

A record is one file for each attachment (container ID and interface name): the claimed links as
they were before, the bond as it will be, and the configuration of ADD, so that DEL does not depend
on an edited one. It is made durable (write, fsync, rename, fsync of the directory) before the first
change, and removed last. An invalid record is renamed with a warning, and stops no request. Who
writes or removes a record holds the lock of the attachment.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from io import FileIO
from typing import Any, NamedTuple

from bondcni.core.errors import JournalError
from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import Kept, Link, Location
from bondcni.service.files import create, flush, read_file, set_aside, set_aside_as
from bondcni.service.index import UNREADABLE, Index, Name, named
from bondcni.service.paths import STATE_DIRECTORY

FORMAT = 1
UNFINISHED = ".tmp"

LARGEST = 64 << 20
"""Bytes of a record; one with the largest configuration is far smaller."""

QUEUE, QUEUED = "queue", ".del"
"""The directory of queued DELs, and the ending of its files."""

REFUSED = ".refused"
REFUSALS = 256
"""How many notes of failed ADDs are kept. DEL removes the note of its attachment, except while
there is a bond that it must not delete.
"""

NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""The errors of opening a record that mean that there is none."""


Warn = Callable[[str], None]


class Record(NamedTuple):
    """One attachment."""

    container_id: str
    ifname: str
    netns: str
    config: dict[str, Any]  # the whole configuration of ADD
    wanted: Wanted
    claimed: tuple[Claimed, ...]
    namespace: str = ""  # device and inode of the network namespace
    boot: str = ""  # the kernel's boot_id
    env: Mapping[str, str] = {}  # the part of ADD's environment that the delegate's DEL needs
    result: dict[str, Any] | None = None  # the CNI result of ADD; None while it is incomplete
    way_home: str = ""  # the netlink messages of the emergency return, in hex


class Journal:
    """The records in one directory. Threads may share a journal."""

    def __init__(self, directory: str = STATE_DIRECTORY) -> None:
        self.directory = directory
        self._index: Index | None = None

    def stay(self) -> None:
        """Keep an index for ``naming``, for a process that searches often."""
        self._index = Index(self.directory)
        with contextlib.suppress(OSError, JournalError):  # then the first search builds it
            self._index.naming((), self._spellings)

    def _path(self, container_id: str, ifname: str) -> str:
        return f"{self.directory}/{container_id}:{ifname}.json"  # neither contains a colon

    def write(self, record: Record) -> None:
        """Store durably. Raises ``JournalError``."""
        self._store(record, durable=True)

    def complete(self, record: Record) -> None:
        """Store that ADD succeeded; not durably, because after a power failure the pod is gone,
        too. Raises ``JournalError``.
        """
        self._store(record, durable=False)

    def _store(self, record: Record, *, durable: bool) -> None:
        path = self._path(record.container_id, record.ifname)
        try:
            _replace(path, _text(record), durable=durable)
        except OSError as error:
            raise JournalError(f"cannot write the record {path}: {error.strerror}") from error

    def reopen(self, record: Record) -> None:
        """Store that teardown has begun, so that it is completed later if it is interrupted.

        Teardown continues even if this cannot be stored.
        """
        with contextlib.suppress(JournalError):
            self.complete(record._replace(result=None))

    def all(self, warn: Warn) -> list[Record]:
        """Every record that can be read."""
        return self._each(self._names(".json"), warn)

    def naming(self, words: Collection[str], warn: Warn) -> list[Record]:
        """The records whose host links may match one of these names, MACs or PCI addresses.

        Without an index every record is read, but parsed only if it contains one of the words.
        """
        if self._index:
            with contextlib.suppress(OSError):  # the directory cannot be watched
                return self._each(self._index.naming(words, self._spellings), warn)
        needles = [json.dumps(word).encode() for word in words]
        return self._each((name for name in self._names(".json") if self._has(name, needles)), warn)

    def _has(self, name: Name, needles: list[bytes]) -> bool:
        try:
            content = self._content(*name) or b""
        except UNREADABLE:
            return True  # ``read`` sets it aside
        return any(needle in content for needle in needles)

    def _spellings(self, name: Name) -> frozenset[str]:
        """The names, MACs and addresses of the host links of a record. Raises ``UNREADABLE``."""
        content = self._content(*name)
        claimed = _from_json(json.loads(content)).claimed if content is not None else ()
        links = [item.link for item in claimed if item.home == Location.HOST]
        macs = [str((link.member or {}).get("perm_hwaddr") or link.mac) for link in links]
        signs = [(link.name, *link.altnames, link.permanent_mac, link.parent) for link in links]
        return frozenset(word for found in (macs, *signs) for word in found if word)

    def _each(self, names: Iterable[Name], warn: Warn) -> list[Record]:
        return [record for name in names if (record := self.read(*name, warn))]

    def beginnings(self) -> list[Name]:
        """Attachments whose first record is incomplete: its writer was killed."""
        whole = self._names(".json")
        return [name for name in self._names(f".json{UNFINISHED}") if name not in whole]

    def _names(self, ending: str) -> list[Name]:
        try:
            return named(sorted(os.listdir(self.directory)), ending)
        except OSError as error:
            if error.errno in NO_RECORD:
                return []
            raise JournalError(
                f"cannot read the state directory {self.directory}: {error.strerror}"
            ) from error

    def read(self, container_id: str, ifname: str, warn: Warn) -> Record | None:
        """The record, or None. One that is invalid is set aside, with a warning.

        Raises ``JournalError`` when the file cannot be read at the moment: a valid record must
        not be lost because the process has no file descriptor left.
        """
        try:
            content = self._content(container_id, ifname)
            return None if content is None else _from_json(json.loads(content))
        except UNREADABLE as error:
            path = self._path(container_id, ifname)
            why = f"{type(error).__name__}: {error}"
            warn(f"the record {path} is invalid ({why}); {set_aside(path)}")
            return None

    def _content(self, container_id: str, ifname: str) -> bytes | None:
        """The content of a record, or None. Raises ``NotAFile``, which is ``UNREADABLE``."""
        path = self._path(container_id, ifname)
        try:
            return read_file(path, LARGEST, follow=False)
        except OSError as error:
            if error.errno in NO_RECORD:
                return None
            raise JournalError(f"cannot read the record {path}: {error.strerror}") from error

    def queued(self) -> list[Name]:
        """Attachments whose DEL is queued: stored by the executable because the daemon did not answer."""
        try:
            return named(sorted(os.listdir(f"{self.directory}/{QUEUE}")), QUEUED)
        except OSError:  # no DEL was ever queued
            return []

    def tidy(self, container_id: str, ifname: str) -> None:
        """Remove the temporary file that a killed writer left beside the record."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(container_id, ifname) + UNFINISHED)

    def remove(self, container_id: str, ifname: str) -> None:
        """Remove a record, if there is one. Raises ``JournalError``."""
        self.tidy(container_id, ifname)
        self.forget_refusal(container_id, ifname)
        path = self._path(container_id, ifname)
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno in NO_RECORD:
                return
            raise JournalError(f"cannot remove the record {path}: {error.strerror}") from error

    def note_refusal(self, container_id: str, ifname: str) -> None:
        """Note that an ADD failed: a bond of its name in the pod is not its own, and DEL must not
        delete it. An error of writing the note is ignored.
        """
        with contextlib.suppress(OSError):
            try:
                descriptor = create(self._refusal(container_id, ifname), os.O_WRONLY)
            except FileNotFoundError:
                make_directory(self.directory)
                descriptor = create(self._refusal(container_id, ifname), os.O_WRONLY)
            try:
                own_as_directory(descriptor, self.directory)
            finally:
                os.close(descriptor)
            notes = [name for name in os.listdir(self.directory) if name.endswith(REFUSED)]
            if len(notes) > REFUSALS:
                paths = [f"{self.directory}/{name}" for name in notes]
                os.unlink(min(paths, key=lambda path: os.stat(path).st_mtime_ns))

    def was_refused(self, container_id: str, ifname: str) -> bool:
        """Whether the ADD of the attachment failed. An invalid record that was renamed since shows
        that a later one succeeded.
        """
        aside = set_aside_as(self._path(container_id, ifname))
        note = self._refusal(container_id, ifname)
        return os.path.exists(note) and not os.path.exists(aside)

    def forget_refusal(self, container_id: str, ifname: str) -> None:
        """Remove the note of a failed ADD."""
        with contextlib.suppress(OSError):
            os.unlink(self._refusal(container_id, ifname))

    def _refusal(self, container_id: str, ifname: str) -> str:
        return f"{self.directory}/{container_id}:{ifname}{REFUSED}"

    def unusable(self) -> str:
        """Why no record can be written; "" when one can."""
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
        except OSError as error:
            return f"state directory {self.directory}: {error.strerror}"
        if not os.access(self.directory, os.W_OK | os.X_OK):
            return f"state directory {self.directory} is not writable"
        return ""


def _text(record: Record) -> bytes:
    """JSON without ``indent``, which is slow in Python. ``way_home`` and ``namespace`` come first,
    each on its own line, before any text of a user: the executable searches for these lines and
    does not parse JSON (shim/emergency.c).
    """
    whole = _to_json(record)
    first = [f' "{key}": {json.dumps(whole.pop(key))},\n' for key in ("way_home", "namespace")]
    return f"{{\n{''.join(first)} {json.dumps(whole)[1:]}".encode()


def _replace(path: str, content: bytes, *, durable: bool) -> None:
    """Replace a file atomically: a reader sees the old or the new one. With ``durable`` the new one
    survives a power failure.
    """
    temporary = path + UNFINISHED
    try:
        with _created(temporary) as file:
            own_as_directory(file.fileno(), os.path.dirname(path))
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())  # otherwise the rename may reach the disk before the content
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if durable:
        flush(os.path.dirname(path))


def _created(path: str) -> FileIO:
    """A new file, in place of one that a killed writer left. Creates the state directory."""
    try:
        return open(path, "wb", buffering=0, opener=create)
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
    except FileExistsError:
        os.unlink(path)
    return open(path, "wb", buffering=0, opener=create)


def make_directory(directory: str) -> None:
    """Create the state directory, if it is missing."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:  # another request created it
        return
    except FileNotFoundError:
        os.makedirs(directory, mode=0o700, exist_ok=True)


def own_as_directory(descriptor: int, directory: str) -> None:
    """Give a file to the owner of the state directory: root writes there, too, and the daemon,
    which is not root, must be able to read it.
    """
    if os.geteuid() == 0 and (owner := os.stat(directory)).st_uid:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _to_json(record: Record) -> dict[str, Any]:
    wanted = _fields(record.wanted)
    wanted["members"] = [_fields(member) for member in record.wanted.members]
    claimed = [
        {
            "home": item.home,
            "link": _fields(item.link),
            "kept": [_fields(one) for one in item.kept],
        }
        for item in record.claimed
    ]
    return {**record._asdict(), "format": FORMAT, "wanted": wanted, "claimed": claimed}


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a value of core, for JSON. ``dataclasses.asdict`` would copy their values."""
    return {name: getattr(value, name) for name in value.__slots__}


def _from_json(document: dict[str, Any]) -> Record:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not supported, only {FORMAT}")
    wanted = document["wanted"]
    members = tuple(Member(**_frozen(member)) for member in wanted["members"])
    options = _frozen(wanted["options"])
    return Record(
        document["container_id"],
        document["ifname"],
        document["netns"],
        document["config"],
        Wanted(**{**wanted, "members": members, "options": options}),
        tuple(map(_claimed, document["claimed" if "claimed" in document else "taken"])),
        document["namespace"],
        document["boot"],
        document["env"],
        document["result"],
        document.get("way_home", ""),
    )


def _claimed(item: dict[str, Any]) -> Claimed:
    """A claimed link. Records of older versions do not have ``kept``."""
    lost = tuple(Kept(**one) for one in item.get("kept", ()))
    return Claimed(Location(item["home"]), Link(**_frozen(item["link"])), lost)


def _frozen(value: Any) -> Any:
    """With tuples instead of lists: JSON has no tuples."""
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
