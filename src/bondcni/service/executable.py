"""Where the executable ``bond`` of the thick mode is: built in the tree, or in the package."""

from __future__ import annotations

from pathlib import Path

import bondcni

_PACKAGE = Path(bondcni.__file__).resolve().parent
PLACES = (_PACKAGE / "bin" / "bond", _PACKAGE.parents[1] / "build" / "bond")
"""In an installed package, and in the source tree (``make shim``)."""


class NoExecutable(Exception):
    """It was not built; the text says how it is."""


def shim() -> Path:
    """The static executable. Raises ``NoExecutable``."""
    for place in PLACES:
        if place.is_file():
            return place
    raise NoExecutable("the executable bond of the thick mode is not built: make shim")
