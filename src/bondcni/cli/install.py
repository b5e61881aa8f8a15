"""``bondctl install``: install the plugin on a node."""

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
    help="thick: the daemon serves requests; direct: each request is a Python process.",
)
@click.option("--shim", default="", help="Executable of thick mode.  [default: as built]")
@click.option(
    "--systemd/--no-systemd",
    default=None,
    help="Write the daemon's systemd unit.  [default: in thick mode]",
)
@click.option(
    "--user", default=work.USER, show_default=True, help="User of the daemon, by name or ID."
)
@ROOT
@click.option("--print-daemonset", is_flag=True, help="Print the Kubernetes manifest and exit.")
@click.option(
    "--image",
    default=f"bond-cni:{bondcni.__version__}",
    show_default=True,
    help="Image in the manifest.",
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
    """Install the executable bond and the daemon's unit.

    Also creates the state directory and, if there is none, the policy file. Starts and stops
    nothing. All problems are reported before anything is changed; a second run changes only what
    differs.

    \b
    Exit codes:
      0  installed, or installed already
      2  refused, and nothing was changed; or an operation failed
    """  # noqa: D301  \b keeps the lines apart
    if print_daemonset:
        click.echo(work.daemonset(image, bin_dir), nl=False)
        return
    with_unit = mode == "thick" if systemd is None else systemd
    target = work.Target(root.rstrip("/"), bin_dir)
    options = work.InstallOptions(target, mode, shim, with_unit, user, launcher=launcher())
    report(work.install(options))
