"""Collects the bonding options of a configuration.

An option may be given in several spellings and places if all have the same value.
"""

from __future__ import annotations

from typing import Any

from bondcni.core.document import Diagnostics
from bondcni.core.options import Option, name_of
from bondcni.core.state import OptionValue
from bondcni.core.values import NotAllowed, parse_value


class OptionReader:
    """Valid values by kernel name, and the JSON pointer of each option, valid or not."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.values: dict[str, OptionValue] = {}
        self.pointers: dict[str, str] = {}
        self._diagnostics = diagnostics

    def read(self, row: Option, raw: Any, pointer: str) -> None:
        """Parse the value ``raw`` of an option at ``pointer``; null means absent, as in Go."""
        if raw is None:
            return
        first = self.pointers.setdefault(row.kernel, pointer)
        try:
            value = parse_value(row, raw)
        except NotAllowed as error:
            self._diagnostics.problem(pointer, error.message, error.advice)
            return
        held = self.values.setdefault(row.kernel, value)
        if held != value:
            text = f"{name_of(row, value)} conflicts with {name_of(row, held)} at {first}"
            self._diagnostics.problem(pointer, text, "remove one of them")
