"""A failure at each step of ADD: everything is restored, the lease is released.

The steps are counted in an ADD without faults, never by hand. Each kind of attachment is then tried
again and again on the same node, with the next step failing. This also shows that the rollback
before it left nothing. SIGKILL: test_crash.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

import pytest
from tests.kernel.conftest import Document, Node, Space, config, direct_only
from tests.kernel.faults import Fault, at, faults, none, raising, since

KERNEL, VERIFY = 102, 103
LINKS: list[str | Document] = [{"name": "eth1", "queueId": 1}, {"name": "eth2", "queueId": 2}]


class Scene(NamedTuple):
    """An attachment that can be tried again and again."""

    node: Node
    pod: Space
    asked: Document
    before: Document

    def add(self, fault: Fault) -> tuple[list[str], Document, int]:
        """ADD with a fault: the requests that were sent, the answer, the exit code."""
        with faults(fault) as seen:
            answer = self.node.cni("ADD", self.asked, self.pod)
        return seen, answer.document, answer.status

    def delete(self) -> None:
        self.node.cni("DEL", self.asked, self.pod).ok()
        self.unharmed()

    def unharmed(self) -> None:
        assert self.node.everything(self.pod) == self.before

    def steps(self) -> list[str]:
        """The requests of an ADD without faults."""
        seen, document, status = self.add(none)
        assert status == 0, document
        assert self.pod.members("bond0") == {"eth1", "eth2"}
        self.delete()
        return seen


def host_links(node: Node, pod: Space) -> Document:
    """Two host links, each with some attribute that must be restored."""
    node.space.batch(
        "link set eth1 up txqueuelen 500 alias uplink",
        "link property add dev eth1 altname enp9s0 altname wan",
        "link set eth2 mtu 4000 address 02:00:00:00:00:22 promisc on",
    )
    pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "far0")
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}]
    return config(LINKS, ifname="fast0", primary="eth2", ipam=node.host_local(routes=routes))


def pod_links(node: Node, pod: Space) -> Document:
    node.space.batch(f"link set eth1 netns {pod.name}", f"link set eth2 netns {pod.name}")
    pod.batch(
        "link set eth1 up alias uplink mtu 1700",
        "link property add dev eth2 altname enp9s0",
        "link set eth2 mtu 4000 txqueuelen 7 address 02:00:00:00:00:22",
    )
    return config(LINKS, linksInContainer=True, ipam=node.host_local())


Made = Callable[[Node, Space], Document]
CONTROL_C = direct_only("nobody presses Control-C in a worker of the daemon")
KINDS = pytest.mark.parametrize("made", [host_links, pod_links], ids=lambda made: made.__name__)


@pytest.fixture
def scene(node: Node, pod: Space, made: Made) -> Scene:
    node.veth("eth1")
    node.veth("eth2")
    asked = made(node, pod)
    return Scene(node, pod, asked, node.everything(pod))


@KINDS
def test_each_step_refused(scene: Scene) -> None:
    steps = scene.steps()
    assert len(steps) > 6
    for number, step in enumerate(steps):
        seen, document, status = scene.add(at(number, errno.ENOMEM))
        assert status == 1, f"step {number} ({step}) was refused and ADD went well"
        assert document["code"] == KERNEL, (step, document)
        assert seen[number] in document["msg"]
        assert "ENOMEM" in document["msg"]
        scene.unharmed()
    scene.delete()


@KINDS
def test_each_step_accepted_and_not_done(scene: Scene) -> None:
    """The kernel accepts a step and does nothing: found by reading back, or by a later step."""
    for number, step in enumerate(scene.steps()):
        _, document, status = scene.add(at(number, 0))
        assert status == 1, f"step {number} ({step}) was not done and ADD went well"
        assert document["code"] in (KERNEL, VERIFY), (step, document)
        scene.unharmed()


@pytest.mark.parametrize("made", [host_links])
@CONTROL_C
def test_each_step_interrupted(scene: Scene) -> None:
    """Control-C: an exception that is not ours, with the same rollback."""
    for number, _ in enumerate(scene.steps()):
        with pytest.raises(KeyboardInterrupt):
            scene.add(raising(number, KeyboardInterrupt()))
        scene.unharmed()


@pytest.mark.parametrize("made", [host_links])
def test_each_step_hits_an_error_that_is_not_ours(scene: Scene) -> None:
    for number, step in enumerate(scene.steps()):
        _, document, status = scene.add(raising(number, OSError(errno.EIO, "disk on fire")))
        assert status == 1, step
        assert "disk on fire" in document["msg"]
        scene.unharmed()


@pytest.mark.parametrize("made", [host_links])
def test_the_way_back_is_refused_too(scene: Scene) -> None:
    """Every request fails from some step on: reported, the record stays, a later DEL completes."""
    for number, step in enumerate(scene.steps()):
        _, document, status = scene.add(since(number, errno.EBUSY))
        assert status == 1, step
        if scene.node.records():
            assert "rollback is incomplete" in document["details"], (step, document)
        scene.delete()


@KINDS
@CONTROL_C
def test_teardown_interrupted_at_each_step(scene: Scene) -> None:
    """The next DEL completes one that was interrupted, at whichever step."""
    scene.add(none)
    with faults(none) as seen:
        scene.delete()
    assert len(seen) > 1
    for number, _ in enumerate(seen):
        scene.add(none)
        with pytest.raises(KeyboardInterrupt), faults(raising(number, KeyboardInterrupt())):
            scene.node.cni("DEL", scene.asked, scene.pod)
        scene.delete()


@KINDS
def test_teardown_refused_at_each_step(scene: Scene) -> None:
    """A step of DEL that is always refused is reported, and a later DEL does the rest."""
    scene.add(none)
    with faults(none) as seen:
        scene.delete()
    for number, step in enumerate(seen):
        scene.add(none)
        with faults(since(number, errno.EBUSY)):
            answer = scene.node.cni("DEL", scene.asked, scene.pod)
        assert "EBUSY" in answer.failed(106), step
        assert scene.node.records() == {"c1:bond0.json"}
        scene.delete()


# Real causes

VETH = ("type", "veth", "peer", "name", "far0")


@pytest.mark.parametrize("of", ["bond", "member"])
def test_ifindex_taken_in_the_middle(node: Node, pod: Space, of: str) -> None:
    """Another link gets an ifindex of the plan meanwhile: refused, everything restored."""
    node.veth("eth1")
    node.veth("eth2")
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    before = node.everything(pod)
    highest: int = node.space.link("eth2")["ifindex"]
    index = highest + 1 if of == "bond" else highest

    def thief(number: int, _request: object) -> None:
        if number == 0:
            pod.ip("link", "add", "thief", "index", str(index), "type", "dummy")

    with faults(thief):
        said = node.cni("ADD", asked, pod).failed(KERNEL if of == "bond" else VERIFY)
    assert "bond0" in said
    pod.ip("link", "del", "thief")
    assert node.everything(pod) == before


def test_link_gone_in_the_middle(node: Node, pod: Space) -> None:
    """A member is unplugged between the plan and its move: the other one is restored."""
    node.veth("eth1")
    node.veth("eth2")
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    before = node.space.link("eth1")

    def unplug(number: int, _request: object) -> None:
        if number == 1:
            node.space.ip("link", "del", "eth2")

    with faults(unplug):
        assert "eth2" in node.cni("ADD", asked, pod).failed(KERNEL)
    assert node.space.links().keys() == {"lo", "eth1"}
    assert node.space.link("eth1")["address"] == before["address"]
    assert pod.links().keys() == {"lo"}
    assert node.leases() == set()


@pytest.mark.parametrize("inside", [False, True], ids=["host links", "pod links"])
def test_pod_interface_of_the_same_ifindex_is_let_be(
    node: Node, pod: Space, *, inside: bool
) -> None:
    """Each namespace numbers its links: the pod's eth0 must never be taken for a host link."""
    node.veth("eth1")
    node.veth("eth2")
    index = node.space.link("eth1")["ifindex"]
    pod.ip("link", "add", "eth0", "index", str(index), *VETH, "index", "99")
    pod.ip("link", "set", "eth0", "up")
    links: list[str | Document] = ["eth1", "eth2"]
    if inside:
        pod.ip("link", "add", "net1", "type", "veth", "peer", "name", "net2")
        links = ["net1", "net2"]
    asked = config(links, linksInContainer=inside, ipam=node.host_local())
    before = node.everything(pod)
    with faults(at(0, errno.ENOMEM)):
        node.cni("ADD", asked, pod).failed(KERNEL)
    assert node.everything(pod) == before
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == set(links)
    node.cni("DEL", asked, pod).ok()
    after = node.everything(pod)
    assert {**after, **links_indexes(before)} == before


def links_indexes(state: Document) -> Document:
    return {key: value for key, value in state.items() if key.endswith(("ifindex", "link_index"))}
