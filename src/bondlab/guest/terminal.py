"""The user's own standard input and output, joined to a command in the guest.

With a terminal on both it is switched to raw mode, so that every key and control sequence goes
to the guest's terminal, and is always restored; a changed window size is passed on. Without
one, input is fed to its end and output is copied, for scripts. What runs there, and what its
messages are, is the business of `guest` and `agent`.
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


def present() -> bool:
    """Whether both standard input and output are a terminal."""
    return os.isatty(0) and os.isatty(1)


def size() -> list[int]:
    """Rows and columns of the terminal."""
    columns, rows = os.get_terminal_size(1)
    return [rows, columns]


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Raw mode while the block runs; nothing where there is no terminal."""
    if not present():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def converse(lines: Lines, verified: Callable[[Message], Message]) -> int:
    """Carry bytes both ways until the command ends; its status.

    ``verified`` looks at each message first and may raise. OSError if the command could not
    be started, EOFError if the other side went away.
    """
    sys.stdout.flush()
    with raw():
        shown = size() if present() else None
        typing = True
        while True:
            if shown and shown != (now := size()):
                lines.send({"do": "size", "size": now})
                shown = now
            sources: list[Lines | int] = [lines, 0] if typing and not lines.pending else [lines]
            writers = [lines] if lines.pending else []
            ready, writable, _ = select.select(sources, writers, [], RESIZE_SECONDS)
            if writable:
                lines.flush()
            if 0 in ready:
                typing = typed(lines)
            for message in lines.receive() if lines in ready else []:
                if (status := show(verified(message))) is not None:
                    return status


def typed(lines: Lines) -> bool:
    """Pass on what was typed; False at the end of input."""
    data = os.read(0, CHUNK)
    lines.send({"do": "in", "data": base64.b64encode(data).decode()})
    return bool(data)


def show(message: Message) -> int | None:
    """Write a message's output where it belongs; the status if it is the last one."""
    if "error" in message:
        raise OSError(message["errno"], message["error"])
    for stream, fd in (("out", 1), ("err", 2)):
        view = memoryview(base64.b64decode(message.get(stream, "")))
        while view:
            view = view[os.write(fd, view) :]
    status: int | None = message.get("exit")
    return status
