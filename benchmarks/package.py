"""A compiled copy of our package, as on a node that has it installed.

Whoever edits the tree meanwhile changes nothing.
"""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import bondcni
from bondcni.direct.launcher import launcher


def compiled_copy(lib: Path) -> Path:
    """The package in a new folder."""
    package = Path(bondcni.__file__).resolve().parent
    shutil.copytree(package, lib / "bondcni", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(lib, quiet=1)
    return lib


def install_direct(target: Path, lib: Path) -> None:
    """The executable of the direct mode, for that copy."""
    source = Path(bondcni.__file__).resolve().parents[1]
    target.parent.mkdir(parents=True)
    target.write_text(launcher().replace(repr(str(source)), repr(str(lib))))
    target.chmod(0o755)
