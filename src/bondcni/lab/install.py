"""What the lab puts into a guest's plugin folder beside the reference plugins.

The launcher of the direct mode is the service's (``service/launcher.py``).
"""

from __future__ import annotations

from pathlib import Path

from bondcni.service.launcher import launcher, write_launcher

__all__ = ["launcher", "standins", "write_launcher"]

STANDINS = Path(__file__).parent / "plugins"


def standins() -> dict[str, str]:
    """The lab's own plugins, by type: the text of each executable."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(STANDINS.iterdir())
        if path.is_file() and not path.suffix
    }
