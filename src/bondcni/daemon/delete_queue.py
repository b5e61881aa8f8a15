"""Deletions that were asked for while no daemon answered, one file for each attachment.

The shim wrote each as the REQUEST frame that it would have sent (``docs/protocol.md``). What is
done is removed; what fails stays and is tried again. A file that is no such frame is set aside
and told about.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from bondcni.core.errors import BondError, EnvironError, InputError
from bondcni.core.lifecycle import AttachmentState
from bondcni.daemon.protocol import (
    HEADER,
    LIMIT,
    Frame,
    ProtocolError,
    Tag,
    Type,
    header,
    unpack,
)
from bondcni.daemon.shim_client import environment
from bondcni.service import verbs
from bondcni.service.attachment import Service
from bondcni.service.files import NotAFile, read_file, set_aside
from bondcni.service.index import Name
from bondcni.service.journal import QUEUE, QUEUED, Journal
from bondcni.service.reconcile import Recovered, recover
from bondcni.service.request import Request, read_request


class Backlog(NamedTuple):
    """The queue in a state folder."""

    state: str

    @property
    def folder(self) -> str:
        """Where the files are."""
        return f"{self.state}/{QUEUE}"

    def names(self) -> list[Name]:
        """What is queued."""
        return Journal(self.state).queued()

    def finish(self, service: Service, name: Name) -> str:
        """Do one deletion; why it could not be done, or what else to tell, or ""."""
        path = f"{self.folder}/{':'.join(name)}{QUEUED}"
        try:
            request = _request(path, name)
            if request is not None:
                verbs.serve(service, request)
                _remove(path)
        except (ProtocolError, InputError) as error:  # it would be no other the next time
            return f"{path} is no deletion ({error}); {set_aside(path)}"
        except BondError as error:
            return error.message
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""


def recover_all(
    service: Service, backlog: Backlog, *, dry_run: bool = False
) -> Iterator[Recovered]:
    """As ``reconcile.recover``; the deletions that are queued come first."""
    for name in backlog.names():
        left = "" if dry_run else backlog.finish(service, name)
        done = not dry_run and name not in backlog.names()
        yield Recovered(*name, AttachmentState.QUEUED, done, (left,) if left else ())
    yield from recover(service, dry_run=dry_run)


def _request(path: str, name: Name) -> Request | None:
    """What is asked for in a file; None: it is not there (any more).

    Raises ``ProtocolError`` where it is no deletion of that attachment.
    """
    try:
        frame = _frame(read_file(path, HEADER + LIMIT, follow=False))
    except FileNotFoundError:
        return None
    except NotAFile as error:
        raise ProtocolError(str(error)) from error
    env = {**environment(frame), "CNI_COMMAND": "DEL"}
    try:
        request = read_request(env, frame.get(Tag.STDIN) or b"")
    except EnvironError as error:
        raise ProtocolError(error.message) from error
    if (request.container_id, request.ifname) != name:
        raise ProtocolError(f"it is about {request.container_id} {request.ifname}")
    return request


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _frame(content: bytes) -> Frame:
    if len(content) < HEADER:
        raise ProtocolError(f"{len(content)} bytes")
    kind, length = header(content)
    if kind != Type.REQUEST or length != len(content) - HEADER:
        raise ProtocolError("not one whole REQUEST")
    return unpack(kind, content[HEADER:])
