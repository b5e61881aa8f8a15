"""The daemon's side of the frames, against the bytes that the shim's tests use, too."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.golden import HOST, NAMES, POD, frame

from bondcni.daemon.protocol import (
    CRITICAL,
    HEADER,
    LIMIT,
    Field,
    Frame,
    ProtocolError,
    Tag,
    Type,
    VersionUnknown,
    encoded,
    header,
    number,
    pack,
    unpack,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
"""tools/fuzz asks for more."""


def env(command: str, *more: str) -> list[Field]:
    common = (
        *("CNI_CONTAINERID=abc", "CNI_IFNAME=net1", "CNI_PATH=none::bin"),
        *("BONDCNI_SOCKET=bond.sock", "BONDCNI_STATE=state", "ODD=a=b \udcff"),
    )
    variables = (f"CNI_COMMAND={command}", *more, *common)
    return [(Tag.ENV, encoded(variable)) for variable in variables]


HERE = "CNI_NETNS=/proc/self/ns/net"
STDIN = (Tag.STDIN, b'{"cniVersion": "1.0.0", "name": "net", "type": "bond"}')
PATH = (Tag.PATH, b"/proc/self/ns/net")


def status(value: int) -> Field:
    return (Tag.STATUS, number(value))


GOLDEN: dict[str, tuple[int, list[Field]]] = {
    "request": (
        Type.REQUEST,
        [
            *((Tag.DESCRIPTORS, b"hHpP"), (Tag.HOST, HOST), (Tag.POD, POD)),
            *(*env("ADD", HERE), STDIN),
        ],
    ),
    "request-gone": (
        Type.REQUEST,
        [
            *((Tag.DESCRIPTORS, b"hH"), (Tag.HOST, HOST), (Tag.POD_ERROR, number(errno.ENOENT))),
            *(*env("DEL", "CNI_NETNS=/proc/self/ns/none"), STDIN),
        ],
    ),
    "request-status": (
        Type.REQUEST,
        [(Tag.DESCRIPTORS, b"hH"), (Tag.HOST, HOST), *env("STATUS"), STDIN],
    ),
    "request-queued": (
        Type.REQUEST,
        [(Tag.DESCRIPTORS, b""), (Tag.HOST, HOST), (Tag.POD, POD), *env("DEL", HERE), STDIN],
    ),
    "answer": (
        Type.ANSWER,
        [
            status(0),
            (Tag.OUTPUT, b'{"cniVersion": "1.0.0"}\n'),
            (Tag.WARNINGS, b"bond: warning: mtu is less\n"),
        ],
    ),
    "answer-nothing": (Type.ANSWER, [status(0)]),
    "answer-error": (
        Type.ANSWER,
        [status(1), (Tag.OUTPUT, b'{"cniVersion": "1.0.0", "code": 7, "msg": "no"}\n')],
    ),
    "exec": (
        Type.EXEC,
        [
            (Tag.NAME, b"delegate"),
            *((Tag.ENV, b"CNI_COMMAND=CHECK"), (Tag.ENV, b"CNI_ARGS=A=B")),
            *((Tag.ENV, b"CNI_NETNS"), (Tag.ENV, b"CNI_IFNAME=net2")),
            (Tag.STDIN, b'{"ipam": {"type": "delegate"}}'),
            (Tag.DEADLINE, number(10_000)),
        ],
    ),
    "done-exec": (
        Type.DONE,
        [status(0), (Tag.EXIT, number(3)), (Tag.OUTPUT, b'{"ips": []}\n')],
    ),
    "done-stderr": (
        Type.DONE,
        [
            *(status(0), (Tag.EXIT, number(2)), (Tag.OUTPUT, b"")),
            (Tag.STDERR, b"panic: no pool\n"),
        ],
    ),
    "done-signal": (
        Type.DONE,
        [status(0), (Tag.EXIT, b"\xf1\xff\xff\xff"), (Tag.OUTPUT, b"")],
    ),
    "find": (Type.FIND, [(Tag.NAME, b"delegate")]),
    "done": (Type.DONE, [status(0)]),
    "done-none": (Type.DONE, [status(errno.ENOENT)]),
    "sysctl": (
        Type.SYSCTL,
        [
            *(PATH, (Tag.NAME, b"bond7")),
            *((Tag.SETTING, b"disable_ipv6=1"), (Tag.SETTING, b"keep_addr_on_down=1")),
        ],
    ),
    "done-sysctl": (Type.DONE, [(Tag.NAME, b"disable_ipv6"), status(errno.ENOENT)]),
    "identify": (Type.IDENTIFY, [PATH]),
    "done-identify": (Type.DONE, [(Tag.POD, POD), status(0)]),
    "open": (Type.OPEN, [PATH]),
    "done-open": (Type.DONE, [(Tag.POD, POD), (Tag.DESCRIPTORS, b"pP"), status(0)]),
    "ping": (Type.PING, []),
    "later-call": (77, [PATH]),
    "done-unknown": (Type.DONE, [status(errno.ENOSYS)]),
}


def test_every_file_is_looked_at() -> None:
    bad = {name for name in NAMES if name.startswith("bad-")}
    assert {*NAMES} == {*GOLDEN, *bad, "answer-later-field"}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_both_ways(name: str) -> None:
    kind, fields = GOLDEN[name]
    golden = frame(name)
    assert pack(kind, fields) == golden
    assert header(golden) == (kind, len(golden) - HEADER)
    assert unpack(kind, golden[HEADER:]) == Frame(kind, tuple(fields))


def test_an_unknown_field_is_skipped_and_the_last_counts() -> None:
    found = unpack(Type.ANSWER, frame("answer-later-field")[HEADER:])
    assert found.number(Tag.STATUS) == 0
    assert [tag for tag, _ in found.fields] == [Tag.STATUS, Tag.STATUS, Tag.OUTPUT]


def test_a_later_version_is_told_from_rubbish() -> None:
    with pytest.raises(VersionUnknown):
        header(frame("bad-version"))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("bad-")])
def test_what_is_wrong_is_refused(name: str) -> None:
    golden = frame(name)
    with pytest.raises(ProtocolError):
        unpack(header(golden)[0], golden[HEADER:])


def test_limits_are_exact() -> None:
    biggest = LIMIT - 6
    assert header(pack(Type.EXEC, [(Tag.STDIN, bytes(biggest))])) == (Type.EXEC, LIMIT)
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        pack(Type.EXEC, [(Tag.STDIN, bytes(biggest + 1))])


def test_values() -> None:
    found = unpack(Type.DONE, frame("done-signal")[HEADER:])
    assert found.signed(Tag.EXIT) == -signal.SIGTERM
    assert found.number(Tag.DEADLINE, 7) == 7
    assert found.text(Tag.PATH) == ""
    with pytest.raises(ProtocolError, match="must be a number of 4 bytes"):
        found.number(Tag.OUTPUT)
    request = unpack(Type.REQUEST, frame("request")[HEADER:])
    assert encoded("ODD=a=b \udcff") in request.all(Tag.ENV)


known = st.sampled_from(sorted(map(int, Tag)))
fields = st.lists(st.tuples(known, st.binary(max_size=64)), max_size=20)


@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_fields_or_refused(data: bytes) -> None:
    try:
        found = unpack(Type.ANSWER, data)
    except ProtocolError:
        return
    assert len(pack(Type.ANSWER, found.fields)) - HEADER <= len(data)


@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.binary(min_size=HEADER, max_size=HEADER))
def test_any_header_is_one_or_refused(data: bytes) -> None:
    try:
        _, length = header(data)
    except ProtocolError:
        return
    assert length <= LIMIT


@settings(deadline=None, max_examples=EXAMPLES)
@given(kind=st.integers(0, 255), run=fields)
def test_what_is_packed_is_unpacked(kind: int, run: list[Field]) -> None:
    packed = pack(kind, run)
    assert header(packed) == (kind, len(packed) - HEADER)
    assert unpack(kind, packed[HEADER:]) == Frame(kind, tuple(run))


@settings(deadline=None, max_examples=EXAMPLES)
@given(run=fields, cut=st.integers(1, 6), data=st.data())
def test_cut_off_is_refused_or_shorter(run: list[Field], cut: int, data: Any) -> None:
    payload = pack(Type.DONE, run)[HEADER:]
    at = data.draw(st.integers(0, len(payload)))
    try:
        found = unpack(Type.DONE, payload[: max(0, at - cut)])
    except ProtocolError:
        return
    assert found.fields == tuple(run[: len(found.fields)])


@settings(deadline=None, max_examples=EXAMPLES)
@given(run=fields, tag=st.integers(max(Tag) + 1, 0xFFFF), at=st.integers(0, 20))
def test_unknown_tags(run: list[Field], tag: int, at: int) -> None:
    payload = pack(Type.DONE, [*run[:at], (tag, b"later"), *run[at:]])[HEADER:]
    if tag & CRITICAL:
        with pytest.raises(ProtocolError, match="must not be ignored"):
            unpack(Type.DONE, payload)
    else:
        assert unpack(Type.DONE, payload) == Frame(Type.DONE, tuple(run))
