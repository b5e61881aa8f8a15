"""The time from the start of the daemon to its first answer, and that of a bare interpreter."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.namespaces import Space
from benchmarks.resident import AS_USER, PYTHON, USER, Place, daemon

Starts = dict[str, list[float]]
"""Milliseconds by the program that was started."""


def measure(lib: Path, folder: Path, space: Space, times: int) -> Starts:
    """Start the daemon in a namespace, as the unprivileged user."""
    return _turns(lib, folder, space, times, AS_USER, USER)


def natively(lib: Path, folder: Path, times: int) -> Starts:
    """Start the daemon on this machine, as the current user; it changes nothing."""
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
