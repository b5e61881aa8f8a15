"""Pages that are made from code stand in the tree as the code makes them."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_options_page_is_what_the_table_makes() -> None:
    made = runpy.run_path(str(ROOT / "tools/options_page.py"))["page"]()
    assert (ROOT / "docs/options.md").read_text() == made


def test_every_fault_names_tests_that_there_are() -> None:
    """Each row of the table in docs/reliability.md, and whatever else the page names."""
    page = (ROOT / "docs/reliability.md").read_text()
    table = page.partition("## Fault by fault")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    assert [row for row in rows if "::test_" not in row] == []
    named = re.findall(r"`(\w+/[\w/]+)::(test_\w+)`", page)
    assert len(named) == page.count("::test_")
    missing = [
        f"{path}::{test}"
        for path, test in named
        if f"def {test}(" not in (ROOT / f"tests/{path}.py").read_text()
    ]
    assert missing == []
