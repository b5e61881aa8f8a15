"""A node that starts: ADD of many pods, some at a time, then DEL of them all.

Pods and links are there before; what is measured is the plugin's own part. A storm of each
party in turn, on nodes of their own.
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
"""What a Kubernetes node takes by default (the kubelet's maxPods)."""

SLOW = ("direct",)
CASE = Case("pod", 2)


class Gust(NamedTuple):
    """One verb for every pod: milliseconds of each, of all together, and how many failed."""

    each: list[float]
    wall: float
    failed: int


class Storm(NamedTuple):
    """A party and its pods."""

    party: Party
    rigs: list[Rig]
    driver: Driver

    def gust(self, verb: str, at_a_time: int, turn: int) -> Gust:
        """Every pod, so many at a time; each fifth is looked at afterwards, in turn."""
        jobs = [self.party.job(one, verb) for one in self.rigs]
        spans = self.driver.run(jobs, at_a_time)
        wall = (max(span.ended for span in spans) - min(span.began for span in spans)) / 1e6
        bad = {n for n, span in enumerate(spans) if span.status}
        looked = set(range(turn % CHECK_EVERY, len(spans), CHECK_EVERY)) - bad
        bad |= {n for n in looked if not self._is_right(self.rigs[n], verb)}
        if verb == "DEL":
            self._mend()
        return Gust([span.milliseconds for span in spans], wall, len(bad))

    def _is_right(self, one: Rig, verb: str) -> bool:
        try:
            if verb == "ADD":
                one.check_added()
            else:
                one.check_home(whole=self.party.whole)
        except Wrong as error:
            print(f"{self.party.name}: {error}", flush=True)
            return False
        return True

    def _mend(self) -> None:
        for one in self.rigs:
            with contextlib.suppress(OSError):  # a link that is not at home counts as a failure
                one.mend()


Gusts = dict[str, dict[str, list[Gust]]]
"""By verb and by party, one for each round."""


def measure(storms: Sequence[Storm], at_a_time: int, rounds: int) -> Gusts:
    """Storms of all parties in turn, ``rounds`` times; of a slow one once."""
    gusts: Gusts = {"ADD": {}, "DEL": {}}
    for turn in range(rounds):
        for one in (each for each in storms if not turn or each.party.name not in SLOW):
            for verb, found in gusts.items():
                gust = one.gust(verb, at_a_time, turn)
                found.setdefault(one.party.name, []).append(gust)
    return gusts


@contextlib.contextmanager
def all_of(parties: Sequence[Party], pods: int = PODS) -> Iterator[list[Storm]]:
    """A node for each party, with its pods."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(storm(party, pods)) for party in parties]


@contextlib.contextmanager
def storm(party: Party, pods: int) -> Iterator[Storm]:
    """A party on a node of its own, with its pods."""
    with at_work(party, CASE) as (made, driver), contextlib.ExitStack() as stack:
        yield Storm(party, [stack.enter_context(rig(made, n)) for n in range(pods)], driver)
