"""What a request reads does not depend on how many other things the node has.

Counted are datagrams and bytes from the kernel, and opened records: times would depend on the
machine. The node is read as the daemon reads it, which has listened to the kernel since its first
request. What must be detected is also detected without listening.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.kernel.conftest import Document, Node, Space, config

from bondcni.core.config import LinkRef
from bondcni.core.errors import BondError, Refused, TryAgain
from bondcni.core.plan import HIGH_IFINDEX
from bondcni.core.state import Namespace
from bondcni.kernel.namespaces import Namespaces
from bondcni.kernel.reading import read_candidates
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.watch import Watch
from bondcni.service import verbs
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.locks import hold
from bondcni.service.reach import Direct
from bondcni.service.request import read_request

OTHERS = 300
LEGS = ["eth1", "eth2"]


class Stays(Direct):
    """What the daemon can reach, with sockets of its own."""

    def __init__(self) -> None:
        self._watch = Watch()

    @contextmanager
    def node(self, netns: str) -> Iterator[Namespaces]:
        with Namespaces.open(netns) as own:
            yield Namespaces(own.host, own.pod, netns, watch=self._watch)


class Counting(Journal):
    """A journal that counts the records it opens."""

    opened = 0

    def _content(self, container_id: str, ifname: str) -> bytes | None:
        self.opened += 1
        return super()._content(container_id, ifname)


class Resident:
    """A service that continues to run, and what its requests have read."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.journal = Counting(str(node.state))
        self.journal.stay()
        self.told: list[str] = []
        self.service = Service(self.journal, self.told.append, reach=Stays())

    def ask(self, verb: str, pod: Space, asked: Document, container: str = "c1") -> Document | None:
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": pod.path}
        env |= {"CNI_IFNAME": "bond0", "CNI_PATH": "/nowhere"}
        return verbs.serve(self.service, read_request(env, json.dumps(asked).encode()))


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    for leg in LEGS:
        node.veth(leg)
    node.space.batch(*(f"link set {leg} up" for leg in LEGS))


