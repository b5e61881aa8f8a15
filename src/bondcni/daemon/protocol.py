"""The frames between the shim and the daemon: packing and unpacking.

A frame is a header (version, type, length) followed by fields (tag, length, value). Pure: no
socket is used here. Bytes that are not a valid frame raise ``ProtocolError``. An unknown field is
ignored, unless its tag has the critical bit. ``docs/protocol.md`` is the specification;
``shim/shim.h`` has the same numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
LIMIT = 8 << 20
"""The most bytes of a payload."""

CRITICAL = 0x8000
"""The bit of a tag that must not be ignored by a receiver that does not know it."""

_HEADER = struct.Struct("<BBHI")
_FIELD = struct.Struct("<HI")
_NUMBER = struct.Struct("<I")
_SIGNED = struct.Struct("<i")

HEADER = _HEADER.size


class Type(IntEnum):
    """The type of a frame."""

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
    """The tag of a field."""

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
    """Bytes that are not a valid frame of this protocol."""


class VersionUnknown(ProtocolError):
    """A frame of an unknown protocol version."""


Field = tuple[int, bytes]


class Frame(NamedTuple):
    """One frame. ``type`` may be an unknown number; the receiver decides what to do."""

    type: int
    fields: tuple[Field, ...] = ()

    def all(self, tag: int) -> list[bytes]:
        """The values of a field that may repeat, in order."""
        return [value for found, value in self.fields if found == tag]

    def get(self, tag: int) -> bytes | None:
        """The value of a field that appears once (else the last); None if it is missing."""
        return next((value for found, value in reversed(self.fields) if found == tag), None)

    def text(self, tag: int) -> str:
        """A field's text, "" if it is missing. Bytes that are not UTF-8 are kept as surrogates."""
        return (self.get(tag) or b"").decode("utf-8", "surrogateescape")

    def number(self, tag: int, missing: int = 0) -> int:
        """A field's unsigned number. Raises ``ProtocolError`` unless it has 4 bytes."""
        return self._unpacked(_NUMBER, tag, missing)

    def signed(self, tag: int, missing: int = 0) -> int:
        """A field's signed number. Raises as ``number``."""
        return self._unpacked(_SIGNED, tag, missing)

    def _unpacked(self, codec: struct.Struct, tag: int, missing: int) -> int:
        value = self.get(tag)
        if value is None:
            return missing
        if len(value) != codec.size:
            raise ProtocolError(f"field {tag}: {len(value)} bytes, must be a number of 4 bytes")
        return int(codec.unpack(value)[0])


def pack(kind: int, fields: Iterable[Field] = ()) -> bytes:
    """A complete frame. Raises ``ProtocolError`` if it would be too long."""
    payload = b"".join(_FIELD.pack(tag, len(value)) + value for tag, value in fields)
    if len(payload) > LIMIT:
        raise ProtocolError(f"a frame of {len(payload)} bytes exceeds the limit of {LIMIT}")
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
        raise VersionUnknown(f"unknown protocol version {version} (supported: {VERSION})")
    if length > LIMIT:
        raise ProtocolError(f"a payload of {length} bytes exceeds the limit of {LIMIT}")
    return kind, length


def unpack(kind: int, payload: bytes) -> Frame:
    """A frame from its payload; unknown fields are left out.

    Raises ``ProtocolError`` for a field beyond the payload and for an unknown critical one.
    """
    return Frame(kind, tuple(_fields(payload)))


def _fields(payload: bytes) -> Iterator[Field]:
    at = 0
    while at < len(payload):
        if len(payload) - at < _FIELD.size:
            raise ProtocolError(f"incomplete field of {len(payload) - at} bytes")
        tag, length = _FIELD.unpack_from(payload, at)
        at += _FIELD.size
        if length > len(payload) - at:
            raise ProtocolError(
                f"field {tag}: {length} bytes, but {len(payload) - at} are left in the frame"
            )
        if tag in _KNOWN:
            yield tag, payload[at : at + length]
        elif tag & CRITICAL:
            raise ProtocolError(f"unknown field {tag} must not be ignored")
        at += length


_KNOWN = frozenset(map(int, Tag))
