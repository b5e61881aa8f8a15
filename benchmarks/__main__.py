"""``python -m benchmarks``: build, boot each guest, measure in it, print tables and rows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import inside, native, report
from benchmarks.build import ROOT, Missing, programs
from benchmarks.inside import Plan
from benchmarks.rows import rows_of
from bondlab.guest.guest import Guest, LostGuest, open_guest
from bondlab.kernels.catalog import KernelUnavailable

KERNELS = "6.1 7.2 smp"
SUITES = (*inside.SUITES, "native")
LIMIT_SECONDS = 3600.0
MEMORY_MB = 2048
CYCLES, FEW_CYCLES, QUICK_CYCLES = 10_000, 500, 200
CYCLED = "7.2"
"""The kernel on which all cycles run; on the others a few do."""

Found = dict[str, Any]


def progress(text: str) -> None:
    """Print the progress to standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def machine() -> Found:
    """The machine that the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "suite": "machine",
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def noted(guest: str, kernel: str, found: Found) -> Found:
    """A measurement with its guest and kernel, and the machine's load at its end."""
    progress(f"{guest} {kernel} {found['suite']} {found.get('case', '')}")
    return {"guest": guest, "kernel": kernel, "load": os.getloadavg()[0], **found}


def measurements(guest: Guest, plan: Plan, note: Callable[[Found], Found]) -> list[Found]:
    """Yield what the guest measured. Raises RuntimeError if it failed, and LostGuest."""
    found: list[Found] = []

    def on_line(line: str) -> None:
        if line.startswith('{"suite"'):
            found.append(note(json.loads(line)))
        else:
            progress(line)

    command = [sys.executable, "-m", "benchmarks.inside", json.dumps(plan._asdict())]
    status = guest.stream(command, on_line, LIMIT_SECONDS, cwd=str(ROOT))
    if status:
        raise RuntimeError(f"measuring on kernel {guest.release} ended with {status}")
    return found


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--kernels", default=KERNELS, help=f"default: {KERNELS!r}")
    parser.add_argument("--suites", default=" ".join(SUITES), help="default: all")
    parser.add_argument("--pairs", type=int, default=25, help="requests of each kind and party")
    parser.add_argument("--quick", action="store_true", help="few requests, fewer cases")
    parser.add_argument("--keep-samples", type=Path, help="write every sample to this file")
    parser.add_argument(
        "--from-samples", type=Path, nargs="+", help="measure nothing; evaluate these kept samples"
    )
    parser.add_argument("--write-readme", action="store_true", help="write the tables to README.md")
    return parser.parse_args()


def main() -> int:
    """Return 0 if all was measured, 2 if something is missing or a guest was lost."""
    args = arguments()
    try:
        raw = kept(args.from_samples) if args.from_samples else list(measured(args))
    except (
        Missing,
        KernelUnavailable,
        LostGuest,
        RuntimeError,
        subprocess.SubprocessError,
    ) as error:
        progress(str(error))
        return 2
    if args.keep_samples:
        args.keep_samples.write_text(json.dumps(raw), encoding="utf-8")
    rows = list(rows_of(raw))
    report.show(raw, rows)
    if args.write_readme:
        report.write(raw, rows)
    print(json.dumps([row._asdict() for row in rows]))
    return 0


def kept(files: Sequence[Path]) -> list[Found]:
    """Read the samples of earlier runs; the machine is printed once."""
    every = [one for file in files for one in json.loads(file.read_text(encoding="utf-8"))]
    return [one for n, one in enumerate(every) if not n or one["suite"] != "machine"]


def measured(args: argparse.Namespace) -> Iterator[Found]:
    """Yield all measurements, each with its guest and kernel."""
    tools = programs(progress)
    suites = args.suites.split()
    yield machine()
    if "native" in suites:
        for found in native.measure():
            yield noted("native", platform.release(), found)
    for kernel in args.kernels.split():
        plan = planned(args, kernel, tools, [suite for suite in suites if suite != "native"])
        yield from on_kernel(kernel, plan)


def planned(
    args: argparse.Namespace, kernel: str, tools: dict[str, str], suites: list[str]
) -> Plan:
    """The plan of what to measure on a kernel."""
    slow = kernel == "smp"
    pairs, warm = (5, 1) if args.quick else (min(args.pairs, 20), 2) if slow else (args.pairs, 3)
    full = CYCLES if kernel == CYCLED else FEW_CYCLES
    return Plan(tools, suites, pairs, warm, args.quick, slow, QUICK_CYCLES if args.quick else full)


def on_kernel(kernel: str, plan: Plan) -> list[Found]:
    """Yield all measurements on one kernel."""
    kind = "qemu" if plan.slow else "uml"
    with open_guest(kernel, memory_mb=MEMORY_MB, progress=progress) as guest:
        return measurements(guest, plan, lambda found: noted(kind, kernel, found))


if __name__ == "__main__":
    sys.exit(main())
