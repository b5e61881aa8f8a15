"""``bondctl recover``: clean up after deleted pods and interrupted requests."""

from __future__ import annotations

import click

from bondcni.cli.node import ELSEWHERE, ILL, STATE, UNKNOWN, WELL, recorded, told
from bondcni.daemon.delete_queue import Backlog, recover_all


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what there is; touch nothing.")
@STATE
@told
def recover(*, dry_run: bool, state: str) -> int:
    """Bring home what dead pods and cut-off requests left, and do the deletions that wait."""
    findings = list(recover_all(recorded(state), Backlog(state), dry_run=dry_run))
    for finding in findings:
        if finding.state == "live":
            verdict = "let be"
        elif finding.state == "unknown":
            verdict = f"unchanged; {ELSEWHERE}"
        elif dry_run:
            verdict = "would be taken down"
        else:
            verdict = "everything is home" if finding.done else "not done yet"
        words = "".join(f"\n    {word}" for word in finding.words)
        click.echo(f"{finding.container_id} {finding.ifname}: {finding.state}: {verdict}{words}")
    if not findings:
        click.echo("no attachments are on record")
    if not dry_run and not all(one.done or one.state == "unknown" for one in findings):
        return ILL
    return UNKNOWN if any(one.state == "unknown" for one in findings) else WELL
