"""The frames of ``docs/protocol.md`` as bytes, for the tests of executable and daemon.

A file is one frame: hexadecimal digits, and comments from ``#`` to the end of a line. The identity
of the executable's network namespace is ``4:4026531840``, that of the pod's ``4:4026532561``.
"""

from __future__ import annotations

from pathlib import Path

HOST = b"4:4026531840"
POD = b"4:4026532561"
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.hex"))


def frame(name: str) -> bytes:
    """The bytes of one file."""
    lines = (Path(__file__).parent / f"{name}.hex").read_text(encoding="ascii").splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))
