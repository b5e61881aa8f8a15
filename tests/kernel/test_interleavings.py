"""Two hundred random acts over four NICs and three pods, with a model of the invariants.

A seed is part of the test's name; BONDCNI_SEED=N runs that one alone, in the same course.
"""

from __future__ import annotations

import os
import random

import pytest
from tests.kernel.conftest import Node  # noqa: TC002  one import block
from tests.kernel.interleaving import Counts, course

COURSES, ACTS = 5, 40


def seeds() -> list[int]:
    """The seed from the environment, or new ones."""
    asked = os.environ.get("BONDCNI_SEED")
    return [int(asked)] if asked else random.SystemRandom().sample(range(10**6), COURSES)


@pytest.mark.parametrize("seed", seeds())
def test_whatever_comes_nothing_is_lost(node: Node, seed: int) -> None:
    print(f"BONDCNI_SEED={seed}")
    counts = Counts()
    course(node, seed, ACTS, counts)
    print(counts)
