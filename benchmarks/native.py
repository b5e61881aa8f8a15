"""Measurements on this machine, without a guest: the start of the shim and of the daemon."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import coldstart
from benchmarks.build import compiled, thick
from benchmarks.package import compiled_copy

TIMES = 200
WARM = 20
STARTS = 10
INPUT = '{"cniVersion": "1.1.0", "name": "bench", "type": "bond"}'


def measure(times: int = TIMES) -> Iterator[dict[str, Any]]:
    """Yield measurements in the format of a guest. Raises Missing, CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        yield {"suite": "native", "starts": starts(Path(folder), times)}
        lib = compiled_copy(Path(folder) / "lib")
        yield {"suite": "coldstart", "starts": coldstart.natively(lib, Path(folder), STARTS)}


def starts(folder: Path, times: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by series and program."""
    found: dict[str, dict[str, list[float]]] = {"to connect": {}, "STATUS": {}}
    programs = {"shim": str(thick()), "connect only": compiled("connect", "musl-gcc")}
    for name, program in programs.items():
        for span in timed(folder, program, times + WARM)[WARM:]:
            for series, value in zip(found.values(), span, strict=True):
                series.setdefault(name, []).append(value)
    return found


def timed(folder: Path, program: str, times: int) -> list[list[float]]:
    """Milliseconds to the connection and to the end, for each start."""
    given = folder / "input"
    given.write_text(INPUT)
    argv = [compiled("native"), str(times), str(folder / "socket"), str(given), program]
    text = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [[int(word) / 1e6 for word in line.split()] for line in text.splitlines()]
