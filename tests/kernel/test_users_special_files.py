"""Issue 10, item 8: a path from outside may be a FIFO or a device; no request waits for it."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.conftest import Node, Space, config

SECONDS = 5.0
"""A request that waits in open() never ends: there is no writer."""

BAD_ENVIRONMENT = 4
POLICY = 107


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """Ends a request of this process that waits, as in direct mode."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["fifo", "device", "directory", "socket"])
def special(node: Node, request: pytest.FixtureRequest) -> str:
    """A path with something that is not a regular file."""
    path = node.folder / "special"
    if request.param == "directory":
        path.mkdir()
    elif request.param == "device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # like /dev/zero, which never ends
    else:
        os.mknod(path, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}[request.param] | 0o666)
    return str(path)


class Elsewhere(Space):
    """A path that a runtime gives as a pod's namespace."""

    def __init__(self, path: str) -> None:  # makes nothing
        self.name = ""
        self.path = path


def test_8_cni_netns(node: Node, special: str) -> None:
    node.veth("eth1")
    node.veth("eth2")
    before = node.everything()
    asked = {**config(["eth1", "eth2"]), "prevResult": {"cniVersion": "1.0.0"}}
    since = time.monotonic()
    for verb in ("ADD", "CHECK"):
        said = node.cni(verb, asked, Elsewhere(special))
        if verb == "ADD":
            assert f"{special} is not a network namespace" in said.failed(BAD_ENVIRONMENT)
    node.cni("DEL", asked, Elsewhere(special)).ok()
    assert time.monotonic() - since < SECONDS
    assert node.everything() == before


def test_8_the_policy(node: Node, pod: Space, special: str) -> None:
    """Host links are refused; the pod's own links and DEL are not affected."""
    node.veth("eth1")
    node.veth("eth2")
    before = node.everything(pod)
    env = {"BONDCNI_POLICY": special}
    since = time.monotonic()
    said = node.cni("ADD", config(["eth1", "eth2"]), pod, env=env).failed(POLICY)
    assert f"policy {special} cannot be read, so host links are refused: it is a " in said
    node.cni("DEL", config(["eth1", "eth2"]), pod, env=env).ok()
    assert time.monotonic() - since < SECONDS
    assert node.everything(pod) == before


def test_8_a_record(node: Node, pod: Space, special: str) -> None:
    """Renamed and reported; the request that finds it succeeds."""
    node.veth("eth1")
    node.veth("eth2")
    node.state.mkdir(exist_ok=True)
    node.state.chmod(0o755)
    record = node.state / "c0:bond0.json"
    Path(special).rename(record)
    since = time.monotonic()
    told = node.cni("ADD", config(["eth1", "eth2"]), pod).ok()
    assert told["interfaces"][0]["name"] == "bond0"
    node.cni("DEL", config(["eth1", "eth2"]), pod).ok()
    node.cni("DEL", config(["eth1", "eth2"]), pod, container="c0").ok()
    assert time.monotonic() - since < SECONDS
    assert node.records() == {"c0:bond0.json.unreadable"}
