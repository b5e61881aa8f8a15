"""What is refused, and that a refusal changes nothing.

Each case makes its cause on a real kernel, calls ADD, and compares the answer with its CNI code and
with the words that name the cause. Links, addresses, routes, leases and journal are as they were,
then and after the DEL that a runtime sends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config

from bondcni.service.timeouts import Timeouts

Words = list[str]
Cause = Callable[[Node, Space], tuple[Document, Words]]

REFUSED, KERNEL, VERIFY, DELEGATE, LEFT = 101, 102, 103, 104, 106


def refused(node: Node, pod: Space, asked: Document, code: int, words: Words, **how: Any) -> str:
    """Call ADD twice; it is refused, and everything is as before. The text of the answer."""
    before = node.everything(pod)
    said = node.cni("ADD", asked, pod, **how).failed(code)
    for word in words:
        assert word in said
    assert node.everything(pod) == before
    node.cni("DEL", asked, pod, **how).ok()
    assert node.everything(pod) == before
    return said


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    """Two suitable host links, until the case changes one."""
    node.veth("eth1")
    node.veth("eth2")


# One cause each: what is done to the node or the pod, the configuration, the message.


def link_missing(node: Node, _pod: Space) -> tuple[Document, Words]:
    return config(["eth1", "nope"], ipam=node.host_local()), ["name nope", "not found on the host"]


def link_missing_by_mac(_node: Node, _pod: Space) -> tuple[Document, Words]:
    links: list[str | Document] = ["eth1", {"mac": "02:00:00:00:00:99"}]
    return config(links), ["mac 02:00:00:00:00:99", "not found on the host"]


def link_missing_by_pci(_node: Node, _pod: Space) -> tuple[Document, Words]:
    links: list[str | Document] = ["eth1", {"pci": "0000:3b:02.1"}]
    return config(links), ["pci 0000:3b:02.1", "not found on the host"]


def link_is_the_bond(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "add", "bond0", "type", "dummy")
    return config(["eth1", "bond0"]), ["link bond0 has the same name as the bond"]


def link_is_the_bond_by_altname(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "property", "add", "dev", "eth2", "altname", "bond0")
    return config(["eth1", "eth2"]), ["link eth2 has the same name as the bond"]


def in_a_bond(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.batch("link add bond9 type bond", "link set eth2 master bond9")
    return config(["eth1", "eth2"]), ["eth2 already has a master: bond bond9"]


def in_a_bridge(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.batch("link add br9 type bridge", "link set eth2 master br9")
    return config(["eth1", "eth2"]), ["eth2 already has a master: bridge br9"]


def macvlan_on_it(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "add", "mv0", "link", "eth2", "type", "macvlan")
    return config(["eth1", "eth2"]), ["eth2 has the macvlan mv0 on top of it"]


def ipvlan_on_it(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "add", "iv0", "link", "eth2", "type", "ipvlan")
    return config(["eth1", "eth2"]), ["eth2 has the ipvlan iv0 on top of it"]


def vlan_on_it(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "add", "link", "eth2", "name", "eth2.7", "type", "vlan", "id", "7")
    return config(["eth1", "eth2"]), ["host link eth2 is in use", "vlan eth2.7 is on top of it"]


def loopback(_node: Node, _pod: Space) -> tuple[Document, Words]:
    return config(["lo", "eth1"]), ["link lo is the loopback interface"]


def other_device_type(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "add", "mon0", "type", "nlmon")
    return config(["eth1", "mon0"]), ["different types", "eth1 (ARPHRD 1)", "mon0 (ARPHRD 824)"]


def default_route(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.batch("link set eth1 up", "route add default dev eth1")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "default route"]


def default_route_v6(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.batch("link set eth1 up", "route add ::/0 dev eth1")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "default route"]


def default_route_in_a_table(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.batch("link set eth1 up", "route add default dev eth1 table 100")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "default route"]


def default_route_of_two_hops(node: Node, _pod: Space) -> tuple[Document, Words]:
    hops = "nexthop dev eth1 nexthop dev eth2"
    node.space.batch("link set eth1 up", "link set eth2 up", f"route add default {hops}")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "host link eth2 is in use"]


def global_address(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("addr", "add", "192.0.2.2/24", "dev", "eth1")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "192.0.2.2/24"]


def global_address_v6(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("addr", "add", "2001:db8::2/64", "dev", "eth1")
    return config(["eth1", "eth2"]), ["host link eth1 is in use", "2001:db8::2/64"]


def twice_by_altname(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "property", "add", "dev", "eth1", "altname", "uplink")
    return config(["eth1", "uplink"]), ["link eth1 is listed 2 times"]


def twice_by_mac(node: Node, _pod: Space) -> tuple[Document, Words]:
    links: list[str | Document] = ["eth1", {"mac": node.space.link("eth1")["address"].upper()}]
    return config(links), ["link eth1 is listed 2 times"]


def ambiguous_mac(node: Node, _pod: Space) -> tuple[Document, Words]:
    mac = node.space.link("eth1")["address"]
    node.space.ip("link", "set", "eth2", "address", mac)
    links: list[str | Document] = ["eth1", {"mac": mac}]
    return config(links), [f"mac {mac} is ambiguous", "eth1, eth2"]


def mtu_above_members(node: Node, _pod: Space) -> tuple[Document, Words]:
    node.space.ip("link", "set", "eth1", "mtu", "9000")
    return config(["eth1", "eth2"], mtu=9000), ["mtu 9000 exceeds the MTU of eth2 (1500)"]


def bond_name_taken(_node: Node, pod: Space) -> tuple[Document, Words]:
    pod.ip("link", "add", "bond0", "type", "dummy")
    return config(["eth1", "eth2"]), ["interface name bond0 is already taken in the pod"]


def bond_name_taken_as_altname(_node: Node, pod: Space) -> tuple[Document, Words]:
    pod.batch("link add d0 type dummy", "link property add dev d0 altname bond0")
    return config(["eth1", "eth2"]), ["interface name bond0 is already taken in the pod"]


def link_name_taken(_node: Node, pod: Space) -> tuple[Document, Words]:
    pod.ip("link", "add", "eth1", "type", "dummy")
    return config(["eth1", "eth2"]), ["link eth1: the pod already has an interface named eth1"]


def pod_link_missing(node: Node, pod: Space) -> tuple[Document, Words]:
    node.veth("net1", pod)
    return config(["net1", "eth1"], linksInContainer=True), ["name eth1", "not found in the pod"]


def pod_link_in_a_bridge(node: Node, pod: Space) -> tuple[Document, Words]:
    node.veth("net1", pod)
    node.veth("net2", pod)
    pod.batch("link add br9 type bridge", "link set net2 master br9")
    words = ["net2 already has a master: bridge br9"]
    return config(["net1", "net2"], linksInContainer=True), words


CAUSES: list[Cause] = [
    *(link_missing, link_missing_by_mac, link_missing_by_pci),
    *(link_is_the_bond, link_is_the_bond_by_altname, in_a_bond, in_a_bridge),
    *(macvlan_on_it, ipvlan_on_it, vlan_on_it, loopback, other_device_type),
    *(default_route, default_route_v6, default_route_in_a_table, default_route_of_two_hops),
    *(global_address, global_address_v6, twice_by_altname, twice_by_mac, ambiguous_mac),
    *(mtu_above_members, bond_name_taken, bond_name_taken_as_altname),
    *(link_name_taken, pod_link_missing, pod_link_in_a_bridge),
]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_not_on_this_node(node: Node, pod: Space, cause: Cause) -> None:
    refused(node, pod, *reorder(cause(node, pod)))


def reorder(found: tuple[Document, Words]) -> tuple[Document, int, Words]:
    return found[0], REFUSED, found[1]


def test_every_reason_is_told_at_once(node: Node, pod: Space) -> None:
    node.space.batch("link add br9 type bridge", "link set eth2 master br9")
    pod.ip("link", "add", "bond0", "type", "dummy")
    asked = config(["nope", "eth2", "lo"], ipam=node.host_local())
    words = ["nope", "eth2 already has a master", "lo is the loopback", "name bond0 is already"]
    refused(node, pod, asked, REFUSED, words)


def same_macs(node: Node) -> None:
    mac = node.space.link("eth1")["address"]
    node.space.ip("link", "set", "eth2", "address", mac)


@pytest.mark.parametrize(
    "mode", ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad"]
)
def test_same_mac_where_the_mode_can(node: Node, pod: Space, mode: str) -> None:
    same_macs(node)
    before, asked = node.everything(pod), config(["eth1", "eth2"], mode)
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def test_second_add_of_the_same_attachment(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    before = node.everything(pod)
    assert "bond0 is already taken" in node.cni("ADD", asked, pod).failed(REFUSED)
    assert node.everything(pod) == before
    assert before["leases"] == {"10.1.0.2"}


# The environment and the input


def test_namespace_gone(node: Node, pod: Space) -> None:
    asked, before = config(["eth1", "eth2"], ipam=node.host_local()), node.everything()
    pod.delete()
    assert pod.path in node.cni("ADD", asked, pod).failed(3)
    assert node.everything() == before


@pytest.mark.parametrize("kind", ["file", "folder", "mount namespace"])
def test_namespace_is_none(node: Node, pod: Space, kind: str) -> None:
    plain = node.folder / "plain"
    plain.touch()
    path = {"file": plain, "folder": node.folder, "mount namespace": "/proc/self/ns/mnt"}[kind]
    how = {"env": {"CNI_NETNS": str(path)}}
    asked = config(["eth1", "eth2"], ipam=node.host_local())
    refused(node, pod, asked, 4, [str(path), "not a network namespace"], **how)


def test_namespace_is_our_own(node: Node, pod: Space) -> None:
    how = {"env": {"CNI_NETNS": node.space.path}}
    refused(node, pod, config(["eth1", "eth2"]), 4, ["CNI_NETNS", node.space.path], **how)


def test_namespace_is_our_own_and_has_such_a_bond(node: Node, pod: Space) -> None:
    """The DEL after the refused ADD must not delete the node's own bond."""
    node.space.batch(
        "link add bond0 type bond", "link set eth1 master bond0", "link set eth2 master bond0"
    )
    how = {"env": {"CNI_NETNS": node.space.path}}
    refused(node, pod, config(["eth1", "eth2"]), 4, ["CNI_NETNS"], **how)
    assert node.space.members("bond0") == {"eth1", "eth2"}


