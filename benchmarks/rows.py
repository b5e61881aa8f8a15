"""From samples to rows: medians and their comparisons. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

AGAINST_INCUMBENT = ("thick", "direct")
AGAINST_FLOOR = (("inside", "floor inside"), ("thick", "floor"), ("direct", "floor"))

WARM = "middle"
"""Cycles after which the memory of the daemon should be constant."""

Samples = dict[str, dict[str, list[float]]]


class Row(NamedTuple):
    """One comparison. ``ratio`` is peer / ours; for the floor and an empty node, ours / peer."""

    guest: str  # "uml", "qemu" or "native"
    kernel: str
    where: str
    links: int
    ipam: str
    verb: str
    ours: str
    peer: str
    ratio: float
    ours_ms: float
    peer_ms: float
    n: int


class Figures(NamedTuple):
    """The figures of a party's storms, in milliseconds over all pods of all rounds.

    ``per_pod`` is the time of a whole storm divided by its pods: the inverse of throughput.
    """

    p50: float
    p99: float
    per_pod: float
    good: int
    failed: int


def figures(results: list[tuple[list[float], float, int]]) -> Figures:
    """For each round: milliseconds of each pod and of the whole storm, and the failures."""
    each = sorted(one for result in results for one in result[0])
    failed = sum(result[2] for result in results)
    per_pod = median(result[1] / len(result[0]) for result in results)
    return Figures(median(each), quantiles(each, n=100)[98], per_pod, len(each) - failed, failed)


class Place(NamedTuple):
    """The part of a row that names what was measured."""

    guest: str
    kernel: str
    where: str
    links: int
    ipam: str
    verb: str


def pairs() -> Iterator[tuple[str, str, str, bool]]:
    """Our series, the peer's series, the peer's name in the row, whether ours is the numerator."""
    for ours in AGAINST_INCUMBENT:
        yield ours, "incumbent", "incumbent", False
    for ours, floor in AGAINST_FLOOR:
        yield ours, floor, "floor", True


def compared(
    place: Place, ours: str, mine: list[float], peer: str, others: list[float], *, above: bool
) -> Row:
    """A row that compares two series; ``above``: the ratio is ours / peer."""
    a, b = median(mine), median(others)
    ratio = a / b if above else b / a
    count = min(len(mine), len(others))
    return Row(*place, ours, peer, round(ratio, 2), round(a, 3), round(b, 3), count)


Found = dict[str, Any]
"""A measurement with its guest and kernel, as ``python -m benchmarks`` records it."""


def rows_of(raw: Sequence[Found]) -> Iterator[Row]:
    """All rows."""
    empty: dict[tuple[str, ...], Samples] = {}
    for one in raw:
        if one["suite"] == "scale":
            first = (one["guest"], one["kernel"], one["case"]["where"])
            yield from of_scale(one, empty.setdefault(first, one["samples"]))
        elif make := ROWS.get(one["suite"]):
            yield from make(one)


def of_verbs(found: Found) -> Iterator[Row]:
    """The rows of one case of ADD and DEL."""
    case = found["case"]
    for verb, series in found["samples"].items():
        place = placed(found, case["where"], case["links"], case["ipam"], verb)
        for ours, peer, name, above in pairs():
            if ours in series and peer in series:
                yield compared(place, ours, series[ours], name, series[peer], above=above)


def placed(
    found: Found, where: str = "", links: int = 0, ipam: str = "none", verb: str = ""
) -> Place:
    """The guest and kernel of a measurement."""
    return Place(found["guest"], found["kernel"], where, links, ipam, verb)


def crowd(case: dict[str, Any]) -> str:
    """What else is on the node, or ""."""
    others = (f"{case[f'other_{kind}']} other {kind}" for kind in ("links", "bonds"))
    return ", ".join(text for text in others if not text.startswith("0 "))


def crowded(case: dict[str, Any]) -> str:
    """Where the links are, and what else is there."""
    return f"{case['where']}, {crowd(case) or 'nothing else'}"


def of_scale(found: Found, empty: Samples) -> Iterator[Row]:
    """The rows of one crowded node, compared with the ``empty`` one."""
    case = found["case"]
    for verb, series in found["samples"].items():
        place = placed(found, crowded(case), case["links"], case["ipam"], verb)
        for ours, mine in series.items():
            yield compared(place, ours, mine, "empty node", empty[verb][ours], above=True)


def of_storm(found: Found) -> Iterator[Row]:
    """The rows of one storm; ``n`` is the number of pods that succeeded with both."""
    for verb, results in found["results"].items():
        parties = {name: figures(rounds) for name, rounds in results.items()}
        for ours in AGAINST_INCUMBENT:
            if ours in parties and "incumbent" in parties:
                yield from _storm(found, verb, ours, parties[ours], parties["incumbent"])


def _storm(found: Found, verb: str, ours: str, a: Figures, b: Figures) -> Iterator[Row]:
    for what in ("p50", "p99", "per_pod"):
        mine, others = getattr(a, what), getattr(b, what)
        name = f"{verb} storm {found['at_a_time']} {what.replace('_', ' ')}"
        values = (round(others / mine, 2), round(mine, 3), round(others, 3))
        place = placed(found, "pod", 2, "none", name)
        yield Row(*place, ours, "incumbent", *values, min(a.good, b.good))


def of_cycles(found: Found) -> Iterator[Row]:
    """What the daemon used at the end, compared with the middle; RSS in MB."""
    held = {one["when"]: one for one in found["holdings"]}
    for what in ("rss_kb", "descriptors", "threads", "files"):
        by = 1024 if what == "rss_kb" else 1
        late, early = (held[when][what] / by for when in ("after", WARM))
        name = f"{what.replace('rss_kb', 'RSS (MB)')} after {held['after']['cycles']} cycles"
        values = (round(late / early, 3) if early else 1.0, round(late, 2), round(early, 2))
        yield Row(*placed(found, verb=name), "thick", f"in the {WARM} of them", *values, 1)


def of_coldstart(found: Found) -> Iterator[Row]:
    """The start of the daemon, compared with that of a bare interpreter."""
    place = placed(found, verb="start of the daemon")
    starts = found["starts"]
    yield compared(
        place, "thick", starts["daemon"], "interpreter", starts["interpreter"], above=True
    )


def of_native(found: Found) -> Iterator[Row]:
    """The start of the shim, compared with that of a program that only connects."""
    for what, series in found["starts"].items():
        place = placed(found, verb=f"shim {what}")
        mine, others = series["shim"], series["connect only"]
        yield compared(place, "thick", mine, "connect only", others, above=True)


ROWS: dict[str, Callable[[Found], Iterator[Row]]] = {
    "verbs": of_verbs,
    "storm": of_storm,
    "cycles": of_cycles,
    "coldstart": of_coldstart,
    "native": of_native,
}
