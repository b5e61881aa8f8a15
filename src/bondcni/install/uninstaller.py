"""The product off a node again: what ``install.py`` put there that acts, and nothing that it knows.

Records, the queue and the policy stay, and so does what is of another origin. It is refused
while something is on record, for nobody would take that down any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bondcni.core.state import Location
from bondcni.install.installer import UNIT, UNITS, Place, Wrong, is_ours, queued, rights
from bondcni.service.files import remove
from bondcni.service.journal import Journal
from bondcni.service.paths import POLICY_FILE, STATE_DIRECTORY

WANTED = f"{UNITS}/multi-user.target.wants/bond-cni.service"
"""What ``systemctl enable`` makes; without the unit it would point to nothing."""

UNIT_IS_OURS = b"# Made by `bondctl install`"


def uninstall(place: Place, *, force: bool = False) -> Iterator[str]:
    """Take it off; a line for each thing. Raises as ``install``."""
    found = [*rights(place), *([] if force else _in_use(place))]
    if found:
        raise Wrong(found)
    yield from _without_executable(place)
    was_there = _is_our_unit(place.at(UNIT))
    for path in (place.at(UNIT), place.at(WANTED)):
        if was_there and remove(path):
            yield f"{path}: removed"
    for path in (place.replaced, place.at(STATE_DIRECTORY), place.at(POLICY_FILE)):
        if os.path.lexists(path):
            yield f"{path}: left as it is"
    if was_there:
        yield "next: systemctl stop bond-cni && systemctl daemon-reload"


def _in_use(place: Place) -> Iterator[str]:
    """What would be left without anybody who takes it down."""
    warnings: list[str] = []
    records = Journal(place.at(STATE_DIRECTORY)).all(warnings.append)
    for record in records:
        links = ", ".join(item.link.name for item in record.claimed if item.home == Location.HOST)
        holds = f", with the host's {links}" if links else ""
        yield f"attachment {record.container_id} {record.ifname} is on record{holds}"
    if records:
        yield "end these pods first; what dead pods left, `bondctl recover` brings home"
    yield from warnings
    yield from queued(place)


def _without_executable(place: Place) -> Iterator[str]:
    if not os.path.lexists(place.bond):
        yield f"{place.bond}: is not there"
    elif not is_ours(place.bond):
        yield f"{place.bond}: left as it is, for it is not ours"
    else:
        remove(place.bond)
        yield f"{place.bond}: removed"


def _is_our_unit(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and Path(path).read_bytes().startswith(
            UNIT_IS_OURS
        )
    except OSError:
        return False