def test_environment_missing(node: Node, pod: Space) -> None:
    env = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}
    before = node.everything(pod)
    said = node.cni("ADD", config(["eth1", "eth2"]), pod, env=env).failed(4)
    assert all(name in said for name in env)
    assert node.everything(pod) == before


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        (b"{", 6, "not valid JSON"),
        (b"", 6, "not valid JSON"),
        (b"[]", 6, "not a JSON object"),
        (json.dumps(config(["eth1"])).encode(), 7, "at least 2 links"),
        (json.dumps(config(["eth1", "eth1"])).encode(), 7, "link eth1 is listed twice"),
        (json.dumps(config(["eth1", "eth2"], mode="fast")).encode(), 7, "active-backup"),
        (json.dumps(config(["eth1", "eth2"], cniVersion="9.9.9")).encode(), 1, "1.1.0"),
        (
            json.dumps(config(["eth1", "eth2"], prevResult={"ips": 1})).encode(),
            7,
            "/prevResult/ips",
        ),
    ],
)
def test_input(node: Node, pod: Space, text: bytes, code: int, word: str) -> None:
    before = node.everything(pod)
    assert word in node.cni("ADD", text, pod).failed(code)
    assert node.everything(pod) == before


# The delegate


def calls(node: Node) -> list[str]:
    """The verbs with which our delegate was called, in order."""
    log = node.folder / "calls"
    return log.read_text().split() if log.exists() else []


