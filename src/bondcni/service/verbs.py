"""The CNI verbs: ADD, DEL, CHECK, GC, STATUS.

Each takes a request, and returns the document for standard output, or None. ADD validates
everything, writes the record, and only then makes the first change; after an error it rolls back
before it returns the error. DEL continues after each error, trusts the record rather than the
configuration, and returns all errors at the end.

Source: CNI SPEC 1.1.0, section "CNI operations".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from bondcni.core.config import BondConfig, parse, parse_leniently
from bondcni.core.errors import (
    BondError,
    CheckError,
    DelegateError,
    DelegateIncompatible,
    EnvironError,
    ErrorList,
    InputError,
    JournalError,
    NamespaceGone,
    NotANamespace,
    PolicyError,
    Refused,
    TryAgain,
    Unavailable,
    VersionError,
)
from bondcni.core.lifecycle import Action, AttachmentState, Operation, action_of
from bondcni.core.plan import Claimed, Facts, Plan, Wanted, new_ifindexes, plan_add
from bondcni.core.resolve import matches
from bondcni.core.restore import adopt, claims, unlike
from bondcni.core.result import at_least
from bondcni.core.runtime_config import ignored_cni_args
from bondcni.core.state import Link, Location, Namespace
from bondcni.kernel.apply import emergency_messages
from bondcni.kernel.driver import bonding_driver
from bondcni.kernel.namespaces import Namespaces
from bondcni.service import ipam
from bondcni.service.attachment import (
    Service,
    attach,
    attachment_key,
    boot_id,
    examine,
    host_links,
    is_live,
    link_key,
    pod_key,
    release,
    take_down,
)
from bondcni.service.garbage import collect
from bondcni.service.journal import Record
from bondcni.service.locks import hold
from bondcni.service.policy import namespace_of, verdicts
from bondcni.service.reconcile import (
    before_add,
    condition,
    end,
    holders,
    records,
)
from bondcni.service.request import SINCE, Request
from bondcni.service.restore import restore

Document = dict[str, Any]


def serve(service: Service, request: Request) -> Document | None:
    """Answer one request. Raises ``BondError``, which is the answer then."""
    return _VERBS[request.command](service, request)


def _configured(service: Service, request: Request) -> BondConfig:
    """The configuration, whose cniVersion must have the verb. Emits its warnings."""
    config = parse(request.stdin)
    since = SINCE.get(request.command)
    if since and not at_least(config.cni_version, since):
        raise VersionError(
            f"cniVersion {config.cni_version} does not support {request.command}, which needs {since} or later"
        )
    for warning in config.warnings:
        service.warn(warning)
    return config


def _own_namespace(service: Service, request: Request) -> None:
    """Refuse the namespace of the plugin itself, as the reference implementation does."""
    if service.reach.is_own(request.netns) and not _may_be_own(request):
        raise EnvironError(
            f"CNI_NETNS {request.netns} is the network namespace of the plugin itself: "
            "set CNI_NETNS_OVERRIDE=1 to allow it"
        )


def _may_be_own(request: Request) -> bool:
    return request.env.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")


def add(service: Service, request: Request) -> Document:
    """ADD: create the bond, configure its addresses, and return the result."""
    try:
        return _add(service, request)
    except BondError:
        service.journal.note_refusal(request.container_id, request.ifname)
        raise


def _add(service: Service, request: Request) -> Document:
    config = _configured(service, request)
    _own_namespace(service, request)
    given = request.env.get("CNI_ARGS", "")
    for warning in ignored_cni_args(given, config.mac, ipam=config.ipam is not None):
        service.warn(warning)
    if config.ipam:
        _find_ipam(service, str(config.ipam["type"]), request)
    pod = pod_key(service.reach.presence(request.netns).identity)
    keys = [attachment_key(request.container_id, request.ifname), pod]
    with (
        hold(service.journal.directory, keys, service.timeouts.lock),
        service.reach.node(request.netns) as node,
    ):
        _finish_old(service, request)
        if config.links_in_container:
            pod_state = node.inside()
            facts = Facts(
                Namespace(),
                pod_state,
                new_ifindexes((), pod_state),
                seed=_seed(request),
                yielding=_yielding(service, request, pod_state),
            )
            plan = plan_add(config, request.ifname, facts)
            return _attach(service, request, config, node, plan)
        before_add(service, config.links)
        links = node.named_links(config.links)
        locks = {link_key(link) for link in links}
        with hold(service.journal.directory, locks, service.timeouts.lock):
            plan = _plan(service, request, config, node, links)
            if not locks.issuperset(link_key(item.link) for item in plan.claimed):
                raise TryAgain("the links changed while ADD waited for them")
            return _attach(service, request, config, node, plan)


def _find_ipam(service: Service, kind: str, request: Request) -> None:
    """Raise ``DelegateError`` if the IPAM plugin is missing, with a suggestion for its name."""
    try:
        service.reach.find(kind, request.env)
    except DelegateError as error:
        from bondcni.core import suggest  # noqa: PLC0415  # wanted for mistakes only

        error.message = ": ".join(filter(None, (error.message, suggest.ipam(kind))))
        raise


def _plan(
    service: Service, request: Request, config: BondConfig, node: Namespaces, links: Sequence[Link]
) -> Plan:
    """The plan for host links, from what is read while their locks are held: before that, another
    request could change them. ``links`` is how they were before; since their ifindexes are most
    likely the same, it is read along with the links whether new ifindexes are free on the host.
    """
    policy = service.policy()
    pod = node.links_inside()
    numbers = new_ifindexes(links, pod)
    host = node.read_candidates(config.links, numbers)
    named = [link for link in host.links if any(matches(ref, link) for ref in config.links)]
    facts = Facts(
        host,
        pod,
        node.free_ifindexes(numbers, host),
        verdicts(policy, namespace_of(request.env.get("CNI_ARGS", "")), named),
        _seed(request),
        _yielding(service, request, pod),
    )
    try:
        return plan_add(config, request.ifname, facts)
    except Refused as error:
        error.details = "; ".join(map(str, holders(service, config.links)))
        raise


def _seed(request: Request) -> str:
    """A text that is unique to the attachment, and the same when its ADD is repeated."""
    return f"{request.container_id} {request.ifname}"


def _yielding(service: Service, request: Request, pod: Namespace) -> frozenset[int]:
    """The ifindex of a bond that has CNI_IFNAME as its alternative name only because the
    ``ifname`` key of its own attachment says so; nothing where there is no such bond.
    """
    name = request.ifname
    holder = pod.named(name)
    if holder is None or holder.name == name:
        return frozenset()
    namespace = service.reach.presence(request.netns).identity
    found = service.journal.all(service.warn)
    yields = any(
        (record.wanted.name, record.wanted.altname) == (holder.name, name)
        and (record.namespace, record.boot) == (namespace, boot_id())
        for record in found
    )
    return frozenset({holder.index} if yields else ())


def _attach(
    service: Service, request: Request, config: BondConfig, node: Namespaces, plan: Plan
) -> Document:
    """Write the record and make the attachment. The caller holds every lock."""
    for warning in plan.warnings:
        service.warn(warning)
    record = Record(
        request.container_id,
        request.ifname,
        request.netns,
        dict(config.raw),
        plan.wanted,
        plan.claimed,
        service.reach.presence(request.netns).identity,
        boot_id(),
        {key: request.env[key] for key in ("CNI_ARGS", "CNI_PATH") if key in request.env},
        way_home=emergency_messages(plan.wanted, plan.claimed).hex(),
    )
    return attach(service, config, node, plan, record, request.env)


def _finish_old(service: Service, request: Request) -> None:
    """End an earlier attachment of the same name that was interrupted or lost its namespace.

    An active one is kept: the plan then refuses this ADD, because the interface exists.
    """
    record = service.journal.read(request.container_id, request.ifname, service.warn)
    if not record:
        return
    name = f"{record.container_id} {record.ifname}"
    state, why = condition(service, record)
    action = action_of(Operation.ADD, state)
    if action is Action.TRY_AGAIN:
        raise TryAgain(f"there is a record of {name}, and the plugin {why}")
    if not action.ends:
        return
    service.warn(
        f"rolling back an interrupted ADD of {name} first"
        if state is AttachmentState.INTERRUPTED
        else f"cleaning up an earlier attachment {name} first: {state}"
    )
    links = map(link_key, host_links(record))
    with hold(service.journal.directory, links, service.timeouts.lock):
        end(service, record, action).raise_all()
    if service.journal.read(request.container_id, request.ifname, service.warn):
        raise TryAgain(f"links that an earlier ADD of {name} claimed are not back yet")


def delete(service: Service, request: Request) -> None:
    """DEL: restore the links, release the addresses. It can be repeated."""
    config = parse_leniently(request.stdin)
    with ExitStack() as held:
        alone = _hold(service, [attachment_key(request.container_id, request.ifname)], held)
        record = service.journal.read(request.container_id, request.ifname, service.warn)
        if record is None and not config.raw:
            raise InputError(f"no record of this attachment, and {'; '.join(config.warnings)}")
        node = held.enter_context(service.reach.node(_netns_if_there(service, request, record)))
        if record:
            alone &= _hold(service, map(link_key, host_links(record)), held)
            # Without the lock, a delegate that hangs may reserve later: bondctl recover checks again.
            errors = take_down(service, record, node, request.env, keep=not alone)
        else:
            errors = _take_down_unrecorded(service, request, config, node)
            service.journal.tidy(request.container_id, request.ifname)
    errors.raise_all()


def _hold(service: Service, keys: Iterable[str], held: ExitStack) -> bool:
    """Hold locks for teardown; False if another request holds one past the deadline.

    DEL must complete without them: when a delegate of a killed plugin hangs forever, or when the
    file system cannot be written.
    """
    try:
        held.enter_context(hold(service.journal.directory, keys, service.timeouts.lock))
    except JournalError as error:
        service.warn(error.message)
    except TryAgain as error:
        service.warn(f"{error.message}; DEL continues without the lock, and keeps the record")
        return False
    return True


def _take_down_unrecorded(
    service: Service, request: Request, config: BondConfig, node: Namespaces
) -> ErrorList:
    """Take down by the configuration, where there is no record."""
    errors = ErrorList()
    with errors.collect():
        release(service, config.raw, request.env, recorded=False)
    if found := _unrecorded_bond(service, request, config, node.inside()):
        errors += restore(node, *found).errors
    return errors


def _unrecorded_bond(
    service: Service, request: Request, config: BondConfig, pod: Namespace
) -> tuple[Wanted, tuple[Claimed, ...]] | None:
    """A bond that may be taken down without a record: the Go bond-cni created it before this plugin
    was installed. All other bonds are kept (docs/decisions/0010).
    """
    name = request.container_id, request.ifname
    links = tuple(link.value for link in config.links)
    home = Location.POD if config.links_in_container else Location.HOST
    found = adopt(request.ifname, links, home, pod)
    if found is None:
        service.journal.forget_refusal(*name)
        return None
    bond, _ = found
    asked = {"mode": config.mode, "miimon": config.options.get("miimon") or None}
    why = unlike(bond, {key: value for key, value in asked.items() if value is not None}, pod)
    if service.journal.was_refused(*name):
        why = "ADD of this attachment failed, so this plugin did not create it"
    if owners := _owners(service, request, bond, pod):
        why = f"it belongs to {', '.join(owners)}"
    if not why:
        return found
    service.warn(f"{request.ifname} in {request.netns} is not deleted: {why}")
    return None


def _owners(service: Service, request: Request, bond: Wanted, pod: Namespace) -> list[str]:
    """The attachments that the bond belongs to, by their records."""
    here = service.reach.presence(request.netns).identity, boot_id()
    return [
        f"{record.container_id} {record.ifname}"
        for record in records(service)
        if (record.namespace, record.boot) == here
        and claims(record.wanted, record.claimed, bond.index, pod)
    ]


def _netns_if_there(service: Service, request: Request, record: Record | None) -> str:
    """The namespace of the request, else that of the record; "" if neither exists.

    The plugin's own namespace is not that of a pod: ADD is refused there, and a bond in it is the
    node's.
    """
    with suppress(NamespaceGone, NotANamespace):
        if not service.reach.is_own(request.netns) or _may_be_own(request):
            return request.netns
    return record.netns if record and is_live(service, record) else ""


def check(service: Service, request: Request) -> None:
    """CHECK: compare the bond, its members, options and addresses with what ADD set up."""
    config = _configured(service, request)
    if config.prev_result is None:
        raise InputError("CHECK needs the prevResult of ADD in the configuration")
    warnings: list[str] = []
    record = service.journal.read(request.container_id, request.ifname, warnings.append)
    if record is None:
        missing = f"no record of {request.container_id} {request.ifname}: ADD did not complete"
        raise CheckError("; ".join(warnings) or missing)
    with service.reach.node(request.netns) as node:
        differences, warnings = examine(record, config.prev_result, node)
    for warning in warnings:
        service.warn(warning)
    if differences:
        raise CheckError("; ".join(differences))
    if config.ipam:
        _forward(service, request, config.raw)


def gc(service: Service, request: Request) -> None:
    """GC: take down attachments of this network that are not valid, then forward to the delegate."""
    config = _configured(service, request)
    errors = ErrorList()
    forwarded = collect(service, config, errors)
    if config.ipam:
        with errors.collect():
            _forward(service, request, forwarded)
    errors.raise_all()


def status(service: Service, request: Request) -> None:
    """STATUS: whether ADD can be served."""
    config = _configured(service, request)
    driver = bonding_driver()
    if driver.unknown:
        service.warn(driver.unknown)
    reasons = [why for why in (driver.missing, service.journal.unusable()) if why]
    try:
        service.policy()
    except PolicyError as error:
        reasons.append(error.message)
    if reasons:
        raise Unavailable("; ".join(reasons))
    if config.ipam:
        _forward(service, request, config.raw)


def _forward(service: Service, request: Request, config: Mapping[str, Any]) -> None:
    """Call the IPAM plugin with the same verb; a warning if it does not support it."""
    try:
        ipam.execute(service.reach, request.command, config, request.env, service.timeouts)
    except DelegateIncompatible as error:
        service.warn(f"{error.message}; {request.command} continues without it")


_VERBS: dict[str, Callable[[Service, Request], Document | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": gc,
    "STATUS": status,
}
