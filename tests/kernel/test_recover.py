"""Recovery compares the journal with the node, in every state that an attachment can be in.

The links are veths, which are destroyed with their namespace. Where a NIC must survive, the test
moves it to the host first and leaves it as the kernel would: renamed, down, with the bond's MAC and
MTU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from tests.kernel.conftest import THICK, Document, Node, Space, config
from tests.kernel.faults import faults, none

from bondcni.cli.recover import recover as command
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.locks import hold
from bondcni.service.reconcile import Recovered, recover

LINKS = ("eth1", "eth2")


@pytest.fixture
def before(node: Node, pod: Space) -> Document:
    """The node with two links that have attributes to restore."""
    for link in LINKS:
        node.veth(link)
    node.space.batch(
        "link set eth1 up txqueuelen 500 alias uplink",
        "link property add dev eth1 altname wan",
        "link set eth2 mtu 4000 promisc on",
    )
    assert pod
    return whole(node)


def whole(node: Node) -> Document:
    return node.everything()


def asked(node: Node) -> Document:
    return config(LINKS, ipam=node.host_local(), runtimeConfig={"mac": "02:00:00:00:00:77"})


def recovered(node: Node, *, dry_run: bool = False) -> list[Recovered]:
    told: list[str] = []
    found = list(recover(Service(Journal(str(node.state)), told.append), dry_run=dry_run))
    print(told, found)
    return found


def states(found: list[Recovered]) -> list[tuple[str, bool]]:
    return [(one.state, one.done) for one in found]


def add(node: Node, pod: Space) -> None:
    node.cni("ADD", asked(node), pod).ok()


def cut_off(node: Node, pod: Space, step: int) -> None:
    """An ADD in a process that ends without a message before that step."""

    def fault(number: int, _request: object) -> None:
        if number == step:
            os._exit(9)

    child = os.fork()
    if not child:
        with faults(fault):
            node.cni("ADD", asked(node), pod)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def edit(node: Node, **changes: str) -> None:
    path = node.state / "c1:bond0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def escape(node: Node, pod: Space, link: str, name: str, *more: str) -> None:
    """A NIC returns to the host by itself, in a state of its own."""
    pod.batch(f"link set {link} nomaster", f"link set {link} netns {node.space.name} name {name}")
    if more:
        node.space.batch(*(f"link set {name} {one}" for one in more))


def test_nothing_on_record(node: Node) -> None:
    assert recovered(node) == []


def test_a_live_one_is_let_be(node: Node, pod: Space, before: Document) -> None:
    add(node, pod)
    assert before != (now := node.everything(pod))
    assert states(recovered(node)) == [("active", True)]
    assert node.everything(pod) == now


def bond_gone(pod: Space) -> None:
    pod.ip("link", "del", "bond0")


def link_out_of_the_bond(pod: Space) -> None:
    pod.batch("link set eth2 nomaster", "link set eth2 name mine")


def other_mac(pod: Space) -> None:
    pod.batch("link set bond0 address 02:00:00:00:00:78 down", "link set bond0 name other")


@pytest.mark.parametrize(
    "change", [bond_gone, link_out_of_the_bond, other_mac], ids=lambda change: change.__name__
)
def test_what_a_live_pod_changed_is_its_own(
    node: Node, pod: Space, before: Document, change: Callable[[Space], None]
) -> None:
    add(node, pod)
    change(pod)
    now = node.everything(pod)
    assert states(recovered(node)) == [("active", True)]
    assert node.everything(pod) == now
    node.cni("DEL", asked(node), pod).ok()
    assert whole(node) == before


def test_cut_off_at_each_step(node: Node, pod: Space, before: Document) -> None:
    with faults(none) as seen:
        add(node, pod)
    node.cni("DEL", asked(node), pod).ok()
    assert len(seen) > 4
    for step in range(len(seen)):
        cut_off(node, pod, step)
        assert node.records()
        assert states(recovered(node)) == [("interrupted", True)]
        assert whole(node) == before
        assert pod.links().keys() == {"lo"}


def test_a_dry_run_touches_nothing(node: Node, pod: Space, before: Document) -> None:
    cut_off(node, pod, 2)
    now = node.everything(pod)
    assert states(recovered(node, dry_run=True)) == [("interrupted", False)]
    assert node.everything(pod) == now
    assert states(recovered(node)) == [("interrupted", True)]
    assert whole(node) == before


def test_namespace_gone(node: Node, pod: Space, before: Document) -> None:
    """Its virtual links were destroyed with it; the address is released, the record removed."""
    add(node, pod)
    assert before["leases"] != node.leases()
    pod.delete()
    assert states(recovered(node)) == [("namespace gone", True)]
    assert (node.leases(), node.records()) == (set(), set())
    assert node.space.links().keys() == {"lo"}


def test_nics_that_came_home_otherwise(node: Node, pod: Space, before: Document) -> None:
    """Renamed, down, with the bond's MAC, another MTU, without altname and alias."""
    add(node, pod)
    escape(node, pod, "eth1", "dev5", "address 02:00:00:00:00:77", "mtu 1400 alias x", "down")
    node.space.ip("link", "property", "del", "dev", "dev5", "altname", "wan")
    escape(node, pod, "eth2", "dev6", "promisc off mtu 1500 up")
    pod.delete()
    assert states(recovered(node)) == [("namespace gone", True)]
    assert whole(node) == before


