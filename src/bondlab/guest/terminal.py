"""Connects this process's standard input and output to a command in the guest.

If both are a terminal, it is put into raw mode, so that all keys and control sequences are sent to
the guest's terminal, and is always restored; window size changes are sent too. Else input is sent
to its end and output is copied, for scripts. The messages are those of `agent`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator

from bondlab.guest.lines import Lines, Message

CHUNK = 65536
RESIZE_SECONDS = 0.5


def is_terminal() -> bool:
    """Whether both standard input and output are a terminal."""
    return os.isatty(0) and os.isatty(1)


def size() -> list[int]:
    """Rows and columns of the terminal."""
    columns, rows = os.get_terminal_size(1)
    return [rows, columns]


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Raw mode within the block; no effect without a terminal."""
    if not is_terminal():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def relay(lines: Lines, check: Callable[[Message], Message]) -> int:
    """Copy input and output until the command ends; its exit status.

    ``check`` is called with each message first and may raise. Raises OSError if the command could
    not be started, EOFError if the supervisor closed the connection.
    """
    sys.stdout.flush()
    with raw():
        shown = size() if is_terminal() else None
        input_open = True
        while True:
            if shown and shown != (now := size()):
                lines.send({"do": "size", "size": now})
                shown = now
            sources: list[Lines | int] = [lines, 0] if input_open and not lines.pending else [lines]
            writers = [lines] if lines.pending else []
            ready, writable, _ = select.select(sources, writers, [], RESIZE_SECONDS)
            if writable:
                lines.flush()
            if 0 in ready:
                input_open = send_input(lines)
            for message in lines.receive() if lines in ready else []:
                if (status := write_output(check(message))) is not None:
                    return status


def send_input(lines: Lines) -> bool:
    """Send the available input; False at the end of input."""
    data = os.read(0, CHUNK)
    lines.send({"do": "in", "data": base64.b64encode(data).decode()})
    return bool(data)


def write_output(message: Message) -> int | None:
    """Write the output in a message; the exit status if it holds one."""
    if "error" in message:
        raise OSError(message["errno"], message["error"])
    for stream, fd in (("out", 1), ("err", 2)):
        view = memoryview(base64.b64decode(message.get(stream, "")))
        while view:
            view = view[os.write(fd, view) :]
    status: int | None = message.get("exit")
    return status
