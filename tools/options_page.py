"""Print docs/options.md from the table in core/options.py: ``python tools/options_page.py``.

A unit test holds the page in the tree against what this prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from bondcni.core.options import ALL, BOND_OPTIONS, MEMBER_OPTIONS, MODES, Option, name_of
from bondcni.core.values import allowed

HEAD = """# Bonding options

Made from the table in `src/bondcni/core/options.py` by `tools/options_page.py`.

Each may stand in `options` or at the top level of the configuration, as written here or by
the kernel's name; member options stand in an entry of `links`. *Takes*: in any other mode
the kernel refuses the option, even at its default, and so do we. *Works*: the kernel takes
it in every mode, but it does something in these only; elsewhere it is a warning. Numbers
may be written as strings, names as numbers.
"""


def modes(which: tuple[int, ...]) -> str:
    """Mode names, or ``all``."""
    return "all" if which == ALL else ", ".join(MODES[mode] for mode in which)


def notes(row: Option) -> str:
    """What else there is to know of an option."""
    parts = [
        f"needs {', '.join(row.needs)}" if row.needs else "",
        f"without effect unless {' or '.join(row.wants)} is set" if row.wants else "",
        f"not together with {', '.join(row.conflicts)}" if row.conflicts else "",
        f"rounded down to a multiple of {row.multiple}" if row.multiple else "",
        f"from Linux {row.since} on" if row.since else "",
        *(f"{name_of(row, value)} from Linux {since} on" for value, since in row.newer.items()),
        f"from Linux {row.obsolete} on only the default is taken" if row.obsolete else "",
    ]
    return "; ".join(filter(None, parts))


def table(rows: tuple[Option, ...]) -> Iterator[str]:
    """The lines of one table."""
    yield "| option | kernel | what | allowed | default | takes | works | notes |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if row.read_only:
            continue
        default = "" if row.default is None else name_of(row, row.default)
        yield (
            f"| `{row.key}` | `{row.kernel}` | {row.help} | {allowed(row)} | {default} "
            f"| {modes(row.takes)} | {modes(row.works)} | {notes(row)} |"
        )


def page() -> str:
    """The whole page."""
    bond, member = "\n".join(table(BOND_OPTIONS)), "\n".join(table(MEMBER_OPTIONS))
    return f"{HEAD}\n## Of the bond\n\n{bond}\n\n## Of a member\n\n{member}\n"


if __name__ == "__main__":
    print(page(), end="")
