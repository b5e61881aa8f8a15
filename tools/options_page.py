"""Print docs/options.md from the table in core/options.py: ``python tools/options_page.py``.

A unit test holds the page in the tree against what this prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from bondcni.core.options import ALL, BOND_OPTIONS, MEMBER_OPTIONS, MODES, Option, key_of, name_of
from bondcni.core.values import allowed

HEAD = """# Bonding options

This page is generated from the table in `src/bondcni/core/options.py` by
`tools/options_page.py`.

A bond option is written in `options` or at the top level of the configuration, a member option
in an entry of `links`; the key is the one given here or the kernel's name. *Accepted in*: in any
other mode the option is an error, as in the kernel, even with its default value. *Effective in*:
in any other mode the option has no effect, which is a warning. Numbers may be written as strings,
names as numbers.
"""


def modes(which: tuple[int, ...]) -> str:
    """The names of modes, or ``all``."""
    return "all" if which == ALL else ", ".join(MODES[mode] for mode in which)


def keys(kernel_names: tuple[str, ...], between: str = "") -> str:
    """The configuration keys of options."""
    return between.join(map(key_of, kernel_names))


def notes(row: Option) -> str:
    """Requirements, conflicts and kernel versions of an option."""
    parts = [
        f"requires {keys(row.requires, ', ')}" if row.requires else "",
        f"no effect unless {keys(row.effective_with, ' or ')} is set" if row.effective_with else "",
        f"not together with {keys(row.conflicts, ', ')}" if row.conflicts else "",
        f"must be a multiple of {keys((row.multiple_of,))}" if row.exact else "",
        f"rounded down to a multiple of {keys((row.multiple_of,))}"
        if row.multiple_of and not row.exact
        else "",
        f"Linux {row.since} or later" if row.since else "",
        *(
            f"{name_of(row, value)} requires Linux {since} or later"
            for value, since in row.newer_values.items()
        ),
        f"Linux {row.obsolete} and later accept only the default" if row.obsolete else "",
    ]
    return "; ".join(filter(None, parts))


def table(rows: tuple[Option, ...]) -> Iterator[str]:
    """The lines of a table."""
    yield "| option | kernel | meaning | allowed | default | accepted in | effective in | notes |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if row.read_only:
            continue
        default = "" if row.default is None else name_of(row, row.default)
        yield (
            f"| `{row.key}` | `{row.kernel}` | {row.help} | {allowed(row)} | {default} "
            f"| {modes(row.accepted_in)} | {modes(row.effective_in)} | {notes(row)} |"
        )


def page() -> str:
    """The whole page."""
    bond, member = "\n".join(table(BOND_OPTIONS)), "\n".join(table(MEMBER_OPTIONS))
    return f"{HEAD}\n## Bond options\n\n{bond}\n\n## Member options\n\n{member}\n"


if __name__ == "__main__":
    print(page(), end="")
