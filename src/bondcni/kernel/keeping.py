"""What a link loses when it leaves its network namespace, and messages that restore it. Pure.

The kernel removes addresses, routes and neighbours of a link that leaves. The messages of a dump
can be sent again, as ``ip route save`` and ``restore`` do: so also those attributes are restored
that ``state.Route`` does not have (source, type of service, weights, metrics). Recorded is what was
configured by hand or by a network manager, not what the kernel, a routing daemon or DHCP adds
again.

Numbers and names are the kernel's (include/uapi/linux/if_addr.h, rtnetlink.h, neighbour.h).
"""

from __future__ import annotations

import struct
from _socket import inet_ntop
from collections.abc import Callable, Iterable, Iterator

from bondcni.core.state import Kept, Link
from bondcni.kernel.address import (
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_VIA,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTN_UNICAST,
    decode_address,
    decode_routes,
)
from bondcni.kernel.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkRequest,
    WireError,
    align,
    attr_list,
    attrs,
    messages,
    pack_attr,
    pack_message,
    pack_u32,
    u8,
    u32,
)

RTM_NEWNEIGH = 28
RTM_GETNEIGH = 30

IFA_PROTO = 11
IFAPROT_KERNEL = (1, 2, 3)  # ::1, router advertisement, link-local
IFA_F_PERMANENT = 0x80
IFA_F_STABLE_PRIVACY = 0x800

RTA_CACHEINFO = 12
RTA_NH_ID = 30  # the nexthop object is removed with the link; the message has its hops as well
RTPROT_BY_HAND = (3, 4)  # boot (ip route), static (network managers)
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200

NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_PROTOCOL, NDA_FLAGS_EXT = 1, 2, 8, 12, 15
NUD_PERMANENT = 0x80

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_RTNEXTHOP = struct.Struct("=HBBi")  # length, flags, hops, ifindex
_NDMSG = struct.Struct("=BBHiHBB")  # family, -, -, ifindex, state, flags, type


def get_neighbours(index: int) -> NetlinkRequest:
    """RTM_GETNEIGH for a dump of one link's neighbours, of every family."""
    body = _NDMSG.pack(*[0] * 7) + pack_attr(NDA_IFINDEX, pack_u32(index))
    return NetlinkRequest(RTM_GETNEIGH, 0, body, _NDMSG.size, "list neighbours")


def losses(
    link: Link, addresses: Iterable[bytes], routes: Iterable[bytes], neighbours: Iterable[bytes]
) -> tuple[Kept, ...]:
    """What of these dumps is to be restored, in an order in which that is possible."""
    found = [_address(link, body) for body in addresses]
    found += sorted(map(_route, routes), key=lambda one: " via " in one[0])
    found += [_neighbour(body) for body in neighbours]
    return tuple(Kept(link.index, words, message.hex()) for words, message in found if words)


_NOTHING = ("", b"")


def _address(link: Link, body: bytes) -> tuple[str, bytes]:
    """As text and as a message; "" for an address that the kernel itself adds."""
    address = decode_address(body)
    if address is None or not address.flags & IFA_F_PERMANENT:
        return _NOTHING
    found = attrs(body, _IFADDRMSG.size)
    if u8(found.get(IFA_PROTO, b"\0")) in IFAPROT_KERNEL:
        return _NOTHING
    if address.flags & IFA_F_STABLE_PRIVACY or address.address == _eui64(link.mac):
        return _NOTHING  # the kernel's link-local address; before 5.18 there is no IFA_PROTO
    flags = NLM_F_CREATE | NLM_F_EXCL
    return f"address {address.address}", pack_message(RTM_NEWADDR, flags, 0, body)


