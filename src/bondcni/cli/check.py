"""``bondctl check``: verify all attachments on this node."""

from __future__ import annotations

import click

from bondcni.cli.node import ELSEWHERE, ILL, STATE, UNKNOWN, WELL, recorded, told
from bondcni.core.result import read
from bondcni.service.attachment import Service, examine
from bondcni.service.journal import Record
from bondcni.service.reconcile import condition


@click.command()
@STATE
@told
def check(*, state: str) -> int:
    """Hold every attachment of the node against what ADD made of it."""
    service = recorded(state)
    records, words = service.journal.all()
    for word in words:
        click.echo(word, err=True)
    if not records:
        click.echo("no attachments are on record")
    verdicts = {_check_one(service, record) for record in records}
    if ILL in verdicts or words:
        return ILL
    return UNKNOWN if UNKNOWN in verdicts else WELL


def _check_one(service: Service, record: Record) -> int:
    name = f"{record.container_id} {record.ifname}"
    became, why = condition(service, record)
    if became == "unknown":
        click.echo(f"{name}: unknown: {why}; {ELSEWHERE}")
        return UNKNOWN
    if became != "live":
        click.echo(f"{name}: {became}: bondctl recover takes it down")
        return ILL
    with service.reach.node(record.netns) as node:
        differences, words = examine(record, read(record.result or {}), node)
    lines = [*differences, *(f"warning: {word}" for word in words)]
    click.echo(f"{name}: {'; '.join(lines) or 'as ADD left it'}")
    return ILL if differences else WELL
