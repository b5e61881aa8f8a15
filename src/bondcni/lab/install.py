"""The executable ``bond`` and its neighbours, as files.

The launcher is a script that starts Python isolated (``-I``) and without site-packages
(``-S``): a CNI plugin is a short process, and what it imports is most of its time. The
folder that has ruamel.yaml comes last on its path, for nodes with a policy file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import bondcni

MODE = 0o755
STANDINS = Path(__file__).parent / "plugins"


def launcher() -> str:
    """The text of the executable ``bond`` for this interpreter and this package."""
    python = os.path.realpath(sys.executable)
    folders = [str(Path(bondcni.__file__).resolve().parents[1])]
    yaml = importlib.util.find_spec("ruamel.yaml")
    if yaml and yaml.origin:
        folders.append(str(Path(yaml.origin).parents[2]))
    return (
        f"#!{python} -IS\n"
        "import gc, sys\n"
        "gc.disable()\n"  # a short process: collecting takes a tenth of its start
        f"sys.path += {list(dict.fromkeys(folders))!r}\n"
        "from bondcni.frontends.plugin import main\n"
        "main()\n"
    )


def write_launcher(folder: Path) -> Path:
    """Put ``bond`` into a folder, whole or not at all: a runtime may be executing the old one."""
    final = folder / "bond"
    fresh = folder / ".bond.new"
    fresh.write_text(launcher(), encoding="utf-8")
    fresh.chmod(MODE)
    return fresh.rename(final)


def standins() -> dict[str, str]:
    """The lab's own plugins, by type: the text of each executable."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(STANDINS.iterdir())
        if path.is_file() and not path.suffix
    }
