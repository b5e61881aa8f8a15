"""The executable ``bond``: one CNI request in one process.

Environment and standard input in; one JSON document on standard output, warnings and
nothing else on standard error; exit code 0 or 1. This is the one place that prints an
error. It starts with few imports: the runtime starts it anew for each request.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TextIO

from bondcni.core.errors import BondError, InputError
from bondcni.core.result import SUPPORTED, Object
from bondcni.service.request import Request, read_request
from bondcni.service.version import version, version_of

LIMIT = 1 << 24
"""Bytes of standard input that are read; a configuration with prevResult is far smaller."""

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
    try:
        text = _read(stdin)
        answer = _answer(read_request(env, text), stderr)
    except Exception as error:  # noqa: BLE001  the one edge: the runtime must get a document
        print(json.dumps(_error(_known(error, stderr), text), indent=4), file=stdout)
        return 1
    if answer is not None:
        print(json.dumps(answer, indent=4), file=stdout)
    return 0


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
        print(f"bond: warning: {text}", file=stderr)

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
