"""Sets up an attachment, or takes it down: shared by the verbs, recovery and GC.

Setup is atomic: after an error it is rolled back. Teardown continues after each error, and
removes the record last, when nothing remains to be done. It waits a while for a missing link, whose
network namespace the kernel may still be deleting; then it keeps the record, so that the link is
restored when it reappears.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

from bondcni.core.config import BondConfig
from bondcni.core.differ import difference, doubts, expected_later, located
from bondcni.core.document import Object
from bondcni.core.errors import (
    BondError,
    DelegateIncompatible,
    DelegateUnstarted,
    ErrorList,
    KernelError,
    Refused,
    TryAgain,
    VerifyError,
)
from bondcni.core.lifecycle import NamespaceState
from bondcni.core.plan import Plan, Step
from bondcni.core.policy import Policy
from bondcni.core.result import Result, merge, read, render
from bondcni.core.runtime_config import ipv6_mtu_problem, unassigned_addresses
from bondcni.core.state import Link, Location, Namespace
from bondcni.core.values import mac_text
from bondcni.kernel.apply import apply
from bondcni.kernel.namespaces import Namespaces
from bondcni.service import addressing, ipam
from bondcni.service.journal import Journal, Record, Warn
from bondcni.service.locks import hold
from bondcni.service.reach import GONE, Direct, Presence, Reach
from bondcni.service.restore import restore, restore_kept
from bondcni.service.timeouts import DEFAULT, Timeouts


class Service(NamedTuple):
    """What every request needs: the journal, a function for warnings, the node's policy, access to
    namespaces and delegates, and the timeouts.
    """

    journal: Journal
    warn: Warn
    policy: Callable[[], Policy] = Policy
    reach: Reach = Direct()
    timeouts: Timeouts = DEFAULT


@cache
def boot_id() -> str:
    """The kernel's boot_id. Links that were claimed in an earlier boot are back on the host."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def presence_of(service: Service, record: Record) -> Presence:
    """What is known of the namespace of an attachment. GONE if another one is at its path."""
    if not record.namespace or record.boot != boot_id():
        return GONE
    found = service.reach.presence(record.netns)
    return GONE if found.identity and found.identity != record.namespace else found


def is_live(service: Service, record: Record) -> bool:
    """Whether the namespace of the attachment is known to exist."""
    return presence_of(service, record).state is NamespaceState.PRESENT


def attachment_key(container_id: str, ifname: str) -> str:
    """The key of the lock of an attachment."""
    return f"attachment {container_id} {ifname}"


def pod_key(identity: str) -> str:
    """The key of the lock of a pod: two ADDs in it would choose the same ifindex for their bonds."""
    return f"pod {identity}"


def link_key(link: Link) -> str:
    """The key of the lock of a host link, made of what does not change when it moves."""
    return f"link {link.parent or link.name} {link.permanent_mac or link.mac}"


def host_links(record: Record) -> Iterator[Link]:
    """The claimed host links of an attachment."""
    return (item.link for item in record.claimed if item.home is Location.HOST)


@contextmanager
def locked(service: Service, record: Record, patience: float) -> Iterator[None]:
    """Hold the locks of an attachment, then of its host links: in the order of ADD, so that the two
    never wait for each other.

    Raises ``TryAgain`` after ``patience`` seconds.
    """
    directory, key = service.journal.directory, attachment_key(record.container_id, record.ifname)
    links = map(link_key, host_links(record))
    with hold(directory, [key], patience), hold(directory, links, patience):
        yield


def attach(
    service: Service,
    config: BondConfig,
    node: Namespaces,
    plan: Plan,
    record: Record,
    env: Mapping[str, str],
) -> Object:
    """Create the attachment of the record, and return the CNI result; roll back on an error."""
    errors = ErrorList()
    service.journal.write(record)
    try:
        with ExitStack() as undo:
            undo.callback(settle, service, record, node, errors)
            apply(node, plan.steps, partial(_explain, plan))
            pod = node.links_inside()
            _verify(difference(record.wanted, pod))
            undo.push(partial(_release_after, service, config.raw, env, errors))
            addresses = _addresses(service, config, env)
            _check_ipv6(addresses, record.wanted.mtu)
            if addresses.ips or addresses.routes:
                addressing.configure(node, record.wanted, addresses, service.warn)
                pod = node.inside()
            bond = _bond(record, pod)
            _verify(addressing.absent(addresses, addresses.ips, bond, pod))
            interface = {"name": bond.name, "mac": bond.mac, "mtu": bond.mtu}
            interface["sandbox"] = record.netns
            before = config.prev_result or Result()
            merged = merge(before, interface, addresses, config.dns)
            document = render(merged, config.cni_version)
            service.journal.complete(record._replace(result=document))
            undo.pop_all()
    except BondError as error:
        if errors:
            incomplete = f"rollback is incomplete: {errors}"
            error.details = "; ".join(filter(None, [error.details, incomplete]))
        raise
    return document


