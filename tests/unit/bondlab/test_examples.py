"""Every example is good input, and each mode has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bondcni.core import config
from bondcni.core.options import MODES
from bondlab.manifests import manifests
from bondlab.manifests.multus import configs
from bondlab.scenario import planning

FOLDER = Path(__file__).parents[3] / "examples"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_parses_and_the_lab_can_run_it(path: Path) -> None:
    found = manifests.load([path])
    assert not found.findings
    assert found.pods
    for pod in found.pods:
        made = planning.plan(pod, hardware=True)
        assert made.bonds
        for attachment in pod.bonds:
            for plugin in configs(attachment):
                if plugin["type"] == "bond":
                    config.parse(json.dumps(plugin).encode())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_what_it_is_about(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_there_is_one_for_every_mode_and_all_run_together() -> None:
    found = manifests.load(FILES)
    assert not found.findings
    modes = {planning.plan(pod, hardware=True).bonds[0].mode for pod in found.pods}
    assert modes == set(MODES)
    assert {path.stem for path in FILES} >= set(MODES)


def test_both_published_cases_are_there() -> None:
    assert {"host-links-daemonset", "sriov-lacp-pod"} <= {path.stem for path in FILES}
