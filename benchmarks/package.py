"""A compiled copy of our package, as it is on a node where it is installed.

Edits of the tree during a measurement have no effect on it.
"""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import bondcni
from bondcni.direct.launcher import launcher


def compiled_copy(lib: Path) -> Path:
    """Copy the package to a new directory."""
    package = Path(bondcni.__file__).resolve().parent
    shutil.copytree(package, lib / "bondcni", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(lib, quiet=1)
    return lib


def install_direct(target: Path, lib: Path) -> None:
    """Write the executable of direct mode for that copy."""
    source = Path(bondcni.__file__).resolve().parents[1]
    target.parent.mkdir(parents=True)
    target.write_text(launcher().replace(repr(str(source)), repr(str(lib))))
    target.chmod(0o755)
