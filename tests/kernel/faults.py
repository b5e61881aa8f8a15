"""Faults between us and the kernel: a function that sees each request before it is sent.

The one seam is ``Rtnetlink.send``, through which every change goes; reading does not.
Requests are sent one by one then, so that what follows a refused one is done all the
same, as the kernel does with the messages of one send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from tests.kernel.thick import as_root

from bondcni.kernel.rtnetlink import Rtnetlink
from bondcni.kernel.wire import Ack, Request

Fault = Callable[[int, Request], int | None]
"""From the number of a request (0 is the first) to the errno that answers it without it
being sent (0: a silent no), or None to send it. It may raise."""


@contextmanager
def faults(fault: Fault) -> Iterator[list[str]]:
    """Every change goes by ``fault`` first; the operations that came, in order."""
    seen: list[str] = []
    real = Rtnetlink.send

    def send(rtnl: Rtnetlink, requests: Sequence[Request], deadline: float) -> list[Ack]:
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


def none(_number: int, _request: Request) -> None:
    """No fault: to count."""


def at(step: int, number: int) -> Fault:
    """The request of that number is answered with an errno (0: yes, and nothing done)."""
    return lambda at, _: number if at == step else None


def since(step: int, number: int) -> Fault:
    """That request and every one after it."""
    return lambda at, _: number if at >= step else None


def raising(step: int, error: BaseException) -> Fault:
    """An exception in the place of that request."""

    def fault(at: int, _request: Request) -> None:
        if at == step:
            raise error

    return fault
