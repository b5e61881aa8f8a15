"""Steps to netlink messages, and their answers.

Consecutive steps in one namespace go in one send. The kernel answers each of them, and continues
after one that it refused. There is no list of undo steps: ``service/restore.py`` computes what is
left to restore from the record and the state of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from bondcni.core.errors import KernelError
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, Option, key_of
from bondcni.core.plan import (
    AddAltname,
    ChangeLink,
    Claimed,
    CreateBond,
    DropAltname,
    Step,
    Wanted,
)
from bondcni.core.state import Location, OptionValue
from bondcni.kernel import link as messages
from bondcni.kernel.driver import with_driver_advice
from bondcni.kernel.namespaces import Namespaces
from bondcni.kernel.option_codec import encode
from bondcni.kernel.rtnetlink import failure
from bondcni.kernel.wire import NLM_F_REQUEST, NetlinkRequest, pack_message

Explain = Callable[[Step, KernelError], str]
"""Why a step was refused, and what helps; "" where that is not known."""


def apply(
    namespaces: Namespaces,
    steps: Sequence[Step],
    explain: Explain = lambda _step, _error: "",
) -> None:
    """Carry out the steps in their order.

    Raises ``KernelError`` for the first one that was refused; its details are what ``explain``
    says. Later steps of the same send may have been carried out nevertheless.
    """
    for step, error in attempt(namespaces, steps):
        error.details = error.details or explain(step, error)
        raise error


def attempt(namespaces: Namespaces, steps: Sequence[Step]) -> Iterator[tuple[Step, KernelError]]:
    """Carry out the steps, send by send; each step that was refused, and its error."""
    for where, run in groupby(steps, key=lambda step: step.where):
        rtnl = namespaces.handle(where).rtnl
        sent = list(run)
        requests = [_request(namespaces, step) for step in sent]
        answers = rtnl.send(requests, None)
        for step, request, answer in zip(sent, requests, answers, strict=True):
            if answer.number:
                error = failure(request, answer)
                yield step, with_driver_advice(error) if isinstance(step, CreateBond) else error


def _request(namespaces: Namespaces, step: Step) -> NetlinkRequest:
    if isinstance(step, CreateBond):
        return messages.create_bond(
            step.name,
            _encoded(BOND_OPTIONS, step.options),
            step.mac or None,
            step.mtu,
            step.index,
        )
    if isinstance(step, AddAltname):
        return messages.add_altnames(step.index, step.label, step.altname)
    if isinstance(step, DropAltname):
        return messages.delete_altnames(step.index, step.label, step.altname)
    if isinstance(step, ChangeLink):
        return messages.change_link(step.index, describe(step), _change(namespaces, step))
    return messages.delete_link(step.index, step.label)


def _change(namespaces: Namespaces, step: ChangeLink) -> messages.Change:
    return messages.Change(
        namespace=namespaces.handle(step.to).fd if step.to else None,
        new_index=step.new_index or None,
        mac=step.mac or None,
        mtu=step.mtu or None,
        name=step.name or None,
        alias=step.alias,
        master=step.master,
        txqlen=step.txqlen,
        flags=step.flags,
        mask=step.change,
        bond=_encoded(BOND_OPTIONS, step.bond_options),
        member=_encoded(MEMBER_OPTIONS, step.member_options),
    )


def _encoded(table: tuple[Option, ...], values: Mapping[str, OptionValue]) -> dict[int, bytes]:
    """Payloads by attribute number."""
    return {row.number: encode(row, values[row.kernel]) for row in table if row.kernel in values}


def describe(step: Step) -> str:
    """What a step does, as the beginning of an error message."""
    if isinstance(step, ChangeLink):
        return f"change {step.label} ({', '.join(_changes(step)) or 'attributes'})"
    if isinstance(step, AddAltname):
        return f"add the alternative name {step.altname} to {step.label}"
    if isinstance(step, DropAltname):
        return f"remove the alternative name {step.altname} from {step.label}"
    if isinstance(step, CreateBond):
        return f"create bond {step.name}"
    return f"delete {step.label}"


def _changes(step: ChangeLink) -> Iterator[str]:
    if step.to == Location.POD:
        yield "move to the pod"
    elif step.to:
        yield f"move to the host as {step.name or step.label}"
    if step.master:
        yield "join the bond"
    if step.bond_options or step.member_options:
        names = (*step.bond_options, *step.member_options)
        yield "options " + ", ".join(map(key_of, names))
    if step.mac:
        yield f"mac {step.mac}"
    if step.mtu:
        yield f"mtu {step.mtu}"
    if step.name and not step.to:
        yield f"name {step.name}"
    if step.change:
        yield f"flags {step.flags & step.change:#x}"


def emergency_messages(bond: Wanted, claimed: tuple[Claimed, ...]) -> bytes:
    """Messages for the pod's socket that return its links to the host without knowing the state:
    the bond is deleted, each link is moved. The sender inserts the host's namespace and sequence
    numbers. They are for the emergency return of the executable (``shim/emergency.c``), which
    runs while there is no daemon.
    """
    pairs = zip(bond.members, claimed, strict=True)
    links = [(inside, item.link) for inside, item in pairs if item.home == Location.HOST]
    if not links:
        return b""
    requests = [messages.delete_link(bond.index, bond.name)]
    for inside, was in links:
        # First as it was; then without its ifindex, in case that is taken; then without names, in
        # case one of them is taken. After a move that succeeded the others find no link.
        move = messages.Change(namespace=0, mac=was.mac if inside.mac else None)
        tries = [move._replace(new_index=was.index)] * (was.index != inside.index)
        tries.append(move)
        requests += [messages.change_link(inside.index, inside.name, each) for each in tries]
        requests += [messages.delete_altnames(inside.index, inside.name, a) for a in was.altnames]
        last = move._replace(name="dev%d")
        requests.append(messages.change_link(inside.index, inside.name, last))
    return b"".join(pack_message(r.type, r.flags | NLM_F_REQUEST, 0, r.body) for r in requests)
