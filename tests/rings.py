"""Run the rings of tests and count them; the last line is the sum.

The unit ring runs here, the kernel ring inside the lab's guest through the same door
that a user takes (``bondctl lab exec``), the e2e ring here, with guests of its own.
A ring of which nothing ran is a failure, whatever pytest says.

    python tests/rings.py [RING ...] [--kernel NAME] [-- PYTEST-ARGUMENTS]
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RINGS = ("unit", "kernel", "e2e")
HARDWARE = ("eth1000", "eth1001")
"""NICs of the kernel ring's guest that behave as hardware."""

LIMIT = 30 * 60
"""Seconds that a ring may take."""


class Count(NamedTuple):
    """What came of a ring's tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count(report: Path) -> Count:
    """Read a JUnit report; no report counts as one failure."""
    try:
        suite = ET.parse(report).getroot()[0]  # noqa: S314  made by the pytest just run
    except (OSError, ET.ParseError, IndexError):
        return Count(failed=1)
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    return Count(int(suite.get("tests", 0)) - failed - skipped, failed, skipped)


def run(ring: str, kernel: str | None, extra: list[str]) -> Count:
    """Run one ring and count."""
    with tempfile.TemporaryDirectory(prefix="bondcni-rings-") as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            *("-m", "pytest", f"tests/{ring}", "-q", f"--junitxml={report}", *extra),
        ]
        if ring == "kernel":
            nics = [word for nic in HARDWARE for word in ("--nic", nic)]
            choice = ["--kernel", kernel] if kernel else []
            bondctl = str(Path(sys.executable).with_name("bondctl"))
            limits = ["--share", folder, "--timeout", str(LIMIT), "--memory", "2048"]
            command = [bondctl, "lab", "exec", *choice, *nics, *limits, "--", *command]
        with contextlib.suppress(subprocess.TimeoutExpired):  # the report is missing then
            subprocess.run(command, cwd=ROOT, check=False, timeout=LIMIT + 120)
        return count(report)


def main() -> int:
    """Run what was asked for; 0 when every ring ran something and nothing failed."""
    parser = argparse.ArgumentParser(description="run the rings of tests")
    parser.add_argument("rings", nargs="*", help=f"some of {', '.join(RINGS)}; default all")
    parser.add_argument("--kernel", help="the guest's kernel for the kernel ring")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:split])
    counts = {}
    for ring in args.rings or RINGS:
        started = time.monotonic()
        print(f"== {ring} ring", flush=True)
        counts[ring] = run(ring, args.kernel, sys.argv[split + 1 :])
        print(f"{ring}: {counts[ring]}")
        print(f"   in {time.monotonic() - started:.0f} s", flush=True)
    empty = [ring for ring, of in counts.items() if not of.passed]
    for ring in empty:
        print(f"the {ring} ring ran nothing: that is a failure")
    print(f"rings: {', '.join(f'{ring} {of}' for ring, of in counts.items())}")
    return 1 if empty or any(of.failed for of in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
