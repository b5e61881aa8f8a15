"""The frames that shim and daemon speak, as bytes and back.

A frame is a header (version, type, length) and a run of fields (tag, length, value).
Nothing here knows a socket. What breaks the grammar raises ``ProtocolError``, whatever it
is. A field that is not known is skipped, unless its tag says that it matters. The whole is
told in ``docs/protocol.md``; ``shim/bond.c`` holds the same numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
LIMIT = 8 << 20
"""Bytes of a payload."""

CRITICAL = 0x8000
"""The bit of a tag that says: who does not know it must not go on."""

_HEADER = struct.Struct("<BBHI")
_FIELD = struct.Struct("<HI")
_NUMBER = struct.Struct("<I")
_SIGNED = struct.Struct("<i")

HEADER = _HEADER.size


class Type(IntEnum):
    """What a frame is."""

    REQUEST = 1
    ANSWER = 2
    EXEC = 3
    DONE = 4
    FIND = 5
    SYSCTL = 6
    IDENTIFY = 7
    OPEN = 8
    PING = 9


class Tag(IntEnum):
    """What a field is."""

    DESCRIPTORS = 1
    HOST = 2
    POD = 3
    POD_ERROR = 4
    ENV = 5
    STDIN = 6
    STATUS = 7
    OUTPUT = 8
    WARNINGS = 9
    NAME = 10
    PATH = 11
    DEADLINE = 12
    EXIT = 13
    SETTING = 14
    STDERR = 15


class ProtocolError(ValueError):
    """Bytes that are no frame of this protocol."""


class VersionUnknown(ProtocolError):
    """A frame of a version that is not known here."""


Field = tuple[int, bytes]


class Frame(NamedTuple):
    """One frame. ``type`` may be a number that is not known; the receiver decides."""

    type: int
    fields: tuple[Field, ...] = ()

    def all(self, tag: int) -> list[bytes]:
        """The values of a field that may repeat, in order."""
        return [value for found, value in self.fields if found == tag]

    def get(self, tag: int) -> bytes | None:
        """The value of a field that may stand once; None where it is not there."""
        return next((value for found, value in reversed(self.fields) if found == tag), None)

    def text(self, tag: int) -> str:
        """A field's text; "" where it is not there. Bytes that are not UTF-8 survive."""
        return (self.get(tag) or b"").decode("utf-8", "surrogateescape")

    def number(self, tag: int, missing: int = 0) -> int:
        """A field's unsigned number. Raises ``ProtocolError`` where it has not 4 bytes."""
        return self._unpacked(_NUMBER, tag, missing)

    def signed(self, tag: int, missing: int = 0) -> int:
        """A field's signed number. Raises as ``number``."""
        return self._unpacked(_SIGNED, tag, missing)

    def _unpacked(self, codec: struct.Struct, tag: int, missing: int) -> int:
        value = self.get(tag)
        if value is None:
            return missing
        if len(value) != codec.size:
            raise ProtocolError(f"field {tag}: {len(value)} bytes where a number of 4 should be")
        return int(codec.unpack(value)[0])


def pack(kind: int, fields: Iterable[Field] = ()) -> bytes:
    """A whole frame. Raises ``ProtocolError`` where it would be too long."""
    payload = b"".join(_FIELD.pack(tag, len(value)) + value for tag, value in fields)
    if len(payload) > LIMIT:
        raise ProtocolError(f"a frame of {len(payload)} bytes is more than {LIMIT}")
    return _HEADER.pack(VERSION, kind, 0, len(payload)) + payload


def number(value: int) -> bytes:
    """An unsigned number as a field's value."""
    return _NUMBER.pack(value)


def encoded(text: str) -> bytes:
    """Text as a field's value."""
    return text.encode("utf-8", "surrogateescape")


def header(data: bytes | bytearray) -> tuple[int, int]:
    """Type of a frame and length of its payload, from its first ``HEADER`` bytes.

    Raises ``VersionUnknown``, and ``ProtocolError`` for a payload above ``LIMIT``.
    """
    version, kind, _, length = _HEADER.unpack_from(data)
    if version != VERSION:
        raise VersionUnknown(f"version {version} of the protocol is not known, {VERSION} is")
    if length > LIMIT:
        raise ProtocolError(f"a payload of {length} bytes is more than {LIMIT}")
    return kind, length


def unpack(kind: int, payload: bytes) -> Frame:
    """A frame from its payload; fields that are not known are left out.

    Raises ``ProtocolError`` for a field that goes beyond it or one that matters.
    """
    return Frame(kind, tuple(_fields(payload)))


def _fields(payload: bytes) -> Iterator[Field]:
    at = 0
    while at < len(payload):
        if len(payload) - at < _FIELD.size:
            raise ProtocolError(f"{len(payload) - at} bytes where a field should be")
        tag, length = _FIELD.unpack_from(payload, at)
        at += _FIELD.size
        if length > len(payload) - at:
            raise ProtocolError(f"field {tag}: {length} bytes in {len(payload) - at}")
        if tag in _KNOWN:
            yield tag, payload[at : at + length]
        elif tag & CRITICAL:
            raise ProtocolError(f"field {tag} is not known and must not be skipped")
        at += length


_KNOWN = frozenset(map(int, Tag))
