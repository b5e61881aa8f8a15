"""``bondctl serve``: the command line of the daemon. Exit code 2: it cannot start."""

from __future__ import annotations

import click

from bondcni.cli import messages
from bondcni.cli.node import POLICY, STATE
from bondcni.daemon import server
from bondcni.daemon.log import FORMATS, LEVELS
from bondcni.daemon.start_up import CannotServe
from bondcni.service.paths import SOCKET


@click.command()
@click.option(
    "--socket",
    "path",
    envvar="BONDCNI_SOCKET",
    default=SOCKET,
    show_default=True,
    help="Socket that the executable bond connects to.",
)
@STATE
@POLICY
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=server.WORKERS,
    show_default=True,
    help="Requests processed at the same time.",
)
@click.option(
    "--log-level",
    type=click.Choice(list(LEVELS)),
    envvar="BONDCNI_LOG_LEVEL",
    default="info",
    show_default=True,
    help="Log events of this level and above.",
)
@click.option(
    "--log-format",
    type=click.Choice(list(FORMATS)),
    envvar="BONDCNI_LOG_FORMAT",
    default="logfmt",
    show_default=True,
    help="The format of a line of the log.",
)
def serve(
    path: str, state: str, policy_file: str, workers: int, log_level: str, log_format: str
) -> None:
    """Serve the requests of the executable bond; needs CAP_NET_ADMIN."""
    settings = server.Settings(
        path, state, policy_file, workers, log_level=log_level, log_format=log_format
    )
    try:
        server.serve(settings)
    except CannotServe as error:
        messages.fail(str(error), 2)
