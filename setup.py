"""What pyproject.toml cannot say: where the extra ``lab`` comes from.

The lab is a distribution of its own, ``bondcni-lab``, because an extra can add a distribution
but cannot leave a package out. In the source tree it is the directory ``lab``; elsewhere, as in
an sdist, it is the release of the same version.
"""

import re
from pathlib import Path

from setuptools import setup

TREE = Path(__file__).resolve().parent
LAB = TREE / "lab"


def version() -> str:
    """The version in the package, read without importing it."""
    text = (TREE / "src/bondcni/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if not found:
        raise ValueError("src/bondcni/__init__.py has no __version__")
    return found[1]


requirement = f"bondcni-lab @ {LAB.as_uri()}" if LAB.is_dir() else f"bondcni-lab=={version()}"
setup(extras_require={"lab": [requirement]})
