"""The daemon's log: one line on standard error for each event, as logfmt or JSON.

Built on ``logging``: standard levels, one handler, one formatter for each format. Every line has
``time`` (UTC, RFC 3339), ``level`` and ``event``, then the fields of the event. The events are
listed in ``docs/log.md``. A value from a request can neither break a line nor forge another one:
anything but plain text is quoted and escaped as in JSON. A log that cannot be written fails no
request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from enum import StrEnum
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Self

LONGEST = 8192
"""Characters of a value; a longer one loses its middle."""

STDERR = 2

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}


class Event(StrEnum):
    """What happened: the name in the log, the level, and the fields; those in ``optional`` may be
    missing. The level of ``REQUEST`` depends on its outcome (``level_of``).
    """

    level: int
    fields: tuple[str, ...]
    optional: tuple[str, ...]

    def __new__(cls, name: str, level: int, fields: str = "", optional: str = "") -> Self:
        """``fields`` and ``optional`` are names, separated by spaces."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.level = level
        member.fields = tuple(fields.split())
        member.optional = tuple(optional.split())
        return member

    READY = "ready", INFO, "queued stale unexamined"
    STOPPED = "stopped", INFO
    POLICY_RELOADED = "policy_reloaded", INFO
    POLICY_ERROR = "policy_error", ERROR, "error"
    REQUEST = "request", INFO, "verb container ifname network code ms", "error warnings"
    SHIM_CALL = "shim_call", DEBUG, "call container ifname ms", "error"
    DELEGATE_STDERR = "delegate_stderr", INFO, "plugin verb container ifname stderr"
    ADD_ROLLED_BACK = "add_rolled_back", WARNING, "container ifname"
    CLEANUP_DONE = "cleanup_done", INFO, "container ifname", "detail"
    CLEANUP_PENDING = "cleanup_pending", WARNING, "container ifname", "detail"
    CLEANUP_WARNING = "cleanup_warning", WARNING, "warning"
    QUEUED_DEL_REJECTED = "queued_del_rejected", ERROR, "container ifname detail"
    CONNECTION_DROPPED = "connection_dropped", WARNING, "reason"
    CONNECTION_REFUSED = "connection_refused", WARNING, "user"
    ACCEPT_FAILED = "accept_failed", ERROR, "error"
    PROTOCOL_ERROR = "protocol_error", WARNING, "error"
    NAMESPACE_MISMATCH = "namespace_mismatch", WARNING, "warning"
    INTERNAL_ERROR = "internal_error", ERROR, "traceback"


Log = Callable[..., None]
"""Takes an event and its fields by name, as ``log`` does."""

_LOGGER = logging.getLogger("bondcni")
_LOGGER.propagate = False


def log(event: Event, **fields: object) -> None:
    """Write one line, if the level is enabled."""
    _LOGGER.log(level_of(event, fields), event, extra={"fields": fields})


def level_of(event: Event, fields: dict[str, object]) -> int:
    """The level of a line. A failed request is an error; one with warnings is a warning."""
    if event is Event.REQUEST and fields["code"]:
        return ERROR
    if event is Event.REQUEST and "warnings" in fields:
        return WARNING
    return event.level


def configure(level: str = "info", form: str = "logfmt") -> None:
    """Log to standard error: lines of at least ``level``, as ``logfmt`` or ``json``."""
    handler = _Stderr()
    handler.setFormatter(FORMATS[form]())
    _LOGGER.handlers = [handler]
    _LOGGER.setLevel(LEVELS[level])


class _Stderr(logging.Handler):
    """Writes a line with one system call, so that lines of several threads do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with contextlib.suppress(OSError):
            os.write(STDERR, line.encode("utf-8", "backslashreplace"))


class _Formatter(logging.Formatter):
    """Time stamps in UTC with milliseconds: ``2026-01-31T12:00:00.000Z``."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The fields of a line in their order, long values shortened."""
        said = {key: _shortened(value) for key, value in record.__dict__["fields"].items()}
        return {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **said,
        }


class _Logfmt(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_plain(value)}" for key, value in self.fields(record).items())


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record))


FORMATS: dict[str, type[_Formatter]] = {"logfmt": _Logfmt, "json": _Json}


def _shortened(value: object) -> str | int | float:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, int):
        return value
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    return text


def _plain(value: object) -> str:
    """A value of logfmt: as it is, or quoted where it has a space, a quote or the like."""
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    plain = text and text.isprintable() and not set(text) & set(' ="\\')
    return text if plain else json.dumps(text)
