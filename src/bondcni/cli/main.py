"""``bondctl``: the command line of people, not of container runtimes.

Each command is loaded when it is called: the daemon must not hold the lab in memory. Errors of
usage are told as all others are (``messages.py``).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

import bondcni
from bondcni.cli import messages

COMMANDS = ("check", "install", "lab", "ping", "policy", "recover", "serve", "uninstall")
"""Each is in the module of this package that has its name."""


NO_ARGUMENTS: type | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises from 8.2 on to show the help: its text is no error."""

INTERRUPTED = 130
"""As a shell says of what SIGINT ended."""

NOT_INSTALLED = 2


class _OnDemand(click.Group):
    """A group whose commands are imported when they are asked for."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command, and exit."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            if isinstance(error, NO_ARGUMENTS):
                error.show()
                sys.exit(error.exit_code)
            messages.fail(error.format_message(), error.exit_code, _help(error))
        except click.Abort:
            messages.fail("interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        try:
            module = import_module(f"bondcni.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            if cmd_name != "lab" or str(error.name).partition(".")[0] not in OF_THE_LAB:
                raise
            return _lab_not_installed
        found: click.Command = getattr(module, cmd_name)
        return found


OF_THE_LAB = ("bondlab", "rich")
"""Import packages that the distribution ``bondcni-lab`` installs or requires."""


@click.command(
    "lab",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    short_help="Try manifests on a kernel of their own (not installed).",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _lab_not_installed(words: tuple[str, ...]) -> None:  # noqa: ARG001  any command line
    """Stand in for ``bondctl lab`` where the lab is not installed. Exit code 2."""
    messages.fail("the lab is not installed: pip install 'bondcni[lab]'", NOT_INSTALLED)


def _help(error: click.ClickException) -> list[str]:
    """Where an error of usage is answered."""
    context = getattr(error, "ctx", None)
    return [f"see {context.command_path} --help"] if context else []


VERSION = f"bondcni {bondcni.__version__}"


@click.group(cls=_OnDemand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message=VERSION)
def main() -> None:
    """Bonded network interfaces for containers."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(VERSION)
