"""The CNI verbs: ADD, DEL, CHECK, STATUS, VERSION.

Each takes a request that was already read and answers the document for standard
output (None: nothing is printed). The order in ADD is the promise: everything is
checked, the record is written, then the first change is made; whatever fails after
that is brought home again before the error is told. DEL is total: it goes on after
every error, trusts the record more than the configuration, and tells at the end.

Source: CNI SPEC 1.1.0, section "CNI operations".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from bondcni.core.config import BondConfig, parse, parse_leniently
from bondcni.core.differ import difference, located
from bondcni.core.errors import (
    BondError,
    CheckError,
    EnvironError,
    Incomplete,
    InputError,
    Unavailable,
    VerifyError,
    VersionError,
)
from bondcni.core.home import adopt
from bondcni.core.plan import Step, plan_add
from bondcni.core.result import SUPPORTED, Result, at_least, merge, read, render
from bondcni.kernel.executor import Node, bonding_driver
from bondcni.kernel.namespace import NamespaceGone, same_namespace
from bondcni.service import addressing, ipam
from bondcni.service.journal import Journal, Record
from bondcni.service.request import SINCE, Request

Document = dict[str, Any]
Warn = Callable[[str], None]


class Service(NamedTuple):
    """What every request shares: the journal, and where warnings go."""

    journal: Journal
    warn: Warn


def serve(service: Service, request: Request) -> Document | None:
    """Answer one request. Raises ``BondError``; what it says is the answer then."""
    return _VERBS[request.command](service, request)


def _configured(service: Service, request: Request) -> BondConfig:
    """The configuration, which must allow the verb. Its warnings are told."""
    config = parse(request.stdin)
    since = SINCE.get(request.command)
    if since and not at_least(config.cni_version, since):
        raise VersionError(
            f"cniVersion {config.cni_version} has no {request.command}: it came with {since}"
        )
    for warning in config.warnings:
        service.warn(warning)
    return config


def _own_namespace(request: Request) -> None:
    """Refuse to work on the node itself, as the reference implementation does."""
    override = request.env.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")
    if not override and same_namespace(request.netns):
        raise EnvironError(
            f"CNI_NETNS {request.netns} is the namespace that the plugin itself runs in; "
            "CNI_NETNS_OVERRIDE=1 allows it"
        )


def add(service: Service, request: Request) -> Document:
    """ADD: the bond, its addresses, and the result."""
    config = _configured(service, request)
    before = _previous(config)
    _own_namespace(request)
    if config.ipam:
        ipam.find(str(config.ipam["type"]), request.env.get("CNI_PATH", ""))
    with Node.open(request.netns) as node:
        _finish_old(service, request, node)
        plan = plan_add(config, request.ifname, *node.both())
        for warning in plan.warnings:
            service.warn(warning)
        record = Record(
            request.container_id,
            request.ifname,
            request.netns,
            dict(config.raw),
            plan.wanted,
            plan.taken,
        )
        service.journal.write(record)
        addresses, interface = _attach(service, request, config, node, record, plan.steps)
    return render(merge(before, interface, addresses, config.dns), config.cni_version)


def _attach(
    service: Service,
    request: Request,
    config: BondConfig,
    node: Node,
    record: Record,
    steps: tuple[Step, ...],
) -> tuple[Result, Document]:
    """Everything that changes something, undone whole when a part of it fails."""
    left: list[str] = []
    try:
        with ExitStack() as undo:
            undo.callback(_settle, service, record, node, left)
            node.apply(steps)
            differences = difference(record.wanted, node.inside())
            if differences:
                raise VerifyError("; ".join(differences))
            undo.callback(_release, config.raw, request, left)
            addresses = _addresses(config, request)
            addressing.configure(node, record.wanted, addresses, service.warn)
            interface = node.interface(record.wanted.index)
            undo.pop_all()
    except BondError as error:
        if left:
            error.details = "; ".join(filter(None, [error.details, "not undone yet", *left]))
        raise
    return addresses, interface


def _previous(config: BondConfig) -> Result:
    try:
        return read(config.prev_result or {})
    except ValueError as error:
        raise InputError(f"prevResult is no CNI result: {error}") from error


def _addresses(config: BondConfig, request: Request) -> Result:
    if config.ipam:
        return ipam.add(config.raw, request.env)
    return Result(ips=tuple({"address": cidr} for cidr in config.ips))


def _finish_old(service: Service, request: Request, node: Node) -> None:
    """Bring home what an ADD of the same attachment left that was cut off.

    A bond that is complete stays: then this ADD is one too many, and the plan says so.
    """
    record, word = service.journal.read(request.container_id, request.ifname)
    if word:
        service.warn(word)
    if record and difference(record.wanted, node.inside()):
        service.warn(f"an earlier ADD of {request.ifname} was cut off; it is undone first")
        _raise_all(_take_down(service, request, record, node))


def _take_down(service: Service, request: Request, record: Record, node: Node) -> list[str]:
    """Release the addresses, bring the links home, drop the record; what failed."""
    left: list[str] = []
    _release(record.config, request, left)
    _settle(service, record, node, left)
    return left


def _release(config: Mapping[str, Any], request: Request, left: list[str]) -> None:
    """IPAM DEL; it is owed even after an ADD that failed, for it may have reserved."""
    if not isinstance(config.get("ipam"), dict) or not config["ipam"].get("type"):
        return
    try:
        ipam.execute("DEL", config, request.env)
    except BondError as error:
        left.append(error.message)


def _settle(service: Service, record: Record, node: Node, left: list[str]) -> None:
    """The links home; the record goes last, and stays when anything is left to do."""
    left += node.bring_home(record.wanted, record.taken)
    if left:
        return
    try:
        service.journal.remove(record.container_id, record.ifname)
    except BondError as error:
        left.append(error.message)


def _raise_all(errors: list[str]) -> None:
    if errors:
        raise Incomplete("; ".join(errors))


def delete(service: Service, request: Request) -> None:
    """DEL: everything home, the lease released; total and repeatable."""
    record, word = service.journal.read(request.container_id, request.ifname)
    if word:
        service.warn(word)
    config = parse_leniently(request.stdin)
    if record is None and not config.raw:
        raise InputError(f"no record of this attachment, and {'; '.join(config.warnings)}")
    with Node.open(_netns_if_there(request)) as node:
        if record:
            left = _take_down(service, request, record, node)
        else:
            left = _take_down_unrecorded(request, config, node)
    _raise_all(left)


def _take_down_unrecorded(request: Request, config: BondConfig, node: Node) -> list[str]:
    """What can be done without a record: by the configuration, as far as it is sure."""
    left: list[str] = []
    _release(config.raw, request, left)
    links = tuple(link.value for link in config.links)
    home = "pod" if config.links_in_container else "host"
    found = adopt(request.ifname, links, home, node.inside()) if node.pod else None
    return left + (node.bring_home(*found) if found else [])


def _netns_if_there(request: Request) -> str:
    """The pod's namespace, or "" when it is gone."""
    try:
        same_namespace(request.netns)
    except NamespaceGone:
        return ""
    return request.netns


