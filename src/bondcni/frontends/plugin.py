"""The executable ``bond``: one CNI request in one process.

Environment and standard input in; one JSON document on standard output, warnings and
nothing else on standard error; exit code 0 or 1. This is the one place that prints an
error. It starts with few imports: the runtime starts it anew for each request.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TextIO

from bondcni.core.errors import BondError, InputError
from bondcni.core.result import SUPPORTED, Object
from bondcni.service.request import Request, read_request
from bondcni.service.version import version, version_of

LIMIT = 4 << 20
"""Bytes of standard input that are read; a configuration with prevResult is far smaller."""

WARNING = "bond: warning: {}"

USAGE = """bond is a CNI plugin (bonded network interfaces for containers): a container runtime
runs it with CNI_COMMAND and the other CNI variables in its environment and the network
configuration on standard input. CNI versions: {versions}. People want bondctl."""


def main() -> None:
    """Answer the request of this process's environment and standard input."""
    status = run(dict(os.environ), 0, sys.stdout, sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nothing is left to tear down, and tearing down takes 4 ms


def run(env: Mapping[str, str], stdin: int, stdout: TextIO, stderr: TextIO) -> int:
    """Answer one request; the exit code. ``stdin`` is a file descriptor."""
    if "CNI_COMMAND" not in env and os.isatty(stdin):
        print(USAGE.format(versions=", ".join(SUPPORTED)), file=stderr)
        return 0
    text = b""

    def work() -> Object | None:
        nonlocal text
        text = _read(stdin)
        return _answer(read_request(env, text), stderr)

    answer = answered(work, lambda: text, stderr)
    print(answer.output, end="", file=stdout)
    return 1 if answer.code else 0


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


def _answer(request: Request, stderr: TextIO) -> Object | None:
    """The service's answer; VERSION and a bad environment need not import it."""
    if request.command == "VERSION":
        return version(request)
    from bondcni.service import policy, verbs  # noqa: PLC0415
    from bondcni.service.attachment import Service  # noqa: PLC0415
    from bondcni.service.journal import DEFAULT_FOLDER, Journal  # noqa: PLC0415

    rules = partial(policy.load, request.env.get("BONDCNI_POLICY") or policy.DEFAULT_FILE)
    journal = Journal(request.env.get("BONDCNI_STATE") or DEFAULT_FOLDER)

    def warn(text: str) -> None:
        print(WARNING.format(text), file=stderr)

    return verbs.serve(Service(journal, warn, rules), request)


def _known(error: Exception, stderr: TextIO) -> BondError:
    """The error as one of the tree; a defect of ours keeps its traceback on stderr."""
    if isinstance(error, BondError):
        return error
    import traceback  # noqa: PLC0415  only a defect needs it

    traceback.print_exception(error, file=stderr)
    return BondError(f"unexpected {type(error).__name__}: {error}")


def _read(descriptor: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > LIMIT:
                raise InputError(f"standard input is more than {LIMIT} bytes")
    except OSError as error:
        raise InputError(f"standard input cannot be read: {error.strerror}") from error
    return b"".join(chunks)


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


if __name__ == "__main__":
    main()
