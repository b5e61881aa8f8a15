"""Issue 10, item 9: a namespace that cannot be seen is not treated as one that is gone."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.conftest import LIBC, MNT_DETACH, MS_BIND, Node, Space, config, thick_only
from tests.kernel.thick import Thick

LINKS = ["eth1", "eth2"]


@pytest.fixture
def closed(node: Node) -> Iterator[Space]:
    """A pod whose namespace is in a directory that only root can enter."""
    pod = node.pod()
    directory = node.folder / "netns"
    directory.mkdir(mode=0o700)
    path = directory / "pod"
    path.touch()
    assert LIBC.mount(pod.path.encode(), str(path).encode(), b"none", MS_BIND, None) == 0
    pod.path = str(path)
    yield pod
    with contextlib.suppress(FileNotFoundError):
        os.chmod(directory, 0o700)
    LIBC.umount2(str(path).encode(), MNT_DETACH)
    pod.path = f"/var/run/netns/{pod.name}"


def attached(node: Node, pod: Space) -> None:
    for name in LINKS:
        node.veth(name)
    node.cni("ADD", config(LINKS), pod).ok()


def restarted(node: Node) -> Thick:
    node.end_daemon()
    daemon = node.daemon()
    assert isinstance(daemon, Thick)
    return daemon


def status(node: Node) -> str:
    """The standard error of STATUS."""
    asked = {**config(LINKS), "cniVersion": "1.1.0"}
    answer = node.cni("STATUS", asked, container="", ifname="")
    answer.ok()
    return answer.stderr


@thick_only("direct mode has nothing that starts anew")
def test_9_a_restarted_daemon_takes_nobody_for_dead(node: Node, closed: Space) -> None:
    attached(node, closed)
    os.chmod(node.folder / "netns", 0o700)
    daemon = restarted(node)
    assert daemon.log[-1] == {"event": "ready", "queued": 0, "stale": 0, "unexamined": 1}
    assert status(node) == "", "the shim sees it: it is live, and nothing waits"
    assert closed.members("bond0") == set(LINKS)
    node.cni("DEL", config(LINKS), closed).ok()


@thick_only("direct mode has nothing that starts anew")
def test_9_status_tells_what_nobody_can_examine(node: Node, closed: Space) -> None:
    """The runtime itself cannot look there: a loop of symbolic links stands for a file system that
    fails.
    """
    attached(node, closed)
    real, path = closed.path, str(node.folder / "moved")
    record = next(node.state.glob("*.json"))
    document = record.read_text()
    os.symlink("moved", path)
    record.write_text(document.replace(real, path))
    restarted(node)
    said = status(node)
    assert "attachments not examined yet: 1; " in said
    assert "stale" not in said
    assert node.cni("GC", gc(), container="", ifname="").stderr.count("is unknown") == 1
    assert closed.members("bond0") == set(LINKS)
    record.write_text(document)
    node.cni("DEL", config(LINKS), closed).ok()
    assert node.records() == set()


def gc() -> dict[str, object]:
    return {**config(LINKS), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}


BONDCTL = f"{shlex.quote(sys.executable)} -m bondcni"

ELSEWHERE = {
    "its directory is not mounted": "mount -t tmpfs none /run && ",
    "an empty directory, without rights": (
        "mount -t tmpfs none /run && mkdir /run/netns && "
        "exec setpriv --inh-caps=-sys_admin --bounding-set=-sys_admin "
    ),
}
"""As in a container."""


@pytest.mark.parametrize("where", ELSEWHERE)
def test_9_bondctl_in_a_container_acts_on_nothing(node: Node, pod: Space, where: str) -> None:
    attached(node, pod)
    kept, verdict = "unknown, unchanged; ", "unknown: cannot tell whether its namespace exists: "
    for words, said in (("recover", kept), ("recover --dry-run", kept), ("check", verdict)):
        done = run_elsewhere(node, where, words)
        assert done.returncode == 2, done
        assert f"c1 bond0: {said}" in done.stdout
        assert ("unchanged" in done.stdout) is (said is kept)
        assert "run this as root on the node itself, outside of containers" in done.stdout
    assert pod.members("bond0") == set(LINKS)
    (record,) = node.state.glob("*.json")
    assert json.loads(record.read_text())["result"] is not None
    node.cni("DEL", config(LINKS), pod).ok()


def run_elsewhere(node: Node, where: str, words: str) -> subprocess.CompletedProcess[str]:
    script = f"{ELSEWHERE[where]}{BONDCTL} {words} --state {node.state}"
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
