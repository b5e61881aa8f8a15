"""What was taken, on disk before it is touched.

One file for each attachment (container ID and interface name): the links as they
were, the bond as it shall be, and the configuration that a later DEL needs, however
the one that comes with it was edited. It is written and made durable (write, fsync,
rename, fsync of the folder) before the first change, and removed last. A record that
cannot be read is set aside under another name, told about, and stops nothing. Who writes
or removes holds the attachment's lock; what a killed writer left goes with the record.
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
"""Bytes of a record: far more than a configuration of the largest size takes in JSON."""

QUEUE, QUEUED = "queue", ".del"
"""The directory of queued DELs, and the ending of its files."""

REFUSED = ".refused"
REFUSALS = 256
"""How many notes of refused ADDs are kept. Each goes with the DEL that follows its ADD, but
where there is a bond that this DEL must leave alone.
"""

NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What opening a record says where none can have been written."""


Warn = Callable[[str], None]


class Record(NamedTuple):
    """One attachment."""

    container_id: str
    ifname: str
    netns: str
    config: dict[str, Any]  # the ADD's, whole
    wanted: Wanted
    claimed: tuple[Claimed, ...]
    namespace: str = ""  # device and inode of the namespace
    boot: str = ""  # the node's boot, by the kernel's boot_id
    env: Mapping[str, str] = {}  # what the delegate's DEL needs of the ADD's environment
    result: dict[str, Any] | None = None  # ADD's answer; None: it is not complete
    way_home: str = ""  # netlink messages in hex: the links home without what reads this record


