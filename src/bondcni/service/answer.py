"""What a container runtime is answered: the document on standard output, and the exit status.

Whatever went wrong becomes an error document here, for both modes.

Source: CNI SPEC 1.1.0, section "Error".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from bondcni.core.errors import BondError
from bondcni.core.result import Object
from bondcni.service.version import version_of

STDIN_LIMIT = 4 << 20
"""Bytes of standard input that are read; a configuration with prevResult is far smaller."""

WARNING = "bond: warning: {}"
"""A warning on standard error."""


class Answer(NamedTuple):
    """What a runtime is told: the document (or nothing), and the CNI code of an error, else 0."""

    output: str
    code: int
    message: str = ""  # the error's


def answered(work: Callable[[], Object | None], stdin: Callable[[], bytes], log: TextIO) -> Answer:
    """Do the work of one request; its document, or the error's.

    ``stdin`` tells the request's configuration, as far as it was read.
    """
    try:
        document = work()
    except Exception as error:  # noqa: BLE001  the one edge: the runtime must get a document
        known = _known(error, log)
        return Answer(_printed(_error(known, stdin())), known.code, known.message)
    return Answer("" if document is None else _printed(document), 0)


def _printed(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=4) + "\n"


def _known(error: Exception, stderr: TextIO) -> BondError:
    """The error as one of the tree; a defect of ours keeps its traceback on stderr."""
    if isinstance(error, BondError):
        return error
    import traceback  # noqa: PLC0415  only a defect needs it

    traceback.print_exception(error, file=stderr)
    return BondError(f"unexpected {type(error).__name__}: {error}")


def _error(error: BondError, text: bytes) -> dict[str, object]:
    """The error document. Source: CNI SPEC 1.1.0, section "Error"."""
    document: dict[str, object] = {
        "cniVersion": version_of(text),
        "code": error.code,
        "msg": error.message,
    }
    if error.details:
        document["details"] = error.details
    return document
