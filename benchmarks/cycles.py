"""Ten thousand ADDs and DELs through the shim, to see whether the daemon's memory grows.

Three pods of one node take turns: one with links of the pod, one with links of the host and, in
one of ten turns, one with an address from the plugin ``static``. The daemon's memory and
descriptors are read in between.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.parties import THICK, place_of
from benchmarks.rigs import Case, Node, Rig, Wrong, rig
from benchmarks.spawning import Driver, Job
from benchmarks.verbs import at_work

CASES = (Case("pod", 2), Case("host", 2), Case("pod", 2, "static"))
TURN = (0, 1, 0, 1, 0, 1, 0, 1, 0, 2)
"""The order of the turns, repeated."""

CHUNK = 500
"""Cycles that are passed to the driver at once."""

WARM_CYCLES = 100
IDLE_SECONDS = 3.0


class Holding(NamedTuple):
    """What the daemon uses: memory in kilobytes, and counts; and the cycles before."""

    when: str
    cycles: int
    rss_kb: int
    peak_kb: int
    descriptors: int
    threads: int
    files: int


def measure(cycles: int) -> list[Holding]:
    """Read at the start, after the first cycles, in the middle, at the end, and after a rest.

    Raises Wrong if a request failed.
    """
    with at_work(THICK, CASES[0]) as (node, driver), pods(node) as rigs:
        jobs = [THICK.job(rigs[n], verb) for n in TURN for verb in ("ADD", "DEL")]
        found = [holding(node, "start", 0)]
        for when, until in (("warm", WARM_CYCLES), ("middle", cycles // 2), ("end", cycles)):
            run(driver, jobs, until - found[-1].cycles)
            found.append(holding(node, when, until))
        for one in rigs:
            one.check_deleted()
        time.sleep(IDLE_SECONDS)
        return [*found, holding(node, "after", cycles)]


@contextlib.contextmanager
def pods(node: Node) -> Iterator[list[Rig]]:
    """Create a pod for each case."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(rig(node, n, case)) for n, case in enumerate(CASES)]


def run(driver: Driver, turn: list[Job], cycles: int) -> None:
    """Run a number of cycles, a multiple of the turns. Raises Wrong."""
    turns = cycles // len(TURN)
    while turns:
        now = min(turns, CHUNK // len(TURN))
        jobs = turn * now
        for job, span in zip(jobs, driver.run(jobs), strict=True):
            if span.status:
                said = Path(job.stdout).read_text(errors="replace")
                raise Wrong(f"{job.env['CNI_COMMAND']} ended with {span.status:#x}: {said}")
        turns -= now


def holding(node: Node, when: str, cycles: int) -> Holding:
    """Read what the daemon uses now."""
    place = place_of(node)
    of = Path(f"/proc/{place.number}")
    lines = (line.split(":") for line in (of / "status").read_text().splitlines())
    status = {name: value.split()[0] for name, value in lines if value.split()}
    descriptors, threads = (len(os.listdir(of / folder)) for folder in ("fd", "task"))
    files = sum(len(names) for _, _, names in os.walk(place.state))
    rss, peak = int(status["VmRSS"]), int(status["VmHWM"])
    return Holding(when, cycles, rss, peak, descriptors, threads, files)
