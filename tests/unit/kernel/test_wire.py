"""The netlink format: recorded bytes, round trips, and malformed bytes."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondcni.kernel import wire
from bondcni.kernel.wire import Ack, Message, NetlinkRequest, WireError

KINDS = st.integers(0, 0x3FFF)
VALUES = st.binary(max_size=40)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 2**32 - 1)
MESSAGES = st.builds(Message, U16, U16, U32, st.binary(max_size=60))


@given(st.lists(MESSAGES, max_size=5))
def test_messages_come_back_as_they_were_packed(sent: list[Message]) -> None:
    buffer = b"".join(wire.pack_message(*message) for message in sent)
    assert list(wire.messages(buffer)) == sent


@given(st.lists(st.tuples(KINDS, VALUES), max_size=6), st.binary(min_size=4, max_size=4))
def test_attributes_come_back_as_they_were_packed(
    pairs: list[tuple[int, bytes]], fixed: bytes
) -> None:
    packed = [wire.pack_attr(kind, value) for kind, value in pairs]
    assert wire.attr_list(fixed + b"".join(packed), 4) == pairs
    (nest,) = wire.attr_list(wire.pack_nest(18, *packed))
    assert nest[0] == 18
    assert wire.attr_list(nest[1]) == pairs


@given(st.binary(max_size=120), st.integers(-4, 200), U16, U16)
def test_any_bytes_are_read_or_refused(junk: bytes, at: int, kind: int, flags: int) -> None:
    for read in (
        lambda: list(wire.messages(junk)),
        lambda: wire.attrs(junk, max(at, 0)),
        lambda: wire.ack(Message(kind, flags, 0, junk)),
        lambda: wire.ack(Message(wire.NLMSG_ERROR, flags, 0, junk)),
        lambda: wire.ack(Message(wire.NLMSG_DONE, flags, 0, junk)),
        lambda: wire.u32(junk),
    ):
        with suppress(WireError):
            read()
    wire.path_at(NetlinkRequest(16, 0, junk, 16, ""), at)


@given(data=st.data())
def test_recorded_answers_with_flipped_bytes(
    data: st.DataObject, answers: dict[str, bytes]
) -> None:
    good = bytearray(answers["answer to a new bond bond1 with mode 1 and lacp_rate 1"])
    for at in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=6)):
        good[at] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        for message in wire.messages(bytes(good[: data.draw(st.integers(0, len(good)))])):
            wire.ack(message)


@pytest.mark.parametrize(
    ("title", "answer"),
    [
        (
            "answer to a new bond bond1 with mode 1 and lacp_rate 1",
            Ack(13, "option not supported in mode", 68),
        ),
        ("answer to bond0 with itself as its master", Ack(1, "Cannot enslave bond to itself.", 0)),
        ("answer to queue_id 9999 on nic1", Ack(1)),
        ("answer to a change that was made", Ack(0)),
    ],
)
def test_recorded_acks(title: str, answer: Ack, answers: dict[str, bytes]) -> None:
    (message,) = wire.messages(answers[title])
    assert message.seq == 7
    assert wire.ack(message) == answer


def test_a_capped_error_echoes_only_the_header() -> None:
    tlvs = wire.pack_attr(wire.NLMSGERR_ATTR_MSG, b"no\0") + wire.pack_attr(
        wire.NLMSGERR_ATTR_OFFS, struct.pack("=I", 52)
    )
    echoed = struct.pack("=IHHII", 4000, 16, 5, 7, 0)
    flags = wire.NLM_F_CAPPED | wire.NLM_F_ACK_TLVS
    body = struct.pack("=i", -22) + echoed + tlvs
    assert wire.ack(Message(wire.NLMSG_ERROR, flags, 7, body)) == Ack(22, "no", 52)


def test_the_end_of_a_dump_has_its_error() -> None:
    text = wire.pack_attr(wire.NLMSGERR_ATTR_MSG, b"no such thing\0")
    body = struct.pack("=i", -19)
    done = Message(wire.NLMSG_DONE, wire.NLM_F_ACK_TLVS, 7, body + text)
    assert wire.ack(done) == Ack(19, "no such thing")
    assert wire.ack(Message(wire.NLMSG_DONE, 2, 7, bytes(4))) == Ack(0)


def test_the_path_of_the_attribute_at_an_offset() -> None:
    data = wire.pack_attr(2, wire.pack_attr(1, b"\1") + wire.pack_attr(21, b"\1"))
    info = wire.pack_nest(18, wire.pack_attr(1, b"bond"), data)
    name = wire.pack_attr(3, b"bond1\0")
    request = NetlinkRequest(16, 0, bytes(16) + name + info, 16, "")
    start = 16 + 16
    expected = {
        0: (),  # the kernel pointed at nothing
        16: (),  # inside the fixed struct
        start: (3,),
        start + 12: (18,),
        start + 12 + 4: (18, 1),
        start + 12 + 12: (18, 2),
        start + 12 + 16: (18, 2, 1),
        start + 12 + 24: (18, 2, 21),
        len(request.body) + 16: (),
    }
    assert {offset: wire.path_at(request, offset) for offset in expected} == expected


def test_of_a_repeated_attribute_the_last_is_used() -> None:
    assert wire.attrs(wire.pack_attr(4, b"a") + wire.pack_attr(4, b"b")) == {4: b"b"}


def test_text_keeps_bytes_that_are_not_utf8() -> None:
    assert wire.pack_text(wire.text(b"caf\xe9\0")) == b"caf\xe9\0"
    assert wire.text(b"no end") == "no end"


@pytest.mark.parametrize(
    "pack",
    [
        lambda: wire.pack_u32(2**32),
        lambda: wire.pack_u32(-1),
        lambda: wire.pack_text("a\0b"),
        lambda: wire.pack_attr(1, bytes(0x10000)),
        lambda: wire.u8(b""),
        lambda: wire.u16(b"\0"),
    ],
)
def test_values_that_do_not_fit_are_refused(pack: object) -> None:
    assert callable(pack)
    with pytest.raises(WireError):
        pack()
