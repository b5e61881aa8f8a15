"""A namespace read through a fake kernel."""

from __future__ import annotations

import errno
import resource
import struct
import time
from collections.abc import Callable, Collection

import pytest

from bondcni.core.config import LinkRef
from bondcni.core.errors import KernelError, TryAgain, VerifyError
from bondcni.core.state import Address, Namespace, Route
from bondcni.kernel import address, keeping, link, reading, wire
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.watch import Watch
from bondcni.kernel.wire import Message

Start = Callable[..., Rtnetlink]
TENTATIVE, OPTIMISTIC, FAILED, PERMANENT = 0x40, 0x04, 0x08, 0x80


def dumped(to: Message, *bodies: bytes) -> list[bytes]:
    parts = [wire.pack_message(to.type - 2, 2, to.seq, body) for body in bodies]
    return [*parts, wire.pack_message(wire.NLMSG_DONE, 2, to.seq, bytes(4))]


def refused(to: Message, number: int) -> list[bytes]:
    body = struct.pack("=iIHHII", -number, 16, to.type, 0, to.seq, 0)
    return [wire.pack_message(wire.NLMSG_ERROR, wire.NLM_F_CAPPED, to.seq, body)]


def six(flags: int) -> bytes:
    return address.add_address(Address(77, "fd00::5/64", flags=flags | PERMANENT), "bond0").body


def test_a_snapshot_holds_links_addresses_and_routes(
    kernel: Start, soon: float, answers: dict[str, bytes]
) -> None:
    route = Route("0.0.0.0/0", "10.0.0.254", 77)
    held = {
        link.RTM_GETLINK: [body for title, body in answers.items() if title.startswith("RTM")],
        address.RTM_GETADDR: [six(0), struct.pack("=BBBBI", 45, 0, 0, 0, 7)],
        address.RTM_GETROUTE: [address.add_route(route).body],
    }
    found = reading.snapshot(kernel(lambda sent: dumped(sent[0], *held[sent[0].type])), soon)
    bond = found.named("bond0")
    assert bond is not None
    assert [member.name for member in found.members(bond)] == ["nic1"]
    assert found.addresses == (Address(77, "fd00::5/64", flags=PERMANENT),)
    assert found.routes == (route,)


def test_one_link(kernel: Start, soon: float, answers: dict[str, bytes]) -> None:
    body = next(body for title, body in answers.items() if "bond0: active" in title)
    rtnl = kernel(lambda sent: [wire.pack_message(16, 0, sent[0].seq, body)])
    found = reading.link_by_index(rtnl, 77, soon)
    assert found is not None
    assert (found.name, found.index) == ("bond0", 77)


def test_no_link_is_none_and_other_errors_are_errors(kernel: Start, soon: float) -> None:
    assert reading.link_by_index(kernel(lambda s: refused(s[0], errno.ENODEV)), 3, soon) is None
    with pytest.raises(KernelError, match="EPERM"):
        reading.link_by_index(kernel(lambda s: refused(s[0], errno.EPERM)), 3, soon)


def test_detection_is_waited_for(kernel: Start, soon: float) -> None:
    looks = iter([TENTATIVE, TENTATIVE, 0])
    reading.wait_dad(kernel(lambda sent: dumped(sent[0], six(next(looks)))), 77, soon)
    assert next(looks, None) is None


def test_an_optimistic_address_is_not_waited_for(kernel: Start, soon: float) -> None:
    flags = TENTATIVE | OPTIMISTIC
    reading.wait_dad(kernel(lambda sent: dumped(sent[0], six(flags))), 77, soon)


def test_a_duplicate_is_an_error_that_names_it(kernel: Start, soon: float) -> None:
    rtnl = kernel(lambda sent: dumped(sent[0], six(TENTATIVE | FAILED)))
    with pytest.raises(VerifyError, match="fd00::5/64"):
        reading.wait_dad(rtnl, 77, soon)


def test_detection_that_does_not_end_is_left_at_the_deadline(kernel: Start) -> None:
    rtnl = kernel(lambda sent: dumped(sent[0], six(TENTATIVE)))
    with pytest.raises(TryAgain, match="did not complete for fd00::5/64"):
        reading.wait_dad(rtnl, 77, time.monotonic() + 0.1)


# What concerns some links


def message(index: int, name: str, *attrs: bytes, kind: str = "") -> bytes:
    info = wire.pack_nest(18, wire.pack_attr(1, kind.encode())) if kind else b""
    head = struct.pack("=BxHiII", 0, 1, index, 1, 0)
    return head + wire.pack_attr(3, wire.pack_text(name)) + info + b"".join(attrs)


