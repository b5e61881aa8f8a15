"""What ``bondctl install`` and ``bondctl uninstall`` share: options, and how they report."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bondcni.cli import messages
from bondcni.core.errors import BondError
from bondcni.install import installer as work

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


def report(lines: Iterator[str]) -> None:
    """Print a line for each thing done. Exit code 2: refused, or it failed on the way."""
    try:
        for line in lines:
            click.echo(line)
    except work.Wrong as error:
        messages.fail("nothing was touched:", 2, error.problems)
    except BondError as error:
        messages.fail(error.message, 2)
    except OSError as error:
        messages.fail(f"{error.filename}: {error.strerror}", 2)
