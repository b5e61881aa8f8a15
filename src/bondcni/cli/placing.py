"""Options and output that ``bondctl install`` and ``bondctl uninstall`` share."""

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
    help="Plugin directory of the container runtime.",
)
ROOT = click.option(
    "--root",
    default="",
    help="Root of another file system, such as an image's; all paths are below it.",
)


def report(lines: Iterator[str]) -> None:
    """Print the lines as they come; on an error exit with code 2."""
    try:
        for line in lines:
            click.echo(line)
    except work.InstallRefused as error:
        messages.fail("nothing was changed:", 2, error.problems)
    except BondError as error:
        messages.fail(error.message, 2)
    except OSError as error:
        messages.fail(f"{error.filename}: {error.strerror}", 2)
