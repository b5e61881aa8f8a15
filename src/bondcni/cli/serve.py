"""``bondctl serve``: the command line of the daemon. Exit code 2: it could not start."""

from __future__ import annotations

import click

from bondcni.cli import messages
from bondcni.cli.node import POLICY, STATE
from bondcni.daemon import server
from bondcni.daemon.start_up import CannotServe
from bondcni.service.paths import SOCKET


@click.command()
@click.option(
    "--socket",
    "path",
    envvar="BONDCNI_SOCKET",
    default=SOCKET,
    show_default=True,
    help="Where the executable bond finds the daemon.",
)
@STATE
@POLICY
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=server.WORKERS,
    show_default=True,
    help="Requests that are worked on at once.",
)
def serve(path: str, state: str, policy_file: str, workers: int) -> None:
    """Serve the requests of the executable bond; needs CAP_NET_ADMIN."""
    try:
        server.serve(server.Settings(path, state, policy_file, workers))
    except CannotServe as error:
        messages.fail(str(error), 2)
