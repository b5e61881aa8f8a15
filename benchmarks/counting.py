"""The cost of a request inside the daemon: numbers of system calls and messages, and its time.

strace(1), attached to the daemon after it is warm, counts the calls; ``wrapped.py`` measures the
time in another daemon, because strace makes it many times slower.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import resident
from benchmarks.parties import LIB, THICK, place_of
from benchmarks.rigs import Case, Node
from benchmarks.verbs import Runner, cycle, runner

WRAPPED = Path(__file__).with_name("wrapped.py")
WARM = 5
SETTLE_SECONDS = 0.3
CALL = re.compile(r"^\d+ +(\w+)\((?:\d+<(\w+))?")
MESSAGE = re.compile(r"nlmsg_type=(\w+)")
VERBS = ("ADD", "DEL")


def calls(case: Case) -> dict[str, Any]:
    """By verb: the number of each system call, and the types of the netlink messages sent.

    Empty if strace is not installed.
    """
    if not shutil.which("strace"):
        return {}
    with runner(THICK, case) as one:
        for _ in range(WARM):
            list(cycle(one, check=False))
        with traced(place_of(one.rig.node).number) as log:
            return {verb: counted(request(one, verb, log)) for verb in VERBS}


@contextlib.contextmanager
def traced(process: int) -> Iterator[Path]:
    """Attach strace to a process; return the file that it writes to."""
    with tempfile.NamedTemporaryFile() as log:
        argv = ["strace", "-f", "-yy", "-s", "4096", "-o", log.name, "-p", str(process)]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as tracer:
            time.sleep(SETTLE_SECONDS * 3)
            yield Path(log.name)
            tracer.terminate()


def request(one: Runner, verb: str, log: Path) -> list[str]:
    """The lines that one request adds."""
    before = log.stat().st_size
    one.request(verb, check=False)
    time.sleep(SETTLE_SECONDS)
    return log.read_bytes()[before:].decode(errors="replace").splitlines()


def counted(lines: list[str]) -> dict[str, Any]:
    """Pure: the counts in strace's output."""
    every, netlink, types = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        if found := CALL.match(line):
            name, kind = found.groups()
            every[name] += 1
            if kind == "NETLINK":
                netlink[name] += 1
                types.update(MESSAGE.findall(line) if name.startswith("send") else ())
    most = dict(every.most_common())
    return {"all": every.total(), "calls": most, "netlink": netlink, "messages": types}


def shares(case: Case, pairs: int) -> dict[str, Any]:
    """By verb: the medians of the time inside and, for each kind, of the number and the time."""
    shutil.copy(WRAPPED, LIB)
    found: dict[str, list[dict[str, Any]]] = {verb: [] for verb in VERBS}
    with runner(THICK._replace(beside=_wrapped, inside=None), case) as one:
        log = place_of(one.rig.node).log
        for turn in range(-WARM, pairs):
            for verb, _ in cycle(one, check=False):
                sums = parsed(resident.last_line(log, " ms="))
                found[verb] += [sums] if turn >= 0 else []
    return {verb: medians(every) for verb, every in found.items()}


@contextlib.contextmanager
def _wrapped(node: Node) -> Iterator[None]:
    place = place_of(node)
    place.make()
    first = f"import sys\nsys.path.insert(0, {str(LIB)!r})\nimport wrapped\nwrapped.wrap()\n"
    with resident.daemon(place, node.space, first + place.program(LIB)):
        yield


def parsed(line: str) -> dict[str, Any]:
    """Pure: the sums in a request's line, and its total time as ``inside``."""
    told, _, sums = line.partition(" spent=")
    return {"inside": [1, resident.milliseconds(told)], **json.loads(sums)}


def medians(every: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Pure: for each kind the number and the time; ``python`` is the rest."""
    kinds = sorted({kind for one in every for kind in one})
    made = {
        kind: [median(one.get(kind, (0, 0))[at] for one in every) for at in (0, 1)]
        for kind in kinds
    }
    left = [one["inside"][1] - sum(v[1] for k, v in one.items() if k != "inside") for one in every]
    return {**made, "python": [0, median(left)]}