def check(service: Service, request: Request) -> None:
    """CHECK: the bond, its members, options and addresses are as ADD left them."""
    config = _configured(service, request)
    if config.prev_result is None:
        raise InputError("CHECK needs the prevResult of ADD in the configuration")
    record, word = service.journal.read(request.container_id, request.ifname)
    if record is None:
        raise CheckError(word or f"there is no record of {request.ifname}: ADD never completed")
    with Node.open(request.netns) as node:
        pod = node.inside()
    wanted = located(record.wanted, record.taken, pod)
    differences = [
        *difference(wanted, pod, later=True),
        *addressing.missing(_previous(config), wanted, request.netns, pod),
    ]
    if differences:
        raise CheckError("; ".join(differences))
    for member in pod.members(pod.indexed(wanted.index) or pod.links[0]):
        if not member.carrier:
            service.warn(f"member {member.name} of {request.ifname} has no carrier")
    if config.ipam:
        ipam.execute("CHECK", config.raw, request.env)


def status(service: Service, request: Request) -> None:
    """STATUS: whether ADD could be served now."""
    config = _configured(service, request)
    reasons = [why for why in (bonding_driver(), service.journal.unusable()) if why]
    if reasons:
        raise Unavailable("; ".join(reasons))
    if config.ipam:
        ipam.execute("STATUS", config.raw, request.env)


def version(_service: Service, request: Request) -> Document:
    """VERSION: never fails; echoes a cniVersion that is supported."""
    asked = parse_leniently(request.stdin)
    known = asked.cni_version if "cniVersion" in asked.raw else SUPPORTED[-1]
    return {"cniVersion": known, "supportedVersions": list(SUPPORTED)}


_VERBS: dict[str, Callable[[Service, Request], Document | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "STATUS": status,
    "VERSION": version,
}
