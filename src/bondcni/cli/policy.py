"""``bondctl policy``: which host links pods may take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from bondcni.cli.node import NOT_OK, OK, POLICY, STATE, exits_with_verdict, service_of
from bondcni.core.errors import BondError, Refused
from bondcni.core.lifecycle import Operation, action_of
from bondcni.core.links import LinkRef, link_ref_of
from bondcni.core.resolve import candidate
from bondcni.core.state import Location, Namespace
from bondcni.kernel.namespaces import Namespaces
from bondcni.service import policy as policies
from bondcni.service.attachment import Service
from bondcni.service.reconcile import holders


@click.group()
def policy() -> None:
    """Show which host links pods may take."""


@policy.command()
@click.argument("link")
@click.option("--namespace", default="", help="The pod's Kubernetes namespace.")
@POLICY
@STATE
@exits_with_verdict
def explain(link: str, *, namespace: str, policy_file: str, state: str) -> int:
    """Show whether a pod may take LINK (a name, MAC or PCI address), and why.

    The answer is that of ADD, except for what depends on the pod and on the other links.
    """
    ref = link_ref_of(link)
    if ref is None:
        raise Refused((f"{link!r} is not an interface name, MAC or PCI address",))
    policy = policies.load(policy_file)
    with Namespaces.open("") as node:
        host = node.read_candidates((ref,))
    verdicts = policies.verdicts(policy, namespace, host.links)
    found, reasons = candidate(ref, (), Location.HOST, host, Namespace(), verdicts)
    name = found.name if found else link
    if found and not reasons:
        _say(f"{name}: may be taken", [verdicts[found.index].why])
        return OK
    _say(f"{name}: refused", [*reasons, *_held(service_of(state), ref)])
    return NOT_OK


def _say(first: str, reasons: Iterable[str]) -> None:
    click.echo("".join([first, *(f"\n    {reason}" for reason in reasons)]))


def _held(service: Service, ref: LinkRef) -> Iterator[str]:
    """The attachments that claimed the link, and when it will be restored."""
    try:
        for holder in holders(service, (ref,)):
            yield str(holder)
            if action_of(Operation.ADD_LINKS, holder.state).ends:
                yield "it is restored by bondctl recover, or before the next ADD that requests it"
    except BondError as error:
        yield f"cannot tell whether an attachment claimed it: {error.message}"