class Journal:
    """The records in one folder. All threads may share it."""

    def __init__(self, folder: str = STATE_DIRECTORY) -> None:
        self.folder = folder
        self._index: Index | None = None

    def stay(self) -> None:
        """Keep an index for ``naming`` from now on: for who searches again and again."""
        self._index = Index(self.folder)
        with contextlib.suppress(OSError, JournalError):  # then at the first search
            self._index.naming((), self._spellings)

    def _path(self, container_id: str, ifname: str) -> str:
        return f"{self.folder}/{container_id}:{ifname}.json"  # neither may have a colon

    def write(self, record: Record) -> None:
        """Store durably. Raises ``BondError`` (code 5, I/O) when that is not possible."""
        self._store(record, durable=True)

    def complete(self, record: Record) -> None:
        """Store that ADD succeeded. After a power cut the older record may be back, whole:
        its pod is gone then, too.
        """
        self._store(record, durable=False)

    def _store(self, record: Record, *, durable: bool) -> None:
        path = self._path(record.container_id, record.ifname)
        try:
            _replace(path, _text(record), durable=durable)
        except OSError as error:
            raise JournalError(f"the record {path} cannot be written: {error.strerror}") from error

    def reopen(self, record: Record) -> None:
        """Store that taking down has begun: what is cut off from here on is to be finished.

        Where it cannot be stored the work goes on: nothing is lost but this knowledge.
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
        """All that may be written for the host's links of a record. Raises ``UNREADABLE``."""
        content = self._content(*name)
        claimed = _from_json(json.loads(content)).claimed if content is not None else ()
        links = [item.link for item in claimed if item.home == Location.HOST]
        macs = [str((link.member or {}).get("perm_hwaddr") or link.mac) for link in links]
        signs = [(link.name, *link.altnames, link.permanent_mac, link.parent) for link in links]
        return frozenset(word for found in (macs, *signs) for word in found if word)

    def _each(self, names: Iterable[Name], warn: Warn) -> list[Record]:
        return [record for name in names if (record := self.read(*name, warn))]

    def beginnings(self) -> list[Name]:
        """Attachments (container ID, interface name) whose first record was cut off."""
        whole = self._names(".json")
        return [name for name in self._names(f".json{UNFINISHED}") if name not in whole]

    def _names(self, ending: str) -> list[Name]:
        try:
            return named(sorted(os.listdir(self.folder)), ending)
        except OSError as error:
            if error.errno in NO_RECORD:
                return []
            raise JournalError(f"{self.folder} cannot be read: {error.strerror}") from error

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
            warn(f"the record {path} cannot be read ({why}); {set_aside(path)}")
            return None

    def _content(self, container_id: str, ifname: str) -> bytes | None:
        """The record's text; None: there is none. Raises ``NotAFile``, which is ``UNREADABLE``."""
        path = self._path(container_id, ifname)
        try:
            return read_file(path, LARGEST, follow=False)
        except OSError as error:
            if error.errno in NO_RECORD:
                return None
            raise JournalError(f"the record {path} cannot be read: {error.strerror}") from error

    def queued(self) -> list[Name]:
        """Attachments (container ID, interface name) whose DEL is queued: stored by the executable
        while no daemon answered.
        """
        try:
            return named(sorted(os.listdir(f"{self.folder}/{QUEUE}")), QUEUED)
        except OSError:  # nothing was ever queued; or it is told when the journal is read
            return []

    def tidy(self, container_id: str, ifname: str) -> None:
        """Remove what a writer that was killed left beside the record; it tells nothing."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(container_id, ifname) + UNFINISHED)

    def remove(self, container_id: str, ifname: str) -> None:
        """Remove; a record that is not there is done already."""
        self.tidy(container_id, ifname)
        self.forget_refusal(container_id, ifname)
        path = self._path(container_id, ifname)
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno in NO_RECORD:
                return
            raise JournalError(f"the record {path} cannot be removed: {error.strerror}") from error

    def note_refusal(self, container_id: str, ifname: str) -> None:
        """Note that an ADD failed. Whatever bond has its name in the pod is somebody else's then,
        which DEL could not tell otherwise. Where it cannot be noted, nothing else fails.
        """
        with contextlib.suppress(OSError):
            try:
                descriptor = create(self._refusal(container_id, ifname), os.O_WRONLY)
            except FileNotFoundError:
                make_folder(self.folder)
                descriptor = create(self._refusal(container_id, ifname), os.O_WRONLY)
            try:
                own_as_folder(descriptor, self.folder)
            finally:
                os.close(descriptor)
            notes = [name for name in os.listdir(self.folder) if name.endswith(REFUSED)]
            if len(notes) > REFUSALS:
                paths = [f"{self.folder}/{name}" for name in notes]
                os.unlink(min(paths, key=lambda path: os.stat(path).st_mtime_ns))

    def was_refused(self, container_id: str, ifname: str) -> bool:
        """Whether the attachment's ADD failed. A record that was set aside since says more: it
        was made after all.
        """
        aside = set_aside_as(self._path(container_id, ifname))
        note = self._refusal(container_id, ifname)
        return os.path.exists(note) and not os.path.exists(aside)

    def forget_refusal(self, container_id: str, ifname: str) -> None:
        """Remove the note."""
        with contextlib.suppress(OSError):
            os.unlink(self._refusal(container_id, ifname))

    def _refusal(self, container_id: str, ifname: str) -> str:
        return f"{self.folder}/{container_id}:{ifname}{REFUSED}"

    def unusable(self) -> str:
        """Why no record could be written now; "" when one could."""
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        except OSError as error:
            return f"state folder {self.folder}: {error.strerror}"
        if not os.access(self.folder, os.W_OK | os.X_OK):
            return f"state folder {self.folder} is not writable"
        return ""


def _text(record: Record) -> bytes:
    """JSON, compact, for ``indent`` is Python's slow encoder. ``way_home`` and ``namespace`` come
    first, each on a line, before any text of a user's: shim/bond.c reads these two, and no JSON.
    """
    whole = _to_json(record)
    first = [f' "{key}": {json.dumps(whole.pop(key))},\n' for key in ("way_home", "namespace")]
    return f"{{\n{''.join(first)} {json.dumps(whole)[1:]}".encode()


def _replace(path: str, content: bytes, *, durable: bool) -> None:
    """Atomic: a reader sees the old file or the whole new one; ``durable``: the new one
    even after a power cut.
    """
    temporary = path + UNFINISHED
    try:
        with _created(temporary) as file:
            own_as_folder(file.fileno(), os.path.dirname(path))
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())  # else the rename may outlive the content
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if durable:
        flush(os.path.dirname(path))


def _created(path: str) -> FileIO:
    """A new file; the first one's folder is made for it. What a killed writer left goes."""
    try:
        return open(path, "wb", buffering=0, opener=create)
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
    except FileExistsError:
        os.unlink(path)
    return open(path, "wb", buffering=0, opener=create)


def make_folder(folder: str) -> None:
    """Make the state folder, where it is missing: asking for that each time would cost more."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:  # by another request
        return
    except FileNotFoundError:
        os.makedirs(folder, mode=0o700, exist_ok=True)


def own_as_folder(descriptor: int, folder: str) -> None:
    """Give a file of the state folder to who owns the folder: root writes there, too, and the
    daemon, which is not root, must be able to read what root wrote.
    """
    if os.geteuid() == 0 and (owner := os.stat(folder)).st_uid:
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
    """The fields of a value of core, for JSON; ``dataclasses.asdict`` copies all that is in them."""
    return {name: getattr(value, name) for name in value.__slots__}


def _from_json(document: dict[str, Any]) -> Record:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not {FORMAT}")
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
    """A link, and what it lost; records of older versions say nothing of that."""
    lost = tuple(Kept(**one) for one in item.get("kept", ()))
    return Claimed(Location(item["home"]), Link(**_frozen(item["link"])), lost)


def _frozen(value: Any) -> Any:
    """As it was before JSON, which has no tuples."""
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
