"""The last frame of a request, ANSWER: what the shim prints, and its exit status."""

from __future__ import annotations

from bondcni.core.errors import TryAgain
from bondcni.daemon.connection import SEND_SECONDS, Connection
from bondcni.daemon.protocol import Field, ProtocolError, Tag, Type, encoded, number, pack
from bondcni.service.answer import WARNING, Answer

LONGEST = 4096
"""Characters of a refusal; it fits into the empty send buffer of a connection."""


def refusal(why: str, stdin: bytes = b"") -> Answer:
    """An answer with code 11: the runtime may try again."""
    return Answer.of_error(TryAgain(why[:LONGEST]), stdin)


def send(
    connection: Connection,
    answer: Answer,
    warnings: list[str] | None = None,
    seconds: float = SEND_SECONDS,
) -> bool:
    """Send an answer; False if the shim did not take it within ``seconds``, or it is too long."""
    text = "".join(WARNING.format(warning) + "\n" for warning in warnings or ())
    fields: list[Field] = [
        (Tag.STATUS, number(1 if answer.code else 0)),
        (Tag.OUTPUT, encoded(answer.output)),
        (Tag.WARNINGS, text.encode("utf-8", "backslashreplace")),
    ]
    try:
        pack(Type.ANSWER, fields)
    except ProtocolError as error:
        send(connection, refusal(f"the answer is too long: {error}"), seconds=seconds)
        return False
    try:
        connection.send(Type.ANSWER, fields, seconds)
    except (ProtocolError, TimeoutError):
        return False
    return True
