"""Defects of the Go plugin (bond-cni at 258926a, D1 to D27), and what this plugin does instead.

One test for each, with its number; the first line of its docstring is the defect. Those that need
no kernel are in ``tests/unit/test_defects.py``.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, Space, config, wait_for
from tests.kernel.faults import at, faults

REFUSED, KERNEL, CHECKED, LEFT = 101, 102, 105, 106


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")


def same_mac(node: Node) -> str:
    mac: str = node.space.link("eth1")["address"]
    node.space.ip("link", "set", "eth2", "address", mac)
    return mac


def both(**extra: Any) -> Document:
    return config(["eth1", "eth2"], **extra)


def ipam(node: Node, script: str = "", **answer: Any) -> Document:
    """A delegate that logs its verbs, then does ``script`` and answers."""
    said = json.dumps({"cniVersion": "1.0.0", **answer})
    log = node.folder / "calls"
    node.delegate("ours", f"echo $CNI_COMMAND >> {log}\n{script}\necho '{said}'")
    return {"type": "ours"}


def calls(node: Node) -> list[str]:
    return (node.folder / "calls").read_text().split()


def permanent(pod: Space) -> set[str]:
    links = pod.links().values()
    return {
        link["linkinfo"]["info_slave_data"]["perm_hwaddr"] for link in links if "master" in link
    }


def test_d01_no_mac_is_made_of_text(node: Node, pod: Space) -> None:
    """The new MAC for a duplicate was the first bytes of its text, 30:32:3a:..."""
    mac = same_mac(node)
    node.cni("ADD", both(mode="balance-xor"), pod).ok()
    assert permanent(pod) == {mac}
    assert {pod.link(name)["address"] for name in ("bond0", "eth1", "eth2")} == {mac}


def test_d02_a_mac_that_cannot_be_set_is_an_error(node: Node, pod: Space) -> None:
    """The error was ignored, and the word "newMac" was used as the address."""
    mac = "02:00:00:00:00:77"
    asked, before = both(runtimeConfig={"mac": mac}), node.everything(pod)
    with faults(at(0, errno.EADDRNOTAVAIL)):
        assert "EADDRNOTAVAIL" in node.cni("ADD", asked, pod).failed(KERNEL)
    assert node.everything(pod) == before
    told = node.cni("ADD", asked, pod).ok()
    assert pod.link("bond0")["address"] == told["interfaces"][0]["mac"] == mac


@pytest.mark.parametrize("mode", ["active-backup", "balance-alb"])
def test_d03_duplicate_macs_are_changed_for_a_reason_and_for_a_time(
    node: Node, pod: Space, mode: str
) -> None:
    """They were changed in every mode, in DEL too, and never restored."""
    same_mac(node)
    before = node.everything(pod)
    node.cni("ADD", both(mode=mode), pod).ok()
    assert len(permanent(pod)) == (1 if mode == "active-backup" else 2)
    node.cni("DEL", both(mode=mode), pod).ok()
    assert node.everything(pod) == before


def test_d04_a_failed_add_gives_the_links_back(node: Node, pod: Space) -> None:
    """They stayed in the pod, and DEL succeeded; they were lost with the pod."""
    before = node.everything()
    asked = config([{"name": "eth1", "queueId": 60000}, "eth2"])
    node.cni("ADD", asked, pod).failed(KERNEL)
    assert pod.links().keys() == {"lo"}
    pod.delete()
    node.cni("DEL", asked, pod).ok()
    assert node.everything() == before


def test_d05_a_link_that_is_missing_strands_no_other(node: Node, pod: Space) -> None:
    """A move that failed after the first link left it there, in both directions."""
    before = node.everything(pod)
    node.cni("ADD", config(["eth1", "nope"]), pod).failed(REFUSED)
    assert node.everything(pod) == before
    node.cni("ADD", both(), pod).ok()
    pod.ip("link", "del", "eth2")
    node.cni("DEL", both(), pod).ok()
    node.cni("DEL", both(), pod).ok()
    assert node.space.links().keys() == {"lo", "eth1"}
    assert pod.links().keys() == {"lo"}


def test_d06_only_our_bond_is_deleted(node: Node, pod: Space) -> None:
    """DEL deleted any interface with the name: after a refused ADD, the pod's eth0."""
    pod.batch("link add eth0 type dummy", "link add eth9 type bond", "link set eth0 master eth9")
    before = node.everything(pod)
    node.cni("ADD", both(), pod, ifname="eth0").failed(REFUSED)
    for name in ("eth0", "eth9"):
        node.cni("DEL", both(), pod, ifname=name).ok()
    assert node.everything(pod) == before


def test_d07_a_failed_add_can_be_asked_again(node: Node, pod: Space) -> None:
    """It left its bond, and the second attempt failed with "file exists"."""
    bad = both(ipam=ipam(node, "[ $CNI_COMMAND = DEL ] || exit 1"))
    node.cni("ADD", bad, pod).failed(104)
    assert pod.links().keys() == {"lo"}
    node.cni("ADD", both(ipam=node.host_local()), pod).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}


