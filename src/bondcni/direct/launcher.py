"""The executable ``bond`` of direct mode: a script that starts Python for one request.

It starts Python isolated (``-I``) and without site-packages (``-S``): a CNI plugin runs for a
short time, most of which is spent on imports. The directory of ruamel.yaml comes last on the
path, for nodes with a policy file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import bondcni


def launcher() -> str:
    """The text of the script for this interpreter and this package."""
    python = os.path.realpath(sys.executable)
    directories = [str(Path(bondcni.__file__).resolve().parents[1])]
    yaml = importlib.util.find_spec("ruamel.yaml")
    if yaml and yaml.origin:
        directories.append(str(Path(yaml.origin).parents[2]))
    return (
        f"#!{python} -IS\n"
        "import gc, sys\n"
        "gc.disable()\n"  # the process is short; the collector takes a tenth of its start
        f"sys.path += {list(dict.fromkeys(directories))!r}\n"
        "from bondcni.direct.plugin import main\n"
        "main()\n"
    )
