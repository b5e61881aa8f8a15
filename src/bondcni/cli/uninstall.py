"""``bondctl uninstall``. Exit code 2: refused, or it failed on the way."""

from __future__ import annotations

import click

from bondcni.cli.placing import BIN_DIR, ROOT, report
from bondcni.install import installer as work
from bondcni.install import uninstaller


@click.command()
@BIN_DIR
@ROOT
@click.option("--force", is_flag=True, help="Also while attachments are on record.")
def uninstall(*, bin_dir: str, root: str, force: bool) -> None:
    """Remove the executable bond and the daemon's unit; records and policy stay."""
    report(uninstaller.uninstall(work.Place(root.rstrip("/"), bin_dir), force=force))
