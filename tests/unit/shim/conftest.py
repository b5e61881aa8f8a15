"""The shim, built three ways, and one in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.shim.bench import Bond, Build, Netns, used

SHIM = Path(__file__).resolve().parents[3] / "shim"
SOURCES = sorted(path for path in SHIM.glob("*.c") if not path.name.startswith("fuzz_"))
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wconversion", "-Wshadow")
BUILDS = {
    "release": ("musl-gcc", "-static", "-Os", "-s"),
    "hasty": (
        "musl-gcc",
        "-static",
        "-DBOND_DEADLINE_MS=600",
        "-DBOND_STDIN_MS=200",
        "-DBOND_STEP_MS=300",
    ),
    "sanitized": ("gcc", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
"""``hasty`` gives up early; ``sanitized`` is the compiler's own checks at run time."""


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The program of one of ``BUILDS``, built at its first use."""
    folder = tmp_path_factory.mktemp("shim")

    def made(kind: str) -> Path:
        program = folder / kind
        compiler, *flags = BUILDS[kind]
        if not shutil.which(compiler):
            pytest.skip(f"{compiler} is not installed: tools/setup installs it as root")
        if not program.exists():
            command = [compiler, "-std=c11", "-D_GNU_SOURCE", *WARNINGS, *flags]
            subprocess.run([*command, "-o", program, *SOURCES], check=True, timeout=60)
        return program

    return made


@pytest.fixture
def bond(build: Build, tmp_path: Path) -> Iterator[Bond]:
    yield from used(Bond(build("release"), tmp_path))


@pytest.fixture
def hasty(build: Build, tmp_path: Path) -> Iterator[Bond]:
    yield from used(Bond(build("hasty"), tmp_path))


@pytest.fixture(params=BUILDS)
def any_bond(build: Build, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bond]:
    yield from used(Bond(build(request.param), tmp_path))


@pytest.fixture
def inside(build: Build, tmp_path: Path, netns: Netns) -> Iterator[Bond]:
    """The shim in a network namespace of its own, which is ``host``."""
    prefix = ("nsenter", f"--net={netns('host')}", "--")
    yield from used(Bond(build("release"), tmp_path, prefix))


@pytest.fixture
def netns() -> Iterator[Netns]:
    """The path of a network namespace of that name, made at its first use."""
    made: dict[str, str] = {}

    def path(name: str) -> str:
        if os.geteuid():
            pytest.skip("making network namespaces needs root")
        if name not in made:
            made[name] = f"bondcni-shim-{os.getpid()}-{name}"
            subprocess.run(["ip", "netns", "add", made[name]], check=True, timeout=10)
        return f"/run/netns/{made[name]}"

    try:
        yield path
    finally:
        for name in made.values():
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)
