"""Many requests at once: each is a process, as a runtime starts them, and they start together.

If two want one NIC, one succeeds and the other leaves nothing. Pods with different NICs all get
their bonds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config

REFUSED, TRY_AGAIN = 101, 11


def together(works: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Run each in a process of its own, all started at the same moment; their answers."""
    gate, release = os.pipe()
    ends: list[int] = []
    for work in works:
        reading, writing = os.pipe()
        if not os.fork():
            try:
                os.close(release)
                os.read(gate, 1)
                os.write(writing, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(writing)
        ends.append(reading)
    os.close(gate)
    os.close(release)
    answers = [Answer(*json.loads(whole(end))) for end in ends]
    for _ in works:
        os.wait()
    return answers


def whole(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def adding(node: Node, pod: Space, asked: Document, container: str) -> Callable[[], Answer]:
    return lambda: node.cni("ADD", asked, pod, container=container)


def winners(answers: Sequence[Answer]) -> list[int]:
    lost = [answer.document["code"] for answer in answers if answer.status]
    assert set(lost) <= {REFUSED, TRY_AGAIN}, [a.document for a in answers]
    return [number for number, answer in enumerate(answers) if not answer.status]


@pytest.mark.parametrize("again", range(3))
def test_two_want_the_same_links(node: Node, again: int) -> None:
    assert again < 3
    node.veth("eth1")
    node.veth("eth2")
    before = node.everything()
    pods = [node.pod(), node.pod()]
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    answers = together([adding(node, pod, asked, f"c{n}") for n, pod in enumerate(pods)])
    (won,) = winners(answers)
    assert pods[won].members("bond0") == {"eth1", "eth2"}
    assert pods[1 - won].links().keys() == {"lo"}
    assert node.space.links().keys() == {"lo"}
    assert node.leases() == {answers[won].document["ips"][0]["address"].split("/")[0]}
    assert node.records() == {f"c{won}:bond0.json"}
    for number, pod in enumerate(pods):
        node.cni("DEL", asked, pod, container=f"c{number}").ok()
    assert node.everything() == before


def test_three_in_a_ring(node: Node) -> None:
    """Each wants a link of the next one: no deadlock, no incomplete bond, at least one succeeds."""
    names = ["eth1", "eth2", "eth3"]
    for name in names:
        node.veth(name)
    before = node.everything()
    pods = [node.pod() for _ in names]
    wants = [[names[n], names[(n + 1) % 3]] for n in range(3)]
    asked = [config([*want], ipam=node.host_local()) for want in wants]
    answers = together([adding(node, pods[n], asked[n], f"c{n}") for n in range(3)])
    (won,) = winners(answers)
    for number, pod in enumerate(pods):
        held = pod.members("bond0") if number == won else pod.links().keys() - {"lo"}
        assert held == (set(wants[won]) if number == won else set())
        node.cni("DEL", asked[number], pod, container=f"c{number}").ok()
    assert node.everything() == before


def test_eight_pods(node: Node) -> None:
    pods = [node.pod() for _ in range(8)]
    wants = [[f"a{n}", f"b{n}"] for n in range(8)]
    for name in (name for want in wants for name in want):
        node.veth(name)
    before = node.everything()
    asked = [config([*want], ipam=node.host_local()) for want in wants]
    answers = together([adding(node, pods[n], asked[n], f"c{n}") for n in range(8)])
    assert len(winners(answers)) == 8
    given = [answer.document["ips"][0]["address"] for answer in answers]
    assert len(set(given)) == 8
    for number, pod in enumerate(pods):
        assert pod.members("bond0") == set(wants[number])
        assert pod.addresses("bond0") == {given[number]}

    def deleting(number: int) -> Callable[[], Answer]:
        how: dict[str, Any] = {"container": f"c{number}"}
        return lambda: node.cni("DEL", asked[number], pods[number], **how)

    for answer in together([deleting(number) for number in range(8)]):
        answer.ok()
    assert node.everything() == before


def test_two_bonds_in_one_pod(node: Node, pod: Space) -> None:
    """The runtime may add the attachments of a pod at the same time."""
    for name in ("eth1", "eth2", "eth3", "eth4"):
        node.veth(name)
    before = node.everything(pod)
    first, second = config(["eth1", "eth2"]), config(["eth3", "eth4"])

    def call(verb: str, asked: Document, ifname: str) -> Callable[[], Answer]:
        return lambda: node.cni(verb, asked, pod, ifname=ifname)

    for answer in together([call("ADD", first, "bond0"), call("ADD", second, "bond1")]):
        answer.ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    assert pod.members("bond1") == {"eth3", "eth4"}
    for answer in together([call("DEL", first, "bond0"), call("DEL", second, "bond1")]):
        answer.ok()
    assert node.everything(pod) == before
