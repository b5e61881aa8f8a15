"""DEL restores everything, whatever happened to the pod, the links or the configuration.

It may be called twice, for an unknown attachment, without a namespace, with an edited configuration
or none. It restores what has changed, leaves what belongs to others unchanged, and reports what it
cannot do after it has done the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config
from tests.kernel.conftest import wait_for as wait

LEFT = 106


@pytest.fixture
def before(node: Node, pod: Space) -> Document:
    """The node before the bond was made: links with attributes of their own, up and down."""
    node.veth("eth1")
    node.veth("eth2")
    node.space.batch(
        "link set eth1 up txqueuelen 500 alias uplink allmulticast on",
        "link property add dev eth1 altname enp9s0 altname wan",
        "link set eth2 mtu 4000 address 02:00:00:00:00:22 promisc on",
    )
    return node.everything(pod)


@pytest.fixture
def asked(node: Node, pod: Space, before: Document) -> Document:
    """The configuration of the attachment."""
    assert before
    whole = config(["eth1", "eth2"], ifname="fast0", ipam=node.host_local())
    node.cni("ADD", whole, pod).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    assert len(node.leases()) == 1
    return whole


def delete(node: Node, pod: Space | None, text: Document | bytes) -> Answer:
    return node.cni("DEL", text, pod)


def test_everything_of_a_link_comes_back(
    node: Node, pod: Space, asked: Document, before: Document
) -> None:
    """Name, altnames, alias, MAC, MTU, queue length, up, promisc, allmulti, ifindex."""
    answer = delete(node, pod, asked)
    answer.ok()
    assert answer.document == {}
    assert answer.stderr == ""
    assert node.everything(pod) == before
    assert before[f"{node.space.name}.links.eth1.altnames"] == ["enp9s0", "wan"]
    assert before[f"{node.space.name}.links.eth1.ifalias"] == "uplink"
    assert "UP" in before[f"{node.space.name}.links.eth1.flags"]
    assert "PROMISC" in before[f"{node.space.name}.links.eth2.flags"]


def test_twice(node: Node, pod: Space, asked: Document, before: Document) -> None:
    delete(node, pod, asked).ok()
    delete(node, pod, asked).ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize("gone", [False, True], ids=["pod there", "pod gone"])
def test_nothing_was_attached(node: Node, pod: Space, before: Document, *, gone: bool) -> None:
    if gone:
        pod.delete()
    ipam = node.host_local()
    delete(node, pod, config(["eth1", "eth2"], ipam=ipam)).ok()
    assert node.everything() == {k: v for k, v in before.items() if not k.startswith(pod.name)}


# The pod has changed


def bond_deleted(_node: Node, pod: Space) -> None:
    pod.ip("link", "del", "bond0")
    assert {"eth1", "eth2"} <= pod.links().keys()


def bond_renamed(_node: Node, pod: Space) -> None:
    pod.batch("link set bond0 down", "link set bond0 name lag9", "link set lag9 up")


def bond_deleted_and_another_has_its_name(_node: Node, pod: Space) -> None:
    pod.batch("link del bond0", "link add bond0 type bridge", "link set eth1 master bond0")


def bond_without_members(_node: Node, pod: Space) -> None:
    pod.batch("link set eth1 nomaster", "link set eth2 nomaster")


def member_taken_out(_node: Node, pod: Space) -> None:
    pod.ip("link", "set", "eth1", "nomaster")


def member_in_a_bridge(_node: Node, pod: Space) -> None:
    pod.batch("link set eth1 nomaster", "link add br9 type bridge", "link set eth1 master br9")


def members_renamed(_node: Node, pod: Space) -> None:
    pod.batch(
        *("link set eth1 down", "link set eth1 name nic5", "link set eth2 down"),
        *("link set eth2 name nic6", "link set nic5 up", "link set nic6 up"),
    )


def names_swapped(_node: Node, pod: Space) -> None:
    pod.batch(
        *("link set eth1 down", "link set eth2 down", "link set eth1 name tmp"),
        *("link set eth2 name eth1", "link set tmp name eth2"),
        *("link set eth1 up", "link set eth2 up"),
    )


def mac_changed(_node: Node, pod: Space) -> None:
    pod.ip("link", "set", "bond0", "address", "02:00:00:00:00:aa")


def mac_of_a_lone_member_changed(_node: Node, pod: Space) -> None:
    pod.batch("link set eth1 nomaster", "link set eth1 address 02:00:00:00:00:bb")


def mtu_changed(_node: Node, pod: Space) -> None:
    pod.ip("link", "set", "bond0", "mtu", "1280")


def all_attributes_changed(_node: Node, pod: Space) -> None:
    pod.batch(
        "link set eth1 alias mine txqueuelen 9 promisc on allmulticast off",
        "link property add dev eth2 altname inpod",
        "link property del dev eth1 altname enp9s0 altname wan",
        "link set eth2 promisc off alias theirs",
    )


def stacked_upon(_node: Node, pod: Space) -> None:
    pod.batch(
        "link add link bond0 name bond0.5 type vlan id 5",
        "link add mv0 link bond0 type macvlan",
        "addr add 192.0.2.77/24 dev bond0.5",
    )


CHANGES: list[Callable[[Node, Space], None]] = [
    *(bond_deleted, bond_renamed, bond_deleted_and_another_has_its_name, bond_without_members),
    *(member_taken_out, member_in_a_bridge, members_renamed, names_swapped, mac_changed),
    *(mac_of_a_lone_member_changed, mtu_changed, all_attributes_changed, stacked_upon),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_in_the_pod(
    node: Node,
    pod: Space,
    asked: Document,
    before: Document,
    change: Callable[[Node, Space], None],
) -> None:
    change(node, pod)
    foreign = {
        name
        for name, link in pod.links().items()
        if link.get("linkinfo", {}).get("info_kind") == "bridge"
    }
    delete(node, pod, asked).ok()
    after = node.everything(pod)
    assert {k: v for k, v in after.items() if foreign.isdisjoint(k.split("."))} == before
    assert foreign <= pod.links().keys()


# The namespace is gone


@pytest.mark.parametrize("how", ["path gone", "empty", "stale file", "our own"])
def test_namespace_gone_with_its_virtual_links(
    node: Node, pod: Space, asked: Document, how: str
) -> None:
    """veths are destroyed with the pod: reported, the lease is released, the record removed."""
    pod.delete()
    wait(lambda: len(node.switch.links()) == 2)  # the kernel cleans up the namespace a little later
    path = {"path gone": pod.path, "empty": "", "our own": node.space.path}.get(how)
    if path is None:
        path = str(node.folder / "stale")
        (node.folder / "stale").touch()
    answer = node.cni("DEL", asked, None, env={"CNI_NETNS": path})
    answer.ok()
    assert "eth1" in answer.stderr
    assert "eth2" in answer.stderr
    assert node.leases() == set()
    assert node.records() == set()
    assert node.space.links().keys() == {"lo"}


@pytest.mark.parametrize("how", ["empty", "another path", "our own"])
def test_namespace_named_otherwise_and_alive(
    node: Node, pod: Space, asked: Document, before: Document, how: str
) -> None:
    """The record has the namespace, and its identity."""
    path = {"empty": "", "another path": "/nowhere", "our own": node.space.path}[how]
    node.cni("DEL", asked, None, env={"CNI_NETNS": path}).ok()
    assert node.everything(pod) == before


def test_namespace_gone_while_links_are_home(
    node: Node, pod: Space, asked: Document, before: Document
) -> None:
    """The links were moved back by hand, in the state in which they left the bond."""
    pod.batch(
        f"link set eth1 nomaster netns {node.space.name}",
        f"link set eth2 nomaster netns {node.space.name}",
    )
    pod.delete()
    delete(node, pod, asked).ok()
    after = {k: v for k, v in before.items() if not k.startswith(pod.name)}
    assert node.everything() == after


def test_pod_links_and_namespace_gone(node: Node, pod: Space) -> None:
    node.veth("net1", pod)
    node.veth("net2", pod)
    asked = config(["net1", "net2"], linksInContainer=True, ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    pod.delete()
    delete(node, pod, asked).ok()
    assert node.leases() == set()
    assert node.records() == set()


# The configuration has changed


EDITS: dict[str, Document | bytes] = {
    "garbage": b"{",
    "empty": b"",
    "null": b"null",
    "no links": {"cniVersion": "1.0.0", "name": "net", "type": "bond"},
    "other links": config(["eth7", "eth8"]),
    "one link": config(["eth1"]),
    "other mode": config(["eth1", "eth2"], "balance-alb"),
    "unknown mode": config(["eth1", "eth2"], "fastest"),
    "other place": config(["eth1", "eth2"], linksInContainer=True),
    "other ipam": config(["eth1", "eth2"], ipam={"type": "nowhere-to-be-found"}),
    "other name": config(["eth1", "eth2"], name="other", ifname="other0"),
    "other version": config(["eth1", "eth2"], cniVersion="9.9.9"),
    "impossible": config(["eth1", "eth2"], mtu=-1, miimon="often", options={"x": 1}),
    "prevResult of a stranger": config(["eth1", "eth2"], prevResult={"ips": "none"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited(node: Node, pod: Space, asked: Document, before: Document, edit: str) -> None:
    """The record counts: with it DEL needs no configuration at all."""
    assert asked
    delete(node, pod, EDITS[edit]).ok()
    assert node.everything(pod) == before


def test_lenient_without_a_record_too(node: Node, pod: Space, before: Document) -> None:
    """DEL succeeds with a configuration that ADD would refuse."""
    delete(node, pod, config(["eth1"], "fastest", miimon="often")).ok()
    assert node.everything(pod) == before


def test_record_unreadable(node: Node, pod: Space, asked: Document, before: Document) -> None:
    """Renamed and reported; configuration and kernel have enough information."""
    (node.state / "c1:bond0.json").write_text("{ torn")
    answer = delete(node, pod, asked)
    answer.ok()
    assert "c1:bond0.json" in answer.stderr
    assert pod.links().keys() == {"lo"}
    assert node.leases() == set()
    assert node.space.links().keys() == {"lo", "eth1", "eth2"}
    for name in ("eth1", "eth2"):
        key = f"{node.space.name}.links.{name}.address"
        assert node.everything()[key] == before[key]


# No record


def bond_by_hand(pod: Space, *members: str, name: str = "bond0") -> None:
    pod.batch(
        f"link add {name} type bond mode active-backup miimon 100",
        *(f"link set {member} down master {name}" for member in members),
        f"link set {name} up",
    )


def test_bond_of_another_plugin_with_our_links(node: Node, pod: Space, before: Document) -> None:
    """A migration from the Go plugin: its bond is deleted, its links are restored."""
    names = node.space.name
    node.space.batch(f"link set eth1 netns {pod.name}", f"link set eth2 netns {pod.name}")
    bond_by_hand(pod, "eth1", "eth2")
    delete(node, pod, config(["eth1", "eth2"])).ok()
    assert pod.links().keys() == {"lo"}
    after = node.everything(pod)
    for name in ("eth1", "eth2"):
        for what in ("address", "mtu", "ifalias"):
            key = f"{names}.links.{name}.{what}"
            assert after.get(key) == before.get(key)


def test_bond_of_another_plugin_with_pod_links(node: Node, pod: Space) -> None:
    node.veth("net1", pod)
    node.veth("net2", pod)
    before = node.everything(pod)
    bond_by_hand(pod, "net1", "net2")
    delete(node, pod, config(["net1", "net2"], linksInContainer=True)).ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize("links", [["eth1", "eth2"], ["net1", "eth2"]], ids=["none", "one"])
def test_bond_of_other_links_is_let_be(node: Node, pod: Space, links: list[str]) -> None:
    node.veth("net1", pod)
    node.veth("net2", pod)
    bond_by_hand(pod, "net1", "net2")
    before = node.everything(pod)
    delete(node, pod, config(links, linksInContainer=True)).ok()
    assert node.everything(pod) == before


def test_an_empty_bond_of_the_pod_is_let_be(node: Node, pod: Space) -> None:
    """ADD is refused because the name exists; the runtime's DEL must not delete the pod's bond."""
    node.veth("net1", pod)
    node.veth("net2", pod)
    bond_by_hand(pod)
    before = node.everything(pod)
    wanted = config(["net1", "net2"], linksInContainer=True)
    node.cni("ADD", wanted, pod).failed(101)
    delete(node, pod, wanted).ok()
    assert node.everything(pod) == before


def test_bond_of_another_name_is_let_be(node: Node, pod: Space) -> None:
    node.veth("net1", pod)
    node.veth("net2", pod)
    bond_by_hand(pod, "net1", "net2", name="lag0")
    before = node.everything(pod)
    delete(node, pod, config(["net1", "net2"], linksInContainer=True)).ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize(
    "kind", ["dummy", "bridge", "veth peer name far0", "vlan id 7 link d0", "macvlan link d0"]
)
def test_interface_that_is_no_bond_is_let_be(
    node: Node, pod: Space, before: Document, kind: str
) -> None:
    """ADD is refused because the name exists; the runtime's DEL must not delete the pod's eth0."""
    assert before
    sort, _, rest = kind.partition(" ")
    lower = "link d0" if "link d0" in rest else ""
    pod.batch(
        "link add d0 up type dummy",
        f"link add {lower} name eth0 type {sort} {rest.replace('link d0', '')}",
        "link set eth0 up",
        "addr add 192.0.2.5/24 dev eth0",
    )
    there = node.everything(pod)
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    assert "eth0" in node.cni("ADD", asked, pod, ifname="eth0").failed(101)
    node.cni("DEL", asked, pod, ifname="eth0").ok()
    assert node.everything(pod) == there


def test_pod_of_another_attachment_is_let_be(node: Node, pod: Space, asked: Document) -> None:
    """DEL of a second attachment that was never made, in a pod that has the first."""
    there = node.everything(pod)
    node.cni("DEL", asked, pod, ifname="bond1").ok()
    node.cni("DEL", config(["eth1", "eth2"]), pod, container="c2", ifname="bond1").ok()
    assert node.everything(pod) == there


# The host has changed


def test_home_name_taken_meanwhile(node: Node, pod: Space, asked: Document) -> None:
    """The link is restored under another name, and this is reported."""
    node.space.ip("link", "add", "eth1", "type", "dummy")
    stranger = node.space.link("eth1")
    mac = next(m["permaddr"] if "permaddr" in m else m["address"] for m in [pod.link("eth1")])
    answer = delete(node, pod, asked)
    answer.ok()
    assert "eth1" in answer.stderr
    assert node.space.link("eth1")["address"] == stranger["address"]
    assert node.space.links().keys() - {"lo", "eth1", "eth2"} != set()
    other = (node.space.links().keys() - {"lo", "eth1", "eth2"}).pop()
    back = node.space.link(other)
    assert back["linkinfo"]["info_kind"] == "veth"
    assert back["address"] == mac
    assert back["altnames"] == ["enp9s0", "wan"]
    assert back["ifalias"] == "uplink"
    assert pod.links().keys() == {"lo"}
    assert node.records() == set()


def test_home_altname_taken_meanwhile(
    node: Node, pod: Space, asked: Document, before: Document
) -> None:
    node.space.batch("link add d0 type dummy", "link property add dev d0 altname wan")
    answer = delete(node, pod, asked)
    answer.ok()
    assert "wan" in answer.stderr
    links = node.space.links()
    assert links["eth1"]["altnames"] == ["enp9s0"]
    assert links["d0"]["altnames"] == ["wan"]
    assert links["eth1"]["address"] == before[f"{node.space.name}.links.eth1.address"]
    assert node.records() == set()


def test_home_ifindex_taken_meanwhile(
    node: Node, pod: Space, asked: Document, before: Document
) -> None:
    index = before[f"{node.space.name}.links.eth1.ifindex"]
    node.space.ip("link", "add", "d0", "index", str(index), "type", "dummy")
    delete(node, pod, asked).ok()
    assert node.space.link("d0")["ifindex"] == index
    node.space.ip("link", "del", "d0")
    after = node.everything(pod)
    moved = {key for key, value in before.items() if after.get(key) != value}
    assert moved == {f"{node.space.name}.links.eth1.ifindex"}


# IPAM


def test_ipam_fails(node: Node, pod: Space, asked: Document, before: Document) -> None:
    """The links are restored all the same; the record stays until the address is released."""
    folder = {"CNI_PATH": str(node.folder)}
    node.delegate("host-local", 'echo \'{"code": 11, "msg": "not now"}\'; exit 1')
    said = node.cni("DEL", asked, pod, env=folder).failed(LEFT)
    assert "host-local" in said
    assert "not now" in said
    assert len(node.leases()) == 1
    assert node.records() == {"c1:bond0.json"}
    now = node.everything(pod)
    for part in ("leases", "records"):
        assert now.pop(part) != before[part]
    assert now == {k: v for k, v in before.items() if k not in ("leases", "records")}
    (node.folder / "host-local").unlink()
    delete(node, pod, asked).ok()
    assert node.everything(pod) == before


def test_ipam_missing_and_namespace_gone(node: Node, pod: Space, asked: Document) -> None:
    pod.delete()
    answer = node.cni("DEL", asked, pod, env={"CNI_PATH": str(node.folder)})
    assert "host-local" in answer.failed(LEFT)
    delete(node, pod, asked).ok()
    assert node.leases() == set()
    assert node.records() == set()


def test_ipam_gets_the_configuration_of_add(node: Node, pod: Space, before: Document) -> None:
    """The delegate must not get an edited configuration: it would not find the lease."""
    assert before
    log = node.folder / "log"
    result = '{"cniVersion": "1.0.0", "ips": [{"address": "10.3.0.1/24"}]}'
    node.delegate(
        "ours", f"echo $CNI_COMMAND $EXTRA >> {log}; cat >> {log}; echo >> {log}; echo '{result}'"
    )
    asked = config(["eth1", "eth2"], ipam={"type": "ours", "pool": "first"})
    node.cni("ADD", asked, pod).ok()
    edited = config(["eth1", "eth2"], ipam={"type": "ours", "pool": "second"})
    node.cni("DEL", edited, pod, env={"EXTRA": "whole-environment"}).ok()
    lines = log.read_text().splitlines()
    assert lines[2] == "DEL whole-environment"
    assert '"first"' in lines[3]
    assert '"second"' not in lines[3]
