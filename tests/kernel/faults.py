"""Fault injection between plugin and kernel: a function that sees each request before it is sent.

Every change goes through ``Rtnetlink.send``, the only place that is replaced; reads do not.
Requests are sent one by one then, so that those after a refused one are still done, as the kernel
does with the messages of one send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from tests.kernel.thick import as_root

from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Ack, NetlinkRequest

Fault = Callable[[int, NetlinkRequest], int | None]
"""From the number of a request (0 is the first) to the errno that answers it without sending it (0:
success without effect), or None to send it. It may raise.
"""


@contextmanager
def faults(fault: Fault) -> Iterator[list[str]]:
    """Call ``fault`` before every change; the list of the operations in their order."""
    seen: list[str] = []
    real = Rtnetlink.send

    def send(rtnl: Rtnetlink, requests: Sequence[NetlinkRequest], deadline: float) -> list[Ack]:
        answers: list[Ack] = []
        for request in requests:
            seen.append(request.operation)
            number = as_root(partial(fault, len(seen) - 1, request))
            answers += real(rtnl, [request], deadline) if number is None else [_ack(number)]
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rtnetlink, "send", send)
        yield seen


def _ack(number: int) -> Ack:
    return Ack(number, "", 0)


def none(_number: int, _request: NetlinkRequest) -> None:
    """No fault, to count the requests."""


def at(step: int, number: int) -> Fault:
    """The request with this number is answered with an errno (0: success, without being sent)."""
    return lambda at, _: number if at == step else None


def since(step: int, number: int) -> Fault:
    """The same for that request and every later one."""
    return lambda at, _: number if at >= step else None


def raising(step: int, error: BaseException) -> Fault:
    """Raise an exception instead of that request."""

    def fault(at: int, _request: NetlinkRequest) -> None:
        if at == step:
            raise error

    return fault
