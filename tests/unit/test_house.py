"""What holds for the whole tree."""

from __future__ import annotations

import re
import subprocess
import sys
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