def ipam_of_ours(node: Node, on_add: str) -> Document:
    """A delegate that does ``on_add`` at ADD, and logs its calls."""
    log = node.folder / "calls"
    script = (
        f"echo $CNI_COMMAND >> {log}\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\n{on_add}"
    )
    node.delegate("ours", script)
    return {"type": "ours"}


def answer(**document: Any) -> str:
    return f"echo '{json.dumps({'cniVersion': '1.0.0', **document})}'"


IPAM_FAILURES = {
    "says why": (
        'echo \'{"code": 11, "msg": "pool is busy"}\'; exit 1',
        11,
        ["ours", "pool is busy"],
    ),
    "own code": ('echo \'{"code": 777, "msg": "no", "details": "d8"}\'; exit 1', 777, ["no", "d8"]),
    "says nothing": ("exit 3", DELEGATE, ["ours", "ADD", "exit code 3"]),
    "killed": ("kill -9 $$", DELEGATE, ["ours", "ADD", "signal 9"]),
    "plain text": ("echo broken pipe to heaven; exit 1", DELEGATE, ["broken pipe to heaven"]),
    "rubbish": ("echo hello", DELEGATE, ["ours", "invalid CNI result"]),
    "no document": ("true", DELEGATE, ["ours", "invalid CNI result"]),
    "a list": ("echo '[]'", DELEGATE, ["ours", "invalid CNI result", "object"]),
    "no address": (answer(ips=[]), DELEGATE, ["ours", "no address"]),
    "address of no kind": (answer(ips=[{"address": "10.1.0.300/24"}]), DELEGATE, ["10.1.0.300"]),
    "address a number": (answer(ips=[{"address": 5}]), DELEGATE, ["ours", "address"]),
    "ips no list": (answer(ips="10.0.0.1/8"), DELEGATE, ["ours", "/ips: must be a list"]),
    "route of no kind": (
        answer(ips=[{"address": "10.1.0.3/24"}], routes=[{"dst": "nowhere"}]),
        *(DELEGATE, ["nowhere"]),
    ),
    "route gateway of no kind": (
        answer(ips=[{"address": "10.1.0.3/24"}], routes=[{"dst": "0.0.0.0/0", "gw": "up"}]),
        *(DELEGATE, ["up"]),
    ),
    "route metric of no kind": (
        answer(ips=[{"address": "10.1.0.3/24"}], routes=[{"dst": "1.0.0.0/8", "mtu": "x"}]),
        *(DELEGATE, ["mtu"]),
    ),
    "same address twice": (
        answer(ips=[{"address": "10.1.0.3/24"}] * 2),
        *(KERNEL, ["add 10.1.0.3/24 to bond0", "EEXIST"]),
    ),
    "gateway out of reach": (
        answer(ips=[{"address": "10.1.0.3/24"}], routes=[{"dst": "0.0.0.0/0", "gw": "10.9.9.9"}]),
        *(KERNEL, ["add route 0.0.0.0/0 via 10.9.9.9"]),
    ),
    "too much": ("head -c 3000000 /dev/zero", DELEGATE, ["ours", "more than"]),
}


