"""Messages about IP addresses and routes, and both read back. Pure.

Values are ``state.Address`` and ``state.Route`` in both directions. A text with a colon is IPv6.
Numbers and names are the kernel's (include/uapi/linux/if_addr.h, rtnetlink.h).
"""

from __future__ import annotations

import struct
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Iterator, Mapping
from dataclasses import replace

from bondcni.core.state import Address, Route
from bondcni.kernel.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkRequest,
    WireError,
    align,
    attrs,
    pack_attr,
    pack_u32,
    u32,
)

RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_FLAGS = 8
IFA_F_OPTIMISTIC = 0x04
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_TABLE = 15
RTA_VIA = 18
RTAX_MTU = 2
RTAX_ADVMSS = 8
RTN_UNICAST = 1
RTPROT_BOOT = 3
RT_TABLE_UNSPEC = 0

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_RTNEXTHOP = struct.Struct("=HBBi")  # length, flags, hops, ifindex
_BYTE = 0xFF  # the largest number in the fixed structs; larger ones are sent as an attribute
_FAMILY = struct.Struct("=H")
_LENGTHS: Mapping[int, int] = {AF_INET: 4, AF_INET6: 16}


def _pack_ip(address: str) -> tuple[int, bytes]:
    family = AF_INET6 if ":" in address else AF_INET
    try:
        return family, inet_pton(family, address)
    except (OSError, ValueError):
        raise WireError(f"not an IP address: {address!r}") from None


def _pack_cidr(cidr: str) -> tuple[int, bytes, int]:
    """Family, address and prefix length of ``10.0.0.5/24``."""
    address, _, prefix = cidr.partition("/")
    family, packed = _pack_ip(address)
    if not (prefix.isascii() and prefix.isdigit() and int(prefix) <= 8 * len(packed)):
        raise WireError(f"not an address with its prefix length: {cidr!r}")
    return family, packed, int(prefix)


def _text_ip(family: int, value: bytes) -> str:
    if _LENGTHS.get(family) != len(value):
        raise WireError(f"address of {len(value)} bytes in family {family}")
    return inet_ntop(family, value)


def _broadcast(packed: bytes, prefix: int) -> bytes:
    host = (1 << (32 - prefix)) - 1
    return (int.from_bytes(packed, "big") | host).to_bytes(4, "big")


def add_address(address: Address, name: str) -> NetlinkRequest:
    """RTM_NEWADDR; IPv4 below /31 gets its broadcast address. EEXIST when it exists.

    ``name`` is the link's, for error messages.
    """
    family, packed, prefix = _pack_cidr(address.address)
    flags8 = address.flags if address.flags <= _BYTE else 0
    body = _IFADDRMSG.pack(family, prefix, flags8, address.scope, address.index)
    body += pack_attr(IFA_LOCAL, packed) + pack_attr(IFA_ADDRESS, packed)
    if family == AF_INET and prefix < 31:
        body += pack_attr(IFA_BROADCAST, _broadcast(packed, prefix))
    if address.flags > _BYTE:
        body += pack_attr(IFA_FLAGS, pack_u32(address.flags))
    operation = f"add {address.address} to {name}"
    return NetlinkRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, _IFADDRMSG.size, operation)


def get_addresses(index: int = 0) -> NetlinkRequest:
    """RTM_GETADDR for a dump: of one link, or of all links."""
    return NetlinkRequest(RTM_GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, index), 8, "list addresses")


def decode_address(body: bytes) -> Address | None:
    """The address of an RTM_NEWADDR's body; None in other families. Raises WireError.

    IFA_LOCAL is the link's own; on a point-to-point link IFA_ADDRESS is the peer's.
    """
    found = attrs(body, _IFADDRMSG.size)
    family, prefix, flags, scope, index = _IFADDRMSG.unpack_from(body)
    if family not in _LENGTHS:
        return None
    own = _text_ip(family, found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b"")))
    if IFA_FLAGS in found:
        flags = u32(found[IFA_FLAGS])
    return Address(index, f"{own}/{prefix}", scope, flags)


def _gateway(family: int, gw: str) -> bytes:
    """RTA_GATEWAY, or RTA_VIA where an IPv4 route has an IPv6 gateway (RFC 5549)."""
    gw_family, packed = _pack_ip(gw)
    if gw_family == family:
        return pack_attr(RTA_GATEWAY, packed)
    return pack_attr(RTA_VIA, _FAMILY.pack(gw_family) + packed)


