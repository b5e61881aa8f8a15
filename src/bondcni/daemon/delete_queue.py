"""Queued DELs: requests that arrived while no daemon answered, one file for each attachment.

The shim stores the REQUEST frame that it would have sent (``docs/protocol.md``). A file is removed
once its DEL is done; if it fails, the file stays and the DEL is tried again. A file that is not
a valid frame is set aside and reported.
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


class DeleteQueue(NamedTuple):
    """The queue in a state directory."""

    state: str

    @property
    def directory(self) -> str:
        """The directory of the queue's files."""
        return f"{self.state}/{QUEUE}"

    def names(self) -> list[Name]:
        """The attachments that have a queued DEL."""
        return Journal(self.state).queued()

    def execute(self, service: Service, name: Name) -> str:
        """Do one DEL. Returns "" if it is done, else what went wrong."""
        path = f"{self.directory}/{':'.join(name)}{QUEUED}"
        try:
            request = _request(path, name)
            if request is not None:
                verbs.serve(service, request)
                _remove(path)
        except (ProtocolError, InputError) as error:  # trying again would not help
            return f"{path} is not a valid queued DEL: {error}; {set_aside(path)}"
        except BondError as error:
            return error.message
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""


def recover_all(
    service: Service, queue: DeleteQueue, *, dry_run: bool = False
) -> Iterator[Recovered]:
    """As ``reconcile.recover``, after the queued DELs."""
    for name in queue.names():
        left = "" if dry_run else queue.execute(service, name)
        done = not dry_run and name not in queue.names()
        yield Recovered(*name, AttachmentState.QUEUED, done, (left,) if left else ())
    yield from recover(service, dry_run=dry_run)


def _request(path: str, name: Name) -> Request | None:
    """The request in a file; None if the file does not exist (any more).

    Raises ``ProtocolError`` if it is not a DEL of that attachment.
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
        raise ProtocolError(f"it is for attachment {request.container_id} {request.ifname}")
    return request


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _frame(content: bytes) -> Frame:
    if len(content) < HEADER:
        raise ProtocolError(f"{len(content)} bytes, shorter than the header of a frame")
    kind, length = header(content)
    if kind != Type.REQUEST or length != len(content) - HEADER:
        raise ProtocolError("not one complete REQUEST frame")
    return unpack(kind, content[HEADER:])
