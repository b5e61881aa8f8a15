"""``bondctl policy``: which host links pods may take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from bondcni.cli.node import ILL, POLICY, STATE, WELL, service_of, told
from bondcni.core.errors import BondError, Refused
from bondcni.core.links import LinkRef, guess
from bondcni.core.resolve import candidate
from bondcni.core.state import Namespace
from bondcni.kernel.executor import Node
from bondcni.service import policy as policies
from bondcni.service.attachment import Service
from bondcni.service.reconcile import holders


@click.group()
def policy() -> None:
    """Say which links of the host pods may take."""


@policy.command()
@click.argument("link")
@click.option("--namespace", default="", help="The pod's Kubernetes namespace.")
@POLICY
@STATE
@told
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
    _say(f"{name}: is refused", [*reasons, *_held(service_of(state), ref)])
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
