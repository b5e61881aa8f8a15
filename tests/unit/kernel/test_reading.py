"""A namespace read through a fake kernel."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable

import pytest

from bondcni.core.errors import KernelError, TryAgain, VerifyError
from bondcni.core.state import Address, Route
from bondcni.kernel import address, link, reading, wire
from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Message

Start = Callable[..., Rtnetlink]
TENTATIVE, OPTIMISTIC, FAILED, PERMANENT = 0x40, 0x04, 0x08, 0x80


def dumped(to: Message, *bodies: bytes) -> list[bytes]:
    parts = [wire.pack_message(to.type - 2, 2, to.seq, body) for body in bodies]
    return [*parts, wire.pack_message(wire.NLMSG_DONE, 2, to.seq, bytes(4))]


def refused(to: Message, number: int) -> list[bytes]:
    body = struct.pack("=iIHHII", -number, 16, to.type, 0, to.seq, 0)
    return [wire.pack_message(wire.NLMSG_ERROR, wire.NLM_F_CAPPED, to.seq, body)]


def six(flags: int) -> bytes:
    return address.add_address(Address(77, "fd00::5/64", flags=flags | PERMANENT), "bond0").body


def test_a_snapshot_holds_links_addresses_and_routes(
    kernel: Start, soon: float, answers: dict[str, bytes]
) -> None:
    route = Route("0.0.0.0/0", "10.0.0.254", 77)
    held = {
        link.RTM_GETLINK: [body for title, body in answers.items() if title.startswith("RTM")],
        address.RTM_GETADDR: [six(0), struct.pack("=BBBBI", 45, 0, 0, 0, 7)],
        address.RTM_GETROUTE: [address.add_route(route).body],
    }
    found = reading.snapshot(kernel(lambda sent: dumped(sent[0], *held[sent[0].type])), soon)
    bond = found.named("bond0")
    assert bond is not None
    assert [member.name for member in found.members(bond)] == ["nic1"]
    assert found.addresses == (Address(77, "fd00::5/64", flags=PERMANENT),)
    assert found.routes == (route,)


def test_one_link(kernel: Start, soon: float, answers: dict[str, bytes]) -> None:
    body = next(body for title, body in answers.items() if "bond0: active" in title)
    rtnl = kernel(lambda sent: [wire.pack_message(16, 0, sent[0].seq, body)])
    found = reading.link_by_index(rtnl, 77, soon)
    assert found is not None
    assert (found.name, found.index) == ("bond0", 77)


def test_no_link_is_none_and_other_errors_are_errors(kernel: Start, soon: float) -> None:
    assert reading.link_by_index(kernel(lambda s: refused(s[0], errno.ENODEV)), 3, soon) is None
    with pytest.raises(KernelError, match="EPERM"):
        reading.link_by_index(kernel(lambda s: refused(s[0], errno.EPERM)), 3, soon)


def test_detection_is_waited_for(kernel: Start, soon: float) -> None:
    looks = iter([TENTATIVE, TENTATIVE, 0])
    reading.wait_dad(kernel(lambda sent: dumped(sent[0], six(next(looks)))), 77, soon)
    assert next(looks, None) is None


def test_an_optimistic_address_is_not_waited_for(kernel: Start, soon: float) -> None:
    flags = TENTATIVE | OPTIMISTIC
    reading.wait_dad(kernel(lambda sent: dumped(sent[0], six(flags))), 77, soon)


def test_a_duplicate_is_an_error_that_names_it(kernel: Start, soon: float) -> None:
    rtnl = kernel(lambda sent: dumped(sent[0], six(TENTATIVE | FAILED)))
    with pytest.raises(VerifyError, match="fd00::5/64"):
        reading.wait_dad(rtnl, 77, soon)


def test_detection_that_does_not_end_is_left_at_the_deadline(kernel: Start) -> None:
    rtnl = kernel(lambda sent: dumped(sent[0], six(TENTATIVE)))
    with pytest.raises(TryAgain, match="not done for fd00::5/64"):
        reading.wait_dad(rtnl, 77, time.monotonic() + 0.1)