@pytest.mark.parametrize("failure", IPAM_FAILURES)
def test_ipam_fails(node: Node, pod: Space, failure: str) -> None:
    script, code, words = IPAM_FAILURES[failure]
    asked = config(["eth1", "eth2"], ipam=ipam_of_ours(node, script))
    refused(node, pod, asked, code, words)
    assert calls(node) == ["ADD", "DEL", "DEL"]


@pytest.mark.parametrize("failure", ["says why", "rubbish", "gateway out of reach"])
def test_ipam_fails_for_pod_links(node: Node, pod: Space, failure: str) -> None:
    node.space.batch(f"link set eth1 netns {pod.name}", f"link set eth2 netns {pod.name}")
    script, code, words = IPAM_FAILURES[failure]
    asked = config(["eth1", "eth2"], linksInContainer=True, ipam=ipam_of_ours(node, script))
    refused(node, pod, asked, code, words)
    assert calls(node) == ["ADD", "DEL", "DEL"]


def test_ipam_hangs(node: Node, pod: Space) -> None:
    node.timeouts = Timeouts(delegate=0.5)
    asked = config(
        ["eth1", "eth2"], ipam=ipam_of_ours(node, f"sleep 60 & echo $! > {node.folder}/pid; wait")
    )
    refused(node, pod, asked, 11, ["IPAM plugin ours", "ADD"])
    assert calls(node) == ["ADD", "DEL", "DEL"]
    child = (node.folder / "pid").read_text().strip()
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "zombie" in status.read_text()


