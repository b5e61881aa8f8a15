"""After a crash, a lost DEL or a namespace that died: the journal against the node.

Each record is held against its namespace. A live and complete attachment is let be,
whatever its pod does inside. One that was cut off in the middle of ADD, or whose
namespace is gone, is taken down like in DEL: NICs home as they were, addresses released,
record dropped. What was taken in another boot of the node is not away any more: only
its addresses are released. Nothing is touched that another request is at work on, nor
where it cannot be known whether the namespace exists ("unknown").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bondcni.core.config import LinkRef
from bondcni.core.errors import BondError, TryAgain
from bondcni.core.resolve import matches
from bondcni.kernel.executor import listen
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

SHORT = 0.2
"""Seconds to wait for a record that another request is at work on, before it is let be."""


class Finding(NamedTuple):
    """What one record says, and what was done about it."""

    container_id: str
    ifname: str
    state: str  # "live", "busy", "cut off", "namespace gone", "other boot", "queued", "unknown"
    done: bool  # nothing is left to do
    words: tuple[str, ...] = ()


class Condition(NamedTuple):
    """What has become of an attachment: a state of ``Finding``, and why it is unknown."""

    state: str
    why: str = ""


def condition(service: Service, record: Record) -> Condition:
    """What has become of an attachment."""
    if record.boot != boot_id():
        return Condition("other boot")
    found = presence_of(service, record)
    if found.state == "unknown":
        return Condition("unknown", f"whether its namespace exists is not known: {found.why}")
    if found.state == "gone":
        return Condition("namespace gone")
    return Condition("live" if record.result is not None else "cut off")


def recover(service: Service, *, dry_run: bool = False) -> Iterator[Finding]:
    """Go through the journal and put right what can be, record by record."""
    for record in records(service):
        yield reclaim(service, record, dry_run=dry_run)
    for name in service.journal.beginnings():
        yield _drop(service, name, dry_run=dry_run)


def mend(service: Service) -> None:
    """Put right the hardware of the host that is at home although a record says it was taken.

    For who cannot look into pods yet, such as the resident server when it starts: nothing is
    dropped, and nothing judged of an attachment. A device that is in no pod is known by its
    permanent MAC or its bus address; virtual links wait for who can look. Who starts like that
    stays: the journal and the kernel are listened to from here on.
    """
    service.journal.stay()
    listen()
    for record in records(service):
        pairs = zip(record.wanted.members, record.claimed, strict=True)
        known = [
            (member, item)
            for member, item in pairs
            if item.home == "host" and (item.link.permanent_mac or item.link.parent)
        ]
        if not known:
            continue
        members, claimed = zip(*known, strict=True)
        try:
            with locked(service, record, SHORT), service.reach.node("") as node:
                back = node.bring_home(replace(record.wanted, members=members), claimed)
        except BondError as error:
            service.warn(error.message)
        else:
            for word in back.errors:
                service.warn(word)


def records(service: Service) -> list[Record]:
    """The journal; a record that could not be read is told of."""
    found, words = service.journal.all()
    for word in words:
        service.warn(word)
    return found


def reclaim(service: Service, record: Record, *, dry_run: bool = False) -> Finding:
    """Take down what one record speaks of, unless it is live, somebody is at work on it, or it is
    not known whether its namespace exists.
    """
    name = (record.container_id, record.ifname)
    try:
        with locked(service, record, SHORT):
            again, _ = service.journal.read(*name)
            state, why = condition(service, again or record)
            if again is None or state in ("live", "unknown") or dry_run:
                done = again is None or state == "live"
                return Finding(*name, state, done, (why,) if why else ())
            left = take_down_dead(service, again, state)
    except TryAgain as error:
        return Finding(*name, "busy", done=False, words=(error.message,))
    except BondError as error:
        left = [error.message]
        state = condition(service, record).state
    gone, _ = service.journal.read(*name)
    return Finding(*name, state, gone is None, tuple(left))


def _drop(service: Service, name: tuple[str, str], *, dry_run: bool) -> Finding:
    """Tidy up after an ADD that was killed while it wrote its record: it touched nothing."""
    try:
        with hold(service.journal.folder, [attachment_key(*name)], SHORT):
            if not dry_run:
                service.journal.tidy(*name)
    except BondError as error:
        return Finding(*name, "busy", done=False, words=(error.message,))
    return Finding(*name, "cut off", not dry_run)


def take_down_dead(service: Service, record: Record, state: str) -> list[str]:
    """Take down what is not live, its locks held; what could not be done."""
    env = environment(service, record)
    if state == "other boot":
        left: list[str] = []
        release(service, record.config, env, left)
        if not left:
            service.journal.remove(record.container_id, record.ifname)
        return left
    with service.reach.node(record.netns if state == "cut off" else "") as node:
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
    """Bring home the links that an ADD is about to take, where a dead attachment has them."""
    for record in _naming(service, refs):
        if not any(_meant(refs, record)):
            continue
        state, why = condition(service, record)
        if state == "unknown":
            service.warn(f"links of {record.container_id} {record.ifname} stay with it: {why}")
        elif state != "live":
            finding = reclaim(service, record)
            service.warn(
                f"links of {record.container_id} {record.ifname} ({finding.state}): "
                + ("brought home first" if finding.done else "; ".join(finding.words) or "awaited")
            )


class Holder(NamedTuple):
    """Who has a link of the host, by the journal."""

    link: str
    container_id: str
    ifname: str
    state: str  # as of ``Finding``

    def __str__(self) -> str:
        words = "" if self.state == "live" else f" ({self.state})"
        return f"link {self.link} was taken by {self.container_id} {self.ifname}{words}"


def holders(service: Service, refs: Sequence[LinkRef]) -> Iterator[Holder]:
    """Who has the links that an ADD wants."""
    for record in _naming(service, refs):
        for name in _meant(refs, record):
            state = condition(service, record).state
            yield Holder(name, record.container_id, record.ifname, state)


def _naming(service: Service, refs: Sequence[LinkRef]) -> list[Record]:
    """The records that may be of links that ``refs`` name."""
    found, words = service.journal.naming({ref.value for ref in refs})
    for word in words:
        service.warn(word)
    return found


def _meant(refs: Sequence[LinkRef], record: Record) -> Iterator[str]:
    """The host links of a record that ``refs`` name."""
    return (link.name for link in host_links(record) if any(matches(ref, link) for ref in refs))
