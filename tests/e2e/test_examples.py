"""The examples as a user runs them: ``bondctl lab run --json``, in guests of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PUBLISHED = ("host-links-daemonset.yaml", "sriov-lacp-pod.yaml")
PER_MODE = sorted(path.name for path in EXAMPLES.glob("*.yaml") if path.name not in PUBLISHED)
BONDCTL = str(Path(sys.executable).with_name("bondctl"))
Document = dict[str, Any]


def lab_run(*names: str, code: int = 0) -> Document:
    """Run examples in one guest, with the crash scene; the document that ends the run."""
    done = subprocess.run(
        [BONDCTL, "lab", "run", "--json", "--crash", *(str(EXAMPLES / name) for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    document: Document = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def published() -> dict[str, Document]:
    document = lab_run(*PUBLISHED)
    assert document["ok"], document
    return {Path(case["file"]).name: case for case in document["cases"]}


@pytest.mark.parametrize(
    ("name", "mode", "members", "address"),
    [
        ("host-links-daemonset.yaml", "active-backup", {"eth1000", "eth1001"}, "10.20.0."),
        ("sriov-lacp-pod.yaml", "802.3ad", {"net1", "net2"}, "10.30.0.5/24"),
    ],
)
def test_published_case(
    name: str, mode: str, members: set[str], address: str, published: dict[str, Document]
) -> None:
    case = published[name]
    assert case["ok"], case["reasons"]
    assert {call["exit"] for call in case["calls"]} == {0}
    assert [call["verb"] for call in case["calls"] if call["type"] == "bond"] == ["ADD", "DEL"]
    (bond,) = case["bonds"]
    assert bond["mode"] == mode
    assert bond["carrier"] is True
    assert {m["name"] for m in bond["members"] if m["mii"] == "UP"} == members
    assert bond["addresses"][0].startswith(address)
    (ping,) = case["pings"]
    assert ping["received"] == ping["sent"] > 0
    assert {drill["member"] for drill in case["drills"]} == members
    for drill in case["drills"]:
        assert drill["flowing"], drill
        assert 0 <= drill["lost"] < drill["sent"], drill
    assert len(case["nics"]) == 2
    for nic in case["nics"]:
        assert nic["restored"], nic
        assert nic["before"] == nic["after"], nic
    assert case["leases_left"] == []


def test_an_add_that_was_killed_is_recovered(published: dict[str, Document]) -> None:
    (crash,) = published["host-links-daemonset.yaml"]["crashes"]
    assert crash["exit"] == 1  # the executable lives on and says that its daemon went away
    assert crash["in_pod"] == crash["restored"] == ["eth1000", "eth1001"]
    assert published["sriov-lacp-pod.yaml"]["crashes"] == []  # its links are the pod's


def test_lacp_agreed_with_its_partner(published: dict[str, Document]) -> None:
    (bond,) = published["sriov-lacp-pod.yaml"]["bonds"]
    assert bond["ports"] == 2
    assert bond["partner"].strip("0:") != ""
    assert len({member["aggregator"] for member in bond["members"]}) == 1


def test_one_example_of_each_mode() -> None:
    document = lab_run(*PER_MODE)
    assert document["ok"], document
    assert len(document["cases"]) >= len(PER_MODE)
    modes = {bond["mode"] for case in document["cases"] for bond in case["bonds"]}
    assert modes == {
        *("balance-rr", "active-backup", "balance-xor", "broadcast"),
        *("802.3ad", "balance-tlb", "balance-alb"),
    }
    for case in document["cases"]:
        assert case["ok"], case
        assert all(nic["restored"] for nic in case["nics"]), case["nics"]
