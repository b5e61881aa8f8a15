"""Netlink messages and attributes as bytes, and back. Pure.

A message is a header and a body. The body is a fixed header (such as ifinfomsg) and a sequence
of attributes (length, type, value); a value may be a sequence of attributes. This module
handles that format and the kernel's acknowledgements. ``link.py`` and ``address.py`` know what
the messages mean, ``rtnetlink.py`` sends them.

Malformed bytes raise WireError. Integers are in host byte order. Source:
include/uapi/linux/netlink.h, lib/nlattr.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLMSGERR_ATTR_MSG = 1
NLMSGERR_ATTR_OFFS = 2
NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000

_NLMSGHDR = struct.Struct("=IHHII")
_NLATTR = struct.Struct("=HH")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")


class WireError(ValueError):
    """Malformed netlink bytes, or a value that does not fit into its attribute."""


class Message(NamedTuple):
    """A received message."""

    type: int
    flags: int
    seq: int
    body: bytes


class NetlinkRequest(NamedTuple):
    """A message to send; ``Rtnetlink`` adds NLM_F_REQUEST, NLM_F_ACK and the sequence number.

    ``fixed`` is the size of the fixed header before the attributes. ``operation`` describes the
    request ("create bond bond0") and is the first part of an error message.
    """

    type: int
    flags: int
    body: bytes
    fixed: int
    operation: str


class Ack(NamedTuple):
    """The kernel's acknowledgement of a request.

    ``number`` is an errno, 0 for success. ``text`` is the message of the extended
    acknowledgement (a warning, on success). ``offset`` is the place of the invalid attribute in
    the request, counted from its nlmsghdr; 0 if the kernel names none.
    """

    number: int
    text: str = ""
    offset: int = 0


def align(length: int) -> int:
    """``length`` rounded up to a multiple of four (NLMSG_ALIGN, NLA_ALIGN)."""
    return (length + 3) & ~3


def pack_message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """A message with its header, padded so that another message can follow."""
    length = _NLMSGHDR.size + len(body)
    return _NLMSGHDR.pack(length, kind, flags, seq, 0) + body + bytes(align(length) - length)


def headers(buffer: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, sequence number, start and end of the body) of each message in a datagram.

    Raises WireError at the first malformed one.
    """
    at, whole, header = 0, len(buffer), _NLMSGHDR.size
    while at < whole:
        if whole - at < header:
            raise WireError(f"{whole - at} bytes are too short for a netlink header")
        length, kind, flags, seq, _ = _NLMSGHDR.unpack_from(buffer, at)
        if not header <= length <= whole - at:
            raise WireError(f"netlink message: length {length}, but {whole - at} bytes are left")
        yield kind, flags, seq, at + header, at + length
        at += (length + 3) & ~3


def messages(buffer: bytes) -> Iterator[Message]:
    """The messages in a datagram. Raises WireError at the first malformed one."""
    for kind, flags, seq, start, end in headers(buffer):
        yield Message(kind, flags, seq, buffer[start:end])


def pack_attr(kind: int, value: bytes) -> bytes:
    """An attribute, padded. Raises WireError if its length exceeds 16 bits."""
    length = _NLATTR.size + len(value)
    if length > 0xFFFF:
        raise WireError(f"attribute {kind}: a value of {len(value)} bytes is too long")
    return _NLATTR.pack(length, kind) + value + bytes(align(length) - length)


def pack_nest(kind: int, *attrs: bytes) -> bytes:
    """An attribute with packed attributes as its value, and NLA_F_NESTED set."""
    return pack_attr(kind | NLA_F_NESTED, b"".join(attrs))


