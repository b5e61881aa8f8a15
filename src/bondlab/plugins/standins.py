"""The lab's own plugins, which it puts into a guest's plugin folder beside the reference ones."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "plugins"


def standins() -> dict[str, str]:
    """By type: the text of each executable."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(FOLDER.iterdir())
        if path.is_file() and not path.suffix
    }
