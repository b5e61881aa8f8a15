"""What a call returns, and what it warns of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def heard(call: Callable[..., T], *arguments: Any) -> tuple[T, list[str]]:
    """Call with one more argument, which collects the warnings."""
    warnings: list[str] = []
    return call(*arguments, warnings.append), warnings
