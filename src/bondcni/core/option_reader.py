"""Options as a configuration gives them: values by kernel name, and where each stood.

The same option may stand in several spellings and places as long as all say the same.
"""

from __future__ import annotations

from typing import Any

from bondcni.core.document import Notes
from bondcni.core.options import Option, name_of
from bondcni.core.state import OptionValue
from bondcni.core.values import NotAllowed, parse_value


class Given:
    """``values`` holds what could be read, ``where`` the pointer also of what could not."""

    def __init__(self, notes: Notes) -> None:
        self.values: dict[str, OptionValue] = {}
        self.where: dict[str, str] = {}
        self._notes = notes

    def take(self, row: Option, raw: Any, pointer: str) -> None:
        """Read one value; null is absent, as it is to Go."""
        if raw is None:
            return
        first = self.where.setdefault(row.kernel, pointer)
        try:
            value = parse_value(row, raw)
        except NotAllowed as error:
            self._notes.problem(pointer, error.message, error.advice)
            return
        held = self.values.setdefault(row.kernel, value)
        if held != value:
            text = f"{name_of(row, value)} contradicts {name_of(row, held)} at {first}"
            self._notes.problem(pointer, text, "leave one of them out")
