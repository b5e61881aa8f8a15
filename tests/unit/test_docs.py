"""Pages that are made from code stand in the tree as the code makes them."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_options_page_is_what_the_table_makes() -> None:
    made = runpy.run_path(str(ROOT / "tools/options_page.py"))["page"]()
    assert (ROOT / "docs/options.md").read_text() == made
