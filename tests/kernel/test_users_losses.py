"""Issue 10, item 14: what a host link loses when it moves into a pod, and how it is restored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.kernel.conftest import Document, Node, Space, config, thick_only, wait_for
from tests.kernel.thick import recovered

from bondcni.service.journal import Journal

LINKS = ["eth1", "eth2"]
SETUP = (
    "link set eth1 up",
    "link set eth2 up",
    "address add 169.254.7.7/16 dev eth1 scope link",
    "address add 192.0.2.77 peer 192.0.2.78/32 dev eth1 scope link",
    "address add fe80::7/64 dev eth1",
    "route add 198.51.100.0/24 dev eth1 mtu 1400",
    "route add 198.51.101.0/24 via 169.254.7.1 dev eth1 src 169.254.7.7 metric 77 proto static",
    "route add 203.0.113.9 via 198.18.0.1 dev eth2 onlink table 100",
    "route add local 198.18.7.0/24 dev eth2",
    "route add 2001:db8:7::/48 via fe80::1 dev eth1",
    "route add 2001:db8:8::/48 dev eth2 metric 5",
    "route add 203.0.113.128/25 nexthop dev eth1 weight 3 nexthop dev eth2 weight 2",
    "neigh add 169.254.9.9 lladdr 02:00:00:00:00:99 dev eth1 nud permanent",
    "neigh add fe80::9 lladdr 02:00:00:00:00:98 dev eth2 nud permanent",
)
WORDS = (
    ("host link eth1 loses", "host link eth2 loses", "while it is in the pod; DEL restores them"),
    ("address 169.254.7.7/16", "address 192.0.2.77/32", "address fe80::7/64"),
    ("route 198.51.100.0/24", "route 198.51.101.0/24 via 169.254.7.1 metric 77"),
    ("route 203.0.113.9/32 via 198.18.0.1 table 100", "route 2001:db8:7::/48 via fe80::1"),
    ("neighbour 169.254.9.9", "neighbour fe80::9"),
)


@pytest.fixture(autouse=True)
def used(node: Node) -> None:
    """Two NICs with everything that a host may configure on them and that a move removes."""
    keys = ("all", "default")  # no duplicate address detection: it takes two seconds
    node.space.exec("sysctl", "-qw", *(f"net.ipv6.conf.{key}.accept_dad=0" for key in keys))
    for name in LINKS:
        node.veth(name)
    node.space.batch(*SETUP)
    wait_for(lambda: "tentative" not in node.space.ip("-6", "address"))


def held(space: Space) -> Document:
    """Addresses, routes and permanent neighbours, as ``ip`` prints them, without lifetimes and
    without what the kernel derives from carrier.
    """
    addresses = {
        link["ifname"]: sorted(json.dumps(_still(info)) for info in link["addr_info"])
        for link in json.loads(space.ip("-j", "address"))
    }
    shown = [space.ip("-j", "-d", f"-{family}", "route", "show", "table", "all") for family in "46"]
    routes = [route for out in shown for route in json.loads(out)]
    neighbours = json.loads(space.ip("-j", "neigh", "show", "nud", "permanent"))
    return {
        "addresses": addresses,
        "routes": sorted(json.dumps(_still(route)) for route in routes),
        "neighbours": sorted(json.dumps(one) for one in neighbours),
    }


def _still(info: Document) -> Document:
    moving = ("valid_life_time", "preferred_life_time", "flags", "tentative")
    return {key: value for key, value in info.items() if key not in moving}


def settled(node: Node, before: Document) -> None:
    """As before, once the kernel has made its own addresses again."""

    def now() -> list[str]:
        after = held(node.space)
        return [
            f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]
        ]

    try:
        wait_for(lambda: not now(), 5)
    except AssertionError:
        raise AssertionError("\n".join(now())) from None


def test_14_all_is_named_and_comes_back(node: Node, pod: Space) -> None:
    before, everything = held(node.space), node.everything(pod)
    asked = config(LINKS)
    made = node.cni("ADD", asked, pod)
    made.ok()
    for words in WORDS:
        for word in words:
            assert word in made.stderr
    assert before != held(node.space)
    gone = node.cni("DEL", asked, pod)
    gone.ok()
    assert "restore" not in gone.stderr
    settled(node, before)
    assert node.everything(pod) == everything


def test_14_a_route_made_after_the_first_request_is_known(node: Node, pod: Space) -> None:
    """The daemon gets its event; routes of a routing daemon are not needed, it adds them again."""
    for name in ("eth3", "eth4"):
        node.veth(name)
        node.space.ip("link", "set", name, "up")
    asked = config(["eth3", "eth4"])
    node.cni("ADD", asked, pod).ok()
    node.cni("DEL", asked, pod).ok()
    node.space.batch(
        "route add 198.18.1.0/24 dev eth3",
        "route add 198.18.2.0/24 dev eth4 proto static",
        "route add 198.18.3.0/24 dev eth4 proto bird",
    )
    made = node.cni("ADD", asked, pod)
    made.ok()
    assert "host link eth3 loses route 198.18.1.0/24 while" in made.stderr
    assert "host link eth4 loses route 198.18.2.0/24 while" in made.stderr
    node.cni("DEL", asked, pod).ok()
    routes = node.space.ip("route")
    assert "198.18.1.0/24 dev eth3" in routes
    assert "198.18.2.0/24 dev eth4 proto static" in routes


def test_14_nothing_to_lose_is_no_warning(node: Node, pod: Space) -> None:
    """The kernel makes its own fe80:: address and the routes for it again."""
    for name in ("eth3", "eth4"):
        node.veth(name)
        node.space.ip("link", "set", name, "up")
    wait_for(lambda: "tentative" not in node.space.ip("-6", "address"))
    made = node.cni("ADD", config(["eth3", "eth4"]), pod)
    made.ok()
    assert "loses" not in made.stderr


def test_14_an_add_that_fails_gives_it_back(node: Node, pod: Space) -> None:
    before = held(node.space)
    node.delegate("ours", "cat >/dev/null; [ $CNI_COMMAND = ADD ] && exit 3; exit 0")
    node.cni("ADD", config(LINKS, ipam={"type": "ours"}), pod).failed(104)
    settled(node, before)


def test_14_a_crash_gives_it_back(node: Node, pod: Space) -> None:
    before = held(node.space)
    node.cni("ADD", config(LINKS), pod).ok()
    journal = Journal(str(node.state))
    record = journal.read("c1", "bond0", print)
    assert record
    journal.complete(record._replace(result=None))
    assert all(finding.done for finding in recovered(node.state))
    settled(node, before)
    assert not node.records()


def test_14_what_cannot_come_back_is_told_and_ends_nothing(node: Node, pod: Space) -> None:
    """A gateway that is not reachable any more, and a route that the host now has through another
    link.
    """
    asked = config(LINKS)
    node.cni("ADD", asked, pod).ok()
    journal = Journal(str(node.state))
    record = journal.read("c1", "bond0", print)
    assert record
    first = record.claimed[0]
    few = tuple(one for one in first.kept if not one.words.startswith("address"))
    claimed = (replace(first, kept=few), *record.claimed[1:])
    journal.complete(record._replace(claimed=claimed))
    gone = node.cni("DEL", asked, pod)
    gone.ok()
    assert "restore route 198.51.101.0/24 via 169.254.7.1 metric 77 of eth1" in gone.stderr
    assert "restore it by hand if it is still needed" in gone.stderr
    assert not node.records()
    assert "198.51.100.0/24" in node.space.ip("route")


def test_14_a_record_of_an_older_version_is_undone(node: Node, pod: Space) -> None:
    asked = config(LINKS)
    node.cni("ADD", asked, pod).ok()
    (path,) = node.state.glob("*.json")
    document = json.loads(path.read_text())
    document["taken"] = document.pop("claimed")
    for item in document["taken"]:
        del item["kept"], item["link"]["vfs"]
    for member in document["wanted"]["members"]:
        del member["mac"]
    path.write_text(json.dumps(document, indent=1))
    node.cni("DEL", asked, pod).ok()
    assert not node.records()
    assert node.space.link("eth1")["flags"].count("UP")


def test_14_a_link_that_comes_home_under_another_ifindex(node: Node, pod: Space) -> None:
    before = held(node.space)
    index = node.space.link("eth1")["ifindex"]
    pod.ip("link", "add", "taken", "index", str(index), "type", "dummy")
    asked = config(LINKS)
    node.cni("ADD", asked, pod).ok()
    node.space.ip("link", "add", "other", "index", str(index), "type", "dummy")
    node.cni("DEL", asked, pod).ok()
    assert node.space.link("eth1")["ifindex"] != index
    node.space.ip("link", "del", "other")
    settled(node, before)


def test_14_what_the_policy_forces_comes_back_as_well(node: Node, pod: Space) -> None:
    node.space.batch(
        "address add 192.0.2.1/24 dev eth1 label eth1:7",
        "route add default via 192.0.2.254 dev eth1",
        "address add 2001:db8:1::1/64 dev eth1 nodad",
        "route add default via 2001:db8:1::fe dev eth1",
    )
    before = held(node.space)
    rules = node.folder / "policy.yaml"
    rules.write_text("links:\n  - {name: eth1, force: true}\n  - {name: eth2}\n")
    env = {"BONDCNI_POLICY": str(rules)}
    made = node.cni("ADD", config(LINKS), pod, env=env)
    made.ok()
    for word in ("address 192.0.2.1/24", "route 0.0.0.0/0 via 192.0.2.254", "route ::/0 via"):
        assert word in made.stderr
    node.cni("DEL", config(LINKS), pod, env=env).ok()
    settled(node, before)


@thick_only("without it the executable sends links home")
def test_14_after_the_executable_sent_links_home(node: Node) -> None:
    before = held(node.space)
    pod = node.pod()
    node.cni("ADD", config(LINKS), pod).ok()
    node.daemon().end()
    node.cni("DEL", config(LINKS), pod).ok()
    pod.delete()
    node.end_daemon()
    for name in ("eth8", "eth9"):
        node.veth(name)
    other = node.pod()
    node.cni("ADD", config(["eth8", "eth9"]), other, container="c2").ok()
    node.cni("DEL", config(["eth8", "eth9"]), other, container="c2").ok()
    node.space.batch("link del eth8", "link del eth9")
    wait_for(lambda: not node.records())
    settled(node, before)
