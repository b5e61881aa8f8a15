"""What the commands that look at a node share: options, exit codes, the service.

Exit code 0: all well; 1: something is wrong; 2: it could not be found out, of one attachment at
least.
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
    help="The directory of the records.",
)
POLICY = click.option(
    "--policy",
    "policy_file",
    envvar="BONDCNI_POLICY",
    default=POLICY_FILE,
    show_default=True,
    help="The node's policy file.",
)


WELL, ILL, UNKNOWN = 0, 1, 2

ELSEWHERE = "run this as root on the node itself, outside of containers"
"""What helps where a namespace cannot be seen."""


def told(command: Callable[..., int]) -> Callable[..., None]:
    """The command's verdict as an exit code, and an error as one message."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            code = command(*args, **options)
        except BondError as error:
            messages.fail(error.message, UNKNOWN)
        sys.exit(code)

    return run


def service_of(state: str) -> Service:
    """The service over one state directory, as this process may act."""
    roots = not os.path.isdir(state) or os.stat(state).st_uid == 0
    reach: Direct = Unaided()
    if may_enter():
        reach = Direct() if roots else Careful()
    return Service(Journal(state), partial(click.echo, err=True), reach=reach)


def recorded(state: str) -> Service:
    """For what goes through the records. Raises ``JournalError`` where their place is missing."""
    if not os.path.isdir(state):
        what = "is not a directory" if os.path.lexists(state) else "does not exist"
        raise JournalError(
            f"the state directory {state} {what}: --state names the directory of the records, "
            f"which bondctl install makes at {STATE_DIRECTORY}"
        )
    return service_of(state)
