"""How ``bondctl`` says what went wrong: on standard error, every message with one beginning."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

import click

PREFIX = "bondctl: error: "


def error(text: str, more: Iterable[str] = ()) -> None:
    """One error; ``more`` are lines that belong to it."""
    click.echo(PREFIX + "\n    ".join([text, *more]), err=True)


def fail(text: str, code: int, more: Iterable[str] = ()) -> NoReturn:
    """The error that ends the program."""
    error(text, more)
    sys.exit(code)