def _numbers(*pairs: tuple[int, int]) -> bytes:
    """Attributes of 32 bits. 0 is not sent, because it is the kernel's default in all of them."""
    return b"".join(pack_attr(kind, pack_u32(number)) for kind, number in pairs if number)


def _route_attrs(route: Route) -> bytes:
    family, packed, prefix = _pack_cidr(route.dst)
    metrics = _numbers((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss))
    return b"".join(
        (
            pack_attr(RTA_DST, packed) if prefix else b"",
            _gateway(family, route.gw) if route.gw else b"",
            _numbers((RTA_OIF, route.index), (RTA_PRIORITY, route.priority)),
            _numbers((RTA_TABLE, route.table)) if route.table > _BYTE else b"",
            pack_attr(RTA_METRICS, metrics) if metrics else b"",
        )
    )


def add_route(route: Route) -> NetlinkRequest:
    """RTM_NEWROUTE. EEXIST when it exists, ENETUNREACH when the gateway is not on a link.

    The flags are those of the reference plugins (netlink.RouteAddEcmp): an IPv4 route is inserted
    before others with its destination and metric; an IPv6 route with a gateway becomes another
    next hop of them (docs/decisions/0008). ``mtu``, ``advmss`` and ``priority`` 0 leave the
    kernel's default.
    """
    family, _, prefix = _pack_cidr(route.dst)
    table = route.table if route.table <= _BYTE else RT_TABLE_UNSPEC
    head = _RTMSG.pack(family, prefix, 0, 0, table, RTPROT_BOOT, route.scope, RTN_UNICAST, 0)
    words = f"add route {route.dst}" + (f" via {route.gw}" if route.gw else "")
    return NetlinkRequest(
        RTM_NEWROUTE, NLM_F_CREATE, head + _route_attrs(route), _RTMSG.size, words
    )


def get_routes(index: int = 0) -> NetlinkRequest:
    """RTM_GETROUTE for a dump of every table and family: routes through one link, or all."""
    body = _RTMSG.pack(*[0] * 9) + _numbers((RTA_OIF, index))
    return NetlinkRequest(RTM_GETROUTE, 0, body, _RTMSG.size, "list routes")


def _hops(found: Mapping[int, bytes]) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """(ifindex, attributes with the gateway) of each next hop of a route."""
    if RTA_MULTIPATH not in found:
        yield u32(found.get(RTA_OIF, bytes(4))), found
        return
    value, at = found[RTA_MULTIPATH], 0
    while at < len(value):
        length = _RTNEXTHOP.unpack_from(value, at)[0] if len(value) - at >= 8 else 0
        if not _RTNEXTHOP.size <= length <= len(value) - at:
            raise WireError(f"next hop of {length} bytes in {len(value) - at}")
        yield _RTNEXTHOP.unpack_from(value, at)[3], attrs(value[at : at + length], 8)
        at += align(length)


def _text_gateway(family: int, hop: Mapping[int, bytes]) -> str:
    if RTA_GATEWAY in hop:
        return _text_ip(family, hop[RTA_GATEWAY])
    if len(hop.get(RTA_VIA, b"")) > 2:
        return _text_ip(_FAMILY.unpack_from(hop[RTA_VIA])[0], hop[RTA_VIA][2:])
    return ""


def decode_routes(body: bytes) -> tuple[Route, ...]:
    """The unicast routes of an RTM_NEWROUTE's body: one for each next hop.

    () for other kinds (local, broadcast, blackhole) and families. Raises WireError.
    """
    found = attrs(body, _RTMSG.size)
    family, prefix, _, _, table, _, scope, kind, _ = _RTMSG.unpack_from(body)
    if kind != RTN_UNICAST or family not in _LENGTHS:
        return ()
    dst = _text_ip(family, found.get(RTA_DST, bytes(_LENGTHS[family])))
    metrics = attrs(found.get(RTA_METRICS, b""))
    common = Route(
        dst=f"{dst}/{prefix}",
        table=u32(found[RTA_TABLE]) if RTA_TABLE in found else table,
        mtu=u32(metrics.get(RTAX_MTU, bytes(4))),
        advmss=u32(metrics.get(RTAX_ADVMSS, bytes(4))),
        priority=u32(found.get(RTA_PRIORITY, bytes(4))),
        scope=scope,
    )
    return tuple(
        replace(common, index=index, gw=_text_gateway(family, hop)) for index, hop in _hops(found)
    )
