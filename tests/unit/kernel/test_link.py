"""Messages compared with those of iproute2; links, addresses and routes decoded."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondcni.core.state import IFF_UP, Address, Link, Route
from bondcni.kernel import address, link, wire
from bondcni.kernel.link import Change
from bondcni.kernel.wire import NetlinkRequest, WireError

U32 = struct.Struct("=I").pack
IFA_F_NODAD = 2
NLM_F_APPEND = 0x800


def change(**what: object) -> NetlinkRequest:
    return link.change_link(42, "change v0", Change(**what))  # type: ignore[arg-type]


SAME_AS_IP = {
    "ip link add bond7 index 77 mtu 1400 address 02:00:00:00:00:01"
    " type bond mode active-backup miimon 100 arp_validate none": link.create_bond(
        "bond7", {1: b"\1", 3: U32(100), 9: U32(0)}, "02:00:00:00:00:01", 1400, 77
    ),
    "ip link set dev v0 mtu 1400 txqlen 500 alias hello address 02:00:00:00:00:05 down": change(
        mtu=1400, txqlen=500, alias="hello", mac="02:00:00:00:00:05", mask=IFF_UP
    ),
    "ip link set dev v0 name eth9": change(name="eth9"),
    "ip link set dev v0 up": change(flags=IFF_UP, mask=IFF_UP),
    "ip link set dev v0 master br0": change(master=43),
    "ip link set dev v0 nomaster": change(master=0),
    "ip link set dev v0 type bond miimon 200": change(bond={3: U32(200)}),
    "ip link property add dev v0 altname net1 altname a-long-alternative-name": (
        link.add_altnames(42, "v0", "net1", "a-long-alternative-name")
    ),
    "ip address add 10.0.0.5/24 brd + dev v0": address.add_address(
        Address(42, "10.0.0.5/24"), "v0"
    ),
    "ip address add fd00::5/64 dev v0 nodad": address.add_address(
        Address(42, "fd00::5/64", flags=IFA_F_NODAD), "v0"
    ),
    "ip route prepend 10.50.0.0/16 via 10.0.0.254 dev v0 mtu 1400 advmss 1360 metric 7 table 1000": (
        address.add_route(Route("10.50.0.0/16", "10.0.0.254", 42, 1000, 1400, 1360, 7))
    ),
    "ip route prepend default via 10.0.0.254 dev v0": address.add_route(
        Route("0.0.0.0/0", "10.0.0.254", 42)
    ),
    "ip route prepend 10.60.0.0/16 dev v0 scope link": address.add_route(
        Route("10.60.0.0/16", index=42, scope=253)
    ),
    "ip route prepend 10.80.0.0/16 via inet6 fd00::fe dev v0": address.add_route(
        Route("10.80.0.0/16", "fd00::fe", 42)
    ),
    "ip -6 route prepend fd50::/32 via fd00::fe dev v0": address.add_route(
        Route("fd50::/32", "fd00::fe", 42)
    ),
}


@pytest.mark.parametrize("command", SAME_AS_IP)
def test_same_message_as_ip(command: str, from_ip: dict[str, bytes]) -> None:
    ours = SAME_AS_IP[command]
    (theirs,) = wire.messages(from_ip[command])
    assert ours.type == theirs.type
    sent = ours.flags | wire.NLM_F_REQUEST | wire.NLM_F_ACK
    if "altname" in command:  # ip sets NLM_F_APPEND, which has no effect
        sent |= NLM_F_APPEND
    assert sent == theirs.flags
    assert ours.body[: ours.fixed] == theirs.body[: ours.fixed]
    assert attributes(ours.body, ours.fixed) == attributes(theirs.body, ours.fixed)


def attributes(body: bytes, fixed: int) -> list[tuple[int, bytes]]:
    return sorted(wire.attr_list(body, fixed))


def test_member_options_as_ip_but_for_the_kind(from_ip: dict[str, bytes]) -> None:
    (theirs,) = wire.messages(from_ip["ip link set dev v0 type bond_slave queue_id 3"])
    ours = change(member={5: b"\3\0"})
    info, ours_info = (wire.attrs(wire.attrs(b, 16)[18]) for b in (theirs.body, ours.body))
    assert ours_info == {link.IFLA_INFO_SLAVE_KIND: b"bond", 5: info[5]}


def test_every_attribute_of_a_change() -> None:
    request = change(namespace=9, new_index=500, mtu=1300, master=77, name="net0", alias="")
    found = wire.attrs(request.body, request.fixed)
    assert found == {
        link.IFLA_NET_NS_FD: U32(9),
        link.IFLA_NEW_IFINDEX: U32(500),
        link.IFLA_MTU: U32(1300),
        link.IFLA_MASTER: U32(77),
        link.IFLA_IFNAME: b"net0\0",
        link.IFLA_IFALIAS: b"",
    }


def test_a_dump_has_no_counters() -> None:
    for request in (link.get_links(), link.get_link(3)):
        assert wire.attrs(request.body, 16)[link.IFLA_EXT_MASK] == U32(8)


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00:zz", "02:00:00:00:00:100", "02::"])
def test_invalid_macs(mac: str) -> None:
    with pytest.raises(WireError):
        link.pack_mac(mac)


def test_the_bond_of_a_real_kernel(answers: dict[str, bytes]) -> None:
    bond = link.decode_link(answers["RTM_NEWLINK of bond0: active-backup, miimon 100, primary 102"])
    assert bond.bond is not None
    assert {k: bond.bond[k] for k in ("mode", "miimon", "primary", "updelay")} == {
        "mode": 1,
        "miimon": 100,
        "primary": 102,
        "updelay": 0,
    }
    assert replace(bond, bond=None) == Link(
        index=77,
        name="bond0",
        mac="02:00:00:00:00:01",
        mtu=1400,
        min_mtu=68,
        max_mtu=65535,
        flags=0x11443,
        kind="bond",
        carrier=True,
    )


def test_the_member_of_a_real_kernel(answers: dict[str, bytes]) -> None:
    title = "RTM_NEWLINK of nic1, a veth and member of bond0, queue_id 3"
    nic = link.decode_link(answers[title])
    assert (nic.kind, nic.master, nic.lower, nic.operstate) == ("veth", 77, 0, 6)
    assert nic.bond is None
    assert nic.member is not None
    assert nic.member["queue_id"] == 3


def new_link(index: int, *attrs: bytes) -> Link:
    return link.decode_link(struct.pack("=BxHiII", 0, 1, index, 0, 0) + b"".join(attrs))


def test_a_peer_is_not_a_lower_link() -> None:
    below = wire.pack_attr(link.IFLA_LINK, U32(3))
    kind = wire.pack_nest(link.IFLA_LINKINFO, wire.pack_attr(link.IFLA_INFO_KIND, b"veth\0"))
    assert new_link(5, below).lower == 3
    assert new_link(3, below).lower == 0
    assert new_link(5, below, kind).lower == 0
    assert new_link(5, below, wire.pack_attr(link.IFLA_LINK_NETNSID, U32(0))).lower == 0


def test_names_alias_and_hardware() -> None:
    names = (wire.pack_attr(link.IFLA_ALT_IFNAME, n) for n in (b"net1\0", b"enp1s0\0"))
    found = new_link(
        5,
        wire.pack_nest(link.IFLA_PROP_LIST, *names),
        wire.pack_attr(link.IFLA_PERM_ADDRESS, bytes.fromhex("020000000009")),
        wire.pack_attr(link.IFLA_PARENT_DEV_NAME, b"0000:01:00.0\0"),
        wire.pack_attr(link.IFLA_PARENT_DEV_BUS_NAME, b"pci\0"),
        wire.pack_attr(link.IFLA_IFALIAS, b"left leg\0"),
    )
    assert found.altnames == ("net1", "enp1s0")
    assert found.permanent_mac == "02:00:00:00:00:09"
    assert (found.parent_bus, found.parent, found.alias) == ("pci", "0000:01:00.0", "left leg")


@pytest.mark.parametrize(
    "there", [Address(42, "10.0.0.5/24"), Address(42, "fd00::5/64"), Address(3, "fe80::1/64", 253)]
)
def test_an_address_round_trip(there: Address) -> None:
    assert address.decode_address(address.add_address(there, "v0").body) == there


def test_the_peer_of_a_point_to_point_address_is_not_its_own() -> None:
    body = struct.pack("=BBBBI", 2, 32, 0, 0, 7)
    body += wire.pack_attr(1, bytes([10, 0, 0, 9])) + wire.pack_attr(2, bytes([10, 0, 0, 5]))
    assert address.decode_address(body) == Address(7, "10.0.0.5/32")


def test_an_address_of_another_family_is_none() -> None:
    assert address.decode_address(struct.pack("=BBBBI", 45, 0, 0, 0, 7)) is None


@pytest.mark.parametrize(
    "there",
    [
        Route("10.50.0.0/16", "10.0.0.254", 42, 1000, 1400, 1360, 7),
        Route("0.0.0.0/0", "10.0.0.254", 42),
        Route("::/0", "fd00::fe", 42, priority=1024),
        Route("10.80.0.0/16", "fd00::fe", 42),
        Route("10.60.0.0/16", index=42, scope=253),
    ],
)
def test_a_route_round_trip(there: Route) -> None:
    assert address.decode_routes(address.add_route(there).body) == (there,)


def test_each_next_hop_is_a_route() -> None:
    def hop(index: int, last: int) -> bytes:
        gateway = wire.pack_attr(address.RTA_GATEWAY, bytes([10, 0, 0, last]))
        return struct.pack("=HBBi", 8 + len(gateway), 0, 0, index) + gateway

    body = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)
    body += wire.pack_attr(address.RTA_MULTIPATH, hop(3, 1) + hop(4, 2))
    assert address.decode_routes(body) == (
        Route("0.0.0.0/0", "10.0.0.1", 3),
        Route("0.0.0.0/0", "10.0.0.2", 4),
    )


def test_other_kinds_of_route_are_left_out() -> None:
    local, mpls = (
        struct.pack("=BBBBBBBBI", family, 0, 0, 0, 255, 2, 254, kind, 0)
        for family, kind in ((2, 2), (28, 1))
    )
    assert address.decode_routes(local) == address.decode_routes(mpls) == ()


@pytest.mark.parametrize("cidr", ["10.0.0.5", "10.0.0.5/33", "10.0.0/24", "fd00::/129", "x/8", "/"])
def test_invalid_addresses(cidr: str) -> None:
    with pytest.raises(WireError):
        address.add_address(Address(1, cidr), "v0")


@given(st.binary(max_size=160))
def test_any_bytes_are_read_or_refused(junk: bytes) -> None:
    for decode in (link.decode_link, address.decode_address, address.decode_routes):
        for body in (junk, b"\2\0\0\0\xfe\0\0\1" + junk):
            with suppress(WireError):
                decode(body)


@given(data=st.data())
def test_a_real_link_with_flipped_bytes(data: st.DataObject, answers: dict[str, bytes]) -> None:
    title = data.draw(st.sampled_from([t for t in answers if t.startswith("RTM_NEWLINK")]))
    body = bytearray(answers[title])
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=8)):
        body[at] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        link.decode_link(bytes(body[: data.draw(st.integers(0, len(body)))]))