@pytest.mark.parametrize("how", ["missing", "not executable", "a folder"])
def test_ipam_cannot_be_started(node: Node, pod: Space, how: str) -> None:
    """Nothing is changed; DEL warns that nothing was reserved."""
    if how == "not executable":
        node.delegate("ours", "exit 0")
        (node.folder / "ours").chmod(0o644)
    elif how == "a folder":
        (node.folder / "ours").mkdir()
    asked = config(["eth1", "eth2"], ipam={"type": "ours"})
    before = node.everything(pod)
    said = node.cni("ADD", asked, pod).failed(DELEGATE)
    assert "IPAM plugin ours is not in CNI_PATH" in said
    assert str(node.folder) in said
    assert node.everything(pod) == before
    answer = node.cni("DEL", asked, pod)
    answer.ok()
    assert "IPAM plugin ours" in answer.stderr
    assert node.everything(pod) == before


def test_ipam_is_no_program(node: Node, pod: Space) -> None:
    (node.folder / "ours").write_bytes(b"\x7fELFnot")
    (node.folder / "ours").chmod(0o755)
    asked = config(["eth1", "eth2"], ipam={"type": "ours"})
    before = node.everything(pod)
    assert "ours cannot be started" in node.cni("ADD", asked, pod).failed(DELEGATE)
    after = node.everything(pod)
    assert {**after, "records": set()} == before


def test_pool_is_empty(node: Node, pod: Space) -> None:
    """host-local's own refusal; the pod with the only address keeps it."""
    node.veth("eth3")
    node.veth("eth4")
    pool = node.host_local("10.2.0.0/24", rangeStart="10.2.0.5", rangeEnd="10.2.0.5")
    node.cni("ADD", config(["eth1", "eth2"], ipam=pool), pod).ok()
    second = node.pod()
    asked = config(["eth3", "eth4"], ipam=pool)
    said = refused(node, second, asked, 999, ["host-local"], container="c2")
    assert "no IP addresses available" in said
    assert node.leases() == {"10.2.0.5"}
    assert pod.addresses("bond0") == {"10.2.0.5/24"}


# The kernel itself

RELEASE = tuple(map(int, os.uname().release.split(".")[:2]))


@pytest.mark.skipif(RELEASE >= (6, 18), reason="this kernel has ad_select actor_port_prio")
def test_kernel_refuses_a_value(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], "802.3ad", adSelect=3, ipam=node.host_local())
    refused(node, pod, asked, KERNEL, ["create bond bond0", "option ad_select", "EINVAL"])


@pytest.mark.skipif(RELEASE < (7, 2), reason="this kernel still takes use_carrier 0")
def test_kernel_refuses_what_is_obsolete(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], useCarrier=0, ipam=node.host_local())
    refused(node, pod, asked, KERNEL, ["create bond bond0", "option useCarrier", "obsolete"])


@pytest.mark.skipif(RELEASE >= (7, 2), reason="this kernel has lacp_strict")
def test_kernel_accepts_and_drops_an_option(node: Node, pod: Space) -> None:
    asked = config(["eth1", "eth2"], "802.3ad", lacpStrict=True, ipam=node.host_local())
    words = ["lacpStrict on is not supported by this kernel"]
    refused(node, pod, asked, VERIFY, words)


def test_kernel_refuses_a_member_option(node: Node, pod: Space) -> None:
    asked = config([{"name": "eth1", "queueId": 60000}, "eth2"])
    refused(node, pod, asked, KERNEL, ["eth1", "queueId", "EPERM"])


def test_kernel_refuses_the_active_member(node: Node, pod: Space) -> None:
    """activeSlave needs a member with carrier; the far end of this one is down."""
    far = f"s{node.number}eth2"
    node.switch.ip("link", "set", far, "down")
    asked = config(["eth1", "eth2"], activeSlave="eth2", ipam=node.host_local())
    refused(node, pod, asked, KERNEL, ["bond0", "activeSlave", "EINVAL"])