def attr_list(buffer: bytes, at: int = 0) -> list[tuple[int, bytes]]:
    """(type, value) of each attribute from ``at`` on, without the flags of the type.

    This is the only loop over attributes. Raises WireError at the first malformed one.
    """
    found: list[tuple[int, bytes]] = []
    unpack, end = _NLATTR.unpack_from, len(buffer)
    if at > end:
        raise WireError(f"{end} bytes are too short for a header of {at}")
    last = end - _NLATTR.size
    while at <= last:
        length, kind = unpack(buffer, at)
        if not 4 <= length <= end - at:
            raise WireError(f"attribute {kind}: length {length}, but {end - at} bytes are left")
        found.append((kind & NLA_TYPE_MASK, buffer[at + 4 : at + length]))
        at += (length + 3) & ~3
    if at < end:
        raise WireError(f"{end - at} bytes are too short for an attribute")
    return found


def attrs(buffer: bytes, at: int = 0) -> dict[int, bytes]:
    """Attribute values by type; of a repeated one the last, as the kernel does."""
    return dict(attr_list(buffer, at))


def path_at(request: NetlinkRequest, offset: int) -> tuple[int, ...]:
    """The types of the nested attributes, outermost first, at an offset in a request.

    ``offset`` counts from the nlmsghdr (netlink.h, NLMSGERR_ATTR_OFFS). () if no attribute is
    there.
    """
    path: list[int] = []
    value, start = request.body, align(request.fixed)
    offset -= _NLMSGHDR.size
    while start <= offset < len(value):
        try:
            found = attr_list(value, start)
        except WireError:  # the value of the last attribute is not a nest
            break
        for kind, inner in found:
            end = start + align(_NLATTR.size + len(inner))
            if offset < end:
                path.append(kind)
                value, offset, start = inner, offset - start - _NLATTR.size, 0
                break
            start = end
    return tuple(path)


def ack(message: Message) -> Ack:
    """The acknowledgement in an NLMSG_ERROR or NLMSG_DONE.

    Between errno and attributes an NLMSG_ERROR repeats the request, or with NLM_F_CAPPED only
    its header (net/netlink/af_netlink.c, netlink_ack).
    """
    body = message.body
    if message.type == NLMSG_DONE and not body:
        return Ack(0)
    number, at = -s32(body[:4]), 4
    if message.type == NLMSG_ERROR:
        length = u32(body[4:8])
        at += _NLMSGHDR.size if message.flags & NLM_F_CAPPED else align(length)
    if not message.flags & NLM_F_ACK_TLVS:
        return Ack(number)
    found = attrs(body, at)
    offset = u32(found[NLMSGERR_ATTR_OFFS]) if NLMSGERR_ATTR_OFFS in found else 0
    return Ack(number, text(found.get(NLMSGERR_ATTR_MSG, b"")), offset)


def _unpack(codec: struct.Struct, value: bytes) -> int:
    if len(value) != codec.size:
        raise WireError(f"{len(value)} bytes instead of a number of {codec.size}")
    return int(codec.unpack(value)[0])


def u8(value: bytes) -> int:
    """The number in an NLA_U8."""
    if len(value) != 1:
        raise WireError(f"{len(value)} bytes instead of a number of 1")
    return value[0]


def u16(value: bytes) -> int:
    """The number in an NLA_U16."""
    return _unpack(_U16, value)


def u32(value: bytes) -> int:
    """The number in an NLA_U32."""
    return _unpack(_U32, value)


def s32(value: bytes) -> int:
    """The number in an NLA_S32."""
    return _unpack(_S32, value)


def pack_u32(number: int) -> bytes:
    """The bytes of an NLA_U32. Raises WireError if the number exceeds 32 bits."""
    if not 0 <= number <= 0xFFFFFFFF:
        raise WireError(f"{number} does not fit into 32 bits")
    return _U32.pack(number)


def text(value: bytes) -> str:
    """The text of a string with or without a NUL at its end; other bytes than UTF-8 are kept."""
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def pack_text(value: str) -> bytes:
    """The bytes of an NLA_NUL_STRING. Raises WireError for a NUL in the text."""
    if "\0" in value:
        raise WireError(f"{value!r} contains a NUL")
    return value.encode("utf-8", "surrogateescape") + b"\0"
