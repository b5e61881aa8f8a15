"""Netlink payloads of bonding options: values to bytes and back.

An option's row names its codec; this module is what the names mean. Numbers are in the
host's byte order; a list is a nest whose attribute i is its i-th address, as iproute2
writes it and the kernel reports it. Which values are sensible is ``values``' business,
the attribute around a payload is the kernel layer's.

Source: drivers/net/bonding/bond_netlink.c (bond_policy, bond_fill_info).
"""

from __future__ import annotations

import struct

from bondcni.core.state import OptionValue

_NUMBERS = {
    "u8": struct.Struct("=B"),
    "u16": struct.Struct("=H"),
    "u32": struct.Struct("=I"),
    "s32": struct.Struct("=i"),
    "ifindex": struct.Struct("=I"),
}
_WIDTHS = {"mac": 6, "ipv4-list": 4, "ipv6-list": 16}
_HEADER = struct.Struct("=HH")  # length with the header, type
_TYPE_BITS = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def width(codec: str) -> int:
    """Bytes of one value (of one address, for lists); 0 for a nest of other options."""
    return _NUMBERS[codec].size if codec in _NUMBERS else _WIDTHS.get(codec, 0)


def encode_as(codec: str, value: OptionValue) -> bytes:
    """The payload of ``value``. Raises ValueError when it does not fit the codec."""
    if codec in _NUMBERS and isinstance(value, int):
        try:
            return _NUMBERS[codec].pack(value)
        except struct.error:
            raise ValueError(f"{value} does not fit into {codec}") from None
    if codec == "mac" and isinstance(value, str):
        return bytes(int(octet, 16) for octet in value.split(":"))
    if codec in ("ipv4-list", "ipv6-list") and isinstance(value, tuple):
        return b"".join(_attribute(i, _packed(codec, text)) for i, text in enumerate(value))
    raise ValueError(f"{value!r} cannot be sent as {codec}")


def _attribute(number: int, payload: bytes) -> bytes:
    """One attribute; addresses are whole words, so there is no padding."""
    return _HEADER.pack(_HEADER.size + len(payload), number) + payload


def _packed(codec: str, text: str) -> bytes:
    import ipaddress  # noqa: PLC0415  # costs more than this package; few bonds have targets

    if codec == "ipv4-list":
        return ipaddress.IPv4Address(text).packed
    return ipaddress.IPv6Address(text).packed


def decode_as(codec: str, payload: bytes) -> OptionValue:
    """The value of a payload. Raises ValueError when its size is not the codec's."""
    if codec in _NUMBERS:
        if len(payload) != _NUMBERS[codec].size:
            raise ValueError(f"{len(payload)} bytes are not {codec}")
        number: int = _NUMBERS[codec].unpack(payload)[0]
        return number
    if codec == "mac":
        return payload.hex(":")
    if codec in ("ipv4-list", "ipv6-list"):
        return tuple(_unpacked(codec, part) for _, part in sorted(attributes(payload).items()))
    raise ValueError(f"{codec} is not one value")


def _unpacked(codec: str, payload: bytes) -> str:
    import ipaddress  # noqa: PLC0415

    if codec == "ipv4-list":
        return str(ipaddress.IPv4Address(payload))
    return str(ipaddress.IPv6Address(payload))


def attributes(nest: bytes) -> dict[int, bytes]:
    """A nest's attributes by number. Raises ValueError when one is cut short."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _HEADER.size <= len(nest):
        length, number = _HEADER.unpack_from(nest, at)
        if length < _HEADER.size or at + length > len(nest):
            raise ValueError("a nested attribute is cut short")
        found[number & _TYPE_BITS] = nest[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
    return found
