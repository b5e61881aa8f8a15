"""``bondctl`` on a node: what became of its attachments, and which links pods may take.

``recover`` puts right what a crash or a lost DEL left, ``check`` holds every attachment
against what ADD made of it, ``policy explain`` says what would happen to a link. Exit
code 0: all well; 1: something is not; 2: it could not be found out, of one attachment at least.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import Any

import click

from bondcni.core.config import LinkRef
from bondcni.core.errors import BondError, DelegateError, JournalError, Refused
from bondcni.core.links import guess
from bondcni.core.resolve import candidate
from bondcni.core.result import read
from bondcni.core.state import Namespace
from bondcni.frontends import telling
from bondcni.frontends.backlog import Backlog, recover_all
from bondcni.kernel.executor import Node
from bondcni.kernel.namespace import may_enter
from bondcni.service import delegate
from bondcni.service import policy as policies
from bondcni.service.attachment import Service, examine
from bondcni.service.delegate import Ended
from bondcni.service.journal import DEFAULT_FOLDER, Journal, Record
from bondcni.service.reach import Direct, Unaided
from bondcni.service.reconcile import condition, holders

STATE = click.option(
    "--state",
    envvar="BONDCNI_STATE",
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The directory of the records.",
)
POLICY = click.option(
    "--policy",
    "policy_file",
    envvar="BONDCNI_POLICY",
    default=policies.DEFAULT_FILE,
    show_default=True,
    help="The node's policy file.",
)


WELL, ILL, UNKNOWN = 0, 1, 2

ELSEWHERE = "run this as root on the node itself, outside of containers"
"""What helps where a namespace cannot be seen."""


def _told(command: Callable[..., int]) -> Callable[..., None]:
    """The command's verdict as an exit code, and an error as one message."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            code = command(*args, **options)
        except BondError as error:
            telling.fail(error.message, UNKNOWN)
        sys.exit(code)

    return run


class Careful(Direct):
    """Root at work on records that a daemon with fewer rights could have written: they say where
    delegates are, and only what nobody but root can change is run from there, with our own
    environment.
    """

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        program = delegate.find(name, env.get("CNI_PATH", ""))
        if changeable := delegate.changeable(program):
            raise DelegateError(
                f"IPAM plugin {name}: {changeable} can be changed by others than root, and the "
                "records are not root's: it is not run"
            )
        said = {key: value for key, value in env.items() if key.startswith("CNI_")}
        return super().run(name, stdin, {**self.surroundings(), **said}, deadline)


def _service(state: str) -> Service:
    roots = not os.path.isdir(state) or os.stat(state).st_uid == 0
    reach: Direct = Unaided()
    if may_enter():
        reach = Direct() if roots else Careful()
    return Service(Journal(state), partial(click.echo, err=True), reach=reach)


def _recorded(state: str) -> Service:
    """For what goes through the records. Raises ``JournalError`` where their place is missing."""
    if not os.path.isdir(state):
        what = "is not a directory" if os.path.lexists(state) else "does not exist"
        raise JournalError(
            f"the state directory {state} {what}: --state names the directory of the records, "
            f"which bondctl install makes at {DEFAULT_FOLDER}"
        )
    return _service(state)


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what there is; touch nothing.")
@STATE
@_told
def recover(*, dry_run: bool, state: str) -> int:
    """Bring home what dead pods and cut-off requests left, and do the deletions that wait."""
    findings = list(recover_all(_recorded(state), Backlog(state), dry_run=dry_run))
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


@click.command()
@STATE
@_told
def check(*, state: str) -> int:
    """Hold every attachment of the node against what ADD made of it."""
    service = _recorded(state)
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


@click.group()
def policy() -> None:
    """Say which links of the host pods may take."""


@policy.command()
@click.argument("link")
@click.option("--namespace", default="", help="The pod's Kubernetes namespace.")
@POLICY
@STATE
@_told
def explain(link: str, *, namespace: str, policy_file: str, state: str) -> int:
    """What would happen if a pod asked for LINK, a name, MAC or PCI address, and why.

    The verdict is that of ADD, without what depends on the pod and on the other links.
    """
    ref = guess(link)
    if ref is None:
        raise Refused((f"{link!r} is not a name, a MAC or a PCI address",))
    judge = policies.judge(policies.load(policy_file), namespace)
    with Node.open("") as node:
        host = node.about((ref,))
    found, reasons = candidate(ref, (), "host", host, Namespace(), judge)
    name = found.name if found else link
    if found and not reasons:
        _say(f"{name}: may be taken", [judge(found).why])
        return WELL
    _say(f"{name}: is refused", [*reasons, *_held(_service(state), ref)])
    return ILL


def _say(first: str, reasons: Iterable[str]) -> None:
    click.echo("".join([first, *(f"\n    {reason}" for reason in reasons)]))


def _held(service: Service, ref: LinkRef) -> Iterator[str]:
    """Who has the link, and what becomes of one that a dead pod has."""
    try:
        for holder in holders(service, (ref,)):
            yield str(holder)
            if holder.state not in ("live", "unknown"):
                yield "bondctl recover brings it home, and so does an ADD that asks for it, first"
    except BondError as error:
        yield f"whether a pod holds it is not known: {error.message}"
