"""Recovery after a crash, a lost DEL or the end of a pod: compares the records with the node.

``core/lifecycle.py`` says which state an attachment is in, and what is done in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bondcni.core.config import LinkRef
from bondcni.core.errors import BondError, ErrorList, TryAgain
from bondcni.core.lifecycle import Action, AttachmentState, Boot, Operation, action_of, state_of
from bondcni.core.resolve import matches
from bondcni.core.state import Location
from bondcni.service.attachment import (
    Service,
    attachment_key,
    boot_id,
    host_links,
    is_live,
    locked,
    presence_of,
    release,
    take_down,
)
from bondcni.service.journal import Record
from bondcni.service.locks import hold
from bondcni.service.restore import restore


class Recovered(NamedTuple):
    """One attachment, its state, and whether anything remains to be done."""

    container_id: str
    ifname: str
    state: AttachmentState
    done: bool
    messages: tuple[str, ...] = ()


class Condition(NamedTuple):
    """The state of an attachment, and why it is UNKNOWN."""

    state: AttachmentState
    why: str = ""


def condition(service: Service, record: Record) -> Condition:
    """The state of an attachment, by its record and the network namespace that this names."""
    boot = Boot.THIS if record.boot == boot_id() else Boot.EARLIER
    found = presence_of(service, record)
    state = state_of(boot, found.state, complete=record.result is not None)
    if state is AttachmentState.UNKNOWN:
        return Condition(state, f"cannot tell whether its namespace exists: {found.why}")
    return Condition(state)


def recover(service: Service, *, dry_run: bool = False) -> Iterator[Recovered]:
    """Clean up after deleted pods and interrupted requests, record by record."""
    for record in records(service):
        yield reclaim(service, record, Operation.RECOVER, dry_run=dry_run)
    for name in service.journal.beginnings():
        yield _drop(service, name, dry_run=dry_run)


def restore_returned(service: Service) -> None:
    """Restore hardware that is on the host although a record says that it is claimed.

    For a process that cannot open the pods' namespaces, such as the daemon when it starts: no
    record is removed, and the state of no attachment is decided. Hardware that is not in a pod is
    identified by its permanent MAC or bus address; virtual links are left for a later request.
    """
    for record in records(service):
        pairs = zip(record.wanted.members, record.claimed, strict=True)
        known = [
            (member, item)
            for member, item in pairs
            if item.home == Location.HOST and (item.link.permanent_mac or item.link.parent)
        ]
        if not known:
            continue
        members, claimed = zip(*known, strict=True)
        try:
            with locked(service, record, service.timeouts.busy), service.reach.node("") as node:
                restored = restore(node, replace(record.wanted, members=members), claimed)
        except BondError as error:
            service.warn(error.message)
        else:
            for text in restored.errors:
                service.warn(text)


def records(service: Service) -> list[Record]:
    """Every valid record; a warning for each invalid one."""
    return service.journal.all(service.warn)


def reclaim(
    service: Service, record: Record, operation: Operation, *, dry_run: bool = False
) -> Recovered:
    """Do what the operation does with an attachment in the state that it is found in."""
    name = (record.container_id, record.ifname)
    try:
        with locked(service, record, service.timeouts.busy):
            again = service.journal.read(*name, service.warn)
            state, why = condition(service, again or record)
            action = action_of(operation, state)
            if again is None or not action.ends or dry_run:
                done = again is None or state is AttachmentState.ACTIVE
                return Recovered(*name, state, done, (why,) if why else ())
            errors = end(service, again, action)
    except TryAgain as error:
        return Recovered(*name, AttachmentState.BUSY, done=False, messages=(error.message,))
    except BondError as error:
        errors = ErrorList()
        errors.append(error.message)
        state = condition(service, record).state
    done = service.journal.read(*name, service.warn) is None
    return Recovered(*name, state, done, tuple(errors))


def _drop(service: Service, name: tuple[str, str], *, dry_run: bool) -> Recovered:
    """Remove the file of an ADD that was killed while it wrote its record: it had changed nothing
    else.
    """
    try:
        with hold(service.journal.directory, [attachment_key(*name)], service.timeouts.busy):
            if not dry_run:
                service.journal.tidy(*name)
    except BondError as error:
        return Recovered(*name, AttachmentState.BUSY, done=False, messages=(error.message,))
    return Recovered(*name, AttachmentState.INTERRUPTED, not dry_run)


def end(service: Service, record: Record, action: Action) -> ErrorList:
    """End an attachment whose locks are held, by an action that ``ends`` it; the errors."""
    env = environment(service, record)
    if action is Action.RELEASE:
        errors = ErrorList()
        with errors.collect():
            release(service, record.config, env)
            service.journal.remove(record.container_id, record.ifname)
        return errors
    with service.reach.node(record.netns if action is Action.TAKE_DOWN else "") as node:
        return take_down(service, record, node, env)


def environment(service: Service, record: Record) -> Mapping[str, str]:
    """What the delegate's DEL needs, as the ADD was given it."""
    return {
        **service.reach.surroundings(),
        **record.env,
        "CNI_CONTAINERID": record.container_id,
        "CNI_IFNAME": record.ifname,
        "CNI_NETNS": record.netns if is_live(service, record) else "",
    }


def before_add(service: Service, refs: Sequence[LinkRef]) -> None:
    """Restore the links that an ADD is about to claim from attachments that ended without DEL."""
    for record in _naming(service, refs):
        if not any(_meant(refs, record)):
            continue
        state, why = condition(service, record)
        name = f"{record.container_id} {record.ifname}"
        if action_of(Operation.ADD_LINKS, state).ends:
            found = reclaim(service, record, Operation.ADD_LINKS)
            messages = "; ".join(found.messages) or "not all found yet"
            outcome = "restored before this ADD" if found.done else f"not restored: {messages}"
            service.warn(f"links of {name} ({found.state}): {outcome}")
        elif why:
            service.warn(f"links of {name} ({state}): not restored: {why}")


class Holder(NamedTuple):
    """The attachment that claimed a link of the host, by its record."""

    link: str
    container_id: str
    ifname: str
    state: AttachmentState

    def __str__(self) -> str:
        state = "" if self.state is AttachmentState.ACTIVE else f" ({self.state})"
        return f"link {self.link} is claimed by {self.container_id} {self.ifname}{state}"


def holders(service: Service, refs: Sequence[LinkRef]) -> Iterator[Holder]:
    """The attachments that claimed the links that an ADD requests."""
    for record in _naming(service, refs):
        for name in _meant(refs, record):
            state = condition(service, record).state
            yield Holder(name, record.container_id, record.ifname, state)


def _naming(service: Service, refs: Sequence[LinkRef]) -> list[Record]:
    """The records of attachments that may have claimed a link that ``refs`` name."""
    return service.journal.naming({ref.value for ref in refs}, service.warn)


def _meant(refs: Sequence[LinkRef], record: Record) -> Iterator[str]:
    """The host links of a record that ``refs`` name."""
    return (link.name for link in host_links(record) if any(matches(ref, link) for ref in refs))
