"""Issue 10, numbers 10, 22 and 27: the lab as a user meets it, in guests of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bondlab.kernels import catalog

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/host-links-daemonset.yaml"
BONDCTL = str(Path(sys.executable).with_name("bondctl"))
Document = dict[str, Any]


def lab_run(text: str, *words: str, code: int = 0) -> tuple[Document, str]:
    """Run manifests given on standard input; the document, and the story."""
    done = subprocess.run(
        [BONDCTL, "lab", "run", "--json", *words, "-"],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    document: Document = json.loads(done.stdout)
    return document, done.stderr


def children(parent: int) -> set[str]:
    """The processes that a process has started."""
    words = ["ps", "-o", "pid=", "--ppid", str(parent)]
    return set(subprocess.run(words, capture_output=True, text=True, check=False).stdout.split())


def test_10_27_an_unknown_key_is_in_report_and_document() -> None:
    text = EXAMPLE.read_text().replace('"miimon"', '"linksInContiner": true, "miimon"')
    document, story = lab_run("---\n# nothing\n---\n" + text)
    adds = [one for case in document["cases"] for one in case["calls"] if one["verb"] == "ADD"]
    assert [one for call in adds for one in call["warnings"] if "linksInContiner" in one]
    assert story.count("bond: warning: /linksInContiner: ") == 1
    assert 'did you mean "linksInContainer"' in story


def test_10_27_an_interrupt_ends_the_guest_and_is_130() -> None:
    with subprocess.Popen(
        [BONDCTL, "lab", "run", "--json", str(EXAMPLE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as lab:
        assert lab.stderr is not None
        assert any(" ADD " in line for line in lab.stderr)  # reads until then
        started = children(lab.pid)
        assert started  # what holds the guest
        lab.send_signal(signal.SIGINT)
        out, err = lab.communicate(timeout=60)
    assert lab.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out)["error"] == "interrupted; no guest is left running"
    assert [one for one in started if Path("/proc", one).exists()] == []


@pytest.mark.parametrize("way", [(), ("--direct",)])
def test_10_10_a_policy_can_be_tried(way: tuple[str, ...], tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("links: [{name: eth1000}]\n")
    document, _ = lab_run(EXAMPLE.read_text(), "--policy", str(policy), *way, code=1)
    (add, _) = document["cases"][0]["calls"]
    assert add["code"] == 101
    assert "no rule in /etc/cni/bond/policy.yaml allows eth1001" in add["message"]
    policy.write_text('links: [{name: "eth100*"}]\n')
    document, _ = lab_run(EXAMPLE.read_text(), "--policy", str(policy), *way)
    assert document["ok"]


def test_10_10_the_machines_configuration_stays_outside() -> None:
    script = "stat -c %a /etc/cni; findmnt -no FSTYPE /etc/cni; ls -A /etc/cni"
    done = subprocess.run(
        [BONDCTL, "lab", "exec", "--kernel", catalog.DEFAULT, "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["755", "tmpfs"], done.stderr


def test_10_22_pods_of_two_nodes_and_the_remedy() -> None:
    """As published, the pools' blocks are /26; with one block the nodes are neighbours."""
    document, story = lab_run(EXAMPLE.read_text())
    (case,) = document["cases"]
    assert case["ok"]
    assert case["bonds"][0]["addresses"] == ["10.20.0.2/26"]
    assert [one["received"] for one in case["other_nodes"]] == [0]
    assert "Remedy: a new IPPool with blockSize 24" in story
    remedied = EXAMPLE.read_text().replace("  ipipMode", "  blockSize: 24\n  ipipMode", 1)
    document, _ = lab_run(remedied)
    (case,) = document["cases"]
    assert case["bonds"][0]["addresses"] == ["10.20.0.2/24"]
    assert [(one["sent"], one["received"]) for one in case["other_nodes"]] == [(3, 3)]


def test_10_27_a_vlan_on_a_bond_carries_traffic() -> None:
    document, _ = lab_run((ROOT / "examples/vlan-on-bond.yaml").read_text())
    (case,) = document["cases"]
    assert case["ok"], case["reasons"]
    assert [one["type"] for one in case["calls"] if one["verb"] == "ADD"] == ["bond", "vlan"]
    pings = {one["bond"]: (one["sent"], one["received"]) for one in case["pings"]}
    assert pings == {"bond0": (5, 5), "vlan100": (5, 5)}
