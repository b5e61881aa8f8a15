"""Error messages of ``bondctl``: on standard error, each with the same prefix."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

import click

PREFIX = "bondctl: error: "


def error(text: str, more: Iterable[str] = ()) -> None:
    """Print one error; ``more`` are its further lines, indented."""
    click.echo(PREFIX + "\n    ".join([text, *more]), err=True)


def fail(text: str, code: int, more: Iterable[str] = ()) -> NoReturn:
    """Print an error and exit with ``code``."""
    error(text, more)
    sys.exit(code)
