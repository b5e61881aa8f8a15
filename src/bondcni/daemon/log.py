"""The daemon's log: one line to standard error for each thing that happened, as logfmt.

Nothing that a request says can break a line or forge another: what is not plain stands in
quotes, escaped as in JSON. A log that nobody reads any more ends no request.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable

LONGEST = 8192
"""Characters of a value; of a longer one the middle is left out."""

STDERR = 2

Log = Callable[..., None]
"""Takes the fields of one line by their names."""


def log(**fields: object) -> None:
    """One line, in one write: ``key=value`` with a space between."""
    line = " ".join(f"{key}={_plain(value)}" for key, value in fields.items()) + "\n"
    with contextlib.suppress(OSError):
        os.write(STDERR, line.encode("utf-8", "backslashreplace"))


def _plain(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    plain = text and text.isprintable() and not set(text) & set(' ="\\')
    return text if plain else json.dumps(text)
