"""``bondctl install``. Exit code 2: refused, or it failed on the way."""

from __future__ import annotations

import click

import bondcni
from bondcni.cli.placing import BIN_DIR, ROOT, report
from bondcni.direct.launcher import launcher
from bondcni.install import installer as work


@click.command()
@BIN_DIR
@click.option(
    "--mode",
    type=click.Choice(["thick", "direct"]),
    default="thick",
    show_default=True,
    help="With the daemon, or a process of Python for each request.",
)
@click.option("--shim", default="", help="The executable of the thick mode.  [default: as built]")
@click.option(
    "--systemd/--no-systemd",
    default=None,
    help="Write the unit of the daemon.  [default: in thick mode]",
)
@click.option("--user", default=work.USER, show_default=True, help="The daemon's, name or number.")
@ROOT
@click.option("--print-daemonset", is_flag=True, help="Print the manifest; touch nothing.")
@click.option(
    "--image",
    default=f"bond-cni:{bondcni.__version__}",
    show_default=True,
    help="The image that the manifest names.",
)
def install(  # noqa: PLR0913  its options
    *,
    bin_dir: str,
    mode: str,
    shim: str,
    systemd: bool | None,
    user: str,
    root: str,
    print_daemonset: bool,
    image: str,
) -> None:
    """Put the executable bond, the daemon's unit and their folders in place."""
    if print_daemonset:
        click.echo(work.daemonset(image, bin_dir), nl=False)
        return
    with_unit = mode == "thick" if systemd is None else systemd
    place = work.Place(root.rstrip("/"), bin_dir)
    report(work.install(work.Wish(place, mode, shim, with_unit, user, launcher=launcher())))