def test_names_swapped(node: Node, pod: Space, before: Document) -> None:
    add(node, pod)
    escape(node, pod, "eth1", "eth2.x")
    escape(node, pod, "eth2", "eth1")
    node.space.ip("link", "set", "eth2.x", "name", "eth2")
    pod.delete()
    assert states(recovered(node)) == [("namespace gone", True)]
    assert whole(node) == before


def test_another_has_the_name_by_now(node: Node, pod: Space, before: Document) -> None:
    """The other link keeps the name; ours is restored but for its name, and this is reported."""
    add(node, pod)
    escape(node, pod, "eth1", "dev5")
    escape(node, pod, "eth2", "eth2")
    node.space.ip("link", "add", "eth1", "type", "dummy")
    stranger = node.space.link("eth1")
    pod.delete()
    assert states(recovered(node)) == [("namespace gone", True)]
    assert node.space.link("eth1") == stranger
    assert node.space.link("dev5")["ifalias"] == "uplink"
    assert "UP" in node.space.link("dev5")["flags"]
    assert node.records() == before["records"]


def test_who_has_a_master_at_home_is_let_be(node: Node, pod: Space, before: Document) -> None:
    add(node, pod)
    escape(node, pod, "eth1", "dev5", "mtu 1400")
    escape(node, pod, "eth2", "eth2")
    node.space.batch("link add br9 type bridge", "link set dev5 master br9")
    pod.delete()
    assert states(recovered(node)) == [("namespace gone", True)]
    assert node.space.link("dev5")["master"] == "br9"
    assert node.space.link("dev5")["mtu"] == 1400
    assert node.leases() == before["leases"]


def test_another_boot(node: Node, pod: Space, before: Document) -> None:
    """No link is in a pod: addresses are released, links are unchanged even if they differ."""
    add(node, pod)
    for link in LINKS:
        escape(node, pod, link, link, "mtu 1400")
    edit(node, boot="00000000-0000-0000-0000-000000000000")
    now = node.space.everything()
    assert states(recovered(node)) == [("other boot", True)]
    assert node.space.everything() == now
    assert (node.leases(), node.records()) == (before["leases"], set())


def test_add_after_another_boot_lets_links_be(node: Node, pod: Space, before: Document) -> None:
    """The record of an earlier ADD names links that may be others now."""
    add(node, pod)
    for link in LINKS:
        escape(node, pod, link, f"new{link}", "mtu 1400")
    pod.ip("link", "del", "bond0")
    edit(node, boot="00000000-0000-0000-0000-000000000000")
    renamed = config([f"new{link}" for link in LINKS], ipam=node.host_local())
    node.cni("ADD", renamed, pod).ok()
    assert pod.members("bond0") == {"neweth1", "neweth2"}
    node.cni("DEL", renamed, pod).ok()
    now = node.space.links()
    assert {name: now[f"new{name}"]["mtu"] for name in LINKS} == {"eth1": 1400, "eth2": 1400}
    assert node.leases() == before["leases"]


def test_a_busy_one_is_let_be(node: Node, pod: Space, before: Document) -> None:
    cut_off(node, pod, 2)
    now = node.everything(pod)
    with hold(str(node.state), ["attachment c1 bond0"], 30):
        found = recovered(node)
    assert states(found) == [("busy", False)]
    assert "holds the lock of attachment c1 bond0" in found[0].messages[0]
    assert node.everything(pod) == now
    assert states(recovered(node)) == [("interrupted", True)]
    assert whole(node) == before


def test_one_that_fails_stops_no_other(node: Node, pod: Space, before: Document) -> None:
    """An address that cannot be released is reported, its record stays, and the next record is
    done.
    """
    add(node, pod)
    node.veth("net1", pod)
    node.veth("net2", pod)
    inside = config(["net1", "net2"], linksInContainer=True)
    node.cni("ADD", inside, pod, container="c2", ifname="bond1").ok()
    pod.delete()
    (node.state / "c0:bond0.json").write_text("[]")
    edit(node, config={"ipam": {"type": "nobody"}})  # type: ignore[arg-type]
    found = recovered(node)
    assert states(found) == [("namespace gone", False), ("namespace gone", True)]
    assert "nobody" in found[0].messages[0]
    assert node.records() == {"c0:bond0.json.unreadable", "c1:bond0.json"}
    assert before


