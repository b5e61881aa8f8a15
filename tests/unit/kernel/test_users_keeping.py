"""Issue item 14: what a link loses, from dumps to the messages that give it back."""

from __future__ import annotations

import struct

import pytest
from tests.unit.core.world import nic

from bondcni.core.state import Address, Kept, Link, Route
from bondcni.kernel import keeping, watch
from bondcni.kernel.address import add_address, add_route, decode_address, decode_routes
from bondcni.kernel.keeping import get_neighbours, losses, restore_order, restore_request
from bondcni.kernel.wire import WireError, attr_list, attrs, pack_attr, pack_message, pack_u32, u32

ETH: Link = nic(11, "eth1", mac="02:00:00:00:00:0b")
PERMANENT = 0x80
BOOT, BIRD = 3, 12


def address(text: str, flags: int = PERMANENT, proto: int = 0) -> bytes:
    body = add_address(Address(11, text, flags=flags), "").body
    return body + (pack_attr(keeping.IFA_PROTO, bytes((proto,))) if proto else b"")


def route(dst: str, gw: str = "", protocol: int = BOOT, **more: int) -> bytes:
    """As a dump has it, with flags that only the kernel may set."""
    body = add_route(Route(dst, gw, 11, **more)).body
    cache = pack_attr(keeping.RTA_CACHEINFO, bytes(32))
    return body[:5] + bytes((protocol,)) + body[6:8] + struct.pack("=I", 0x14) + body[12:] + cache


def neighbour(text: bytes, state: int) -> bytes:
    body = struct.pack("=BBHiHBB", 2, 0, 0, 11, state, 0, 1)
    attributes = (1, text), (2, bytes(6)), (3, bytes(16)), (4, bytes(4))
    return body + b"".join(pack_attr(*each) for each in attributes)


def words(
    addresses: list[bytes] | None = None,
    routes: list[bytes] | None = None,
    neighbours: list[bytes] | None = None,
) -> list[str]:
    return [one.words for one in losses(ETH, addresses or [], routes or [], neighbours or [])]


def test_14_what_the_kernel_makes_by_itself_is_not_kept() -> None:
    assert words([address("fe80::1234/64", proto=3)]) == []  # its own
    assert words([address("fe80::ff:fe00:b/64")]) == []  # and before 5.18: of the MAC
    assert words([address("fe80::1234/64", PERMANENT | 0x800)]) == []  # or stable and private
    assert words([address("2001:db8::5/64", PERMANENT, proto=2)]) == []  # router advertisement
    assert words([address("192.0.2.5/24", 0)]) == []  # DHCP's, which ends
    assert words([address("fe80::7/64")]) == ["address fe80::7/64"]


def test_14_routes_of_daemons_are_not_kept() -> None:
    assert words(routes=[route("192.0.2.0/24", protocol=p) for p in (2, 9, 16, BIRD)]) == []
    assert words(routes=[route("192.0.2.0/24", protocol=4)]) == ["route 192.0.2.0/24"]


def test_14_routes_by_a_gateway_come_after_those_that_reach_it() -> None:
    found = [route("192.0.2.0/24", "10.0.0.1", priority=7), route("10.0.0.0/24", table=1000)]
    assert words(routes=found) == [
        "route 10.0.0.0/24 table 1000",
        "route 192.0.2.0/24 via 10.0.0.1 metric 7",
    ]


def test_14_neighbours_that_are_permanent_are_kept() -> None:
    found = [neighbour(bytes((10, 0, 0, n)), state) for n, state in ((1, 2), (2, 0x80), (3, 0x40))]
    assert words(neighbours=found) == ["neighbour 10.0.0.2"]


def test_14_what_is_given_back_is_what_was_there_on_the_link_as_it_is_now() -> None:
    found = losses(
        ETH,
        [address("fe80::7/64")],
        [route("192.0.2.0/24", "10.0.0.1", mtu=1400), route("::/0", "fe80::1")],
        [neighbour(bytes((10, 0, 0, 2)), 0x80)],
    )
    requests = [restore_request(one, 77, "eth9") for one in found]
    assert [request.operation for request in requests] == [
        f"restore {one.words} of eth9" for one in found
    ]
    assert decode_address(requests[0].body) == Address(77, "fe80::7/64", flags=PERMANENT)
    assert decode_routes(requests[1].body) == (Route("192.0.2.0/24", "10.0.0.1", 77, mtu=1400),)
    assert decode_routes(requests[2].body) == (Route("::/0", "fe80::1", 77),)
    for request in requests[1:3]:
        assert request.body[8:12] == struct.pack("=I", keeping.RTNH_F_ONLINK)
        assert keeping.RTA_CACHEINFO not in attrs(request.body, request.fixed)
    assert struct.unpack_from("=i", requests[3].body, 4) == (77,)
    assert [kind for kind, _ in attr_list(requests[3].body, 12)] == [1, 2]
    assert sorted([requests[n] for n in (3, 2, 1, 0)], key=restore_order) == [
        requests[n] for n in (0, 2, 1, 3)
    ]


def test_14_of_many_next_hops_those_on_the_link_alone_move() -> None:
    hops = b"".join(
        struct.pack("=HBBi", 16, 0x11, weight, index) + pack_attr(5, bytes((10, 0, 0, index)))
        for weight, index in ((2, 11), (0, 12))
    )
    body = add_route(Route("192.0.2.0/24")).body + pack_attr(9, hops)
    (one,) = losses(ETH, [], [body], [])
    assert one.words == "route 192.0.2.0/24 via 10.0.0.11 via 10.0.0.12"
    request = restore_request(one, 77, "eth1")
    assert [(hop.index, hop.gw) for hop in decode_routes(request.body)] == [
        (77, "10.0.0.11"),
        (12, "10.0.0.12"),
    ]
    value = attrs(request.body, request.fixed)[9]
    assert [value[at + 2 : at + 4] for at in (0, 16)] == [b"\0\2", b"\0\0"]


@pytest.mark.parametrize("length", [0, 7, 99])
def test_14_a_next_hop_of_no_size_is_an_error(length: int) -> None:
    broken = struct.pack("=HBBi", length, 0, 0, 11)
    body = add_route(Route("192.0.2.0/24")).body + pack_attr(9, broken)
    message = pack_message(24, 0, 0, body).hex()
    with pytest.raises(WireError):
        restore_request(Kept(11, "route", message), 11, "eth1")


def test_14_a_record_cannot_make_us_send_anything_else() -> None:
    message = pack_message(16, 0, 0, bytes(16)).hex()
    with pytest.raises(WireError, match="type 16"):
        restore_request(Kept(11, "a link", message), 11, "eth1")


def test_14_neighbours_are_asked_for_by_link() -> None:
    request = get_neighbours(7)
    assert request.body[:12] == bytes(12)  # strict checking wants no ifindex there
    assert u32(attrs(request.body, 12)[keeping.NDA_IFINDEX]) == 7
    assert pack_u32(7) in request.body


@pytest.mark.parametrize(
    ("body", "noted"),
    [
        (route("0.0.0.0/0", "10.0.0.1", protocol=BIRD), True),
        (route("192.0.2.0/24", protocol=BOOT), True),
        (route("192.0.2.0/24", protocol=4), True),
        (route("192.0.2.0/24", protocol=BIRD), False),
        (route("192.0.2.0/24", protocol=2), False),
    ],
)
def test_14_the_watch_notes_routes_that_matter(body: bytes, *, noted: bool) -> None:
    assert watch._is_relevant(body) is noted