@pytest.mark.parametrize(
    "answer", [{}, {"ips": [{"address": "10.1.0.3/24"}] * 2}], ids=["none", "not possible"]
)
def test_d08_an_address_is_released_when_add_fails(
    node: Node, pod: Space, answer: Document
) -> None:
    """DEL of the IPAM plugin was not called when a later step of ADD failed."""
    assert node.cni("ADD", both(ipam=ipam(node, **answer)), pod).status == 1
    assert calls(node) == ["ADD", "DEL"]


def test_d09_del_without_the_namespace(node: Node, pod: Space) -> None:
    """DEL failed for ever when the file of the namespace was gone."""
    asked = both(ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    assert node.leases()
    pod.delete()
    node.cni("DEL", asked, pod).ok()
    assert (node.leases(), node.records()) == (set(), set())


def test_d10_del_with_a_configuration_that_add_would_refuse(node: Node, pod: Space) -> None:
    """DEL validated it again, and failed for ever after it was edited."""
    before = node.everything(pod)
    node.cni("ADD", both(ipam=node.host_local()), pod).ok()
    node.cni("DEL", config(["eth1"], mode="bogus", miimon="x"), pod).ok()
    assert node.everything(pod) == before


def test_d11_links_come_home_though_ipam_fails(node: Node, pod: Space) -> None:
    """An error of the IPAM plugin ended DEL before the interfaces were restored."""
    before = node.space.everything()
    asked = both(
        ipam=ipam(node, "[ $CNI_COMMAND = ADD ] || exit 1", ips=[{"address": "10.1.0.3/8"}])
    )
    node.cni("ADD", asked, pod).ok()
    assert "IPAM plugin ours" in node.cni("DEL", asked, pod).failed(LEFT)
    assert node.space.everything() == before
    assert pod.links().keys() == {"lo"}


def test_d12_check_status_and_gc_do_something(node: Node, pod: Space) -> None:
    """CHECK always succeeded; STATUS and GC did nothing and did not call the IPAM plugin."""
    asked = both(cniVersion="1.1.0", ipam=ipam(node, ips=[{"address": "10.1.0.3/8"}]))
    asked["prevResult"] = node.cni("ADD", asked, pod).ok()
    for verb in ("CHECK", "STATUS", "GC"):
        node.cni(verb, asked, pod).ok()
    assert calls(node) == ["ADD", "CHECK", "STATUS", "GC"]
    pod.ip("link", "del", "bond0")
    assert "bond0" in node.cni("CHECK", asked, pod).failed(CHECKED)
    node.cni("STATUS", {**asked, "mode": "bogus"}).failed(7)
    assert "nobody" in node.cni("STATUS", {**asked, "ipam": {"type": "nobody"}}).failed(104)


def test_d13_the_previous_result_is_kept(node: Node, pod: Space) -> None:
    """The result had the bond only; interfaces of earlier plugins were dropped."""
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": pod.path}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    told = node.cni("ADD", both(prevResult=before, ipam=node.host_local()), pod).ok()
    assert [one["name"] for one in told["interfaces"]] == ["eth0", "bond0"]
    assert [(ip["address"], ip["interface"]) for ip in told["ips"]] == [
        ("192.0.2.7/24", 0),
        ("10.1.0.2/24", 1),
    ]
    assert {"dst": "0.0.0.0/0"} in told["routes"]


def test_d14_dns_of_both(node: Node, pod: Space) -> None:
    """The delegate's dns was overwritten; the configuration's was lost without a delegate."""
    dns = {"nameservers": ["192.0.2.53"], "domain": "site"}
    assert node.cni("ADD", both(dns=dns), pod).ok()["dns"] == dns
    node.cni("DEL", both(dns=dns), pod).ok()
    theirs = {"nameservers": ["10.0.0.53"], "search": ["lan"]}
    asked = both(dns=dns, ipam=ipam(node, ips=[{"address": "10.1.0.3/8"}], dns=theirs))
    told = node.cni("ADD", asked, pod).ok()["dns"]
    assert told == {
        "nameservers": ["10.0.0.53", "192.0.2.53"],
        "search": ["lan"],
        "domain": "site",
    }


def test_d16_an_mtu_that_nobody_asked_for(node: Node, pod: Space) -> None:
    """An absent mtu was checked as 1500, so smaller links were refused after they were moved."""
    node.space.batch("link set eth1 mtu 1400", "link set eth2 mtu 9000")
    before = node.everything(pod)
    node.cni("ADD", both(mtu=1401), pod).failed(REFUSED)
    assert node.everything(pod) == before
    answer = node.cni("ADD", both(), pod)
    answer.ok()
    assert pod.link("bond0")["mtu"] == 1400
    assert "mtu is 1400, the MTU of eth1, instead of 1500" in answer.stderr
    node.cni("DEL", both(), pod).ok()
    assert node.everything(pod) == before


def test_d18_a_link_named_twice(node: Node, pod: Space) -> None:
    """It was accepted: a bond of one member with a wrong MAC."""
    node.space.ip("link", "property", "add", "dev", "eth1", "altname", "uplink")
    before = node.everything(pod)
    assert "listed twice" in node.cni("ADD", config(["eth1", "eth1"]), pod).failed(7)
    assert "2 times" in node.cni("ADD", config(["eth1", "uplink"]), pod).failed(REFUSED)
    assert node.everything(pod) == before


def test_d19_a_member_of_another_is_let_be(node: Node, pod: Space) -> None:
    """It was removed from its bridge without a message, and again by DEL."""
    node.space.batch("link add br9 type bridge", "link set eth2 master br9")
    before = node.everything(pod)
    assert "bridge br9" in node.cni("ADD", both(), pod).failed(REFUSED)
    node.cni("DEL", both(), pod).ok()
    assert node.everything(pod) == before
    assert node.space.members("br9") == {"eth2"}


def test_d20_links_are_up_or_down_as_they_were(node: Node, pod: Space) -> None:
    """DEL set every member up, whatever it was before."""
    node.space.ip("link", "set", "eth1", "up")
    node.cni("ADD", both(), pod).ok()
    node.cni("DEL", both(), pod).ok()
    flags = {name: "UP" in link["flags"] for name, link in node.space.links().items()}
    assert flags == {"lo": True, "eth1": True, "eth2": False}


def test_d21_the_kernel_is_quoted(node: Node, pod: Space) -> None:
    """Unknown keys were ignored without a message; an error was only an errno."""
    asked = config([{"name": "eth1", "queueId": 60000}, "eth2"], primry="eth1")
    answer = node.cni("ADD", asked, pod)
    said = answer.failed(KERNEL)
    assert all(word in said for word in ("eth1", "queueId", "EPERM", "Operation not permitted"))
    assert 'did you mean "primary"' in answer.stderr
    said = node.cni("ADD", both(options={"primry": "eth1"}), pod).failed(7)
    assert "/options/primry: unknown option" in said


def test_d22_the_namespace_is_named(node: Node, pod: Space) -> None:
    """The message was: failed to open netns %!q(<nil>)."""
    pod.delete()
    said = node.cni("ADD", both(), pod).failed(3)
    assert pod.path in said
    assert "%" not in said
    assert "None" not in said


def test_d23_the_name_at_home_is_taken(node: Node, pod: Space) -> None:
    """The move to the host failed, the next DEL succeeded, and the link was lost."""
    mac = node.space.link("eth1")["address"]
    node.cni("ADD", both(), pod).ok()
    node.space.ip("link", "add", "eth1", "type", "dummy")
    answer = node.cni("DEL", both(), pod)
    answer.ok()
    assert "another link has its name" in answer.stderr
    assert pod.links().keys() == {"lo"}
    at_home = {link["address"]: name for name, link in node.space.links().items()}
    assert at_home[mac] not in ("eth1", "eth2")
    assert node.space.link("eth1")["linkinfo"]["info_kind"] == "dummy"


def test_d24_what_the_runtime_asks_for(node: Node, pod: Space) -> None:
    """runtimeConfig was ignored, and every error had code 999."""
    asked = both(runtimeConfig={"mac": "02:00:00:00:00:77", "ips": ["10.9.0.5/24"]})
    told = node.cni("ADD", asked, pod).ok()
    assert told["interfaces"][0]["mac"] == pod.link("bond0")["address"] == "02:00:00:00:00:77"
    assert pod.addresses("bond0") == {"10.9.0.5/24"}
    codes = [
        node.cni("ADD", one, pod, **how).document["code"]
        for one, how in (
            (b"{", {}),
            (both(mode="x"), {}),
            (both(cniVersion="9.9.9"), {}),
            (both(), {"env": {"CNI_NETNS": ""}}),
            (config(["a", "b"]), {"ifname": "bond1"}),
        )
    ]
    assert codes == [6, 7, 1, 4, REFUSED]


def test_d25_every_descriptor_is_closed(node: Node, pod: Space) -> None:
    """The handle of the host's namespace stayed open, the pod's was opened three times."""
    asked = both(ipam=node.host_local())
    node.cni("VERSION", asked).ok()  # the daemon runs, and continues to run
    before = os.listdir("/proc/self/fd")
    node.cni("ADD", asked, pod).ok()
    node.cni("ADD", asked, pod).failed(REFUSED)
    node.cni("DEL", asked, pod).ok()
    wait_for(lambda: os.listdir("/proc/self/fd") == before)  # the daemon closes later
