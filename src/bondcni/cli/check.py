"""``bondctl check``: verify all attachments on this node."""

from __future__ import annotations

import click

from bondcni.cli.node import (
    ELSEWHERE,
    NOT_OK,
    OK,
    STATE,
    UNKNOWN,
    exits_with_verdict,
    service_with_records,
)
from bondcni.core.lifecycle import Action, AttachmentState, Operation, action_of
from bondcni.core.result import read
from bondcni.service.attachment import Service, examine
from bondcni.service.journal import Record
from bondcni.service.reconcile import condition


@click.command()
@STATE
@exits_with_verdict
def check(*, state: str) -> int:
    """Verify all attachments on this node."""
    service = service_with_records(state)
    warnings: list[str] = []
    records = service.journal.all(warnings.append)
    for warning in warnings:
        click.echo(warning, err=True)
    if not records:
        click.echo("no attachments")
    verdicts = {_check_one(service, record) for record in records}
    if NOT_OK in verdicts or warnings:
        return NOT_OK
    return UNKNOWN if UNKNOWN in verdicts else OK


def _check_one(service: Service, record: Record) -> int:
    name = f"{record.container_id} {record.ifname}"
    state, why = condition(service, record)
    if state is AttachmentState.UNKNOWN:
        click.echo(f"{name}: {state}: {why}; {ELSEWHERE}")
        return UNKNOWN
    if action_of(Operation.CHECK, state) is not Action.VERIFY:
        click.echo(f"{name}: {state}: run bondctl recover to clean it up")
        return NOT_OK
    with service.reach.node(record.netns) as node:
        differences, warnings = examine(record, read(record.result or {}), node)
    lines = [*differences, *(f"warning: {warning}" for warning in warnings)]
    click.echo(f"{name}: {'; '.join(lines) or 'OK'}")
    return NOT_OK if differences else OK
