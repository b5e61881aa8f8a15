"""Issue 10, items 6 and 20: DEL without a record deletes no bond of others, and no DEL loses a
record.

What DEL must leave unchanged is compared completely, as ``ip`` and the file system show it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for
from tests.kernel.killing import Point, points, run
from tests.kernel.test_delete import bond_by_hand
from tests.kernel.thick import idle, recovered

from bondcni.service.attachment import attachment_key
from bondcni.service.journal import REFUSALS, Journal
from bondcni.service.locks import hold
from bondcni.service.timeouts import Timeouts

B: dict[str, Any] = {"container": "c2"}


@pytest.fixture
def links(node: Node, pod: Space) -> list[str]:
    """Two links of the pod."""
    node.veth("net1", pod)
    node.veth("net2", pod)
    return ["net1", "net2"]


def notes(node: Node) -> set[str]:
    return {path.name for path in node.state.glob("*.refused")}


def asked(links: list[str], **extra: Any) -> Document:
    return config(links, linksInContainer=True, **extra)


# A bond that another record claims


def test_10_6_a_refused_second_container_leaves_the_first_ones_bond(
    node: Node, pod: Space, links: list[str]
) -> None:
    node.cni("ADD", asked(links, ipam=node.host_local()), pod).ok()
    there = node.everything(pod)
    node.cni("ADD", asked(links), pod, **B).failed(101)
    for _ in range(2):
        answer = node.cni("DEL", asked(links), pod, **B)
        answer.ok()
        assert "it belongs to c1 bond0" in answer.stderr
        assert node.everything(pod) == there
    node.cni("CHECK", {**asked(links), "prevResult": result(node)}, pod).ok()
    node.cni("DEL", asked(links), pod).ok()
    assert not pod.links().keys() & {"bond0"}


def result(node: Node) -> Document:
    record = Journal(str(node.state)).read("c1", "bond0", print)
    assert record
    assert record.result
    return record.result


def test_10_6_with_links_of_the_host(node: Node, pod: Space) -> None:
    node.veth("eth1")
    node.veth("eth2")
    before = node.everything(pod)
    mine = config(["eth1", "eth2"])
    node.cni("ADD", mine, pod).ok()
    there = node.everything(pod)
    node.cni("ADD", mine, pod, **B).failed(101)
    node.cni("DEL", mine, pod, **B).ok()
    assert node.everything(pod) == there
    node.cni("DEL", mine, pod).ok()
    assert node.everything(pod) == before


def renamed(pod: Space) -> None:
    """The application of the first container made the bond again, under the name of the second."""
    pod.ip("link", "del", "bond0")
    bond_by_hand(pod, "net1", "net2", name="bond7")


def made_anew(pod: Space) -> None:
    pod.ip("link", "del", "bond0")
    bond_by_hand(pod, "net1", "net2")


@pytest.mark.parametrize("change", [renamed, made_anew], ids=lambda change: change.__name__)
def test_10_6_a_bond_of_another_ones_links_stays(
    node: Node, pod: Space, links: list[str], change: Callable[[Space], None]
) -> None:
    """The second has no ADD: only the record of the first shows whose bond it is."""
    node.cni("ADD", asked(links), pod).ok()
    change(pod)
    there = node.everything(pod)
    ifname = "bond7" if change is renamed else "bond0"
    node.cni("DEL", asked(links), pod, ifname=ifname, **B).ok()
    assert node.everything(pod) == there


def test_10_6_a_record_of_another_pod_claims_nothing(
    node: Node, pod: Space, links: list[str]
) -> None:
    """The other plugin's bond is deleted although another pod has links of these names."""
    other = node.pod()
    for name in ("far1", "far2"):
        node.veth(name)
    node.space.batch(
        f"link set far1 netns {other.name} name net1", f"link set far2 netns {other.name} name net2"
    )
    node.cni("ADD", asked(links), other, **B).ok()
    before = node.everything(pod, other)
    bond_by_hand(pod, "net1", "net2")
    node.cni("DEL", asked(links), pod).ok()
    assert node.everything(pod, other) == before


# A bond that an application made


REFUSED: dict[str, Document] = {
    "name taken": {},
    "bad configuration": {"mtu": "large"},
    "link missing": {"links": [{"name": "net1"}, {"name": "net9"}]},
    "no IPAM plugin": {"ipam": {"type": "not-installed"}},
}