@pytest.fixture
def resident(node: Node) -> Resident:
    return Resident(node)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each datagram that answered a request since the list was cleared."""
    sizes: list[int] = []
    receive = Rtnetlink._receive

    def received(rtnl: Rtnetlink, *args: object) -> bytes:
        data = receive(rtnl, *args)  # type: ignore[arg-type]
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Rtnetlink, "_receive", received)
    return sizes


def crowd(node: Node) -> None:
    """Many links, each with an address and routes."""
    numbers = range(OTHERS)
    node.space.batch(*(f"link add other{n} up type dummy" for n in numbers))
    node.space.batch(*(f"addr add 10.{n // 250}.{n % 250}.1/32 dev other{n}" for n in numbers))


def cycle(resident: Resident, pod: Space, read: list[int], asked: Document) -> list[int]:
    """What ADD and DEL read: datagrams and bytes of ADD, then of DEL."""
    counts = []
    for verb in ("ADD", "DEL"):
        read.clear()
        resident.ask(verb, pod, asked)
        counts += [len(read), sum(read)]
    return counts


@pytest.mark.parametrize("links", [2, 8])
def test_add_and_del_read_as_much_on_any_node(
    node: Node, pod: Space, resident: Resident, read: list[int], links: int
) -> None:
    # Restored links get a fe80:: address when the kernel handles their carrier, within 1 s.
    node.space.exec("sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1")
    names = [*LEGS, *(f"leg{n}" for n in range(links - 2))]
    for name in names[2:]:
        node.veth(name)
    asked = config(list(names))
    cycle(resident, pod, read, asked)
    alone = cycle(resident, pod, read, asked)
    crowd(node)
    cycle(resident, pod, read, asked)
    assert cycle(resident, pod, read, asked) == alone
    assert alone[0] < 16 + 6 * links
    assert alone[2] < 16 + 6 * links


def test_who_ends_with_its_request_reads_the_links_once(
    node: Node, pod: Space, read: list[int]
) -> None:
    crowd(node)
    links, routes = [], []
    for verb in ("ADD", "DEL"):
        read.clear()
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": pod.path}
        request = read_request({**env, "CNI_IFNAME": "bond0"}, json.dumps(config([*LEGS])).encode())
        verbs.serve(Service(Journal(str(node.state)), print), request)
        links.append(sum(read))
        routes.append(max(read))
    assert OTHERS * 500 < links[0] < OTHERS * 1500  # one dump of them, without statistics
    assert links[1] < 64 << 10


# Links in use are detected


USES: dict[str, tuple[str, str]] = {
    "vlan": ("link add link eth2 name up0 type vlan id 5", "host link eth2 is in use: vlan up0"),
    "macvlan": (
        "link add link eth2 name up0 type macvlan",
        "link eth2 has the macvlan up0 on top of it",
    ),
    "ipvlan": (
        "link add link eth2 name up0 type ipvlan",
        "link eth2 has the ipvlan up0 on top of it",
    ),
    "macsec": ("link add link eth2 up0 type macsec", "host link eth2 is in use: macsec up0"),
    "route": ("route add default dev eth2", "host link eth2 is in use: a default route"),
    "route in a table": (
        "route add default dev eth2 table 77",
        "host link eth2 is in use: a default route",
    ),
    "route of IPv6": ("route add ::/0 dev eth2", "host link eth2 is in use: a default route"),
    "route of two hops": (
        "route add default nexthop dev eth1 nexthop dev eth2",
        "host link eth2 is in use: a default route",
    ),
    "address": ("addr add 192.0.2.1/24 dev eth2", "host link eth2 is in use: it has the address"),
    "bridge": ("link set eth2 master br9", "link eth2 already has a master: bridge br9"),
}


@pytest.mark.parametrize("when", ["before the first look", "after it"])
@pytest.mark.parametrize("what", USES)
def test_a_use_is_seen(
    node: Node, pod: Space, resident: Resident, read: list[int], what: str, when: str
) -> None:
    node.space.ip("link", "add", "br9", "type", "bridge")
    if when == "after it":
        cycle(resident, pod, read, config([*LEGS]))
    command, words = USES[what]
    node.space.batch(command)
    before = node.everything(pod)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            resident.ask("ADD", pod, config([*LEGS]))
        assert words in caught.value.message
    assert words in node.cni("ADD", config([*LEGS]), pod).failed(101)
    assert node.everything(pod) == before


@pytest.mark.parametrize("what", ["vlan", "macvlan", "macsec"])
def test_a_use_that_is_over_is_none(node: Node, pod: Space, resident: Resident, what: str) -> None:
    node.space.batch(USES[what][0])
    with pytest.raises(Refused):
        resident.ask("ADD", pod, config([*LEGS]))
    node.space.ip("link", "delete", "up0")
    resident.ask("ADD", pod, config([*LEGS]))
    assert pod.members("bond0") == set(LEGS)
    resident.ask("DEL", pod, config([*LEGS]))


def test_a_default_route_that_is_over_is_none(node: Node, pod: Space, resident: Resident) -> None:
    node.space.ip("route", "add", "default", "dev", "eth1")
    with pytest.raises(Refused):
        resident.ask("ADD", pod, config([*LEGS]))
    node.space.ip("route", "delete", "default")
    resident.ask("ADD", pod, config([*LEGS]))
    resident.ask("DEL", pod, config([*LEGS]))


def refs(*names: str) -> list[LinkRef]:
    return [LinkRef("name", name) for name in names]


@contextmanager
def watching(node: Node) -> Iterator[Callable[..., Namespace]]:
    """``about`` with a watch of its own, which has read the initial state."""
    watch = Watch()
    with open(node.space.path) as namespace, Rtnetlink.open() as rtnl:
        assert watch.knows(namespace.fileno())
        watch(rtnl, ())

        def seen(*names: str) -> Namespace:
            return read_candidates(rtnl, refs(*names), watch)

        seen.watch = watch  # type: ignore[attr-defined]
        yield seen


def test_a_link_that_comes_back_under_another_ifindex_still_carries_its_vlan(node: Node) -> None:
    """There is no event of the VLAN meanwhile, because its link stays down."""
    node.space.batch("link set eth2 down", "link add link eth2 name up0 type vlan id 5")
    other = node.other()
    with watching(node) as seen:
        assert seen("eth2").named("up0")
        index = node.space.link("eth2")["ifindex"]
        node.space.ip("link", "set", "eth2", "netns", other.name)
        node.space.ip("link", "add", "thief", "index", str(index), "type", "dummy")
        other.ip("link", "set", "eth2", "netns", node.space.name)
        assert node.space.link("eth2")["ifindex"] != index
        assert seen("eth2").named("up0")
        assert not [link for link in seen("thief").links if link.lower == index]


def test_a_link_that_was_away_at_the_first_look_still_carries_its_vlan(node: Node) -> None:
    node.space.batch("link set eth2 down", "link add link eth2 name up0 type vlan id 5")
    other = node.other()
    node.space.ip("link", "set", "eth2", "netns", other.name)
    with watching(node) as seen:
        other.ip("link", "set", "eth2", "netns", node.space.name)
        assert seen("eth2").named("up0")


def test_events_that_were_lost_are_made_good(node: Node) -> None:
    with watching(node) as seen:
        sock = seen.watch._events._socket  # type: ignore[attr-defined]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        node.space.batch(*(f"link add link eth1 name v{n} type vlan id {n}" for n in range(1, 60)))
        node.space.ip("link", "add", "link", "eth2", "name", "up0", "type", "vlan", "id", "5")
        assert seen.watch._events.read_events() is None or seen("eth2").named("up0")  # type: ignore[attr-defined]
        node.space.batch(*(f"link set v{n} up" for n in range(1, 60)))
        assert seen("eth2").named("up0")
        assert len([link for link in seen("eth1").links if link.kind == "vlan"]) == 59


def test_what_does_not_matter_is_not_even_heard(node: Node, pod: Space) -> None:
    """No events of links that are on top of nothing, veths of pods, ports of bridges, routes of a
    routing daemon.
    """
    with watching(node) as seen:
        node.space.batch(
            "link add br9 up type bridge",
            "link add d0 up type dummy",
            f"link add p0 type veth peer name eth0 netns {pod.name}",
            "link set p0 up master br9",
            "link set d0 mtu 1400",
            "addr add 192.0.2.1/24 dev d0",
            "route add 198.51.100.0/24 dev d0 proto bird",
        )
        assert seen.watch._events.read_events() == []  # type: ignore[attr-defined]


def test_a_watch_knows_its_own_namespace_alone(node: Node, pod: Space) -> None:
    watch = Watch()
    with open(pod.path) as other, open(node.space.path) as own:
        assert not watch.knows(other.fileno())
        assert watch.knows(own.fileno())
        assert not watch.knows(other.fileno())
        assert watch.knows(own.fileno())


# Ifindexes


def test_a_new_ifindex_is_free_on_the_host_too(node: Node, pod: Space) -> None:
    """When the pod's namespace is deleted, hardware returns with its ifindex and is identified by
    it.
    """
    index = node.space.link("eth1")["ifindex"]
    pod.ip("link", "add", "d0", "index", str(index), "type", "dummy")
    node.space.batch(
        *(f"link add x{n} index {n} type dummy" for n in range(HIGH_IFINDEX, HIGH_IFINDEX + 9))
    )
    taken = {link["ifindex"] for link in node.space.links().values()}
    before = node.everything(pod)
    node.cni("ADD", config([*LEGS]), pod).ok()
    inside = pod.links()
    assert inside["eth1"]["ifindex"] not in taken
    assert inside["eth2"]["master"] == inside["eth1"]["master"] == "bond0"
    node.cni("DEL", config([*LEGS]), pod).ok()
    assert node.everything(pod) == before


# The journal


def strangers(node: Node, count: int) -> None:
    """Records of other attachments, like one of ours."""
    (mine,) = node.state.glob("*.json")
    text = mine.read_text()
    for number in range(count):
        other = text.replace('"eth', f'"x{number}eth').replace('"c1"', f'"o{number}"')
        (node.state / f"o{number}:bond0.json").write_text(other)


def test_records_of_others_are_opened_once(
    node: Node, pod: Space, resident: Resident, read: list[int]
) -> None:
    asked = config([*LEGS])
    resident.ask("ADD", pod, asked)
    strangers(node, 50)
    resident.ask("DEL", pod, asked)
    cycle(resident, pod, read, asked)
    resident.journal.opened = 0
    cycle(resident, pod, read, asked)
    assert resident.journal.opened < 6
    for path in node.state.glob("o*"):
        path.unlink()


def test_a_dead_attachment_that_another_process_recorded_is_brought_home(
    node: Node, pod: Space, resident: Resident, read: list[int]
) -> None:
    asked = config([*LEGS])
    cycle(resident, pod, read, asked)
    dead = node.pod()
    node.cni("ADD", asked, dead, container="dead").ok()
    path = node.state / "dead:bond0.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["namespace"], "1:1"))
    with pytest.raises(BondError) as caught:
        resident.ask("ADD", pod, asked)
    assert "not found on the host" in caught.value.message  # its links are in a pod that is nowhere
    assert [word for word in resident.told if word.startswith("links of dead bond0")]
    node.cni("DEL", asked, dead, container="dead")


# Races


@contextmanager
def waiting(node: Node, pod: Space) -> Iterator[list[BondError]]:
    """An ADD that waits for a link while the test does something; its answer."""
    failures: list[BondError] = []

    def add() -> None:
        try:
            Resident(node).ask("ADD", pod, config([*LEGS]))
        except BondError as error:
            failures.append(error)

    with hold(str(node.state), [f"link eth2 {node.space.link('eth2')['address']}"], 30):
        thread = threading.Thread(target=add)
        thread.start()
        time.sleep(0.5)
        yield failures
    thread.join(30)


def test_a_link_that_became_another_while_add_waited(node: Node, pod: Space) -> None:
    with waiting(node, pod) as failures:
        node.space.batch(
            "link set eth2 down", "link set eth2 name was2", "link add eth2 type dummy"
        )
        before = node.everything(pod)
    (error,) = failures
    assert isinstance(error, TryAgain)
    assert "the links changed while ADD waited" in error.message
    assert node.everything(pod) == before


def test_a_vlan_that_came_while_add_waited(node: Node, pod: Space) -> None:
    with waiting(node, pod) as failures:
        node.space.ip("link", "add", "link", "eth2", "name", "eth2.7", "type", "vlan", "id", "7")
    (error,) = failures
    assert isinstance(error, Refused)
    assert "vlan eth2.7 is on top of it" in error.message
    assert set(pod.links()) == {"lo"}
