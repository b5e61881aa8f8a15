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
from collections.abc import Mapping
from typing import Any, NamedTuple

from bondcni.core.errors import BondError
from bondcni.core.plan import Member, Taken, Wanted
from bondcni.core.state import Link

FORMAT = 1
DEFAULT_FOLDER = "/var/lib/bond-cni"
UNFINISHED = ".tmp"

NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What opening a record says where none can have been written."""

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading rubbish raises: not JSON, or JSON of another shape."""


class Record(NamedTuple):
    """One attachment."""

    container_id: str
    ifname: str
    netns: str
    config: dict[str, Any]  # the ADD's, whole
    wanted: Wanted
    taken: tuple[Taken, ...]
    namespace: str = ""  # device and inode of the namespace
    boot: str = ""  # the node's boot, by the kernel's boot_id
    env: Mapping[str, str] = {}  # what the delegate's DEL needs of the ADD's environment
    result: dict[str, Any] | None = None  # ADD's answer; None: it is not complete
    way_home: str = ""  # netlink messages in hex: the links home without what reads this record


class Journal:
    """The records in one folder."""

    def __init__(self, folder: str = DEFAULT_FOLDER) -> None:
        self.folder = folder

    def _path(self, container_id: str, ifname: str) -> str:
        return f"{self.folder}/{container_id}:{ifname}.json"  # neither may have a colon

    def write(self, record: Record) -> None:
        """Store durably. Raises ``BondError`` (code 5, I/O) when that is not possible."""
        path = self._path(record.container_id, record.ifname)
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            _replace(path, _text(record), durable=True)
        except OSError as error:
            raise JournalError(f"the record {path} cannot be written: {error.strerror}") from error

    def complete(self, record: Record) -> None:
        """Store that ADD succeeded. After a power cut the older record may be back, whole:
        its pod is gone then, too.
        """
        path = self._path(record.container_id, record.ifname)
        try:
            _replace(path, _text(record), durable=False)
        except OSError as error:
            raise JournalError(f"the record {path} cannot be written: {error.strerror}") from error

    def reopen(self, record: Record) -> None:
        """Store that taking down has begun: what is cut off from here on is to be finished.

        Where it cannot be stored the work goes on: nothing is lost but this knowledge.
        """
        with contextlib.suppress(JournalError):
            self.complete(record._replace(result=None))

    def all(self) -> tuple[list[Record], list[str]]:
        """Every record, and a word about each that was set aside."""
        read = [self.read(*name) for name in self._names(".json")]
        return [record for record, _ in read if record], [word for _, word in read if word]

    def beginnings(self) -> list[tuple[str, str]]:
        """Attachments (container ID, interface name) whose first record was cut off."""
        whole = self._names(".json")
        return [name for name in self._names(f".json{UNFINISHED}") if name not in whole]

    def _names(self, ending: str) -> list[tuple[str, str]]:
        try:
            files = sorted(os.listdir(self.folder))
        except OSError as error:
            if error.errno in NO_RECORD:
                return []
            raise JournalError(f"{self.folder} cannot be read: {error.strerror}") from error
        parted = [f.removesuffix(ending).partition(":") for f in files if f.endswith(ending)]
        return [(container_id, ifname) for container_id, _, ifname in parted if ifname]

    def read(self, container_id: str, ifname: str) -> tuple[Record | None, str]:
        """The record or None, and a word about one that was set aside.

        Raises ``BondError`` (code 5) when the file cannot be read for now: a good record
        must not be lost for want of a file descriptor.
        """
        path = self._path(container_id, ifname)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            if error.errno in NO_RECORD:
                return None, ""
            raise JournalError(f"the record {path} cannot be read: {error.strerror}") from error
        try:
            return _from_json(json.loads(content)), ""
        except UNREADABLE as error:
            why = f"{type(error).__name__}: {error}"
            return None, f"the record {path} cannot be read ({why}); {_set_aside(path)}"

    def tidy(self, container_id: str, ifname: str) -> None:
        """Remove what a writer that was killed left beside the record; it tells nothing."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(container_id, ifname) + UNFINISHED)

    def remove(self, container_id: str, ifname: str) -> None:
        """Remove; a record that is not there is done already."""
        self.tidy(container_id, ifname)
        path = self._path(container_id, ifname)
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno in NO_RECORD:
                return
            raise JournalError(f"the record {path} cannot be removed: {error.strerror}") from error

    def unusable(self) -> str:
        """Why no record could be written now; "" when one could."""
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        except OSError as error:
            return f"state folder {self.folder}: {error.strerror}"
        if not os.access(self.folder, os.W_OK | os.X_OK):
            return f"state folder {self.folder} is not writable"
        return ""


class JournalError(BondError):
    """The state folder fails."""

    code = 5


def _text(record: Record) -> bytes:
    return json.dumps(_to_json(record), indent=1).encode()


def _replace(path: str, content: bytes, *, durable: bool) -> None:
    """Atomic: a reader sees the old file or the whole new one; ``durable``: the new one
    even after a power cut.
    """
    temporary = path + UNFINISHED
    try:
        with open(temporary, "wb") as file:
            own_as_folder(file.fileno(), os.path.dirname(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the rename may outlive the content
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if not durable:
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def own_as_folder(descriptor: int, folder: str) -> None:
    """Give a file of the state folder to who owns the folder: root writes there, too, and the
    daemon, which is not root, must be able to read what root wrote.
    """
    owner = os.stat(folder)
    if owner.st_uid and os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _set_aside(path: str) -> str:
    aside = f"{path}.unreadable"
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it could not be set aside: {error.strerror}"
    return f"set aside as {aside}"


def _to_json(record: Record) -> dict[str, Any]:
    """``way_home`` and ``namespace`` stand first, before any text of a user's: shim/bond.c
    reads these two, and no JSON.
    """
    wanted = record.wanted._asdict()
    wanted["members"] = [member._asdict() for member in record.wanted.members]
    taken = [{"home": item.home, "link": item.link._asdict()} for item in record.taken]
    first = {"way_home": record.way_home, "namespace": record.namespace}
    return {**first, **record._asdict(), "format": FORMAT, "wanted": wanted, "taken": taken}


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
        tuple(Taken(item["home"], Link(**_frozen(item["link"]))) for item in document["taken"]),
        document["namespace"],
        document["boot"],
        document["env"],
        document["result"],
        document.get("way_home", ""),
    )


def _frozen(value: Any) -> Any:
    """As it was before JSON, which has no tuples."""
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
