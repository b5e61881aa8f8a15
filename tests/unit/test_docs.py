"""Pages that are made from code stand in the tree as the code makes them."""

import re
import runpy
from pathlib import Path

from bondcni.core.config import PARAMETERS
from bondcni.core.options import bond_option

ROOT = Path(__file__).resolve().parents[2]


def test_options_page_is_what_the_table_makes() -> None:
    made = runpy.run_path(str(ROOT / "tools/options_page.py"))["page"]()
    assert (ROOT / "docs/options.md").read_text() == made


def test_lifecycle_page_is_what_the_tables_make() -> None:
    made = runpy.run_path(str(ROOT / "tools/lifecycle_page.py"))["page"]()
    assert (ROOT / "docs/lifecycle.md").read_text() == made


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


def test_10_shows_3_the_page_for_those_who_come_from_the_go_plugin_is_linked_and_whole() -> None:
    """It is found from the README, and its own links lead somewhere."""
    page = ROOT / "docs/coming-from-go-bond-cni.md"
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
    assert links
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.is_file(), path
        heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in slugs, (path, anchor)


def test_10_shows_3_each_key_of_the_page_is_one_that_the_parser_knows() -> None:
    text = (ROOT / "docs/coming-from-go-bond-cni.md").read_text()
    table = text.partition("## Key by key")[2].partition("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)", table, re.MULTILINE)
    assert {"mode", "miimon", "mtu", "failOverMac", "linksInContainer", "links"} <= set(keys)
    assert [key for key in keys if key not in PARAMETERS and bond_option(key) is None] == []
