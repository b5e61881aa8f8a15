"""What the commands that inspect a node share: options, exit codes, the service.

Exit codes: 0, no problem; 1, a problem was found; 2, the state of at least one attachment could
not be determined, or the command failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import click

from bondcni.cli import messages
from bondcni.core.errors import BondError, JournalError
from bondcni.kernel.namespace import may_enter
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.paths import POLICY_FILE, STATE_DIRECTORY
from bondcni.service.reach import Careful, Direct, Unaided

STATE = click.option(
    "--state",
    envvar="BONDCNI_STATE",
    default=STATE_DIRECTORY,
    show_default=True,
    help="Directory of the records.",
)
POLICY = click.option(
    "--policy",
    "policy_file",
    envvar="BONDCNI_POLICY",
    default=POLICY_FILE,
    show_default=True,
    help="Policy file of the node.",
)


OK, NOT_OK, UNKNOWN = 0, 1, 2

ELSEWHERE = "run this as root on the node itself, outside of containers"
"""The remedy where a namespace is not visible."""


def exits_with_verdict(command: Callable[..., int]) -> Callable[..., None]:
    """Exit with the code that the command returns; print a ``BondError`` and exit with 2."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            code = command(*args, **options)
        except BondError as error:
            messages.fail(error.message, UNKNOWN)
        sys.exit(code)

    return run


def service_of(state: str) -> Service:
    """The service for a state directory, with the access that this process has."""
    roots = not os.path.isdir(state) or os.stat(state).st_uid == 0
    reach: Direct = Unaided()
    if may_enter():
        reach = Direct() if roots else Careful()
    return Service(Journal(state), partial(click.echo, err=True), reach=reach)


def service_with_records(state: str) -> Service:
    """The service, for a command that reads all records.

    Raises ``JournalError`` if the state directory does not exist.
    """
    if not os.path.isdir(state):
        what = "is not a directory" if os.path.lexists(state) else "does not exist"
        raise JournalError(
            f"the state directory {state} {what}; --state sets the directory of the records, "
            f"which bondctl install creates as {STATE_DIRECTORY}"
        )
    return service_of(state)
