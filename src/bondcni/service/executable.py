"""The path of the executable ``bond`` of thick mode: in an installed package or the source tree."""

from __future__ import annotations

from pathlib import Path

import bondcni

_PACKAGE = Path(bondcni.__file__).resolve().parent
PLACES = (_PACKAGE / "bin" / "bond", _PACKAGE.parents[1] / "build" / "bond")
"""In an installed package; in the source tree (``make shim``)."""


class NoExecutable(Exception):
    """The executable is missing; the message says how to build it."""


def shim() -> Path:
    """The static executable. Raises ``NoExecutable``."""
    for place in PLACES:
        if place.is_file():
            return place
    raise NoExecutable("the executable bond of thick mode is not built: run make shim")
