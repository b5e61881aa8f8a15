"""Measurements as tables of text, one for each guest and suite. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.rows import Found, Row, crowd, crowded, figures

SERIES = ("incumbent", "direct", "thick", "inside", "floor", "floor inside", "plugin")
RATIOS = (
    ("thick", "incumbent"),
    ("direct", "incumbent"),
    ("inside", "floor"),
)
KINDS = ("inside", "netlink send", "netlink receive", "files", "fsync", "shim", "python")
NAMES = {
    f"0x{16 + 4 * n + at:x}": f"RTM_{verb}{what}"
    for n, what in enumerate(("LINK", "ADDR", "ROUTE", "NEIGH"))
    for at, verb in enumerate(("NEW", "DEL", "GET", "SET"))
}
"""Message types (linux/rtnetlink.h): strace does not know the family of a socket that was received
from another process, and does not decode its messages.
"""

HOLDINGS = ("when", "cycles", "rss_kb", "peak_kb", "descriptors", "threads", "files")


class Grid(NamedTuple):
    """One table."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


def grids(raw: Sequence[Found], rows: Sequence[Row]) -> Iterator[Grid]:
    """All tables, guest by guest."""
    ratios = {(*row[:6], row.ours, row.peer): row.ratio for row in rows}
    made: dict[str, Callable[[str, list[Found]], Grid]] = {
        "verbs": lambda title, found: of_verbs(title, found, ratios),
        "scale": lambda title, found: of_scale(title, found, ratios),
        "storm": of_storm,
        "cycles": of_cycles,
        "coldstart": of_starts,
        "native": of_native,
        "count": of_shares,
    }
    for guest, kernel, suite in titles(raw):
        found = [one for one in raw if is_of(one, (guest, kernel, suite))]
        loads = [one["load"] for one in found]
        yield made[suite](f"{guest} {kernel}, load {min(loads):.1f} to {max(loads):.1f}", found)
        if suite == "count":
            yield of_calls(f"{guest} {kernel}", found)


def titles(raw: Sequence[Found]) -> list[tuple[str, str, str]]:
    """Guest, kernel and suite, each once, in their order."""
    known = ((one["guest"], one["kernel"], one["suite"]) for one in raw if "guest" in one)
    return list(dict.fromkeys(known))


def is_of(one: Found, title: tuple[str, ...]) -> bool:
    """Whether a measurement is of this guest, kernel and suite."""
    return (one.get("guest"), one.get("kernel"), one["suite"]) == title


def of_verbs(title: str, found: list[Found], ratios: dict[tuple[Any, ...], float]) -> Grid:
    """Medians of ADD and DEL."""
    quotients = [f"{a} x {b}" for a, b in RATIOS]
    lines: list[Sequence[str]] = []
    for one in found:
        case = one["case"]
        for verb, series in one["samples"].items():
            place = (one["guest"], one["kernel"], case["where"], case["links"], case["ipam"], verb)
            values = [ratios.get((*place, *pair)) for pair in RATIOS]
            words = [number(value) for value in values]
            lines.append((described(case), case["ipam"], verb, *medians(series), *words))
    head = ("links", "ipam", "verb", *SERIES, *quotients)
    return Grid(f"ADD and DEL, {title}: medians in ms; x: so many times", head, lines)


def of_scale(title: str, found: list[Found], ratios: dict[tuple[Any, ...], float]) -> Grid:
    """Medians on crowded nodes."""
    lines: list[Sequence[str]] = []
    for one in found:
        case = one["case"]
        for verb, series in one["samples"].items():
            place = (one["guest"], one["kernel"], crowded(case), case["links"], case["ipam"], verb)
            words = [number(ratios.get((*place, name, "empty node"))) for name in FEW]
            values = [number(median(series[name])) for name in FEW]
            lines.append((described(case), verb, *values, *words))
    head = ("links", "verb", *FEW, *(f"{name} / empty node" for name in FEW))
    return Grid(f"Crowded node, {title}: medians in ms", head, lines)


