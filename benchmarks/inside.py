"""In the guest: copy the programs, measure, print. Started by ``python -m benchmarks``.

The only argument is a plan as JSON. Standard output has a line of JSON for each measurement, with
every sample; the host evaluates them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import coldstart, counting, cycles, storm
from benchmarks.namespaces import Space
from benchmarks.package import compiled_copy, install_direct
from benchmarks.parties import ALL, BIN, LIB, THICK, Party, named
from benchmarks.rigs import Case
from benchmarks.verbs import Samples, measure

MODULES = ("bonding", "veth", "dummy")
SETTLE_SECONDS = 3.0
"""Seconds to wait after crowded nodes, which the kernel deletes asynchronously."""

LOOKED_INTO = (Case("pod", 2), Case("host", 2), Case("pod", 2, "static"))


class Plan(NamedTuple):
    """The plan: what to measure."""

    programs: dict[str, str]  # path under BIN -> file of the machine
    suites: list[str]
    pairs: int
    warm: int
    quick: bool
    slow: bool  # a guest with an emulated processor: fewer cases
    cycles: int


def lay_out(plan: Plan) -> None:
    """Copy the programs to the guest's memory, and load the modules."""
    for place, source in plan.programs.items():
        target = BIN / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    install_direct(BIN / "direct" / "bond", compiled_copy(LIB))
    for module in MODULES:
        options = ["max_bonds=0"] if module == "bonding" else []
        subprocess.run(["modprobe", module, *options], check=True)


def present(*names: str) -> list[Party]:
    """The parties, of all or of those named, whose programs exist, in their order."""
    wanted = [party for party in ALL if party.name in names or not names]
    return [party for party in wanted if (BIN / (party.needs or party.name)).exists()]


def tell(**facts: object) -> None:
    """Print one measurement."""
    print(json.dumps(facts), flush=True)


def verbs_cases(plan: Plan) -> Iterator[Case]:
    """Cases: links of the pod and of the host, two and eight, each IPAM plugin."""
    for ipam in ("none", "static") if plan.quick else ("none", "static", "host-local"):
        for where in ("pod", "host"):
            for links in (2, 8):
                if links == 2 or not (plan.quick or (plan.slow and ipam != "none")):
                    yield Case(where, links, ipam)


def compared(plan: Plan, case: Case) -> Iterator[str]:
    """The parties of a case. Direct mode is slow and is in few cases."""
    yield from ("incumbent", "thick")
    yield "floor" if case.ipam == "none" else "plugin"
    few = plan.quick or plan.slow
    if case == LOOKED_INTO[0] if few else case.links == 2:
        yield "direct"


def verbs(plan: Plan) -> None:
    """Measure the matrix of ADD and DEL."""
    for case in verbs_cases(plan):
        parties = [(party, case) for party in present(*compared(plan, case))]
        samples = measure(parties, plan.pairs, plan.warm)
        tell(suite="verbs", case=case._asdict(), samples=samples)


def scale(plan: Plan) -> None:
    """Measure ADD and DEL of thick mode on nodes with many other links and bonds, in turn."""
    if plan.slow:
        return
    crowds = [(0, 0), (2000, 0)] if plan.quick else [(0, 0), (500, 0), (2000, 0), (0, 200)]
    for where in ("pod", "host"):
        nodes = {f"thick-{n}": Case(where, 2, "none", *crowd) for n, crowd in enumerate(crowds)}
        parties = [(named(THICK, name), case) for name, case in nodes.items()]
        samples = measure(parties, plan.pairs, plan.warm)
        for name, case in nodes.items():
            tell(suite="scale", case=case._asdict(), samples=only(samples, name))
        time.sleep(SETTLE_SECONDS)


def only(samples: Samples, name: str) -> Samples:
    """The measurements of one node, under the names of thick mode."""
    names = {name: "thick", f"{name} inside": "inside"}
    return {
        verb: {names[one]: values for one, values in series.items() if one in names}
        for verb, series in samples.items()
    }


def storms(plan: Plan) -> None:
    """Measure storms of two and sixteen concurrent requests; direct mode with sixteen only."""
    short = plan.quick or plan.slow
    with storm.all_of(present("incumbent", "thick", *(() if short else ("direct",)))) as nodes:
        for at_a_time in (16,) if short else (2, 16):
            chosen = [one for one in nodes if at_a_time == 16 or one.party.name != "direct"]
            results = storm.measure(chosen, at_a_time, 1 if plan.quick else 3)
            tell(suite="storm", at_a_time=at_a_time, case=storm.CASE._asdict(), results=results)


def memory(plan: Plan) -> None:
    """Measure the memory of the daemon over many cycles."""
    if not plan.slow:
        found = [one._asdict() for one in cycles.measure(plan.cycles)]
        tell(suite="cycles", holdings=found)


def cold(plan: Plan) -> None:
    """Measure the time from the daemon's start to its first answer."""
    space = Space.create("cold")
    starts = coldstart.measure(LIB, Path("/run/bench/cold"), space, 3 if plan.quick else 10)
    tell(suite="coldstart", starts=starts)
    space.delete()


def count(plan: Plan) -> None:
    """Count system calls and messages, and measure the parts of the time."""
    for case in LOOKED_INTO[: 1 if plan.quick or plan.slow else None]:
        found = {"calls": counting.calls(case), "shares": counting.shares(case, plan.pairs)}
        tell(suite="count", case=case._asdict(), **found)


SUITES = {
    "verbs": verbs,
    "scale": scale,
    "storm": storms,
    "cycles": memory,
    "coldstart": cold,
    "count": count,
}


def main() -> None:
    """Measure what the plan names."""
    plan = Plan(**json.loads(sys.argv[1]))
    lay_out(plan)
    for name in plan.suites:
        SUITES[name](plan)


if __name__ == "__main__":
    main()
