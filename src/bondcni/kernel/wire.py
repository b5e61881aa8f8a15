"""Netlink messages and attributes as bytes, and back.

A message is a header and a body; the body is a fixed struct and a run of
attributes (type, length, value), and a value may be a run of attributes again.
This module knows that grammar and the kernel's answers (acknowledgement, error,
extended ack), and nothing of links or sockets. It is pure.

Bytes that break the grammar raise ``WireError``, whatever they are, and every loop
moves forward. Integers are in host order, as netlink has them
(include/uapi/linux/netlink.h, lib/nlattr.c).
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
    """Bytes that are not well-formed netlink."""


class Message(NamedTuple):
    """One received message without its header's length."""

    type: int
    flags: int
    seq: int
    body: bytes


class Request(NamedTuple):
    """One message to send; the socket adds NLM_F_REQUEST, NLM_F_ACK and the number.

    ``fixed`` is the size of the struct before the attributes; ``operation`` says in
    words what is tried ("create bond bond0") and opens the error's sentence.
    """

    type: int
    flags: int
    body: bytes
    fixed: int
    operation: str


class Ack(NamedTuple):
    """The kernel's answer to one request.

    ``number`` is an errno, 0 for success. ``text`` is the extended ack's (a success
    may carry a warning). ``offset`` counts from the request's nlmsghdr to the
    attribute at fault, 0 where the kernel points at none.
    """

    number: int
    text: str = ""
    offset: int = 0


def align(length: int) -> int:
    """``length`` rounded up to netlink's four bytes (NLMSG_ALIGN, NLA_ALIGN)."""
    return (length + 3) & ~3


def pack_message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """A whole message, padded so that another may follow."""
    length = _NLMSGHDR.size + len(body)
    return _NLMSGHDR.pack(length, kind, flags, seq, 0) + body + bytes(align(length) - length)


def headers(buffer: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, number, start, end) of each message of one datagram, its body's place.

    Raises WireError at the first malformed one.
    """
    at, whole, header = 0, len(buffer), _NLMSGHDR.size
    while at < whole:
        if whole - at < header:
            raise WireError(f"{whole - at} bytes where a netlink header should be")
        length, kind, flags, seq, _ = _NLMSGHDR.unpack_from(buffer, at)
        if not header <= length <= whole - at:
            raise WireError(f"netlink message of {length} bytes in {whole - at}")
        yield kind, flags, seq, at + header, at + length
        at += (length + 3) & ~3


def messages(buffer: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises WireError at the first malformed one."""
    for kind, flags, seq, start, end in headers(buffer):
        yield Message(kind, flags, seq, buffer[start:end])


def pack_attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded. Raises WireError above the 64 KiB its length can tell."""
    length = _NLATTR.size + len(value)
    if length > 0xFFFF:
        raise WireError(f"attribute {kind}: {len(value)} bytes do not fit")
    return _NLATTR.pack(length, kind) + value + bytes(align(length) - length)


def pack_nest(kind: int, *attrs: bytes) -> bytes:
    """An attribute that holds packed attributes, marked NLA_F_NESTED."""
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


def path_at(request: Request, offset: int) -> tuple[int, ...]:
    """The chain of attribute types, outermost first, at an extended ack's offset.

    ``offset`` counts from the nlmsghdr (netlink.h, NLMSGERR_ATTR_OFFS). () where no
    attribute is there.
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
    """The outcome that an NLMSG_ERROR or NLMSG_DONE tells.

    An NLMSG_ERROR echoes the request between errno and attributes, only its header
    when NLM_F_CAPPED (net/netlink/af_netlink.c, netlink_ack).
    """
    body = message.body
    if message.type == NLMSG_DONE and not body:
        return Ack(0)
    number, at = -s32(body[:4]), 4
    if message.type == NLMSG_ERROR:
        echoed = u32(body[4:8])
        at += _NLMSGHDR.size if message.flags & NLM_F_CAPPED else align(echoed)
    if not message.flags & NLM_F_ACK_TLVS:
        return Ack(number)
    found = attrs(body, at)
    offset = u32(found[NLMSGERR_ATTR_OFFS]) if NLMSGERR_ATTR_OFFS in found else 0
    return Ack(number, text(found.get(NLMSGERR_ATTR_MSG, b"")), offset)


def _unpack(codec: struct.Struct, value: bytes) -> int:
    if len(value) != codec.size:
        raise WireError(f"{len(value)} bytes where a number of {codec.size} should be")
    return int(codec.unpack(value)[0])


def u8(value: bytes) -> int:
    """An NLA_U8's number."""
    if len(value) != 1:
        raise WireError(f"{len(value)} bytes where a number of 1 should be")
    return value[0]


def u16(value: bytes) -> int:
    """An NLA_U16's number."""
    return _unpack(_U16, value)


def u32(value: bytes) -> int:
    """An NLA_U32's number."""
    return _unpack(_U32, value)


def s32(value: bytes) -> int:
    """An NLA_S32's number."""
    return _unpack(_S32, value)


def pack_u32(number: int) -> bytes:
    """An NLA_U32's bytes. Raises WireError outside 32 bits."""
    if not 0 <= number <= 0xFFFFFFFF:
        raise WireError(f"{number} does not fit into 32 bits")
    return _U32.pack(number)


def text(value: bytes) -> str:
    """A string's text, with or without its NUL; bytes that are not UTF-8 survive."""
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def pack_text(value: str) -> bytes:
    """A string with its NUL, as NLA_NUL_STRING wants it. A NUL inside is a WireError."""
    if "\0" in value:
        raise WireError(f"NUL in {value!r}")
    return value.encode("utf-8", "surrogateescape") + b"\0"