@pytest.mark.parametrize("why", REFUSED)
def test_10_6_the_bond_of_an_application_stays_after_a_refused_add(
    node: Node, pod: Space, links: list[str], why: str
) -> None:
    """Same name, same links, same options: the runtime calls DEL for the ADD that failed."""
    bond_by_hand(pod, *links)
    there = node.everything(pod)
    assert node.cni("ADD", {**asked(links), **REFUSED[why]}, pod).status == 1
    for _ in range(2):
        answer = node.cni("DEL", asked(links), pod)
        answer.ok()
        assert "bond0" in answer.stderr
        assert "so this plugin did not create it" in answer.stderr
        assert node.everything(pod) == there
    pod.ip("link", "del", "bond0")
    node.cni("DEL", asked(links), pod).ok()
    assert notes(node) == set()


def test_10_6_an_add_that_was_undone_owns_nothing(node: Node, pod: Space, links: list[str]) -> None:
    refusal = '{"code": 11, "msg": "not now"}'
    node.delegate("fails", f"[ $CNI_COMMAND = ADD ] || exit 0; echo '{refusal}'; exit 1")
    node.cni("ADD", asked(links, ipam={"type": "fails"}), pod).failed(11)
    bond_by_hand(pod, *links)
    there = node.everything(pod)
    node.cni("DEL", asked(links), pod).ok()
    assert node.everything(pod) == there


@pytest.mark.parametrize(
    "other", [{"mode": "balance-rr"}, {"miimon": 200}], ids=lambda other: next(iter(other))
)
def test_10_6_a_bond_unlike_the_configuration_stays(
    node: Node, pod: Space, links: list[str], other: Document
) -> None:
    """There was no ADD: the bond in the pod has options that this configuration never set."""
    bond_by_hand(pod, *links)
    there = node.everything(pod)
    answer = node.cni("DEL", {**asked(links), **other}, pod)
    answer.ok()
    assert f"its {next(iter(other))} is" in answer.stderr
    assert node.everything(pod) == there


def test_10_6_a_retry_that_succeeds_owns_its_bond(node: Node, pod: Space, links: list[str]) -> None:
    """Also if its record was damaged since: the bond was made after all."""
    before = node.everything(pod)
    node.cni("ADD", asked([*links, "net9"]), pod).failed(101)
    assert notes(node) == {"c1:bond0.refused"}
    node.cni("ADD", asked(links), pod).ok()
    (node.state / "c1:bond0.json").write_text("{ torn")
    node.cni("DEL", asked(links), pod).ok()
    (node.state / "c1:bond0.json.unreadable").unlink()
    assert node.everything(pod) == before
    node.cni("ADD", asked(links), pod).ok()
    node.cni("DEL", asked(links), pod).ok()
    assert node.everything(pod) == before
    assert notes(node) == set()


def test_10_6_the_notes_are_bounded(node: Node, pod: Space, links: list[str]) -> None:
    node.cni("ADD", asked(links, mtu="large"), pod, container="old").failed(7)
    os.utime(node.state / "old:bond0.refused", (1, 1))
    for number in range(REFUSALS - 1):
        (node.state / f"x{number}:bond0.refused").touch()
    node.cni("ADD", asked(links, mtu="large"), pod).failed(7)
    assert len(notes(node)) == REFUSALS
    assert "c1:bond0.refused" in notes(node)
    assert "old:bond0.refused" not in notes(node)


# A lock that times out


@pytest.fixture
def attached(node: Node) -> tuple[Document, Space]:
    """What to attach: links of the host. Requests try a lock once: each try is an event."""
    node.timeouts = Timeouts(lock=0.0)
    node.veth("eth1")
    node.veth("eth2")
    return config(["eth1", "eth2"], ipam=node.host_local()), node.pod()


def test_10_20_a_record_outlives_a_del_that_is_killed(
    node: Node, attached: tuple[Document, Space]
) -> None:
    """DEL continues without the lock and keeps the record: it exists at every moment."""
    whole, pod = attached
    node.end_daemon()
    before = node.everything(pod)
    places: list[Point | None] = [None]
    while places:
        place = places.pop()
        node.cni("ADD", whole, pod).ok()
        node.end_daemon()
        with hold(str(node.state), [attachment_key("c1", "bond0")], 30):
            number, when = (place.number, place.when) if place else (-1, "")
            ended = run(lambda: node.cni("DEL", whole, pod).status, number, when)
            assert ended.killed == (place is not None), place
            assert "c1:bond0.json" in node.records(), place
            wait_for(idle)
        if place is None:
            places = [*points(ended.events)]
            assert "c1:bond0.json" in node.records()
        node.cni("DEL", whole, pod).ok()
        recovered(node.state)
        after = node.everything(pod)
        assert after == before, place
