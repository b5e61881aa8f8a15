"""``bondctl serve``: the command line of the daemon. Exit code 2: it could not start."""

from __future__ import annotations

import click

from bondcni.frontends import daemon, telling
from bondcni.frontends.node import POLICY, STATE
from bondcni.frontends.starting import CannotServe


@click.command()
@click.option(
    "--socket",
    "path",
    envvar="BONDCNI_SOCKET",
    default=daemon.DEFAULT_SOCKET,
    show_default=True,
    help="Where the executable bond finds the daemon.",
)
@STATE
@POLICY
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=daemon.WORKERS,
    show_default=True,
    help="Requests that are worked on at once.",
)
def serve(path: str, state: str, policy_file: str, workers: int) -> None:
    """Serve the requests of the executable bond; needs CAP_NET_ADMIN."""
    try:
        daemon.serve(daemon.Settings(path, state, policy_file, workers))
    except CannotServe as error:
        telling.fail(str(error), 2)
