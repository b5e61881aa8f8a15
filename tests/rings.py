"""Run the rings of tests and count the results; the last line is the summary.

The unit ring runs on this machine, the kernel ring in guests started by ``bondctl lab exec``, and
the e2e ring on this machine with guests of its own. The kernel ring runs twice: in direct mode,
and in thick mode on another kernel unless --kernel is given.
A ring in which no test passed is a failure, whatever pytest reports.

    python tests/rings.py [RING ...] [--kernel NAME] [--way WAY] [-- PYTEST-ARGUMENTS]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bondlab.kernels import catalog

ROOT = Path(__file__).resolve().parent.parent
RINGS = ("unit", "kernel", "e2e")
WAYS = {"direct": catalog.DEFAULT, "thick": catalog.DEFAULT}
"""The modes that the kernel ring runs in, and the default kernel of each."""

HARDWARE = ("eth1000", "eth1001")
"""Hardware-like NICs of the kernel ring's guests."""

LIMIT = 30 * 60
"""Time limit of a ring, in seconds."""


class Count(NamedTuple):
    """The results of a ring's tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count(report: Path) -> Count:
    """Read a JUnit report; a missing or empty report counts as one failure."""
    try:
        suite = ET.parse(report).getroot()[0]  # noqa: S314  made by the pytest just run
    except (OSError, ET.ParseError, IndexError):
        return Count(failed=1)
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    return Count(int(suite.get("tests", 0)) - failed - skipped, failed, skipped)


def run(ring: str, way: str, kernel: str | None, extra: list[str]) -> Count:
    """Run one ring and count. ``way`` is the mode of the kernel ring, "" for the others."""
    with tempfile.TemporaryDirectory(prefix="bondcni-rings-") as folder:
        if way:
            return run_in_guests(Path(folder), way, kernel or WAYS[way], extra)
        report = Path(folder) / "report.xml"
        with contextlib.suppress(subprocess.TimeoutExpired):  # the report is missing then
            command = pytest(report, [f"tests/{ring}"], extra)
            subprocess.run(command, cwd=ROOT, check=False, timeout=LIMIT)
        return count(report)


def pytest(report: Path, paths: list[str], extra: list[str]) -> list[str]:
    """The command that runs some tests and writes a report."""
    return [sys.executable, "-m", "pytest", *paths, "-q", f"--junitxml={report}", *extra]


def run_in_guests(folder: Path, way: str, kernel: str, extra: list[str]) -> Count:
    """Run the kernel ring with its files distributed to one guest per processor.

    The output of a guest is printed when it ends.
    """
    guests = []
    for number, files in enumerate(distributed(os.cpu_count() or 1)):
        report = folder / f"report-{number}.xml"
        command = [*guest_command(folder, kernel), "env", f"BONDCNI_WAY={way}"]
        command += pytest(report, files, extra)
        log = (folder / f"log-{number}").open("w+")
        guests.append((subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log), log, report))
    total = Count()
    for process, log, report in guests:
        try:
            process.wait(LIMIT + 120)
        except subprocess.TimeoutExpired:
            process.kill()
        log.seek(0)
        print(log.read(), flush=True)
        log.close()
        total = Count(*map(sum, zip(total, count(report), strict=True)))
    return total


def distributed(guests: int) -> list[list[str]]:
    """Distribute the files of the kernel ring to guests, about equally by size."""
    files = sorted((ROOT / "tests/kernel").glob("test_*.py"), key=lambda path: path.stat().st_size)
    names = [str(path.relative_to(ROOT)) for path in files]
    return [names[start::guests] for start in range(min(guests, len(names)))]


def guest_command(folder: Path, kernel: str) -> list[str]:
    """The words before a command that make it run in a guest."""
    nics = [word for nic in HARDWARE * catalog.has_cables(kernel) for word in ("--nic", nic)]
    limits = ["--share", str(folder), "--timeout", str(LIMIT), "--memory", "2048"]
    bondctl = str(Path(sys.executable).with_name("bondctl"))
    return [bondctl, "lab", "exec", "--kernel", kernel, *nics, *limits, "--"]


def runs(rings: Sequence[str], ways: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """What to run, in order: a name to print, the ring, and the mode of the kernel ring."""
    for ring in rings:
        if ring == "kernel":
            yield from ((f"kernel ({way})", ring, way) for way in ways)
        else:
            yield ring, ring, ""


def main() -> int:
    """Run the rings that were asked for; 0 if a test passed in each and none failed."""
    parser = argparse.ArgumentParser(description="run the rings of tests")
    parser.add_argument("rings", nargs="*", help=f"some of {', '.join(RINGS)}; default all")
    parser.add_argument("--kernel", help="the guest's kernel for the kernel ring")
    parser.add_argument("--way", choices=WAYS, help="the only mode of the kernel ring")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:split])
    counts = {}
    for name, ring, way in runs(args.rings or RINGS, [args.way] if args.way else list(WAYS)):
        started = time.monotonic()
        on = f" on {args.kernel or WAYS[way]}" if way else ""
        print(f"== {name} ring{on}", flush=True)
        counts[name] = run(ring, way, args.kernel, sys.argv[split + 1 :])
        print(f"{name}: {counts[name]}")
        print(f"   in {time.monotonic() - started:.0f} s", flush=True)
    empty = [name for name, of in counts.items() if not of.passed]
    for name in empty:
        print(f"no test passed in the {name} ring: failure")
    print(f"rings: {', '.join(f'{name} {of}' for name, of in counts.items())}")
    return 1 if empty or any(of.failed for of in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
