"""The answer to a container runtime: a document for standard output, and the code of an error.

Every error becomes an error document here, in both modes.

Source: CNI SPEC 1.1.0, section "Error".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from bondcni.core.document import Object
from bondcni.core.errors import BondError
from bondcni.service.version import version_of

STDIN_LIMIT = 4 << 20
"""Bytes of standard input that are read; a configuration with prevResult is far smaller."""

WARNING = "bond: warning: {}"
"""A warning on standard error."""


class Answer(NamedTuple):
    """A document, or "" for none; the CNI code and the message of an error, else 0 and ""."""

    output: str
    code: int
    message: str = ""

    @classmethod
    def of_error(cls, error: BondError, stdin: bytes) -> Answer:
        """The error document, in the cniVersion of the configuration.

        Source: CNI SPEC 1.1.0, section "Error".
        """
        document: dict[str, object] = {
            "cniVersion": version_of(stdin),
            "code": error.code,
            "msg": error.message,
        }
        if error.details:
            document["details"] = error.details
        return cls(_printed(document), error.code, error.message)


def answered(work: Callable[[], Object | None], stdin: Callable[[], bytes], log: TextIO) -> Answer:
    """Do the work of one request, and answer its document or its error.

    ``stdin`` gives the configuration, as far as it was read. The traceback of an unexpected
    exception, which is a defect of the plugin, goes to ``log``.
    """
    try:
        document = work()
    except BondError as error:
        return Answer.of_error(error, stdin())
    except Exception as error:  # noqa: BLE001  the runtime must get a document for any error
        import traceback  # noqa: PLC0415  only a defect needs it

        traceback.print_exception(error, file=log)
        return Answer.of_error(BondError(f"unexpected {type(error).__name__}: {error}"), stdin())
    return Answer("" if document is None else _printed(document), 0)


def _printed(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=4) + "\n"
