"""The measured programs, as files of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bondcni.service.executable import NoExecutable, shim
from bondlab.scenario import session

HERE = Path(__file__).parent
ROOT = HERE.parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
IPAM = ("static", "host-local")


class Missing(Exception):
    """Something required is missing; the text has the remedy."""


def compiled(name: str, compiler: str = "gcc") -> str:
    """Compile a program of this directory to build/bench if its source is newer.

    Raises Missing.
    """
    source, target = HERE / f"{name}.c", ROOT / "build" / "bench" / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([compiler, *FLAGS, "-o", str(target), str(source)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"{source.name} cannot be compiled ({error}): {compiler}") from error
    return str(target)


def incumbent() -> Path | None:
    """The executable of the other plugin, from BONDCNI_INCUMBENT; None: it is not measured."""
    named = os.environ.get("BONDCNI_INCUMBENT")
    if named and not os.access(named, os.X_OK):
        raise Missing(f"BONDCNI_INCUMBENT: {named} is not an executable")
    return Path(named).resolve() if named else None


def thick() -> Path:
    """The executable of thick mode. Raises Missing."""
    try:
        return shim()
    except NoExecutable as error:
        raise Missing(str(error)) from error


def programs(progress: Callable[[str], None]) -> dict[str, str]:
    """Every program by its path in the guest, see `parties`. Raises Missing."""
    found = {name: compiled(name) for name in ("driver", "floor")}
    folders = [Path(folder) for folder in session.plugin_directories(progress)]
    for name in IPAM:
        found[name] = str(next(f / name for f in folders if (f / name).exists()))
    found["thick/bond"] = str(thick())
    if other := incumbent():
        found["incumbent/bond"] = str(other)
    else:
        progress("BONDCNI_INCUMBENT is not set: no figures of the incumbent")
    return found
