"""Random requests and kills on one node until it is stopped; nothing may be lost.

    bondctl lab exec --timeout 400 -- .venv/bin/python tools/soak.py [SECONDS] [SEED]

Each cycle has a node of its own with four NICs and three pods (tests/kernel/interleaving.py). The
counts are printed every ten seconds and at the end. Control-C ends the run after the current act.
Exit code 0: nothing was lost; 1: something was lost, and the course of requests is printed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("BONDCNI_DELEGATES", os.environ.get("CNI_PATH", "/usr/lib/cni"))

from tests.kernel.conftest import Node, setns
from tests.kernel.interleaving import Counts, World

ACTS = 20
SECONDS = 300.0
TELL_SECONDS = 10.0


class Soak:
    """Cycles until the time is over or a signal arrives."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.counts = Counts()
        self.broken = 0
        self._dice = random.Random(seed)  # noqa: S311  not a secret: a course that can be repeated
        self._until = time.monotonic() + seconds
        self._tell_at = time.monotonic() + TELL_SECONDS

    def stop(self, *_: object) -> None:
        """End after the current act."""
        self._until = 0.0

    def run(self) -> None:
        """Run the cycles; the last one is taken down, too."""
        while time.monotonic() < self._until:
            with tempfile.TemporaryDirectory(prefix="bondcni-soak-") as folder:
                self._cycle(Path(folder), self._dice.randrange(10**6))

    def _cycle(self, folder: Path, seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311
        node = Node(folder)
        setns(node.space.path)
        try:
            world = World(node, self.counts)
            for _ in range(ACTS):
                if time.monotonic() < self._until:
                    world.act(world.draw(dice))
                self._tell()
            world.finish()
        except AssertionError as error:
            self.broken += 1
            print(f"BONDCNI_SEED={seed}: {error}", flush=True)
        finally:
            setns("/proc/1/ns/net")
            node.delete()

    def _tell(self) -> None:
        if time.monotonic() >= self._tell_at:
            self._tell_at += TELL_SECONDS
            print(f"soak: {self.counts}", flush=True)


def main() -> int:
    """Exit code 1 if something was lost, or differed from the model."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    print(f"soak: {seconds:g} s, seed {seed}", flush=True)
    soak = Soak(seconds, seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, soak.stop)
    soak.run()
    print(f"soak: at the end: {soak.counts}, failed cycles: {soak.broken}")
    return 1 if soak.broken or soak.counts.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
