"""``bondctl recover``: clean up after deleted pods and interrupted requests."""

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
from bondcni.core.lifecycle import AttachmentState
from bondcni.daemon.delete_queue import DeleteQueue, recover_all
from bondcni.service.reconcile import Recovered


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@STATE
@exits_with_verdict
def recover(*, dry_run: bool, state: str) -> int:
    """Clean up after deleted pods and interrupted requests, and process the queued DELs."""
    found = list(recover_all(service_with_records(state), DeleteQueue(state), dry_run=dry_run))
    for one in found:
        messages = "".join(f"\n    {message}" for message in one.messages)
        outcome = _outcome(one, dry_run=dry_run)
        click.echo(f"{one.container_id} {one.ifname}: {one.state}{outcome}{messages}")
    if not found:
        click.echo("no attachments")
    unknown = [one for one in found if one.state is AttachmentState.UNKNOWN]
    if not dry_run and not all(one.done or one in unknown for one in found):
        return NOT_OK
    return UNKNOWN if unknown else OK


def _outcome(one: Recovered, *, dry_run: bool) -> str:
    """What was done with an attachment, after its state."""
    if one.state is AttachmentState.ACTIVE:
        return ", unchanged"
    if one.state is AttachmentState.UNKNOWN:
        return f", unchanged; {ELSEWHERE}"
    if dry_run:
        return ": would be cleaned up"
    if not one.done:
        return ": not done yet"
    if one.state is AttachmentState.QUEUED:
        return ": DEL done"
    return (
        ": addresses released"
        if one.state is AttachmentState.OTHER_BOOT
        else ": interfaces restored"
    )
