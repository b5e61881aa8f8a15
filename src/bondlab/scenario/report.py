"""The events of a run as a story for a person: a few plain sentences for each thing that happened.

On a terminal there is colour and a line that moves while something is awaited; elsewhere the
same words without either. Says nothing that the events do not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

from rich.console import Console
from rich.markup import escape

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

GOOD, BAD = "[green]ok[/]", "[bold red]FAILED[/]"
STILL = "  "


class Story:
    """Shows events on a console as they come."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self.warned: set[str] = set()  # in this case: ADD, CHECK and DEL warn of the same

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A moving line while the block runs, on terminals only."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(text):
            yield

    def progress(self, text: str) -> None:
        """One step of the preparation."""
        self.console.print(f"[dim]lab: {escape(text)}[/]")

    def findings(self, findings: tuple[ManifestFinding, ...]) -> None:
        """All that is wrong with the files."""
        for one in findings:
            self.console.print(
                f"[bold]{escape(f'{one.file}:{one.line}:')}[/] {escape(one.message)}"
            )
            if one.advice:
                self.console.print(f"    {escape(one.advice)}")

    def error(self, text: str) -> None:
        """One message about what stopped everything."""
        self.console.print(f"[bold red]bondctl: error:[/] {escape(text)}")

    def show(self, event: Event) -> None:
        """One event."""
        if isinstance(event, CaseBegin):
            self.warned.clear()
        for line in _lines(event):
            self.console.print(line)
        if isinstance(event, Call):
            self._warnings(event)

    def _warnings(self, call: Call) -> None:
        """What the plugin wrote to standard error, each sentence once a case."""
        for text in dict.fromkeys(call.warnings):
            if text not in self.warned:
                self.console.print(
                    f"{STILL}{STILL}[yellow]{escape(call.type)} warns:[/] {escape(text)}"
                )
        self.warned.update(call.warnings)


@singledispatch
def _lines(event: Event) -> Iterator[str]:
    raise TypeError(event)


@_lines.register
def _(event: CaseBegin) -> Iterator[str]:
    yield ""
    yield f"[bold]{escape(event.title)}[/] ({escape(event.file)})"
    yield f"{STILL}networks: {escape(', '.join(event.networks))}"


@_lines.register
def _(event: Note) -> Iterator[str]:
    yield f"{STILL}[yellow]note[/] {escape(event.text)}"


@_lines.register
def _(event: Call) -> Iterator[str]:
    what = f"{event.verb:<5} {event.network} ({event.type}) {event.ifname}"
    verdict = GOOD if event.ok else f"{BAD} code {event.code}"
    yield f"{STILL}{escape(what)}: {verdict}, {event.milliseconds:.0f} ms"
    if event.message:
        yield f"{STILL}{STILL}{escape(event.message)}"


@_lines.register
def _(event: Crash) -> Iterator[str]:
    away = ", ".join(event.away) or "no NIC"
    yield f"{STILL}crash {event.network} {event.ifname}: ADD killed in the middle, {away} in the pod"
    yield from (f"{STILL}recover: {escape(line)}" for line in event.said.splitlines())
    yield f"{STILL}{STILL}home as they were: {', '.join(event.back) or 'none'}, {_verdict(event)}"


def _verdict(event: Crash) -> str:
    return GOOD if event.ok else BAD


@_lines.register
def _(event: Bond) -> Iterator[str]:
    members = ", ".join(
        f"{one.name} {one.mii.lower()}" + " (active)" * (one.name == event.active)
        for one in event.members
    )
    yield f"{STILL}in the pod: {event.name} is {event.mode}, mtu {event.mtu}, mac {event.mac}"
    yield f"{STILL}{STILL}members: {members}"
    if event.addresses:
        yield f"{STILL}{STILL}addresses: {', '.join(event.addresses)}"
    if event.partner:
        yield f"{STILL}{STILL}LACP: partner {event.partner}, {event.ports} ports agreed"
    if event.milliseconds >= 0:
        yield f"{STILL}{STILL}all members carry, {event.milliseconds:.0f} ms after the last ADD"


@_lines.register
def _(event: Ping) -> Iterator[str]:
    good = GOOD if event.received == event.sent else f"{event.received} answers"
    yield f"{STILL}ping {event.target} through {event.bond}: {event.sent} sent, {good}"


@_lines.register
def _(event: OtherNode) -> Iterator[str]:
    what = f"a pod of another node, {event.target}, over {event.bond}"
    if event.received:
        yield f"{STILL}ping {what}: {event.sent} sent, {event.received} answers"
    else:
        yield f"{STILL}ping {what}: [yellow]not reached[/]"


@_lines.register
def _(event: Drill) -> Iterator[str]:
    yield f"{STILL}drill: {event.leg} is cut ({event.how}) while {event.target} is pinged"
    noticed = _after(event.noticed, "left it")
    goes_on = f", traffic goes on over {event.active}" if event.active else ""
    yield f"{STILL}{STILL}{event.bond} {noticed}{goes_on}"
    yield (
        f"{STILL}{STILL}{event.lost} of {event.sent} probes lost, "
        f"longest silence {event.gap:.0f} ms"
    )
    yield f"{STILL}{STILL}mended: {_after(event.recovered, 'all members carry again')}"


@_lines.register
def _(event: Nic) -> Iterator[str]:
    if event.home:
        yield f"{STILL}home  {event.name} is as it was: {event.after}"
    else:
        now = event.after or "gone"
        yield f"{STILL}home  {event.name} {BAD} was {event.before}, is {now}"


@_lines.register
def _(event: Leases) -> Iterator[str]:
    yield f"{STILL}addresses still taken: {', '.join(event.left)}"


@_lines.register
def _(event: CaseEnd) -> Iterator[str]:
    yield f"{STILL}[bold]{GOOD if event.ok else BAD}[/]"
    yield from (f"{STILL}{STILL}{escape(reason)}" for reason in event.reasons)


def _after(milliseconds: float, what: str) -> str:
    return f"never {what}" if milliseconds < 0 else f"{what} after {milliseconds:.0f} ms"
