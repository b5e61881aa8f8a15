"""The events of a run as the one JSON document of ``bondctl lab run --json``.

The shape is documented in docs/lab.md; a change here is a change there. Pure: events in, plain
data out.
"""

from __future__ import annotations

from typing import Any

from bondlab.manifests.yaml_nodes import ManifestFinding
from bondlab.scenario.events import (
    Bond,
    Call,
    CaseBegin,
    CaseEnd,
    Crash,
    Drill,
    Event,
    Leases,
    Nic,
    Note,
    OtherNode,
    Ping,
)

Json = dict[str, Any]


class Record:
    """Collects events; `document` may be asked for at any time."""

    def __init__(self, kernel: str = "") -> None:
        self.kernel = kernel
        self.cases: list[Json] = []
        self.lost = ""  # why the guest was lost
        self.error = ""  # why nothing could be run
        self.findings: tuple[ManifestFinding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every case that began ended well."""
        return not self.lost and bool(self.cases) and all(case["ok"] for case in self.cases)

    def document(self) -> Json:
        """Everything so far."""
        return {
            "kernel": self.kernel,
            "ok": self.ok,
            "lost": self.lost,
            "error": self.error,
            "findings": [finding._asdict() for finding in self.findings],
            "cases": self.cases,
        }

    def add(self, event: Event) -> None:
        """Put one event in its place."""
        if isinstance(event, CaseBegin):
            self.cases.append(_case(event))
            return
        case = self.cases[-1]
        if isinstance(event, CaseEnd):
            case |= {"ok": event.ok, "reasons": list(event.reasons)}
        elif isinstance(event, Leases):
            case["leases_left"] = list(event.left)
        else:
            name, entry = _entry(event)
            case[name].append(entry)


def _entry(  # noqa: PLR0911  one return a kind
    event: Note | Call | Crash | Bond | Ping | OtherNode | Drill | Nic,
) -> tuple[str, Any]:
    """The list of a case that an event belongs to, and what stands there."""
    match event:
        case Note():
            return "notes", event.text
        case Call():
            return "calls", _call(event)
        case Crash():
            made = {"away": list(event.away), "back": list(event.back), "ok": event.ok}
            return "crashes", event._asdict() | made
        case Bond():
            return "bonds", _bond(event)
        case Drill():
            return "drills", _drill(event)
        case OtherNode():
            return "other_nodes", event._asdict()
        case Ping():
            return "pings", event._asdict()
    return "nics", event._asdict() | {"home": event.home}


def _case(event: CaseBegin) -> Json:
    names = ("notes", "calls", "crashes", "bonds", "pings", "other_nodes", "drills", "nics")
    empty: Json = {name: [] for name in names}
    facts: Json = {"case": event.title, "file": event.file, "networks": list(event.networks)}
    return facts | {"ok": False, "reasons": []} | empty | {"leases_left": []}


def _call(event: Call) -> Json:
    made = event._asdict()
    made["milliseconds"] = round(event.milliseconds, 1)
    made["warnings"] = list(event.warnings)
    return made


def _bond(event: Bond) -> Json:
    made = event._asdict()
    made["members"] = [member._asdict() for member in event.members]
    made["addresses"] = list(event.addresses)
    made["ready_milliseconds"] = _time(made.pop("milliseconds"))
    return made


def _drill(event: Drill) -> Json:
    made = event._asdict()
    for name in ("gap", "noticed", "recovered"):
        made[f"{name}_milliseconds"] = _time(made.pop(name))
    return made


def _time(milliseconds: float) -> float | None:
    """Never is null."""
    return None if milliseconds < 0 else round(milliseconds, 1)