FEW = ("thick", "inside")


def of_storm(title: str, found: list[Found]) -> Grid:
    """A row for each storm and party."""
    lines: list[Sequence[str]] = []
    for one in found:
        for verb, results in one["results"].items():
            for party, rounds in results.items():
                *times, good, failed = figures(rounds)
                words = [*(f"{value:.1f}" for value in times), f"{1000 / times[2]:.0f}"]
                lines.append((str(one["at_a_time"]), verb, party, *words, str(good), str(failed)))
    head = ("at a time", "verb", "party", "p50", "p99", "per pod", "pods/s", "pods", "failed")
    return Grid(f"Storm of 110 pods, {title}: ms", head, lines)


def of_cycles(title: str, found: list[Found]) -> Grid:
    """What the daemon used."""
    held = [one for each in found for one in each["holdings"]]
    lines = [[str(one[name]) for name in HOLDINGS] for one in held]
    head = [name.replace("_kb", ", KB") for name in HOLDINGS]
    return Grid(f"The daemon over many cycles, {title}", head, lines)


def of_starts(title: str, found: list[Found]) -> Grid:
    """Starts of the daemon and of the interpreter alone."""
    lines = [
        (name, number(median(values)), number(min(values)), str(len(values)))
        for one in found
        for name, values in one["starts"].items()
    ]
    head = ("started", "median", "least", "n")
    return Grid(f"From the daemon's start to its first answer, {title}: ms", head, lines)


def of_native(title: str, found: list[Found]) -> Grid:
    """The start of the shim without a guest."""
    lines = [
        (what, name, f"{median(values):.3f}", f"{min(values):.3f}", str(len(values)))
        for one in found
        for what, series in one["starts"].items()
        for name, values in series.items()
    ]
    head = ("what", "program", "median", "least", "n")
    return Grid(f"The shim on this machine, {title}: ms", head, lines)


def of_shares(title: str, found: list[Found]) -> Grid:
    """The parts of the time inside."""
    lines: list[Sequence[str]] = []
    for one in found:
        for verb, kinds in one["shares"].items():
            case = one["case"]
            words = [share(kinds.get(kind)) for kind in KINDS]
            lines.append((described(case), case["ipam"], verb, *words))
    head = ("links", "ipam", "verb", *KINDS)
    return Grid(f"Time inside the daemon, {title}: ms, in brackets how often", head, lines)


def of_calls(title: str, found: list[Found]) -> Grid:
    """System calls and messages of one request."""
    lines: list[Sequence[str]] = []
    for one in found:
        for verb, counts in one["calls"].items():
            case = one["case"]
            named = {NAMES.get(kind, kind): n for kind, n in counts["messages"].items()}
            words = map(listed, (counts["netlink"], named, counts["calls"]))
            lines.append((described(case), case["ipam"], verb, str(counts["all"]), *words))
    head = ("links", "ipam", "verb", "calls", "of netlink", "messages sent", "calls by name")
    return Grid(f"What one request calls, {title}", head, lines)


def listed(counts: dict[str, int], most: int = 12) -> str:
    """The most frequent first."""
    order = sorted(counts.items(), key=lambda one: -one[1])[:most]
    return ", ".join(f"{name} {count}" for name, count in order)


def share(found: Sequence[float] | None) -> str:
    """Milliseconds, and the number of times."""
    if not found:
        return ""
    often, milliseconds = found
    return f"{milliseconds:.2f}" + (f" ({often:.0f})" if often > 1 else "")


def medians(series: dict[str, list[float]]) -> list[str]:
    """The medians of each series, in the order of SERIES."""
    return [number(median(series[name])) if name in series else "" for name in SERIES]


def number(value: float | None) -> str:
    """A number with two digits."""
    return "" if value is None else f"{value:.2f}"


def described(case: dict[str, Any]) -> str:
    """The node of a case in words."""
    return ", ".join(filter(None, (f"{case['links']} {case['where']}", crowd(case))))
