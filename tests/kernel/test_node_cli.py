"""The operator's commands on a node: ``bondctl check``, ``recover``, ``policy explain``."""

from __future__ import annotations

import os

from click.testing import CliRunner, Result
from tests.kernel.conftest import Node, Space, config

from bondcni.cli.main import main

LINKS = ["eth1", "eth2"]
ANSWER = """echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.3/24"}]}'"""


def bondctl(node: Node, *words: str) -> Result:
    env = {"BONDCNI_STATE": str(node.state), "BONDCNI_POLICY": str(node.folder / "policy.yaml")}
    return CliRunner().invoke(main, words, env=env)


def attached(node: Node, pod: Space) -> None:
    for name in LINKS:
        node.veth(name)
    node.cni("ADD", config(LINKS, mtu=1500), pod).ok()


def test_check_tells_what_changed(node: Node, pod: Space) -> None:
    attached(node, pod)
    well = bondctl(node, "check")
    assert (well.exit_code, well.output) == (0, "c1 bond0: OK\n")
    pod.ip("link", "set", "bond0", "mtu", "1400")
    ill = bondctl(node, "check")
    assert ill.exit_code == 1
    assert "c1 bond0: bond bond0: mtu is 1400, not 1500" in ill.output


def test_recover_brings_home_what_a_dead_pod_left(node: Node, pod: Space) -> None:
    attached(node, pod)
    live = bondctl(node, "recover")
    assert (live.exit_code, live.output) == (0, "c1 bond0: active, unchanged\n")
    assert pod.members("bond0") == set(LINKS)
    pod.delete()
    dry = bondctl(node, "recover", "--dry-run")
    assert (dry.exit_code, dry.output) == (0, "c1 bond0: namespace gone: would be cleaned up\n")
    assert len(list(node.state.glob("*.json"))) == 1
    assert bondctl(node, "check").exit_code == 1
    done = bondctl(node, "recover")
    assert done.exit_code == 0
    assert "c1 bond0: namespace gone: interfaces restored" in done.output
    assert list(node.state.glob("*.json")) == []
    assert bondctl(node, "recover").output == "no attachments\n"


def test_policy_explain_says_why(node: Node) -> None:
    node.veth("eth1")
    free = bondctl(node, "policy", "explain", "eth1")
    assert (free.exit_code, free.output.splitlines()[0]) == (0, "eth1: may be taken")
    node.space.ip("addr", "add", "10.9.0.1/24", "dev", "eth1")
    used = bondctl(node, "policy", "explain", "eth1")
    assert used.exit_code == 1
    assert "it has the address 10.9.0.1/24" in used.output
    (node.folder / "policy.yaml").write_text("links:\n  - name: eth1\n    force: true\n")
    forced = bondctl(node, "policy", "explain", "eth1")
    assert (forced.exit_code, forced.output.splitlines()[0]) == (0, "eth1: may be taken")
    (node.folder / "policy.yaml").write_text("links:\n  - nam: eth1\n")
    broken = bondctl(node, "policy", "explain", "eth1")
    assert broken.exit_code == 2
    assert "line 2: unknown key 'nam'" in broken.output
    missing = bondctl(node, "policy", "explain", "eth9")
    assert missing.exit_code == 2, "the policy cannot be asked"


def test_recover_runs_no_delegate_that_others_than_root_can_change(node: Node, pod: Space) -> None:
    """Records of a daemon that is not root name the directories of delegates; root must not trust
    them.
    """
    for name in LINKS:
        node.veth(name)
    node.delegate("ours", f"echo $CNI_COMMAND >> {node.folder}/calls; {ANSWER}")
    node.cni("ADD", config(LINKS, ipam={"type": "ours"}), pod).ok()
    os.chown(node.folder / "ours", 65534, 65534)
    os.chown(node.state, 65534, 65534)
    pod.delete()
    told = bondctl(node, "recover")
    assert told.exit_code == 1
    assert "can be changed by users other than root" in told.output
    assert (node.folder / "calls").read_text().split() == ["ADD"]
    os.chown(node.folder / "ours", 0, 0)
    assert bondctl(node, "recover").exit_code == 0
    assert (node.folder / "calls").read_text().split() == ["ADD", "DEL"]
    assert node.records() == set()
