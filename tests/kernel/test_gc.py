"""GC removes what is neither valid nor active in a network, and nothing else.

Two attachments of one network and one of another, each with an address from a delegate that logs
its calls. A pod is deleted with its virtual links; that NICs are restored is tested with hardware
(``test_recover.py``, ``test_crash.py``).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config

VALID = "cni.dev/valid-attachments"
NONE = object()


@pytest.fixture
def pods(node: Node) -> dict[str, Space]:
    """Pods c1 and c2 on network net, c3 on another, each with a bond."""
    made = {f"c{number}": node.pod() for number in (1, 2, 3)}
    log = node.folder / "calls"
    answer = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.'
    node.delegate(
        "ours",
        f'(echo "$CNI_COMMAND $CNI_CONTAINERID"; tr -d "\\n"; echo) >> {log}\n'
        f"[ $CNI_COMMAND != ADD ] || echo '{answer}'\"$((++n))/8\"'\"}}]}}'",
    )
    for number, (name, pod) in enumerate(made.items()):
        for link in links(name):
            node.veth(link, pod)
        attach(node, name, pod, "net" if number < 2 else "other")
    log.unlink()
    return made


def links(container: str) -> tuple[str, str]:
    return f"{container}a", f"{container}b"


def asked(network: str = "net", container: str = "c1", valid: Any = NONE) -> Document:
    extra = {} if valid is NONE else {VALID: valid}
    whole = config(links(container), linksInContainer=True, ipam={"type": "ours"}, **extra)
    return {**whole, "cniVersion": "1.1.0", "name": network}


def attach(node: Node, container: str, pod: Space, network: str) -> None:
    node.cni("ADD", asked(network, container), pod, container=container).ok()


def collect(node: Node, config: Document) -> Answer:
    return node.cni("GC", config, container="", ifname="")


def one(container: str) -> Document:
    return {"containerID": container, "ifname": "bond0"}


def calls(node: Node) -> list[str]:
    """The calls of the delegate: verb and container."""
    return heard(node)[::2]


def heard(node: Node) -> list[str]:
    log = node.folder / "calls"
    return [line.strip() for line in log.read_text().splitlines()] if log.exists() else []


def left(node: Node) -> set[str]:
    return {name.partition(":")[0] for name in node.records()}


def die(pods: dict[str, Space], *containers: str) -> None:
    for container in containers:
        pods[container].delete()


def test_without_the_key_nothing_goes(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1", "c2")
    answer = collect(node, asked())
    answer.ok()
    assert VALID in answer.stderr
    assert left(node) == {"c1", "c2", "c3"}
    assert calls(node) == ["GC"]


@pytest.mark.parametrize("valid", [None, []], ids=["null", "empty"])
def test_none_is_valid(node: Node, pods: dict[str, Space], valid: Any) -> None:
    """Everything of this network is removed, addresses released; dead attachments of the other
    network stay.
    """
    die(pods, "c1", "c2", "c3")
    collect(node, asked(valid=valid)).ok()
    assert left(node) == {"c3"}
    assert calls(node) == ["DEL c1", "DEL c2", "GC"]


def test_the_valid_ones_stay(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1", "c2")
    collect(node, asked(valid=[one("c2"), one("unknown")])).ok()
    assert left(node) == {"c2", "c3"}
    assert calls(node) == ["DEL c1", "GC"]


def test_valid_is_container_and_interface(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1")
    collect(node, asked(valid=[{"containerID": "c1", "ifname": "eth0"}])).ok()
    assert left(node) == {"c2", "c3"}


def test_never_against_a_live_namespace(node: Node, pods: dict[str, Space]) -> None:
    """A runtime may list the first interface only: no running pod loses its bond because of its
    list.
    """
    before = pods["c2"].everything()
    die(pods, "c1")
    answer = collect(node, asked(valid=[]))
    answer.ok()
    assert "c2 bond0 is active: kept" in answer.stderr
    assert pods["c2"].everything() == before
    assert left(node) == {"c2", "c3"}


def test_the_delegate_is_told_the_whole(node: Node, pods: dict[str, Space]) -> None:
    """The unchanged configuration, with active attachments added that are not listed, because they
    have leases.
    """
    whole = asked(valid=[one("c2")])
    die(pods, "c1")
    collect(node, whole).ok()
    assert json.loads(heard(node)[-1]) == whole
    collect(node, asked(valid=[])).ok()
    assert json.loads(heard(node)[-1]) == asked(valid=[one("c2")])


@pytest.mark.parametrize(
    "valid",
    [
        {},
        "",
        0,
        False,
        "c1",
        [5],
        ["c1"],
        [{}],
        [{"containerID": "c1"}],
        [{**one("c"), "ifname": 1}],
    ],
    ids=str,
)
def test_a_list_that_is_none(node: Node, pods: dict[str, Space], valid: Any) -> None:
    die(pods, "c1", "c2")
    said = collect(node, asked(valid=valid)).failed(7)
    assert "/cni.dev~1valid-attachments: " in said
    assert "write a list of objects" in said
    assert left(node) == {"c1", "c2", "c3"}
    assert calls(node) == []


def test_an_error_does_not_stop_the_rest(node: Node, pods: dict[str, Space]) -> None:
    """An address that cannot be released is reported, its record stays, and everything else is
    done.
    """
    die(pods, "c1", "c2")
    script = (node.folder / "ours").read_text()
    node.delegate("ours", f"[ $CNI_CONTAINERID$CNI_COMMAND = c1DEL ] && exit 3\n{script}")
    assert "DEL failed with exit code 3" in collect(node, asked(valid=[])).failed(106)
    assert left(node) == {"c1", "c3"}
    assert calls(node) == ["DEL c2", "GC"]
    node.delegate("ours", script)
    collect(node, asked(valid=[])).ok()
    assert left(node) == {"c3"}


def test_the_delegates_own_error(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1", "c2")
    node.delegate("ours", "[ $CNI_COMMAND != GC ]")
    assert "IPAM plugin ours: GC failed" in collect(node, asked(valid=[])).failed(106)
    assert left(node) == {"c3"}


def test_an_unreadable_record_is_told(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1", "c2")
    (node.state / "c1:bond0.json").write_text("{")
    answer = collect(node, asked(valid=[]))
    answer.ok()
    assert "c1:bond0.json is invalid" in answer.stderr
    assert node.records() == {"c1:bond0.json.unreadable", "c3:bond0.json"}


def test_del_after_gc(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1", "c2")
    collect(node, asked(valid=[])).ok()
    for pod in (pods["c1"], None):
        node.cni("DEL", asked(), pod).ok()
    assert left(node) == {"c3"}


def test_twice(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1")
    for _ in range(2):
        collect(node, asked(valid=[one("c2")])).ok()
    assert left(node) == {"c2", "c3"}
    assert calls(node) == ["DEL c1", "GC", "GC"]


def test_before_version_1_1(node: Node, pods: dict[str, Space]) -> None:
    die(pods, "c1")
    collect(node, {**asked(valid=[]), "cniVersion": "1.0.0"}).failed(1)
    assert left(node) == {"c1", "c2", "c3"}
