"""ADD and DEL of the parties in turn, on nodes that are alike."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.parties import BIN, Party
from benchmarks.rigs import Case, Node, Rig, Wrong, node, rig
from benchmarks.spawning import Driver

SETTLE_SECONDS = 0.02
"""Seconds between two requests, for asynchronous work of the kernel after the first."""

CHECK_EVERY = 5
"""One of so many turns or pods is checked."""

CROWD = Case("pod", 2)
"""The case of the other pods of a crowded node."""

FOLDER = Path("/run/bench/rigs")

Samples = dict[str, dict[str, list[float]]]
"""Milliseconds by verb and series: the name of a party, or of its time inside."""


class Runner(NamedTuple):
    """A party at work on its rig."""

    party: Party
    rig: Rig
    driver: Driver

    def request(self, verb: str, *, check: bool) -> dict[str, float]:
        """Run one request; return milliseconds by series. Raises Wrong if it failed."""
        job = self.party.job(self.rig, verb)
        (span,) = self.driver.run([job])
        if span.status:
            said = Path(job.stdout).read_text(errors="replace")
            raise Wrong(f"{self.party.name}: {verb} ended with {span.status:#x}: {said}")
        series = {self.party.name: span.milliseconds}
        if self.party.inside:
            name, read = self.party.inside
            series[name] = read(self.rig)
        if check and self.party.bonds:
            self._check(verb)
        return series

    def _check(self, verb: str) -> None:
        try:
            if verb == "ADD":
                self.rig.check_added()
            else:
                self.rig.check_deleted(whole=self.party.whole)
        except Wrong as error:
            raise Wrong(f"{self.party.name}: {self.rig.case}: {error}") from error


def measure(parties: Sequence[tuple[Party, Case]], pairs: int, warm: int) -> Samples:
    """Run ADD and DEL of each party ``pairs`` times, after ``warm`` times that are not counted."""
    samples: Samples = {"ADD": {}, "DEL": {}}
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(runner(party, case)) for party, case in parties]
        for turn in range(-warm, pairs):
            for one in runners:
                for verb, series in cycle(one, check=turn % CHECK_EVERY == 0 or turn < 0):
                    for name, value in series.items() if turn >= 0 else ():
                        samples[verb].setdefault(name, []).append(value)
    return samples


def cycle(one: Runner, *, check: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Run ADD and DEL of one party, and restore its node."""
    for verb in ("ADD", "DEL"):
        time.sleep(SETTLE_SECONDS)
        yield verb, one.request(verb, check=check)
    one.rig.set_links_up()


@contextlib.contextmanager
def runner(party: Party, case: Case) -> Iterator[Runner]:
    """A party on a node of its own with one pod."""
    with at_work(party, case) as (made, driver), crowd(party, made, driver), rig(made) as pod:
        yield Runner(party, pod, driver)


@contextlib.contextmanager
def crowd(party: Party, made: Node, driver: Driver) -> Iterator[None]:
    """Create the node's other pods, each with its bond, by ordinary requests. Raises Wrong."""
    with contextlib.ExitStack() as stack:
        for number in range(1, made.case.other_bonds + 1):
            other = stack.enter_context(rig(made, number, CROWD))
            Runner(party, other, driver).request("ADD", check=number % CHECK_EVERY == 0)
        yield


@contextlib.contextmanager
def at_work(party: Party, case: Case) -> Iterator[tuple[Node, Driver]]:
    """A node for a party, with what it needs beside it, and a driver."""
    folder = FOLDER / party.name
    shutil.rmtree(folder, ignore_errors=True)
    with node(party.name, case, folder) as made, party.beside(made):
        driver = Driver(str(BIN / "driver"), made.space)
        try:
            yield made, driver
        finally:
            driver.close()
