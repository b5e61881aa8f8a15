"""A CNI request of a runtime: environment and standard input.

The environment is validated first: one error names every variable that is missing or invalid.

Source: CNI SPEC 1.1.0, section "Parameters" and the verbs' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bondcni.core.errors import EnvironError
from bondcni.core.names import invalid_interface_name

NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": (),
    "VERSION": (),
}
"""The verbs, and the variables that each needs besides CNI_COMMAND."""

SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""The cniVersion that introduced a verb."""


class Request(NamedTuple):
    """One request. ``env`` is the whole environment, which delegates get, too."""

    command: str
    container_id: str
    netns: str
    ifname: str
    env: Mapping[str, str]
    stdin: bytes


def read_request(env: Mapping[str, str], stdin: bytes) -> Request:
    """The request in ``env`` and ``stdin``. Raises ``EnvironError`` naming every fault."""
    command = env.get("CNI_COMMAND", "")
    faults = list(_faults(command, env))
    if faults:
        raise EnvironError("; ".join(faults))
    return Request(
        command,
        env.get("CNI_CONTAINERID", ""),
        env.get("CNI_NETNS", ""),
        env.get("CNI_IFNAME", ""),
        env,
        stdin,
    )


def _faults(command: str, env: Mapping[str, str]) -> Iterator[str]:
    if command not in NEEDS:
        allowed = ", ".join(NEEDS)
        yield (
            f"CNI_COMMAND is {command!r}: must be one of {allowed}"
            if command
            else (f"CNI_COMMAND is not set: must be one of {allowed}")
        )
        return
    missing = [name for name in NEEDS[command] if not env.get(name)]
    if missing:
        yield f"{command} needs these environment variables, not set: {', '.join(missing)}"
    if command in ("GC", "STATUS", "VERSION"):
        return
    container_id, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if container_id and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", container_id):
        yield (
            f"CNI_CONTAINERID {container_id!r}: must start with a letter or digit, "
            "then letters, digits, '_', '.', '-'"
        )
    if ifname and (why := invalid_interface_name(ifname)):
        yield f"CNI_IFNAME {ifname!r}: {why}"
