"""A node that starts: ADD for many pods, some concurrently, then DEL for all of them.

Pods and links exist before, so that only the plugin is measured. The parties have their storms in
turn, each on a node of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.parties import Party
from benchmarks.rigs import Case, Rig, Wrong, rig
from benchmarks.spawning import Driver
from benchmarks.verbs import CHECK_EVERY, at_work

PODS = 110
"""Pods that a Kubernetes node takes by default (the kubelet's maxPods)."""

SLOW = ("direct",)
CASE = Case("pod", 2)


class StormResult(NamedTuple):
    """One verb for every pod: milliseconds of each and of all together, and the failures."""

    each: list[float]
    wall: float
    failed: int


class Storm(NamedTuple):
    """A party and its pods."""

    party: Party
    rigs: list[Rig]
    driver: Driver

    def run(self, verb: str, at_a_time: int, turn: int) -> StormResult:
        """Run a verb for every pod, ``at_a_time`` concurrently; afterwards check every fifth."""
        jobs = [self.party.job(one, verb) for one in self.rigs]
        spans = self.driver.run(jobs, at_a_time)
        wall = (max(span.ended for span in spans) - min(span.began for span in spans)) / 1e6
        bad = {n for n, span in enumerate(spans) if span.status}
        looked = set(range(turn % CHECK_EVERY, len(spans), CHECK_EVERY)) - bad
        bad |= {n for n in looked if not self._is_right(self.rigs[n], verb)}
        if verb == "DEL":
            self._set_links_up()
        return StormResult([span.milliseconds for span in spans], wall, len(bad))

    def _is_right(self, one: Rig, verb: str) -> bool:
        try:
            if verb == "ADD":
                one.check_added()
            else:
                one.check_deleted(whole=self.party.whole)
        except Wrong as error:
            print(f"{self.party.name}: {error}", flush=True)
            return False
        return True

    def _set_links_up(self) -> None:
        for one in self.rigs:
            with contextlib.suppress(OSError):  # a link that was not restored counts as a failure
                one.set_links_up()


StormResults = dict[str, dict[str, list[StormResult]]]
"""Storms by verb and party, one for each round."""


def measure(storms: Sequence[Storm], at_a_time: int, rounds: int) -> StormResults:
    """Run storms of all parties in turn, ``rounds`` times; those of a slow party once."""
    results: StormResults = {"ADD": {}, "DEL": {}}
    for turn in range(rounds):
        for one in (each for each in storms if not turn or each.party.name not in SLOW):
            for verb, found in results.items():
                result = one.run(verb, at_a_time, turn)
                found.setdefault(one.party.name, []).append(result)
    return results


@contextlib.contextmanager
def all_of(parties: Sequence[Party], pods: int = PODS) -> Iterator[list[Storm]]:
    """Create a node for each party, with its pods."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(storm(party, pods)) for party in parties]


@contextlib.contextmanager
def storm(party: Party, pods: int) -> Iterator[Storm]:
    """A party on a node of its own, with its pods."""
    with at_work(party, CASE) as (made, driver), contextlib.ExitStack() as stack:
        yield Storm(party, [stack.enter_context(rig(made, n)) for n in range(pods)], driver)