def on(index: int) -> bytes:
    return wire.pack_attr(link.IFLA_LINK, wire.pack_u32(index))


def master(index: int) -> bytes:
    return wire.pack_attr(link.IFLA_MASTER, wire.pack_u32(index))


MAC = bytes.fromhex("020000000012")
HELD = {
    11: message(11, "eth1", master(40)),
    12: message(12, "eth2", wire.pack_attr(link.IFLA_PERM_ADDRESS, MAC)),
    40: message(40, "br0", kind="bridge"),
    41: message(41, "eth2.5", on(12), kind="vlan"),
    42: message(42, "eth9", wire.pack_attr(link.IFLA_PARENT_DEV_NAME, b"0000:3b:02.1\0")),
    43: message(43, "copy", wire.pack_attr(1, MAC)),
}
ROUTES = [Route("0.0.0.0/0", "10.0.0.254", 12), Route("10.9.0.0/24", "", 11, scope=253)]


class Kernel:
    """Answers from what is held; what was asked, in words."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, sent: list[Message]) -> list[bytes]:
        return [datagram for one in sent for datagram in self.answer(one)]

    def answer(self, to: Message) -> list[bytes]:
        if to.flags & wire.NLM_F_DUMP:
            self.asked.append(f"dump {to.type}")
            return dumped(to, *self.listed(to))
        (index,) = struct.unpack_from("=i", to.body, 4)
        name = wire.text(wire.attrs(to.body, 16).get(link.IFLA_ALT_IFNAME, b""))
        self.asked.append(f"get {name or index}")
        named = wire.pack_text(name)
        found = [body for n, body in HELD.items() if n == index or (name and named in body)]
        return [wire.pack_message(16, 0, to.seq, found[0])] if found else refused(to, errno.ENODEV)

    def listed(self, to: Message) -> list[bytes]:
        if to.type == link.RTM_GETLINK:
            return list(HELD.values())
        if to.type == address.RTM_GETADDR:
            (index,) = struct.unpack_from("=I", to.body, 4)
            return [address.add_address(Address(n, f"10.0.0.{n}/24"), "").body for n in (index,)]
        if to.type == keeping.RTM_GETNEIGH:
            return []
        found = wire.attrs(to.body, 12)
        oif = wire.u32(found[address.RTA_OIF]) if found else 0
        return [address.add_route(r).body for r in ROUTES if oif in (0, r.index)]


def named(*names: str) -> list[LinkRef]:
    return [LinkRef("name", name) for name in names]


def test_links_are_asked_for_by_name_and_number(kernel: Start) -> None:
    answers = Kernel()
    found = reading.find_links(kernel(answers), ["eth2", "none", "eth2", "x" * 128], [11, 99, 12])
    assert [one.name for one in found.links] == ["eth1", "eth2"]
    assert answers.asked == ["get eth2", "get none", "get 11", "get 99", "get 12"]


def test_a_refusal_that_is_no_absence_is_an_error(kernel: Start) -> None:
    with pytest.raises(KernelError, match="read link eth1: kernel says EPERM"):
        reading.find_links(kernel(lambda sent: refused(sent[0], errno.EPERM)), ["eth1"], [])


def test_by_name_no_link_is_listed(kernel: Start) -> None:
    answers = Kernel()
    found = reading.named_links(kernel(answers), named("eth2", "eth1", "none"))
    assert [one.name for one in found] == ["eth1", "eth2"]
    assert answers.asked == ["get eth2", "get eth1", "get none"]


def test_by_mac_and_pci_address_all_that_are_meant(kernel: Start) -> None:
    refs = [LinkRef("mac", MAC.hex(":")), LinkRef("pci", "0000:3b:02.1")]
    found = reading.named_links(kernel(Kernel()), refs)
    assert [one.name for one in found] == ["eth2", "eth9", "copy"]


def test_about_some_links_without_listening(kernel: Start) -> None:
    answers = Kernel()
    found = reading.read_candidates(kernel(answers), named("eth1", "eth2"))
    assert [one.name for one in found.links] == ["eth1", "eth2", "br0", "eth2.5"]
    assert [one.index for one in found.addresses] == [11, 12]
    assert list(found.routes) == ROUTES[::-1]
    assert answers.asked.count("dump 18") == 1


def test_about_some_links_for_who_listens(kernel: Start) -> None:
    answers = Kernel()

    def look(_rtnl: Rtnetlink, indexes: Collection[int]) -> reading.Uses:
        assert set(indexes) == {11, 12}
        return reading.Uses({41, 77}, {12})

    found = reading.read_candidates(kernel(answers), named("eth1", "eth2"), look, [43, 99])
    assert [one.name for one in found.links] == ["eth1", "eth2", "br0", "eth2.5", "copy"]
    assert [one.dst for one in found.routes] == ["0.0.0.0/0"]
    assert not [one for one in answers.asked if one == "dump 18"]
    assert answers.asked.count("dump 26") == 1


def test_a_link_that_goes_while_it_is_read_has_nothing(kernel: Start) -> None:
    class Going(Kernel):
        def answer(self, to: Message) -> list[bytes]:
            gone = to.type in (address.RTM_GETADDR, address.RTM_GETROUTE)
            return refused(to, errno.ENODEV) if gone else super().answer(to)

    found = reading.read_candidates(kernel(Going()), named("eth1"))
    assert found.named("eth1")
    assert (found.addresses, found.routes) == ((), ())


def test_nothing_meant_is_nothing_asked(kernel: Start) -> None:
    assert reading.read_candidates(kernel(Kernel()), named("none")) == Namespace()


# Listening


class Ear:
    """Stands for the socket that hears events."""

    def __init__(self) -> None:
        self.events: list[Message] | None = []

    def read_events(self) -> list[Message] | None:
        events, self.events = self.events, []
        return events

    def say(self, kind: int, body: bytes) -> None:
        assert self.events is not None
        self.events.append(Message(kind, 0, 0, body))


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def watch(ear: Ear) -> Watch:
    made = Watch()
    made._events = ear  # type: ignore[assignment]
    return made


def test_the_first_look_is_at_everything_and_later_ones_are_not(
    kernel: Start, watch: Watch
) -> None:
    answers = Kernel()
    rtnl = kernel(answers)
    assert watch(rtnl, [12]) == ({41}, {12})
    assert watch(rtnl, [11, 43]) == (set(), {11})
    assert answers.asked == ["dump 18", "dump 26"]


def test_what_is_heard_counts(kernel: Start, watch: Watch, ear: Ear) -> None:
    rtnl = kernel(Kernel())
    watch(rtnl, [])
    ear.say(link.RTM_NEWLINK, message(50, "mv0", on(11), kind="macvlan"))
    ear.say(address.RTM_NEWROUTE, address.add_route(Route("::/0", "fe80::1", 43)).body)
    assert watch(rtnl, [11, 43]) == ({50}, {11, 43})
    ear.say(link.RTM_DELLINK, message(50, "mv0", on(11), kind="macvlan"))
    ear.say(link.RTM_NEWLINK, message(51, "veth0", on(11), kind="veth"))
    assert watch(rtnl, [11]) == (set(), {11})


def test_what_stood_on_a_link_that_went_may_stand_on_any(
    kernel: Start, watch: Watch, ear: Ear
) -> None:
    rtnl = kernel(Kernel())
    watch(rtnl, [])
    ear.say(link.RTM_DELLINK, message(12, "eth2"))
    assert watch(rtnl, [99]).upper == {41}
    ear.say(link.RTM_NEWLINK, HELD[41])
    assert watch(rtnl, [99]).upper == set()
    elsewhere = wire.pack_attr(link.IFLA_LINK_NETNSID, wire.pack_u32(0))
    ear.say(link.RTM_NEWLINK, message(52, "eth7.1", on(3), elsewhere, kind="vlan"))
    assert watch(rtnl, [99]).upper == {52}


def test_where_events_were_lost_everything_is_looked_at(
    kernel: Start, watch: Watch, ear: Ear
) -> None:
    answers = Kernel()
    rtnl = kernel(answers)
    watch(rtnl, [])
    ear.say(link.RTM_DELLINK, HELD[41])
    assert watch(rtnl, [12]).upper == set()
    ear.events = None
    assert watch(rtnl, [12]).upper == {41}
    assert answers.asked == ["dump 18", "dump 26"] * 2


def test_what_fails_half_way_is_done_again(kernel: Start, watch: Watch, ear: Ear) -> None:
    class Failing(Kernel):
        fails = True

        def answer(self, to: Message) -> list[bytes]:
            if self.fails and to.type == address.RTM_GETROUTE:
                return refused(to, errno.ENOMEM)
            return super().answer(to)

    answers = Failing()
    rtnl = kernel(answers)
    for _ in range(2):
        with pytest.raises(KernelError, match="ENOMEM"):
            watch(rtnl, [12])
        ear.events = None
    answers.fails = False
    assert watch(rtnl, [12]) == ({41}, {12})


def test_without_a_descriptor_to_listen_it_knows_nothing() -> None:
    with open("/proc/self/ns/net") as own:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        try:
            assert not Watch().knows(own.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert Watch().knows(own.fileno())
