"""Bonding options as netlink payloads, and back. Pure.

A row of ``core.options`` names the codec of its option; this module implements the codecs.
Numbers are in host byte order. A list of addresses is a nest whose attribute i is the i-th
address. ``core.values`` checks the range of a value; ``kernel.link`` adds the attribute
around the payload.

Source: drivers/net/bonding/bond_netlink.c (bond_policy, bond_fill_info).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from bondcni.core.options import AD_INFO, BOND_OPTIONS, MEMBER_OPTIONS, Option
from bondcni.core.state import OptionValue
from bondcni.kernel.wire import attrs, pack_attr

_NUMBERS = {
    "u8": struct.Struct("=B"),
    "u16": struct.Struct("=H"),
    "u32": struct.Struct("=I"),
    "s32": struct.Struct("=i"),
    "ifindex": struct.Struct("=I"),
}


def encode(option: Option, value: OptionValue) -> bytes:
    """The payload of the option's attribute. A link is given by its ifindex.

    Raises ValueError when the value has another type than the codec, or does not fit.
    """
    codec = option.codec
    if codec in _NUMBERS and isinstance(value, int):
        try:
            return _NUMBERS[codec].pack(value)
        except struct.error:
            raise ValueError(f"{option.kernel}: {value} does not fit into {codec}") from None
    if codec == "mac" and isinstance(value, str):
        return bytes(int(octet, 16) for octet in value.split(":"))
    if codec in ("ipv4-list", "ipv6-list") and isinstance(value, tuple):
        return b"".join(pack_attr(i, _packed(codec, text)) for i, text in enumerate(value))
    raise ValueError(f"{option.kernel}: {value!r} cannot be encoded as {codec}")


def _packed(codec: str, text: str) -> bytes:
    import ipaddress  # noqa: PLC0415  # costs more than this package; few bonds have targets

    if codec == "ipv4-list":
        return ipaddress.IPv4Address(text).packed
    return ipaddress.IPv6Address(text).packed


def decode(option: Option, payload: bytes) -> OptionValue:
    """The value of a payload. Raises ValueError when the payload does not fit the codec."""
    codec = option.codec
    if codec in _NUMBERS:
        if len(payload) != _NUMBERS[codec].size:
            raise ValueError(f"{option.kernel}: {len(payload)} bytes instead of {codec}")
        number: int = _NUMBERS[codec].unpack(payload)[0]
        return number
    if codec == "mac":
        return payload.hex(":")
    if codec in ("ipv4-list", "ipv6-list"):
        return tuple(_unpacked(codec, part) for _, part in sorted(attrs(payload).items()))
    raise ValueError(f"{option.kernel}: {codec} is not a single value")


def _unpacked(codec: str, payload: bytes) -> str:
    import ipaddress  # noqa: PLC0415

    if codec == "ipv4-list":
        return str(ipaddress.IPv4Address(payload))
    return str(ipaddress.IPv6Address(payload))


def decode_bond(attributes: Mapping[int, bytes]) -> dict[str, OptionValue]:
    """The options in a bond's IFLA_INFO_DATA by kernel name, with those of ``AD_INFO``.

    Attributes that the table does not list, or whose payload does not fit the codec, are
    left out.
    """
    found = _decoded(BOND_OPTIONS, attributes)
    for row in BOND_OPTIONS:
        if row.codec == "ad-info" and row.number in attributes:
            try:
                found |= _decoded(AD_INFO, attrs(attributes[row.number]))
            except ValueError:
                continue
    return found


def decode_member(attributes: Mapping[int, bytes]) -> dict[str, OptionValue]:
    """The options in a member's IFLA_INFO_SLAVE_DATA by kernel name."""
    return _decoded(MEMBER_OPTIONS, attributes)


def _decoded(table: tuple[Option, ...], attributes: Mapping[int, bytes]) -> dict[str, OptionValue]:
    found: dict[str, OptionValue] = {}
    for row in table:
        if row.number in attributes:
            try:
                found[row.kernel] = decode(row, attributes[row.number])
            except ValueError:
                continue
    return found
