"""In the guest: lay out the programs, measure, print. Started by ``python -m benchmarks``.

The one argument is a plan as JSON. Standard output is a line of JSON for each measurement, with
every sample: what is made of them is the host's business.
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
"""After crowded nodes, whose end the kernel makes behind."""

LOOKED_INTO = (Case("pod", 2), Case("host", 2), Case("pod", 2, "static"))


class Plan(NamedTuple):
    """What to measure."""

    programs: dict[str, str]  # place under BIN -> file of the machine
    suites: list[str]
    pairs: int
    warm: int
    quick: bool
    slow: bool  # a guest whose processor is emulated: fewer cases
    cycles: int


def lay_out(plan: Plan) -> None:
    """Copy the programs into the guest's memory; load the modules."""
    for place, source in plan.programs.items():
        target = BIN / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    install_direct(BIN / "direct" / "bond", compiled_copy(LIB))
    for module in MODULES:
        options = ["max_bonds=0"] if module == "bonding" else []
        subprocess.run(["modprobe", module, *options], check=True)


def present(*names: str) -> list[Party]:
    """The parties whose programs are there, in their order; of all or of some."""
    wanted = [party for party in ALL if party.name in names or not names]
    return [party for party in wanted if (BIN / (party.needs or party.name)).exists()]


def tell(**facts: object) -> None:
    """One measurement."""
    print(json.dumps(facts), flush=True)


def verbs_cases(plan: Plan) -> Iterator[Case]:
    """Links in the pod and of the host, two and eight, each IPAM."""
    for ipam in ("none", "static") if plan.quick else ("none", "static", "host-local"):
        for where in ("pod", "host"):
            for links in (2, 8):
                if links == 2 or not (plan.quick or (plan.slow and ipam != "none")):
                    yield Case(where, links, ipam)


def compared(plan: Plan, case: Case) -> Iterator[str]:
    """Whom a case is about. The direct mode takes its time: it is in few cases."""
    yield from ("incumbent", "thick")
    yield "floor" if case.ipam == "none" else "plugin"
    few = plan.quick or plan.slow
    if case == LOOKED_INTO[0] if few else case.links == 2:
        yield "direct"


def verbs(plan: Plan) -> None:
    """The matrix of ADD and DEL."""
    for case in verbs_cases(plan):
        parties = [(party, case) for party in present(*compared(plan, case))]
        samples = measure(parties, plan.pairs, plan.warm)
        tell(suite="verbs", case=case._asdict(), samples=samples)


def scale(plan: Plan) -> None:
    """ADD and DEL of the thick mode on nodes with many other links and bonds, in turn."""
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
    """What was measured of one node, under the thick mode's own names."""
    names = {name: "thick", f"{name} inside": "inside"}
    return {
        verb: {names[one]: values for one, values in series.items() if one in names}
        for verb, series in samples.items()
    }


def storms(plan: Plan) -> None:
    """A node's pods at once, two and sixteen at a time; the direct mode at sixteen."""
    short = plan.quick or plan.slow
    with storm.all_of(present("incumbent", "thick", *(() if short else ("direct",)))) as nodes:
        for at_a_time in (16,) if short else (2, 16):
            chosen = [one for one in nodes if at_a_time == 16 or one.party.name != "direct"]
            gusts = storm.measure(chosen, at_a_time, 1 if plan.quick else 3)
            tell(suite="storm", at_a_time=at_a_time, case=storm.CASE._asdict(), gusts=gusts)


def memory(plan: Plan) -> None:
    """What the daemon holds over many cycles."""
    if not plan.slow:
        found = [one._asdict() for one in cycles.measure(plan.cycles)]
        tell(suite="cycles", holdings=found)


def cold(plan: Plan) -> None:
    """From the daemon's start to its first answer."""
    space = Space.create("cold")
    starts = coldstart.measure(LIB, Path("/run/bench/cold"), space, 3 if plan.quick else 10)
    tell(suite="coldstart", starts=starts)
    space.delete()


def count(plan: Plan) -> None:
    """System calls, messages, and where the time goes."""
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
    """Measure what the plan says."""
    plan = Plan(**json.loads(sys.argv[1]))
    lay_out(plan)
    for name in plan.suites:
        SUITES[name](plan)


if __name__ == "__main__":
    main()
