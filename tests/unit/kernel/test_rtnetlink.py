"""A socket with a fake kernel, which is a function."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable

import pytest

from bondcni.core.errors import KernelError, TryAgain
from bondcni.kernel import link, wire
from bondcni.kernel.link import Change
from bondcni.kernel.rtnetlink import BATCH, DUMP_TRIES, QUERY_BATCH, Rtnetlink, option_at
from bondcni.kernel.wire import Message, NetlinkRequest

Start = Callable[..., Rtnetlink]


def said(to: Message, number: int = 0, text: str = "", offset: int = 0) -> bytes:
    """The kernel's acknowledgement: capped on success, with the whole request on an error."""
    header = struct.pack("=IHHII", 16 + len(to.body), to.type, to.flags, to.seq, 0)
    body = struct.pack("=i", -number) + header + (to.body if number else b"")
    flags = 0 if number else wire.NLM_F_CAPPED
    if text:
        flags |= wire.NLM_F_ACK_TLVS
        body += wire.pack_attr(wire.NLMSGERR_ATTR_MSG, text.encode() + b"\0")
        body += wire.pack_attr(wire.NLMSGERR_ATTR_OFFS, wire.pack_u32(offset))
    return wire.pack_message(wire.NLMSG_ERROR, flags, to.seq, body)


def part(to: Message, body: bytes, flags: int = 0) -> bytes:
    return wire.pack_message(link.RTM_NEWLINK, flags | 2, to.seq, body)


def done(to: Message, number: int = 0, flags: int = 0) -> bytes:
    return wire.pack_message(wire.NLMSG_DONE, flags | 2, to.seq, struct.pack("=i", -number))


def changes(count: int) -> list[NetlinkRequest]:
    return [link.change_link(n, f"change {n}", Change(mtu=1400)) for n in range(count)]