def _eui64(mac: str) -> str:
    """The link-local address that the kernel derives from a MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        return ""
    own = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return f"{inet_ntop(10, bytes((0xFE, 0x80, 0, 0, 0, 0, 0, 0)) + own)}/64"


def _route(body: bytes) -> tuple[str, bytes]:
    family, dst, src, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    if protocol not in RTPROT_BY_HAND or flags & RTM_F_CLONED:
        return _NOTHING
    hops = decode_routes(body[:7] + bytes((RTN_UNICAST,)) + body[8:])
    if not hops:
        return _NOTHING
    words = f"route {hops[0].dst}" + "".join(f" via {hop.gw}" for hop in hops if hop.gw)
    words += f" metric {hops[0].priority}" if hops[0].priority else ""
    words += f" table {hops[0].table}" if hops[0].table != 254 else ""
    head = _RTMSG.pack(family, dst, src, tos, table, protocol, scope, kind, flags & RTNH_F_ONLINK)
    message = head + _attributes(body, lambda flags, index: (flags & RTNH_F_ONLINK, index))
    return words, pack_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, 0, message)


Hop = Callable[[int, int], tuple[int, int]]
"""Maps the flags and ifindex of a next hop to those to send."""


def _attributes(body: bytes, hop: Hop) -> bytes:
    """A route's attributes, with other next hops."""
    packed = b""
    for kind, value in attr_list(body, _RTMSG.size):
        if kind == RTA_OIF:
            packed += pack_attr(kind, pack_u32(hop(0, u32(value))[1]))
        elif kind == RTA_MULTIPATH:
            packed += pack_attr(kind, b"".join(_hops(value, hop)))
        elif kind not in (RTA_CACHEINFO, RTA_NH_ID):
            packed += pack_attr(kind, value)
    return packed


def _hops(value: bytes, hop: Hop) -> Iterator[bytes]:
    at = 0
    while at < len(value):
        length, flags, hops, index = _RTNEXTHOP.unpack_from(value, at)
        if not _RTNEXTHOP.size <= length <= len(value) - at:
            raise WireError(f"next hop of {length} bytes in {len(value) - at}")
        rest = value[at + _RTNEXTHOP.size : at + align(length)]
        flags, index = hop(flags, index)
        yield _RTNEXTHOP.pack(length, flags, hops, index) + rest
        at += align(length)


def _neighbour(body: bytes) -> tuple[str, bytes]:
    family, _, _, index, state, flags, kind = _NDMSG.unpack_from(body)
    found = attrs(body, _NDMSG.size)
    if not state & NUD_PERMANENT or NDA_DST not in found:
        return _NOTHING
    own = (NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NDA_FLAGS_EXT)
    message = _NDMSG.pack(family, 0, 0, index, state, flags, kind)
    message += b"".join(pack_attr(k, v) for k, v in found.items() if k in own)
    words = f"neighbour {inet_ntop(family, found[NDA_DST])}"
    return words, pack_message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, 0, message)


def restore_request(one: Kept, index: int, name: str) -> NetlinkRequest:
    """The request that restores it on the link, which has that ifindex and name now.

    EEXIST when it exists. A route is appended to others of its destination. Raises WireError for
    a message that ``losses`` did not make.
    """
    (message,) = messages(bytes.fromhex(one.message))
    body = message.body
    if message.type == RTM_NEWROUTE:
        size = _RTMSG.size
        moved = _attributes(body, lambda flags, old: (flags, index if old == one.index else old))
        body = body[:size] + moved
    elif message.type in (RTM_NEWADDR, RTM_NEWNEIGH):
        size = _IFADDRMSG.size if message.type == RTM_NEWADDR else _NDMSG.size
        body = body[:4] + pack_u32(index) + body[8:]  # both have the ifindex there
    else:
        raise WireError(f"message of type {message.type} is not one that restores something")
    return NetlinkRequest(message.type, message.flags, body, size, f"restore {one.words} of {name}")


def restore_order(request: NetlinkRequest) -> tuple[int, bool]:
    """The sort key of such requests: addresses, routes, routes through a gateway, neighbours."""
    routed = request.type == RTM_NEWROUTE
    found = attrs(request.body, request.fixed) if routed else {}
    return request.type, not found.keys().isdisjoint((RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH))
