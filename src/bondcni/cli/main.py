"""``bondctl``: the command line for administrators; container runtimes run ``bond``.

The module of a command is imported when the command is called, so that the daemon does not hold
the lab in memory. Usage errors are printed like all others (``messages.py``).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

import bondcni
from bondcni.cli import messages

COMMANDS = ("check", "install", "lab", "ping", "policy", "recover", "serve", "uninstall")
"""Each is in the module of this package with the same name."""

NO_ARGUMENTS: type | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""Raised by click 8.2 and later to show the help; its text is not an error message."""

INTERRUPTED = 130
"""The exit code that a shell reports after SIGINT."""

NOT_INSTALLED = 2


class _OnDemand(click.Group):
    """A group that imports a command when it is called."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and exit with its code."""
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
    short_help="Run manifests and commands in a guest (not installed).",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _lab_not_installed(words: tuple[str, ...]) -> None:  # noqa: ARG001  any command line
    """Stand in for ``bondctl lab`` where the lab is not installed. Exit code 2."""
    messages.fail("the lab is not installed: pip install 'bondcni[lab]'", NOT_INSTALLED)


def _help(error: click.ClickException) -> list[str]:
    """The line that says where the usage is explained."""
    context = getattr(error, "ctx", None)
    return [f"see {context.command_path} --help"] if context else []


VERSION = f"bondcni {bondcni.__version__}"


@click.group(cls=_OnDemand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message=VERSION)
def main() -> None:
    """Manage bonded network interfaces for containers on this node.

    Exit code 0 means success; `bondctl COMMAND --help` lists the others of a command. Exit code
    2 also means a usage error.
    """


@main.command()
def version() -> None:
    """Print the version of bondcni."""
    click.echo(VERSION)
