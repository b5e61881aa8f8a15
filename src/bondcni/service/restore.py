"""Restore claimed links, round by round.

Each round reads both namespaces, plans the next steps (``core/restore.py``) and carries them out,
until no step is left, or the steps are those of the round before. So a rollback, DEL, a repeated
DEL and recovery after a crash are the same function, and it can be interrupted anywhere.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from bondcni.core.errors import KernelError
from bondcni.core.plan import ChangeLink, Claimed, Step, Wanted
from bondcni.core.restore import (
    identities,
    lookup_is_enough,
    lookup_keys,
    plan_restore,
    why_destroyed,
)
from bondcni.core.state import Device, Link, Location, Namespace
from bondcni.kernel.apply import attempt, describe
from bondcni.kernel.devices import device_of
from bondcni.kernel.keeping import restore_order, restore_request
from bondcni.kernel.namespaces import Namespaces
from bondcni.kernel.rtnetlink import failure

ROUNDS = 8
"""Bound on the rounds; the usual ones are: the bond and the moves, then what still differs."""

MAC_IS_ASSIGNED = (errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES)
"""What drivers answer where the MAC of a VF is assigned by its PF, and cannot be changed."""

Spaces = tuple[Namespace, Namespace | None]
"""The host's links as far as they matter, and the pod's; None when its namespace does not exist."""

Read = Callable[[], Spaces]

Attempt = Callable[[Sequence[Step]], Iterable[tuple[Step, KernelError]]]
"""Carries out steps; each one that was refused, and its error."""

DeviceOf = Callable[[Link], Device | None]
"""The device at the bus address of hardware; None: that is not known."""


class Restored(NamedTuple):
    """What could not be restored.

    ``missing`` names hardware that is not found, and may come back.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...]


def restore(namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...]) -> Restored:
    """Restore every claimed link as far as possible."""
    read = partial(_read, namespaces, bond, claimed)
    return restore_with(bond, claimed, read, partial(attempt, namespaces), device_of)


def restore_with(
    bond: Wanted,
    claimed: tuple[Claimed, ...],
    read: Read,
    attempt: Attempt,
    device_of: DeviceOf,
) -> Restored:
    """``restore`` by these functions. Where hardware is missing it says whether it was destroyed."""
    restored, spaces = _rounds(bond, claimed, read, attempt)
    missing = [item.link for item in claimed if item.link.name in restored.missing]
    if restored.errors or not missing:
        return restored
    devices = [(link, device_of(link)) for link in missing]
    if not any(why_destroyed(link, device, spaces) for link, device in devices):
        return restored
    # The device may have left a namespace after that was read. What is missing after its device
    # was found destroyed was destroyed.
    restored, spaces = _rounds(bond, claimed, read, attempt)
    reasons = {link.name: why_destroyed(link, device, spaces) for link, device in devices}
    destroyed = [name for name in restored.missing if reasons.get(name)]
    return Restored(
        restored.errors,
        (*restored.warnings, *(reasons[name] for name in destroyed)),
        tuple(name for name in restored.missing if name not in destroyed),
    )


def _rounds(
    bond: Wanted, claimed: tuple[Claimed, ...], read: Read, attempt: Attempt
) -> tuple[Restored, Spaces]:
    """Steps until none is left or they change nothing more; and what was read last."""
    attempted: tuple[Step, ...] = ()
    refused: list[tuple[Step, KernelError]] = []
    spaces = read()
    plan = plan_restore(bond, claimed, *spaces)
    for _ in range(ROUNDS):
        if not plan.steps or plan.steps == attempted:
            break
        attempted = plan.steps
        refused = list(attempt(attempted))
        spaces = read()
        plan = plan_restore(bond, claimed, *spaces)
    errors, warnings = _unfinished(plan.steps, refused, spaces)
    return Restored(errors, (*plan.warnings, *warnings), plan.missing), spaces


def _unfinished(
    steps: tuple[Step, ...], refused: list[tuple[Step, KernelError]], spaces: Spaces
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors and warnings about steps that are left after the last round, which refused some."""
    if not steps:
        return (), ()
    warnings = [(step, _assigned_mac(step, error, spaces)) for step, error in refused]
    kept = [step for step, warning in warnings if warning]
    errors = [error.message for step, error in refused if step not in kept]
    if not errors:
        errors = [
            f"{describe(step)}: the kernel acknowledged it, without effect"
            for step in steps
            if step not in kept
        ]
    return tuple(errors), tuple(warning for _, warning in warnings if warning)


def _assigned_mac(step: Step, error: KernelError, spaces: Spaces) -> str:
    """A warning where the step sets only the MAC of a link in its home namespace, and the driver
    refuses that because the PF assigned another MAC: no later try would succeed. Else "".

    The PF's administrator can set it while the pod has the VF; it replaces the VF's MAC at the
    next reset (Documentation/networking/devlink or ``ip link set PF vf N mac MAC``).
    """
    if not isinstance(step, ChangeLink) or error.number not in MAC_IS_ASSIGNED:
        return ""
    if step != ChangeLink(step.where, step.index, step.label, mac=step.mac):
        return ""
    space = spaces[0] if step.where == Location.HOST else spaces[1]
    now = space.indexed(step.index) if space else None
    if now is None:
        return ""
    return (
        f"link {step.label} keeps the MAC {now.mac}, before ADD it had {step.mac}: {error.message}. "
        "The PF assigns the MAC of a VF: ip link set PF vf N mac MAC"
    )


def _read(namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...]) -> Spaces:
    pod = namespaces.links_inside() if namespaces.pod else None
    return _read_host(namespaces, bond, claimed, pod), pod


def _read_host(
    namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...], pod: Namespace | None
) -> Namespace:
    """The links of the host that matter; all of them where names and ifindexes do not identify these."""
    host = namespaces.find_host_links(*lookup_keys(bond, claimed))
    return host if lookup_is_enough(bond, claimed, host, pod) else namespaces.host_links()


def restore_kept(namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...]) -> list[str]:
    """Restore the addresses, routes and neighbours that host links lost when they left the host;
    a warning for each that could not be restored.

    What exists already is left as it is. A link that has a master by now gets nothing.
    """
    if not any(item.kept for item in claimed):
        return []
    host = _read_host(namespaces, bond, claimed, None)
    requests = []
    for one, item in zip(identities(bond, claimed), claimed, strict=True):
        now = one.find_in(host, Location.HOST)[1]
        if now and not now.master:
            requests += [restore_request(each, now.index, now.name) for each in item.kept]
    requests.sort(key=restore_order)  # the route to a gateway comes before the routes through it
    answers = namespaces.host.rtnl.send(requests, None)
    return [
        f"{failure(request, answer).message}; restore it by hand if it is still needed"
        for request, answer in zip(requests, answers, strict=True)
        if answer.number not in (0, errno.EEXIST)
    ]
