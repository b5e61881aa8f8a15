"""``bondctl``: the command line of people, not of container runtimes.

Each command is loaded when it is called: the daemon must not hold the lab in memory.
"""

from __future__ import annotations

from importlib import import_module

import click

import bondcni

COMMANDS = {
    "check": "node",
    "install": "installcli",
    "lab": "labcli",
    "ping": "pingcli",
    "policy": "node",
    "recover": "node",
    "serve": "servecli",
    "uninstall": "installcli",
}
"""Commands and the modules of this package that have them."""


class _OnDemand(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"bondcni.frontends.{COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name)
        return found


@click.group(cls=_OnDemand)
def main() -> None:
    """Bonded network interfaces for containers."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"bondcni {bondcni.__version__}")
