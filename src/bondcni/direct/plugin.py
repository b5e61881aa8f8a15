"""The executable ``bond`` of direct mode: one CNI request in one process.

Input: the environment and standard input. Output: one JSON document on standard output, warnings
on standard error, exit code 0 or 1. It imports few modules, because the runtime starts it for
each request.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TextIO

from bondcni.core.document import Object
from bondcni.core.errors import InputError
from bondcni.core.result import SUPPORTED
from bondcni.service.answer import STDIN_LIMIT, WARNING, answered
from bondcni.service.paths import POLICY_FILE, STATE_DIRECTORY
from bondcni.service.request import Request, read_request
from bondcni.service.timeouts import DEFAULT, Timeouts
from bondcni.service.version import version

USAGE = """bond is a CNI plugin for bonded network interfaces. A container runtime runs it with
CNI_COMMAND and the other CNI variables in the environment and the network configuration on
standard input. CNI versions: {versions}. The command line is bondctl."""


def main() -> None:
    """Answer the request of this process's environment and standard input."""
    status = run(dict(os.environ), 0, sys.stdout, sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # skips the clean-up of the interpreter, which takes 4 ms


def run(
    env: Mapping[str, str],
    stdin: int,
    stdout: TextIO,
    stderr: TextIO,
    timeouts: Timeouts = DEFAULT,
) -> int:
    """Answer one request; the exit code. ``stdin`` is a file descriptor."""
    if "CNI_COMMAND" not in env and os.isatty(stdin):
        print(USAGE.format(versions=", ".join(SUPPORTED)), file=stderr)
        return 0
    text = b""

    def work() -> Object | None:
        nonlocal text
        text = _read(stdin)
        return _answer(read_request(env, text), stderr, timeouts)

    answer = answered(work, lambda: text, stderr)
    print(answer.output, end="", file=stdout)
    return 1 if answer.code else 0


def _answer(request: Request, stderr: TextIO, timeouts: Timeouts) -> Object | None:
    """The service's answer. VERSION and an invalid environment do not import the service."""
    if request.command == "VERSION":
        return version(request)
    from bondcni.service import policy, verbs  # noqa: PLC0415
    from bondcni.service.attachment import Service  # noqa: PLC0415
    from bondcni.service.journal import Journal  # noqa: PLC0415

    rules = partial(policy.load, request.env.get("BONDCNI_POLICY") or POLICY_FILE)
    journal = Journal(request.env.get("BONDCNI_STATE") or STATE_DIRECTORY)

    def warn(text: str) -> None:
        print(WARNING.format(text), file=stderr)

    return verbs.serve(Service(journal, warn, rules, timeouts=timeouts), request)


def _read(descriptor: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > STDIN_LIMIT:
                raise InputError(f"standard input exceeds {STDIN_LIMIT} bytes")
    except OSError as error:
        raise InputError(f"cannot read standard input: {error.strerror}") from error
    return b"".join(chunks)


if __name__ == "__main__":
    main()