def _explain(plan: Plan, step: Step, error: KernelError) -> str:
    from bondcni.core.enslaving import explain  # noqa: PLC0415  only a refusal needs it

    return explain(plan, step, error.number, error.text)


def _bond(record: Record, pod: Namespace) -> Link:
    bond = pod.indexed(record.wanted.index)
    if bond is None:
        name, index = record.wanted.name, record.wanted.index
        raise TryAgain(f"bond {name} (ifindex {index}) was deleted while it was set up")
    return bond


def _verify(differences: Iterable[str]) -> None:
    """Raise ``VerifyError`` with the differences; nothing where there is none."""
    found = "; ".join(differences)
    if found:
        raise VerifyError(found)


def _addresses(service: Service, config: BondConfig, env: Mapping[str, str]) -> Result:
    if config.ipam:
        answer = ipam.add(service.reach, config.raw, env, service.timeouts)
        other = unassigned_addresses(config.ips, (str(ip["address"]) for ip in answer.ips))
        if other:
            kind = config.ipam["type"]
            service.warn(f"IPAM plugin {kind} did not assign the requested addresses: {other}")
        return answer
    return Result(ips=tuple({"address": cidr} for cidr in config.ips))


def _check_ipv6(addresses: Result, mtu: int) -> None:
    """Refuse IPv6 addresses of the IPAM plugin if the MTU of the bond is too small for IPv6."""
    found = (str(ip["address"]) for ip in addresses.ips)
    if why := ipv6_mtu_problem(next((text for text in found if ":" in text), ""), mtu):
        raise Refused((f"mtu {why}: raise the MTU of the bond and its links",))


def take_down(
    service: Service,
    record: Record,
    node: Namespaces,
    env: Mapping[str, str],
    *,
    keep: bool = False,
) -> ErrorList:
    """Release the addresses, restore the links, and remove the record unless it is to be kept."""
    left = ErrorList()
    if record.result is not None and node.pod is not None:
        service.journal.reopen(record)
    with left.collect():
        release(service, record.config, env)
    settle(service, record, node, left, keep=keep)
    return left


def release(
    service: Service, config: Mapping[str, Any], env: Mapping[str, str], *, recorded: bool = True
) -> None:
    """IPAM DEL, also after an IPAM ADD that failed: it may have reserved addresses before.

    Without a record, a delegate that cannot be started is a warning, because DEL must succeed.
    So is one that does not support the cniVersion: it did not support it at ADD either.
    """
    if not isinstance(config.get("ipam"), dict) or not config["ipam"].get("type"):
        return
    try:
        ipam.execute(service.reach, "DEL", config, env, service.timeouts)
    except BondError as error:
        harmless = DelegateIncompatible if recorded else _UNSTARTED
        if not isinstance(error, harmless):
            raise
        service.warn(f"{error.message}; the bond is removed without it")


_UNSTARTED = (DelegateUnstarted, DelegateIncompatible)
"""The delegate has changed nothing."""


def _release_after(
    service: Service,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    errors: ErrorList,
    *exit_: object,
) -> None:
    """Roll back IPAM ADD after an error, unless the delegate has changed nothing."""
    if not isinstance(exit_[1], _UNSTARTED):
        with errors.collect():
            release(service, config, env)


def examine(record: Record, previous: Result, node: Namespaces) -> tuple[list[str], list[str]]:
    """The differences from what ADD set up, and warnings."""
    pod = node.inside()
    ifname, netns = record.wanted.name, record.netns
    now = addressing.own_interface(previous, ifname, netns)
    added = addressing.own_interface(read(record.result or {}), ifname, netns)
    wanted = expected_later(located(record.wanted, record.claimed, pod), record.config, now, added)
    differences = [
        *difference(wanted, pod, later=True),
        *addressing.missing(previous, wanted, netns, pod),
    ]
    bond = pod.named(ifname)
    answered = "" if wanted.mac else mac_text(now.get("mac")) or ""
    return differences, [*doubts(bond, pod, answered)] if bond else []


def settle(
    service: Service, record: Record, node: Namespaces, left: ErrorList, *, keep: bool = False
) -> None:
    """Restore the links; then remove the record, unless something is left to do or ``keep`` says
    to keep it.
    """
    restored = restore(node, record.wanted, record.claimed)
    if node.pod is None:
        until = time.monotonic() + service.timeouts.links_return
        while restored.missing and time.monotonic() < until:
            time.sleep(0.05)
            restored = restore(node, record.wanted, record.claimed)
    for warning in restored.warnings:
        service.warn(warning)
    left += restored.errors
    if not restored.errors and not restored.missing:
        for warning in restore_kept(node, record.wanted, record.claimed):
            service.warn(warning)
    if left:
        return
    if restored.missing:
        service.warn(
            f"{', '.join(restored.missing)}: not found in the host or pod namespace. The record is "
            "kept: a link that reappears is restored by the next ADD that uses it, or by bondctl "
            "recover"
        )
        return
    if keep:
        return
    try:
        service.journal.remove(record.container_id, record.ifname)
    except BondError as error:
        left.append(error.message)
