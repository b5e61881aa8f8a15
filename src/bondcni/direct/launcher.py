"""The executable ``bond`` of the direct mode: a script that starts Python for one request.

It starts Python isolated (``-I``) and without site-packages (``-S``): a CNI plugin is a short
process, and what it imports is most of its time. The folder that has ruamel.yaml comes last
on its path, for nodes with a policy file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import bondcni


def launcher() -> str:
    """The text of the executable for this interpreter and this package."""
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
        "from bondcni.direct.plugin import main\n"
        "main()\n"
    )