def refused_way_home(number: int, _request: object) -> int | None:
    return 16 if number else None


def test_what_the_kernel_refuses_is_told_and_tried_again(
    node: Node, pod: Space, before: Document
) -> None:
    cut_off(node, pod, 3)
    with faults(refused_way_home):
        found = recovered(node)
    assert states(found) == [("interrupted", False)]
    assert "EBUSY" in found[0].messages[0]
    assert states(recovered(node)) == [("interrupted", True)]
    assert whole(node) == before


# ADD of links that a dead attachment claims


def second(node: Node) -> tuple[Space, Document]:
    return node.pod(), config(LINKS, ipam=node.host_local())


def test_add_brings_links_home_first(node: Node, pod: Space, before: Document) -> None:
    """ADD of another pod was interrupted with our links in that pod; neither DEL nor recover was
    called.
    """
    cut_off(node, pod, 3)
    assert node.space.links().keys() != {"lo", *LINKS}
    other, wanted = second(node)
    answer = node.cni("ADD", wanted, other, container="c2")
    answer.ok()
    if not THICK:  # a daemon that has just come does it before each request, and tells its log
        assert "links of c1 bond0 (interrupted): restored before this ADD" in answer.stderr
    assert other.members("bond0") == set(LINKS)
    assert pod.links().keys() == {"lo"}
    node.cni("DEL", wanted, other, container="c2").ok()
    assert whole(node) == before


def test_add_finds_a_link_that_came_home_renamed(node: Node, pod: Space, before: Document) -> None:
    add(node, pod)
    escape(node, pod, "eth1", "dev5", "address 02:00:00:00:00:77", "mtu 1400", "down")
    escape(node, pod, "eth2", "eth2")
    pod.delete()
    other, wanted = second(node)
    node.cni("ADD", wanted, other, container="c2").ok()
    assert other.members("bond0") == set(LINKS)
    node.cni("DEL", wanted, other, container="c2").ok()
    assert whole(node) == before


def test_add_leaves_a_live_attachments_links(node: Node, pod: Space, before: Document) -> None:
    add(node, pod)
    now = node.everything(pod)
    other, wanted = second(node)
    said = node.cni("ADD", wanted, other, container="c2").failed(101)
    assert "link eth1 is claimed by c1 bond0" in said
    assert node.everything(pod) == now
    assert before


def test_add_of_the_same_attachment_waits_for_links_that_are_not_back(
    node: Node, pod: Space, before: Document
) -> None:
    """The record of missing links is not overwritten."""
    add(node, pod)
    record = node.state / "c1:bond0.json"
    text = record.read_text()
    edit(node, namespace="0:0", netns="/gone")
    edit_kind(node)
    kept = json.loads(record.read_text())
    for name in ("eth3", "eth4"):
        node.veth(name)
    other = node.pod()
    node.cni("ADD", config(["eth3", "eth4"]), other).failed(11)
    assert json.loads(record.read_text()) == kept
    assert other.links().keys() == {"lo"}
    record.write_text(text)
    node.cni("DEL", asked(node), pod).ok()
    assert before["leases"] == node.leases()


def edit_kind(node: Node) -> None:
    """The links of the record are hardware, which is waited for while its namespace ends."""
    path = node.state / "c1:bond0.json"
    document = json.loads(path.read_text())
    for item in document["claimed"]:
        item["link"]["kind"] = ""
        item["link"]["parent"] = "0000:03:00.0"
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("path", ["", "/var/run/netns/nobody"])
def test_del_that_does_not_know_the_namespace(
    node: Node, pod: Space, before: Document, path: str
) -> None:
    """The record has it, and it exists: its links are moved back, not waited for."""
    add(node, pod)
    node.cni("DEL", asked(node), env={"CNI_NETNS": path}).ok()
    assert whole(node) == before
    assert pod.links().keys() == {"lo"}


# The command


def test_bondctl_recover(node: Node, pod: Space, before: Document) -> None:
    from click.testing import CliRunner  # noqa: PLC0415  the only one here

    cut_off(node, pod, 3)
    runner = CliRunner()
    how = ["--state", str(node.state)]
    dry = runner.invoke(command, [*how, "--dry-run"])
    assert dry.output == "c1 bond0: interrupted: would be cleaned up\n"
    assert runner.invoke(command, how).output == "c1 bond0: interrupted: interfaces restored\n"
    assert whole(node) == before
