"""What holds for the whole tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = {
    *("pathlib", "subprocess", "ipaddress", "click", "rich", "ctypes"),
    *("logging", "asyncio", "tempfile", "threading", "datetime", "ruamel"),
}
"""Modules that a request must not pay for; each costs more than all of the core."""


def modules_of(module: str) -> set[str]:
    """What is imported with ``module`` in a bare interpreter."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); "
        f"import {module}; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "bondcni.direct.plugin",
        "bondcni.service.verbs",  # which the plugin imports when it knows what is asked
        "bondcni.service.attachment",
        "bondcni.service.policy",
    ],
)
def test_a_request_starts_with_few_imports(module: str) -> None:
    loaded = modules_of(module)
    assert module in loaded
    assert loaded & SLOW == set()


# import-linter reads import statements; what a child process imports is inside a string.

SRC = ROOT / "src"
MODULES = sorted(SRC.rglob("*.py"))
ROOMS = {
    f"{package}.{path.stem}"
    for package in ("bondcni", "bondlab")
    for path in (SRC / package).iterdir()
    if (path / "__init__.py").is_file()
}
OUR_IMPORT = re.compile(r"\b(?:import|from)\s+(bond(?:cni|lab)(?:\.\w+)?)")
OUR_MODULE = re.compile(r"\bbond(?:cni|lab)\.\w+")
LAUNCHER = "bondcni/direct/launcher.py"
"""Its text, the executable of direct mode, starts the module of its own room."""

MARKS = {("bondcni/install/installer.py", "bondcni.direct")}
"""What the installer looks for in a file to see that it is our launcher."""


def literals(path: Path) -> Iterator[str]:
    """Each string of a module, as the parser joins it, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in prose:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def test_there_are_rooms() -> None:
    assert {"bondcni.core", "bondcni.direct", "bondlab.guest"} <= ROOMS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_string_imports_from_another_room(path: Path) -> None:
    where = str(path.relative_to(SRC))
    own = ".".join(path.relative_to(SRC).parts[:2])
    allowed = {"bondcni.direct"} if where == LAUNCHER else set()
    for text in literals(path):
        assert set(OUR_IMPORT.findall(text)) <= allowed
        named = {name for name in OUR_MODULE.findall(text) if name in ROOMS}
        assert {name for name in named if (where, name) not in MARKS} <= {own}


def test_the_launcher_is_found_by_that_test() -> None:
    assert OUR_IMPORT.findall("".join(literals(SRC / LAUNCHER))) == ["bondcni.direct"]


FOREIGN = re.compile(
    r"(?<![\w.=])/work\b|(?<![\w.=])/root/|/home/\w+"  # paths of a machine
    r"|https?://[^\s/]*(?:pypi|artifactory|nexus|proxy|mirror|registry)"
    r"|index-url[ =]"
)
PLACES = [
    *(ROOT / "src").rglob("*.py"),
    *(path for path in (ROOT / "docs").rglob("*") if path.is_file()),
    *ROOT.glob("*.md"),
]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_speaks_of_the_machine_it_was_written_on(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if FOREIGN.search(line)] == []
