"""Remove the executable and the unit that ``installer.py`` put on a node.

Records, the queue and the policy file stay, and so does a ``bond`` or a unit of another origin.
It is refused while there are records: after it, no DEL would restore their links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bondcni.core.state import Location
from bondcni.install.installer import UNIT, UNITS, InstallRefused, Target, is_ours, queued, rights
from bondcni.service.files import remove
from bondcni.service.journal import Journal
from bondcni.service.paths import POLICY_FILE, STATE_DIRECTORY

WANTED = f"{UNITS}/multi-user.target.wants/bond-cni.service"
"""The symbolic link that ``systemctl enable`` creates; it would dangle without the unit."""

UNIT_IS_OURS = b"# Made by `bondctl install`"


def uninstall(target: Target, *, force: bool = False) -> Iterator[str]:
    """Uninstall; yield a line for each file. Raises like ``install``."""
    found = [*rights(target), *([] if force else _in_use(target))]
    if found:
        raise InstallRefused(found)
    yield from _without_executable(target)
    installed = _is_our_unit(target.at(UNIT))
    for path in (target.at(UNIT), target.at(WANTED)):
        if installed and remove(path):
            yield f"{path}: removed"
    for path in (target.replaced, target.at(STATE_DIRECTORY), target.at(POLICY_FILE)):
        if os.path.lexists(path):
            yield f"{path}: kept"
    if installed:
        yield "next: systemctl stop bond-cni && systemctl daemon-reload"


def _in_use(target: Target) -> Iterator[str]:
    """Yield the attachments and DELs that nothing would remove after the uninstallation."""
    warnings: list[str] = []
    records = Journal(target.at(STATE_DIRECTORY)).all(warnings.append)
    for record in records:
        links = ", ".join(item.link.name for item in record.claimed if item.home is Location.HOST)
        holds = f" and claims {links} of the host" if links else ""
        yield f"attachment {record.container_id} {record.ifname} has a record{holds}"
    if records:
        yield "delete these pods first; run bondctl recover to clean up after deleted pods"
    yield from warnings
    yield from queued(target)


def _without_executable(target: Target) -> Iterator[str]:
    if not os.path.lexists(target.bond):
        yield f"{target.bond}: not found"
    elif not is_ours(target.bond):
        yield f"{target.bond}: kept, belongs to another product"
    else:
        remove(target.bond)
        yield f"{target.bond}: removed"


def _is_our_unit(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and Path(path).read_bytes().startswith(
            UNIT_IS_OURS
        )
    except OSError:
        return False
