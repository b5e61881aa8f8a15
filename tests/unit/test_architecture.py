"""ARCHITECTURE.md names every module, and every module that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def modules(room: Path) -> set[str]:
    """The modules of a room: its C files, or its Python files and executables."""
    return {
        path.name
        for path in room.iterdir()
        if path.is_file() and path.suffix in (".py", ".c", ".h", "") and path.name != "__init__.py"
    }


ROOMS = {
    str(room.relative_to(ROOT)): found
    for room in (ROOT / "shim", *(path.parent for path in (ROOT / "src").rglob("__init__.py")))
    if (found := modules(room))
}


def tables() -> dict[str, list[str]]:
    """The first column of the table of each room, by the room's path."""
    part = PAGE.partition("\n## Modules\n")[2].partition("\n## ")[0]
    found = re.split(r"^### `(.*)/`$", part, flags=re.MULTILINE)[1:]
    return {
        room: re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
        for room, text in zip(found[::2], found[1::2], strict=True)
    }


def test_every_room_has_a_table() -> None:
    assert len(ROOMS) > 10
    assert tables().keys() == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_table_names_the_modules_of_its_room(room: str) -> None:
    assert tables()[room] == sorted(ROOMS[room])


def test_every_path_in_the_text_exists() -> None:
    """Paths such as `core/plan.py`, `shim/bond.c` and `tests/kernel/test_options.py`."""
    tops = (ROOT, ROOT / "src", ROOT / "src/bondcni")
    paths = re.findall(r"`([\w-]+/[\w/.-]+?)/?`", PAGE)
    assert paths
    missing = [path for path in paths if not any((top / path).exists() for top in tops)]
    assert missing == []


def test_every_file_in_the_text_exists() -> None:
    """Files that are named without their room, in a list that begins with it."""
    files = {name for names in ROOMS.values() for name in names}
    files |= {path.name for path in (ROOT / "tests").rglob("*.py")}
    files |= {path.name for path in ROOT.glob("*.md")}
    named = re.findall(r"`([\w.-]+\.(?:py|c|h|md))`", PAGE)
    assert sorted(set(named) - files) == []
