"""What was taken, on disk before it is touched.

One file for each attachment (container ID and interface name): the links as they
were, the bond as it shall be, and the configuration that a later DEL needs, however
the one that comes with it was edited. It is written and made durable (write, fsync,
rename, fsync of the folder) before the first change, and removed last. A record that
cannot be read is set aside under another name, told about, and stops nothing.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from bondcni.core.errors import BondError
from bondcni.core.plan import Member, Taken, Wanted
from bondcni.core.state import Link

FORMAT = 1
DEFAULT_FOLDER = "/var/lib/cni/bond"


class Record(NamedTuple):
    """One attachment."""

    container_id: str
    ifname: str
    netns: str
    config: dict[str, Any]  # the ADD's, whole
    wanted: Wanted
    taken: tuple[Taken, ...]


class Journal:
    """The records in one folder."""

    def __init__(self, folder: str = DEFAULT_FOLDER) -> None:
        self._folder = folder

    def _path(self, container_id: str, ifname: str) -> str:
        return f"{self._folder}/{container_id}:{ifname}.json"  # neither may have a colon

    def write(self, record: Record) -> None:
        """Store durably. Raises ``BondError`` (code 5, I/O) when that is not possible."""
        path = self._path(record.container_id, record.ifname)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            _replace(path, json.dumps(_to_json(record), indent=1).encode())
        except OSError as error:
            raise JournalError(f"the record {path} cannot be written: {error.strerror}") from error

    def read(self, container_id: str, ifname: str) -> tuple[Record | None, str]:
        """The record or None, and a word about one that was set aside."""
        path = self._path(container_id, ifname)
        try:
            with open(path, "rb") as file:
                return _from_json(json.load(file)), ""
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, TypeError, KeyError) as error:
            return None, f"the record {path} cannot be read ({error}); {_set_aside(path)}"

    def remove(self, container_id: str, ifname: str) -> None:
        """Remove; a record that is not there is done already."""
        path = self._path(container_id, ifname)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(f"the record {path} cannot be removed: {error.strerror}") from error


    def unusable(self) -> str:
        """Why no record could be written now; "" when one could."""
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
        except OSError as error:
            return f"state folder {self._folder}: {error.strerror}"
        if not os.access(self._folder, os.W_OK | os.X_OK):
            return f"state folder {self._folder} is not writable"
        return ""


class JournalError(BondError):
    """The state folder fails."""

    code = 5


def _replace(path: str, content: bytes) -> None:
    """Atomic and durable: a reader sees the old file or the whole new one."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _set_aside(path: str) -> str:
    aside = f"{path}.unreadable"
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it could not be set aside: {error.strerror}"
    return f"set aside as {aside}"


def _to_json(record: Record) -> dict[str, Any]:
    wanted = record.wanted._asdict()
    wanted["members"] = [member._asdict() for member in record.wanted.members]
    taken = [{"home": item.home, "link": item.link._asdict()} for item in record.taken]
    return {**record._asdict(), "format": FORMAT, "wanted": wanted, "taken": taken}


def _from_json(document: dict[str, Any]) -> Record:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not {FORMAT}")
    wanted = document["wanted"]
    members = tuple(Member(**member) for member in wanted["members"])
    options = {key: _frozen(value) for key, value in wanted["options"].items()}
    return Record(
        document["container_id"],
        document["ifname"],
        document["netns"],
        document["config"],
        Wanted(**{**wanted, "members": members, "options": options}),
        tuple(Taken(item["home"], _link(item["link"])) for item in document["taken"]),
    )


def _link(fields: dict[str, Any]) -> Link:
    return Link(**{key: _frozen(value) for key, value in fields.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
