"""Reads JSON bytes as one object, and collects the problems and warnings about it.

Python's json module accepts more than Go's, with which the delegates read the same document.
So NaN, numbers that do not fit into a double, bytes that are not UTF-8 and deep nesting are
refused here. Of a key that appears twice the last value is used, as Go does, with a warning.

``Diagnostics`` collects every problem and warning, each with its JSON pointer (RFC 6901). After a
problem the reader continues with an empty value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from bondcni.core.errors import InputError, Problem

MAX_DEPTH = 100
_DEEPER = f"deeper than {MAX_DEPTH} levels"

Object = dict[str, Any]


class Diagnostics:
    """Problems and warnings of one document, in the order they were found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, pointer: str, message: str, advice: str = "") -> None:
        """Add an error."""
        self.problems.append(Problem(pointer, message, advice))

    def warn(self, pointer: str, message: str, advice: str = "") -> None:
        """Add a warning."""
        self.warnings.append(Problem(pointer, message, advice))


def load_json(text: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON that Go accepts as well. Raises ValueError, or RecursionError for deep nesting."""
    return json.loads(
        text.decode("utf-8-sig"),
        object_pairs_hook=pairs,
        parse_constant=_no_constant,
        parse_float=_finite,
    )


def read_object(text: bytes, diagnostics: Diagnostics) -> Object:
    """The JSON object in ``text``. Raises InputError if it is not one."""

    def pairs(found: list[tuple[str, Any]]) -> Object:
        whole = dict(found)
        if len(whole) != len(found):
            keys = [key for key, _ in found]
            for key in {key for key in keys if keys.count(key) > 1}:
                diagnostics.warn(
                    "", f"key {json.dumps(key)} appears twice in one object: the last one is used"
                )
        return whole

    try:
        value = load_json(text, pairs)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise InputError(f"the configuration is not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"the configuration is nested {_DEEPER}") from None
    if not isinstance(value, dict):
        raise InputError("the configuration is not a JSON object")
    if _deeper_than(MAX_DEPTH, value):
        raise InputError(f"the configuration is nested {_DEEPER}")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} does not fit into a double")
    return number


def _deeper_than(depth: int, value: Any) -> bool:
    """Whether ``value`` has more than ``depth`` levels of objects and lists."""
    level = [value]
    while level and depth:
        level = [inner for outer in level for inner in _children(outer)]
        depth -= 1
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def pointer_token(key: object) -> str:
    """A key or an index as a reference token of a JSON pointer."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """``did you mean "links"?`` if a known key is similar, else ""."""
    import difflib  # noqa: PLC0415  # only for messages about mistakes

    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(key.casefold(), names, n=1, cutoff=0.7)
    return f'did you mean "{names[near[0]]}"?' if near else ""
