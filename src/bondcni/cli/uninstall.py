"""``bondctl uninstall``: remove the plugin from a node."""

from __future__ import annotations

import click

from bondcni.cli.placing import BIN_DIR, ROOT, report
from bondcni.install import installer as work
from bondcni.install import uninstaller


@click.command()
@BIN_DIR
@ROOT
@click.option(
    "--force",
    is_flag=True,
    help="Uninstall even if attachments exist; nothing restores their links then.",
)
def uninstall(*, bin_dir: str, root: str, force: bool) -> None:
    """Remove the executable bond and the daemon's unit.

    Keeps the records, the queue and the policy file. Refused while attachments exist or DELs are
    queued.

    \b
    Exit codes:
      0  removed, or not installed
      2  refused, and nothing was changed; or an operation failed
    """  # noqa: D301  \b keeps the lines apart
    report(uninstaller.uninstall(work.Target(root.rstrip("/"), bin_dir), force=force))