def test_each_request_of_a_batch_gets_its_own_ack(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        assert all(m.flags == wire.NLM_F_REQUEST | wire.NLM_F_ACK for m in sent)
        return [said(m, errno.ENODEV if n == 1 else 0) for n, m in enumerate(sent)]

    acks = kernel(answer).send(changes(3), soon)
    assert [ack.number for ack in acks] == [0, errno.ENODEV, 0]


def test_acks_in_one_datagram_and_out_of_order(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        return [b"".join(said(m, n) for n, m in reversed(list(enumerate(sent))))]

    assert [a.number for a in kernel(answer).send(changes(4), soon)] == [0, 1, 2, 3]


def test_the_first_refusal_is_raised_after_all_were_sent(kernel: Start, soon: float) -> None:
    seen: list[Message] = []

    def answer(sent: list[Message]) -> list[bytes]:
        seen.extend(sent)
        return [said(m, (0, errno.EBUSY, errno.EPERM)[n]) for n, m in enumerate(sent)]

    with pytest.raises(KernelError, match="change 1: kernel says EBUSY") as caught:
        kernel(answer).execute(changes(3), soon)
    assert caught.value.number == errno.EBUSY
    assert len(seen) == 3


def test_a_long_list_goes_in_several_sends(kernel: Start, soon: float) -> None:
    sends: list[int] = []

    def answer(sent: list[Message]) -> list[bytes]:
        sends.append(len(sent))
        return [said(m) for m in sent]

    assert len(kernel(answer).send(changes(2 * BATCH + 1), soon)) == 2 * BATCH + 1
    assert sends == [BATCH, BATCH, 1]


def test_nothing_to_send_sends_nothing(kernel: Start, soon: float) -> None:
    assert kernel(lambda _: []).send([], soon) == []


def test_the_kernels_text_and_the_option_it_points_at(kernel: Start, soon: float) -> None:
    request = link.create_bond("bond1", {1: b"\1", 21: b"\1"})
    offset = 16 + request.body.index(b"\5\0\x15\0\1")

    def answer(sent: list[Message]) -> list[bytes]:
        return [said(sent[0], errno.EACCES, "option not supported in mode", offset)]

    with pytest.raises(KernelError) as caught:
        kernel(answer).execute([request], soon)
    error = caught.value
    assert (error.operation, error.option) == ("create bond bond1", "lacpRate")
    assert (error.number, error.text) == (errno.EACCES, "option not supported in mode")


def test_a_recorded_refusal_names_its_option(
    kernel: Start, soon: float, answers: dict[str, bytes]
) -> None:
    golden = answers["answer to a new bond bond1 with mode 1 and lacp_rate 1"]

    def answer(sent: list[Message]) -> list[bytes]:
        return [golden[:8] + struct.pack("=I", sent[0].seq) + golden[12:]]

    with pytest.raises(KernelError, match=r"create bond bond1 \(option lacpRate\)"):
        kernel(answer).execute([link.create_bond("bond1", {1: b"\1", 21: b"\1"})], soon)


def test_which_paths_are_options() -> None:
    assert option_at((18, 2, 3)) == "miimon"
    assert option_at((18, 5, 5)) == "queueId"
    assert option_at((18, 2, 4000)) == option_at((18, 2)) == option_at((3,)) == ""
    assert option_at((18, 2, 8, 0)) == "arpIpTarget"


def test_messages_with_other_sequence_numbers_are_ignored(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        stale = sent[0]._replace(seq=sent[0].seq - 1)
        event = sent[0]._replace(seq=0)
        return [said(stale, errno.EPERM), part(event, b"event"), said(sent[0])]

    assert kernel(answer).send(changes(1), soon) == [wire.Ack(0)]


def test_get_returns_one_message(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        assert sent[0].flags == wire.NLM_F_REQUEST
        return [part(sent[0]._replace(seq=0), b"event"), part(sent[0], b"the link")]

    assert kernel(answer).get(link.get_link(3), soon) == b"the link"


def test_get_of_a_missing_link(kernel: Start, soon: float) -> None:
    rtnl = kernel(lambda sent: [said(sent[0], errno.ENODEV)])
    with pytest.raises(KernelError, match="read link 3: kernel says ENODEV"):
        rtnl.get(link.get_link(3), soon)


def test_many_queries_go_in_few_sends(kernel: Start, soon: float) -> None:
    sends: list[int] = []

    def answer(sent: list[Message]) -> list[bytes]:
        sends.append(len(sent))
        stranger = part(sent[0]._replace(seq=0), b"event")
        bodies = {m.seq: m.body for m in sent}
        told = [
            said(m, errno.ENODEV) if m.body[4:8] == b"\5\0\0\0" else part(m, bodies[m.seq])
            for m in sent
        ]
        return [stranger, *told]

    asked = [link.get_link(index) for index in range(1, QUERY_BATCH + 4)]
    answers = kernel(answer).ask(asked, soon)
    assert sends == [QUERY_BATCH, 3]
    assert answers[4] == wire.Ack(errno.ENODEV)
    rest = [found for number, found in enumerate(answers) if number != 4]
    assert rest == [one.body for number, one in enumerate(asked) if number != 4]


def test_a_dump_with_needles(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        (asked,) = sent
        return [
            part(asked, b"hay.") * 3,
            part(asked, b"hay.") + part(asked, b"a needle") + part(asked, b"or pin"),
            part(asked, b"hay.") + done(asked),
        ]

    rtnl = kernel(answer)
    assert rtnl.dump(link.get_links(), soon, [b"needle", b"pin"]) == [b"a needle", b"or pin"]


def test_a_dump_that_is_interrupted_outside_the_needles(kernel: Start, soon: float) -> None:
    passes: list[int] = []

    def answer(sent: list[Message]) -> list[bytes]:
        passes.append(1)
        torn = wire.NLM_F_DUMP_INTR if len(passes) == 1 else 0
        return [part(sent[0], b"hay.", torn), part(sent[0], b"needle"), done(sent[0])]

    assert kernel(answer).dump(link.get_links(), soon, [b"needle"]) == [b"needle"]
    assert len(passes) == 2


def test_events_are_read_without_waiting(kernel: Start) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        event = sent[0]._replace(seq=0)
        return [part(event, b"one.") + part(event, b"two."), part(event, b"3"), said(sent[0])]

    rtnl = kernel(answer)
    assert rtnl.read_events() == []
    rtnl._transmit(changes(1), 0, None)
    time.sleep(0.2)
    events = rtnl.read_events()
    assert events is not None
    assert [event.body for event in events[:3]] == [b"one.", b"two.", b"3"]
    assert rtnl.read_events() == []


def test_lost_events_are_reported(kernel: Start) -> None:
    rtnl = kernel(lambda sent: [part(sent[0], b"one."), part(sent[0], b"two.")], Overrun)
    rtnl._transmit(changes(1), 0, None)
    time.sleep(0.2)
    assert rtnl.read_events() is None
    assert rtnl.read_events() == []


def test_a_dump_over_several_datagrams(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        (asked,) = sent
        assert asked.flags == wire.NLM_F_REQUEST | wire.NLM_F_DUMP
        return [part(asked, b"one.") + part(asked, b"two."), part(asked, b"3"), done(asked)]

    assert kernel(answer).dump(link.get_links(), soon) == [b"one.", b"two.", b"3"]


@pytest.mark.parametrize("where", ["part", "done"])
def test_an_interrupted_dump_is_repeated(kernel: Start, soon: float, where: str) -> None:
    passes: list[int] = []

    def answer(sent: list[Message]) -> list[bytes]:
        passes.append(1)
        torn = wire.NLM_F_DUMP_INTR if len(passes) < 3 else 0
        of_part, of_done = (torn, 0) if where == "part" else (0, torn)
        return [part(sent[0], b"%d" % len(passes), of_part), done(sent[0], flags=of_done)]

    assert kernel(answer).dump(link.get_links(), soon) == [b"3"]


def test_a_dump_that_is_always_interrupted_ends(kernel: Start, soon: float) -> None:
    passes: list[int] = []

    def answer(sent: list[Message]) -> list[bytes]:
        passes.append(1)
        return [part(sent[0], b"x", wire.NLM_F_DUMP_INTR), done(sent[0])]

    with pytest.raises(TryAgain, match="list links: the state changed during each of 5 dumps"):
        kernel(answer).dump(link.get_links(), soon)
    assert len(passes) == DUMP_TRIES


class Overrun(socket.socket):
    """A socket whose first receive fails with ENOBUFS."""

    drops = 1

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if self.drops:
            self.drops -= 1
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return data


def test_a_dump_that_overflowed_the_buffer_is_repeated(kernel: Start, soon: float) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        return [part(sent[0], b"a"), part(sent[0], b"b"), done(sent[0])]

    assert kernel(answer, Overrun).dump(link.get_links(), soon) == [b"a", b"b"]


@pytest.mark.parametrize("refuse", [said, done])
def test_a_refused_dump(
    kernel: Start, soon: float, refuse: Callable[[Message, int], bytes]
) -> None:
    with pytest.raises(KernelError, match="list links: kernel says EINVAL"):
        kernel(lambda sent: [refuse(sent[0], errno.EINVAL)]).dump(link.get_links(), soon)


@pytest.mark.parametrize("ask", ["send", "get", "dump"])
def test_without_an_answer_the_wait_ends_at_the_deadline(kernel: Start, ask: str) -> None:
    rtnl = kernel(lambda _: [])
    request = link.get_links()
    start = time.monotonic()
    with pytest.raises(TryAgain, match="list links: the kernel did not answer"):
        getattr(rtnl, ask)([request] if ask == "send" else request, start + 0.05)
    assert 0.04 < time.monotonic() - start < 5


def test_the_deadline_names_the_request_that_waits(kernel: Start) -> None:
    rtnl = kernel(lambda sent: [said(sent[0])])
    with pytest.raises(TryAgain, match="change 1: the kernel did not answer"):
        rtnl.send(changes(2), time.monotonic() + 0.05)


def test_other_messages_do_not_delay_the_deadline(kernel: Start) -> None:
    def answer(sent: list[Message]) -> list[bytes]:
        time.sleep(0.05)
        return [said(sent[0]._replace(seq=0))] * 3

    start = time.monotonic()
    with pytest.raises(TryAgain):
        kernel(answer).send(changes(1), start + 0.1)
    assert time.monotonic() - start < 5


def test_after_the_deadline_nothing_is_sent(kernel: Start) -> None:
    sent: list[Message] = []

    def answer(got: list[Message]) -> list[bytes]:
        sent.extend(got)
        return []

    with pytest.raises(TryAgain):
        kernel(answer).send(changes(1), time.monotonic() - 1)
    assert sent == []
