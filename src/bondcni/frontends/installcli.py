"""``bondctl install`` and ``bondctl uninstall``. Exit code 2: refused, or it failed on the way."""

from __future__ import annotations

from collections.abc import Iterator

import click

import bondcni
from bondcni.core.errors import BondError
from bondcni.frontends import install as work
from bondcni.frontends import telling
from bondcni.frontends import uninstall as removal

BIN_DIR = click.option(
    "--bin-dir",
    default=work.BIN_DIR,
    show_default=True,
    help="Where the container runtime has its plugins.",
)
ROOT = click.option(
    "--root",
    default="",
    help="The file system of another machine, as for an image; paths are below it.",
)


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
    _tell(work.install(work.Wish(place, mode, shim, with_unit, user)))


@click.command()
@BIN_DIR
@ROOT
@click.option("--force", is_flag=True, help="Also while attachments are on record.")
def uninstall(*, bin_dir: str, root: str, force: bool) -> None:
    """Remove the executable bond and the daemon's unit; records and policy stay."""
    _tell(removal.uninstall(work.Place(root.rstrip("/"), bin_dir), force=force))


def _tell(lines: Iterator[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
    except work.Wrong as error:
        telling.fail("nothing was touched:", 2, error.problems)
    except BondError as error:
        telling.fail(error.message, 2)
    except OSError as error:
        telling.fail(f"{error.filename}: {error.strerror}", 2)
