"""The report of the measurements: on the terminal, and as a section of README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Found, Row
from benchmarks.tables import Grid, grids
from benchmarks.verdict import verdict

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- last run -->", "<!-- end of last run -->"
WIDTH = 180


def show(raw: Sequence[Found], rows: Sequence[Row]) -> None:
    """Print all tables; the verdict comes last."""
    console = Console(width=WIDTH, highlight=False)
    for grid in (*grids(raw, rows), verdict(raw, rows)):
        made = Table(*grid.head, title=grid.title)
        for line in grid.lines:
            made.add_row(*line)
        console.print(made, markup=False)


def write(raw: Sequence[Found], rows: Sequence[Row]) -> None:
    """Replace the section between README's two marks. Raises ValueError if they are missing."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{README.name} has no {BEGIN} and {END}")
    section = "\n".join(markdown(raw, rows))
    README.write_text(f"{before}{BEGIN}\n\n{section}\n{END}{after}", encoding="utf-8")


def markdown(raw: Sequence[Found], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the section; the verdict comes first."""
    for one in raw:
        if one["suite"] == "machine":
            yield (
                f"{one['date']} UTC, {one['cores']} cores ({one['processor']}), kernel "
                f"{one['kernel']}, Python {one['python']}. Others use the machine too: the load "
                "(1 minute, seen from outside) is told with each table.\n"
            )
    for grid in (verdict(raw, rows), *grids(raw, rows)):
        yield from lines_of(grid)


def lines_of(grid: Grid) -> Iterator[str]:
    """One table as Markdown."""
    yield f"### {grid.title}\n"
    yield "| " + " | ".join(grid.head) + " |"
    yield "|" + "---|" * len(grid.head)
    for line in grid.lines:
        yield "| " + " | ".join(line) + " |"
    yield ""
