"""The goals, and whether each is met on each guest. Pure.

A goal is met if every row that it applies to meets it. Otherwise the row that is farthest from it
is reported, with the parts of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.rows import Found, Row
from benchmarks.tables import Grid

MEGABYTES = 40
GROWTH = 1.02
SHIM_MS = 1.0
HEAD = ("guest", "goal", "needed", "median", "farthest", "reached", "the farthest")

Medians = dict[tuple[Any, ...], dict[str, float]]
"""Medians of each series, by guest, kernel, where, links, ipam and verb."""


class Goal(NamedTuple):
    """What some rows must meet: a minimum or maximum of the ratio, or of our value."""

    text: str
    need: float
    sign: str  # ">=" or "<="
    about: Callable[[Row], bool]
    value: Callable[[Row], float] = lambda row: row.ratio

    def is_reached(self, row: Row) -> bool:
        """Whether one row meets it."""
        value = self.value(row)
        return value >= self.need if self.sign == ">=" else value <= self.need

    def farthest(self, rows: Sequence[Row]) -> Row:
        """The row that is farthest from meeting it."""
        return (min if self.sign == ">=" else max)(rows, key=self.value)


def _verb(row: Row, ours: str, peer: str) -> bool:
    return (row.ours, row.peer) == (ours, peer) and row.verb in ("ADD", "DEL")


def _fast(row: Row, guest: str, *, ipam: bool) -> bool:
    same = row.guest == guest and (row.ipam != "none") == ipam
    return same and _verb(row, "thick", "incumbent")


def _crowded(row: Row) -> bool:
    return _verb(row, "thick", "empty node") and not row.where.endswith("nothing else")


def _stormed(row: Row, what: str) -> bool:
    return "storm" in row.verb and row.verb.endswith(what) and row.ours == "thick"


GOALS = (
    Goal("thick, no IPAM", 5, ">=", lambda row: _fast(row, "uml", ipam=False)),
    Goal("thick, static or host-local", 3, ">=", lambda row: _fast(row, "uml", ipam=True)),
    Goal("thick, no IPAM", 2, ">=", lambda row: _fast(row, "qemu", ipam=False)),
    Goal("thick, static or host-local", 2, ">=", lambda row: _fast(row, "qemu", ipam=True)),
    Goal("inside against floor", 1.3, "<=", lambda row: _verb(row, "inside", "floor")),
    Goal("crowded node", 1.2, "<=", _crowded),
    Goal("storm, throughput", 3, ">=", lambda row: _stormed(row, "per pod")),
    Goal("storm, p99", 3, ">=", lambda row: _stormed(row, "p99")),
    Goal("direct", 0.67, ">=", lambda row: _verb(row, "direct", "incumbent")),
    Goal(
        "memory, MB",
        MEGABYTES,
        sign="<=",
        about=lambda row: row.verb.startswith("RSS"),
        value=lambda row: row.ours_ms,
    ),
    Goal(
        "growth over the cycles",
        GROWTH,
        sign="<=",
        about=lambda row: row.verb.endswith(" 10000 cycles"),
    ),
    Goal(
        "shim to connect, ms",
        SHIM_MS,
        sign="<=",
        about=lambda row: row.verb == "shim to connect",
        value=lambda row: row.ours_ms,
    ),
)


def verdict(raw: Sequence[Found], rows: Sequence[Row]) -> Grid:
    """A line for each guest and goal with a measurement."""
    series = medians(raw)
    guests = dict.fromkeys((row.guest, row.kernel) for row in rows)
    lines = [line for guest in guests for line in _lines(guest, rows, series)]
    return Grid("The goals", HEAD, lines)


def _lines(guest: tuple[str, str], rows: Sequence[Row], series: Medians) -> Iterator[Sequence[str]]:
    for goal in GOALS:
        chosen = [row for row in rows if (row.guest, row.kernel) == guest and goal.about(row)]
        if chosen:
            yield _line(" ".join(guest), goal, chosen, series)


def _line(guest: str, goal: Goal, chosen: list[Row], series: Medians) -> Sequence[str]:
    good = sum(map(goal.is_reached, chosen))
    worst = goal.farthest(chosen)
    values = (median(map(goal.value, chosen)), goal.value(worst))
    reached = "yes" if good == len(chosen) else f"no ({good} of {len(chosen)})"
    return (
        guest,
        goal.text,
        f"{goal.sign} {goal.need}",
        *(f"{value:.2f}" for value in values),
        reached,
        "" if good == len(chosen) else reason(worst, series),
    )


def medians(raw: Sequence[Found]) -> Medians:
    """The medians of every series of ADD and DEL."""
    found: Medians = {}
    for one in raw:
        if one["suite"] == "verbs":
            case = one["case"]
            for verb, series in one["samples"].items():
                place = (one["guest"], one["kernel"], case["where"], case["links"], case["ipam"])
                found[*place, verb] = {name: median(values) for name, values in series.items()}
    return found


def reason(row: Row, series: Medians) -> str:
    """The measured parts of a row that does not meet its goal."""
    pod = (f"{row.links} {row.where}", row.ipam) if row.links else ()
    where = " ".join((*pod, row.verb))
    text = f"{where}: {row.ours} {row.ours_ms:.2f}, {row.peer} {row.peer_ms:.2f}"
    if (row.ours, row.peer) != ("thick", "incumbent") or row[:6] not in series:
        return text
    parts = series[row[:6]]
    text += f"; inside {parts['inside']:.2f}, shim {parts['thick'] - parts['inside']:.2f}"
    return text + ceiling(row, series)


def ceiling(row: Row, series: Medians) -> str:
    """The lower bound: the floor as a process, and the IPAM plugin's own time."""
    floor = series.get((*row[:4], "none", row.verb), {}).get("floor")
    plugin = 0.0 if row.ipam == "none" else series[row[:6]].get("plugin")
    if floor is None or plugin is None:
        return ""
    words = f"; the floor as a process {floor:.2f}" + (f", the plugin {plugin:.2f}" * bool(plugin))
    return f"{words}: at most {row.peer_ms / (floor + plugin):.1f} times"
