"""Prints the events of a run for a person, a few sentences per event.

On a terminal the output is coloured, with a spinner during waits. It contains nothing that is not
in the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

from rich.console import Console
from rich.markup import escape

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

OK, FAILED = "[green]OK[/]", "[bold red]FAILED[/]"
INDENT = "  "


class Report:
    """Prints events to a console as they happen."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self.warned: set[str] = (
            set()
        )  # warnings printed in this case: ADD, CHECK and DEL repeat them

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner within the block, on terminals only."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(text):
            yield

    def progress(self, text: str) -> None:
        """Print one step of the preparation."""
        self.console.print(f"[dim]lab: {escape(text)}[/]")

    def findings(self, findings: tuple[ManifestFinding, ...]) -> None:
        """Print all errors in the files."""
        for one in findings:
            self.console.print(
                f"[bold]{escape(f'{one.file}:{one.line}:')}[/] {escape(one.message)}"
            )
            if one.advice:
                self.console.print(f"    {escape(one.advice)}")

    def error(self, text: str) -> None:
        """Print the error that ended the run."""
        self.console.print(f"[bold red]bondctl: error:[/] {escape(text)}")

    def show(self, event: Event) -> None:
        """Print one event."""
        if isinstance(event, CaseBegin):
            self.warned.clear()
        for line in _lines(event):
            self.console.print(line)
        if isinstance(event, Call):
            self._warnings(event)

    def _warnings(self, call: Call) -> None:
        """Print what the plugin wrote to standard error, each line once per case."""
        for text in dict.fromkeys(call.warnings):
            if text not in self.warned:
                self.console.print(
                    f"{INDENT}{INDENT}[yellow]{escape(call.type)}: warning:[/] {escape(text)}"
                )
        self.warned.update(call.warnings)


@singledispatch
def _lines(event: Event) -> Iterator[str]:
    raise TypeError(event)


@_lines.register
def _(event: CaseBegin) -> Iterator[str]:
    yield ""
    yield f"[bold]{escape(event.title)}[/] ({escape(event.file)})"
    yield f"{INDENT}networks: {escape(', '.join(event.networks))}"


@_lines.register
def _(event: Note) -> Iterator[str]:
    yield f"{INDENT}[yellow]note:[/] {escape(event.text)}"


@_lines.register
def _(event: Call) -> Iterator[str]:
    what = f"{event.verb:<5} {event.network} ({event.type}) {event.ifname}"
    verdict = OK if event.ok else f"{FAILED} code {event.code}"
    yield f"{INDENT}{escape(what)}: {verdict}, {event.milliseconds:.0f} ms"
    if event.message:
        yield f"{INDENT}{INDENT}{escape(event.message)}"


@_lines.register
def _(event: Crash) -> Iterator[str]:
    moved = ", ".join(event.in_pod) or "none"
    yield f"{INDENT}crash {event.network} {event.ifname}: ADD killed, NICs left in the pod: {moved}"
    yield from (f"{INDENT}recover: {escape(line)}" for line in event.recover_output.splitlines())
    restored = ", ".join(event.restored) or "none"
    yield f"{INDENT}{INDENT}NICs restored: {restored}: {OK if event.ok else FAILED}"


@_lines.register
def _(event: BondState) -> Iterator[str]:
    members = ", ".join(
        f"{one.name} {one.mii.lower()}" + " (active)" * (one.name == event.active)
        for one in event.members
    )
    yield f"{INDENT}bond {event.name}: mode {event.mode}, mtu {event.mtu}, mac {event.mac}"
    yield f"{INDENT}{INDENT}members: {members}"
    if event.addresses:
        yield f"{INDENT}{INDENT}addresses: {', '.join(event.addresses)}"
    if event.partner:
        yield f"{INDENT}{INDENT}LACP: partner {event.partner}, {event.ports} ports in the aggregate"
    if event.milliseconds >= 0:
        yield f"{INDENT}{INDENT}all members up {event.milliseconds:.0f} ms after the last ADD"


@_lines.register
def _(event: Ping) -> Iterator[str]:
    result = OK if event.received == event.sent else "[yellow]probes lost[/]"
    yield f"{INDENT}ping {event.target} through {event.bond}: {_answers(event)}: {result}"


@_lines.register
def _(event: OtherNode) -> Iterator[str]:
    result = _answers(event) if event.received else "[yellow]no answer[/]"
    yield f"{INDENT}ping a pod of another node, {event.target}, over {event.bond}: {result}"


@_lines.register
def _(event: Drill) -> Iterator[str]:
    yield f"{INDENT}drill {event.member}: link down ({event.how}), pinging {event.target}"
    detected = _after(event.noticed, f"{event.bond} stopped using it")
    active = f", active member {event.active}" if event.active else ""
    yield f"{INDENT}{INDENT}{detected}{active}"
    yield (
        f"{INDENT}{INDENT}{event.lost} of {event.sent} probes lost, longest gap {event.gap:.0f} ms"
    )
    yield f"{INDENT}{INDENT}link restored, {_after(event.recovered, 'all members up')}"


@_lines.register
def _(event: NicComparison) -> Iterator[str]:
    if event.restored:
        yield f"{INDENT}NIC {event.name}: restored ({event.after}): {OK}"
    else:
        now = event.after or "not found"
        yield f"{INDENT}NIC {event.name}: {FAILED}: was {event.before}, is {now}"


@_lines.register
def _(event: Leases) -> Iterator[str]:
    yield f"{INDENT}addresses still allocated: {', '.join(event.left)}"


@_lines.register
def _(event: CaseEnd) -> Iterator[str]:
    yield f"{INDENT}[bold]{OK if event.ok else FAILED}[/]"
    yield from (f"{INDENT}{INDENT}{escape(reason)}" for reason in event.reasons)


def _answers(event: Ping | OtherNode) -> str:
    return f"{event.sent} sent, {event.received} answered"


def _after(milliseconds: float, what: str) -> str:
    """``what`` and when it happened; or that it never did."""
    return f"{what}: never" if milliseconds < 0 else f"{what} after {milliseconds:.0f} ms"
