"""How long the daemon takes from its start until it answers; beside it, an interpreter alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.namespaces import Space
from benchmarks.resident import AS_USER, PYTHON, USER, Place, daemon

Starts = dict[str, list[float]]
"""Milliseconds by what was started."""


def measure(lib: Path, folder: Path, space: Space, times: int) -> Starts:
    """In a namespace, as the user without rights."""
    return _turns(lib, folder, space, times, AS_USER, USER)


def natively(lib: Path, folder: Path, times: int) -> Starts:
    """Here, as who asks: it does nothing to the machine."""
    return _turns(lib, folder, None, times, (), os.geteuid())


def _turns(
    lib: Path, folder: Path, space: Space | None, times: int, prefix: Sequence[str], user: int
) -> Starts:
    starts: Starts = {"daemon": [], "interpreter": []}
    for turn in range(times):
        place = Place(folder / f"start-{turn}")
        place.make(user)
        with daemon(place, space, place.program(lib), prefix) as took:
            starts["daemon"].append(took * 1000)
        starts["interpreter"].append(_interpreter(prefix) * 1000)
    return starts


def _interpreter(prefix: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run([*prefix, *PYTHON, "-c", "pass"], check=True)
    return time.monotonic() - began
