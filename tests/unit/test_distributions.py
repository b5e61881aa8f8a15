"""Two distributions from one tree: ``bondcni`` for a node, and ``bondcni-lab`` beside it."""

from __future__ import annotations

import email
import email.message
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bondcni

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
OLD_BUILDS = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")


class Wheel(NamedTuple):
    """What a wheel has: names of files, and its metadata."""

    names: list[str]
    metadata: email.message.Message

    def packages(self) -> set[str]:
        """The first directory of each file, without that of the metadata."""
        tops = {name.partition("/")[0] for name in self.names}
        return {top for top in tops if not top.endswith(".dist-info")}

    def requirements(self) -> list[str]:
        """As the metadata has them, quotes made alike."""
        found: list[str] = self.metadata.get_all("Requires-Dist", [])
        return [text.replace("'", '"') for text in found]


def copied(target: Path) -> Path:
    """The tree without what earlier builds left, which setuptools would put into the wheel."""
    target.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, target)
    for name in ("src", "lab"):
        shutil.copytree(ROOT / name, target / name, ignore=OLD_BUILDS)
    return target


def built(project: Path, out: Path) -> Wheel:
    """Build without network and with the setuptools that is here."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(out)]
    done = subprocess.run(
        [*command, str(project)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        return Wheel(names, email.message_from_bytes(wheel.read(metadata)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def product(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return built(tree, tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def lab(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return built(tree / "lab", tmp_path_factory.mktemp("lab"))


def table(path: str) -> Any:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def test_the_wheel_of_the_product_has_no_lab(product: Wheel) -> None:
    assert product.packages() == {"bondcni"}
    assert "bondcni/cli/main.py" in product.names
    assert "bondcni/install/templates/daemonset.yaml" in product.names
    needed = [text for text in product.requirements() if "extra ==" not in text]
    assert {re.split(r"[^\w.-]", text)[0] for text in needed} == {"click", "ruamel.yaml"}


def test_from_the_source_tree_the_extra_is_the_lab_beside_it(product: Wheel, tree: Path) -> None:
    assert product.metadata.get_all("Provides-Extra") == ["lab"]
    (extra,) = [text for text in product.requirements() if "extra ==" in text]
    assert re.sub(r"\s", "", extra) == f'bondcni-lab@{(tree / "lab").as_uri()};extra=="lab"'


def test_elsewhere_the_extra_is_the_lab_of_the_same_version(tmp_path: Path) -> None:
    """As in an sdist, and where the image is built."""
    tree = copied(tmp_path / "tree")
    shutil.rmtree(tree / "lab")
    (extra,) = [text for text in built(tree, tmp_path).requirements() if "extra ==" in text]
    assert re.sub(r"\s", "", extra) == f'bondcni-lab=={bondcni.__version__};extra=="lab"'


def test_the_wheel_of_the_lab_has_nothing_of_the_product(lab: Wheel) -> None:
    assert lab.packages() == {"bondlab"}
    assert {"bondlab/plugins/fatal", "bondlab/plugins/sriov"} < set(lab.names)
    assert lab.metadata["Version"] == bondcni.__version__
    assert f"bondcni=={bondcni.__version__}" in lab.requirements()


def test_what_the_lab_needs_is_locked_for_development() -> None:
    """``dev.in`` repeats it: pip-compile would look for ``bondcni`` in a registry."""
    lines = (ROOT / "requirements/dev.in").read_text(encoding="utf-8").splitlines()
    wanted = {line.partition("#")[0].strip() for line in lines}
    needed = table("lab/pyproject.toml")["project"]["dependencies"]
    assert [text for text in needed if not text.startswith("bondcni==")] == ["rich>=13"]
    assert "rich>=13" in wanted
