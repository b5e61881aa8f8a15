"""Collects the events of a run into the JSON document of ``bondctl lab run --json``.

docs/lab.md documents the format and must be kept up to date. Pure: events in, plain data out.
"""

from __future__ import annotations

from typing import Any

from bondlab.manifests.yaml_nodes import ManifestFinding
from bondlab.scenario.events import (
    BondState,
    Call,
    CaseBegin,
    CaseEnd,
    Crash,
    Drill,
    Event,
    Leases,
    NicComparison,
    Note,
    OtherNode,
    Ping,
)

Json = dict[str, Any]


class RunRecord:
    """Collects events; `document` can be called at any time."""

    def __init__(self, kernel: str = "") -> None:
        self.kernel = kernel
        self.cases: list[Json] = []
        self.lost = ""  # why the guest was lost
        self.error = ""  # the error that ended the run
        self.findings: tuple[ManifestFinding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there were cases and all of them succeeded."""
        return not self.lost and bool(self.cases) and all(case["ok"] for case in self.cases)

    def document(self) -> Json:
        """The document with all events so far."""
        return {
            "kernel": self.kernel,
            "ok": self.ok,
            "lost": self.lost,
            "error": self.error,
            "findings": [finding._asdict() for finding in self.findings],
            "cases": self.cases,
        }

    def add(self, event: Event) -> None:
        """Add one event."""
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


def _entry(  # noqa: PLR0911  one return for each kind
    event: Note | Call | Crash | BondState | Ping | OtherNode | Drill | NicComparison,
) -> tuple[str, Any]:
    """The key of the case's list for an event, and the entry for it."""
    match event:
        case Note():
            return "notes", event.text
        case Call():
            return "calls", _call(event)
        case Crash():
            made = {"in_pod": list(event.in_pod), "restored": list(event.restored), "ok": event.ok}
            return "crashes", event._asdict() | made
        case BondState():
            return "bonds", _bond(event)
        case Drill():
            return "drills", _drill(event)
        case OtherNode():
            return "other_nodes", event._asdict()
        case Ping():
            return "pings", event._asdict()
    return "nics", event._asdict() | {"restored": event.restored}


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


def _bond(event: BondState) -> Json:
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
    """The time, rounded; null if it never happened."""
    return None if milliseconds < 0 else round(milliseconds, 1)
