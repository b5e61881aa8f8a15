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
from bondcni.core.plan import Claimed, Step, Wanted
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
from bondcni.kernel.keeping import give_back, turn
from bondcni.kernel.namespaces import Namespaces
from bondcni.kernel.rtnetlink import failure

ROUNDS = 8
"""Bound on the rounds; the usual ones are: the bond and the moves, then what still differs."""

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
    errors = _unfinished(plan.steps, refused)
    return Restored(errors, plan.warnings, plan.missing), spaces


def _unfinished(
    steps: tuple[Step, ...], refused: list[tuple[Step, KernelError]]
) -> tuple[str, ...]:
    """Errors about steps that are left after the last round, which refused some."""
    if not steps:
        return ()
    errors = [error.message for _, error in refused]
    return tuple(errors or [f"{describe(step)}: no effect" for step in steps])


def _read(namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...]) -> Spaces:
    pod = namespaces.links_inside() if namespaces.pod else None
    return _read_host(namespaces, bond, claimed, pod), pod


def _read_host(
    namespaces: Namespaces, bond: Wanted, claimed: tuple[Claimed, ...], pod: Namespace | None
) -> Namespace:
    """The links of the host that matter; all links where these cannot be told by name and ifindex."""
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
            requests += [give_back(each, now.index, now.name) for each in item.kept]
    requests.sort(key=turn)  # the route to a gateway comes before the routes through it
    answers = namespaces.host.rtnl.send(requests, None)
    return [
        f"{failure(request, answer).message}; restore it by hand if it is still needed"
        for request, answer in zip(requests, answers, strict=True)
        if answer.number not in (0, errno.EEXIST)
    ]
