"""Deletions that were asked for while no daemon answered, one file for each attachment.

The shim wrote each as the REQUEST frame that it would have sent (``docs/protocol.md``). What is
done is removed; what fails stays and is tried again. A file that is no such frame is set aside
and told about.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from bondcni.core.errors import BondError, EnvironError
from bondcni.frontends.caller import environment
from bondcni.frontends.protocol import HEADER, Frame, ProtocolError, Tag, Type, header, unpack
from bondcni.service import verbs
from bondcni.service.attachment import Service
from bondcni.service.request import Request, read_request

ENDING = ".del"

Name = tuple[str, str]
"""Container ID and interface name."""


class Backlog(NamedTuple):
    """The queue in a state folder."""

    state: str

    @property
    def folder(self) -> str:
        """Where the files are."""
        return f"{self.state}/queue"

    def names(self) -> list[Name]:
        """What is queued."""
        try:
            files = sorted(os.listdir(self.folder))
        except OSError:  # nothing was ever queued; or it is told when the journal is read
            return []
        parted = [f.removesuffix(ENDING).partition(":") for f in files if f.endswith(ENDING)]
        return [(container_id, ifname) for container_id, _, ifname in parted]

    def finish(self, service: Service, name: Name) -> str:
        """Do one deletion; why it could not be done, or ""."""
        path = f"{self.folder}/{':'.join(name)}{ENDING}"
        try:
            request = self._request(path)
            verbs.serve(service, request)
            os.unlink(path)
        except FileNotFoundError:  # somebody else did it
            return ""
        except (ProtocolError, EnvironError) as error:
            os.rename(path, f"{path}.unreadable")
            return f"{path} is no deletion ({error}); set aside as {path}.unreadable"
        except BondError as error:
            return error.message
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""

    @staticmethod
    def _request(path: str) -> Request:
        with open(path, "rb") as file:
            content = file.read()
        frame = _frame(content)
        env = environment(frame)
        return read_request({**env, "CNI_COMMAND": "DEL"}, frame.get(Tag.STDIN) or b"")


def _frame(content: bytes) -> Frame:
    if len(content) < HEADER:
        raise ProtocolError(f"{len(content)} bytes")
    kind, length = header(content)
    if kind != Type.REQUEST or length != len(content) - HEADER:
        raise ProtocolError("not one whole REQUEST")
    return unpack(kind, content[HEADER:])
