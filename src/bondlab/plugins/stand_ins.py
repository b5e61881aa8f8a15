"""The lab's own plugins, which it installs in a guest beside the reference plugins.

They are the files of this directory that have no suffix.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent


def stand_ins() -> dict[str, str]:
    """The text of each executable, by the plugin's type."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(DIRECTORY.iterdir())
        if path.is_file() and not path.suffix
    }
