"""JSON bytes to one plain object, and the notes taken while it is read.

JSON as Python reads it is wider than what the delegates will read after us: NaN, numbers
beyond a double, bytes that are not UTF-8 and nesting without end are refused here. A key
that stands twice counts as Go counts it, the last one, with a warning.

``Notes`` collects every problem and warning, each with its JSON pointer (RFC 6901); who
reads goes on after a problem with an empty value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from bondcni.core.errors import InputError, Problem

MAX_DEPTH = 100

Object = dict[str, Any]


class Notes:
    """Problems and warnings of one document, in the order they were found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, pointer: str, message: str, advice: str = "") -> None:
        """Note what must not be."""
        self.problems.append(Problem(pointer, message, advice))

    def warn(self, pointer: str, message: str, advice: str = "") -> None:
        """Note what may be and is worth telling."""
        self.warnings.append(Problem(pointer, message, advice))


def loads(text: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """JSON that Go reads, too. Raises ``ValueError``, and ``RecursionError`` where it is deep."""
    return json.loads(
        text.decode("utf-8-sig"),
        object_pairs_hook=pairs,
        parse_constant=_no_constant,
        parse_float=_finite,
    )


def read_object(text: bytes, notes: Notes) -> Object:
    """The object in ``text``. Raises InputError when there is none."""

    def pairs(found: list[tuple[str, Any]]) -> Object:
        whole = dict(found)
        if len(whole) != len(found):
            keys = [key for key, _ in found]
            for key in {key for key in keys if keys.count(key) > 1}:
                notes.warn("", f"key {json.dumps(key)} stands twice in one object: the last counts")
        return whole

    try:
        value = loads(text, pairs)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise InputError(f"the configuration is not JSON: {error}") from None
    except RecursionError:
        raise InputError("the configuration is nested too deeply") from None
    if not isinstance(value, dict):
        raise InputError("the configuration is not a JSON object")
    if _deeper_than(MAX_DEPTH, value):
        raise InputError(f"the configuration is nested deeper than {MAX_DEPTH}")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return number


def _deeper_than(depth: int, value: Any) -> bool:
    """Level by level: what has no more levels than ``depth`` runs out before it."""
    level = [value]
    while level and depth:
        level = [inner for outer in level for inner in _children(outer)]
        depth -= 1
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def token(key: object) -> str:
    """A key or index as one step of a JSON pointer."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """``did you mean "links"?`` where one is near; "" where none is."""
    import difflib  # noqa: PLC0415  # wanted for mistakes only

    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(key.casefold(), names, n=1, cutoff=0.7)
    return f'did you mean "{names[near[0]]}"?' if near else ""
