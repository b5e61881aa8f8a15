"""The IPAM plugin: what it is given, and what its answer means.

It gets the complete configuration. Its error document keeps its code and text. Who runs it is
``Reach``'s business; whether it is due to be undone is the caller's.

Source: CNI SPEC 1.1.0, section "Plugin Delegation".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bondcni.core.document import loads
from bondcni.core.errors import ConfigError, DelegateError, TryAgain
from bondcni.core.result import Result, read, unroutable
from bondcni.service.delegate import LIMIT
from bondcni.service.reach import Reach

DEADLINE = 60.0
"""Seconds that a delegate may take; a DHCP exchange with retries fits."""


def add(
    reach: Reach,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    deadline: float = DEADLINE,
) -> Result:
    """IPAM ADD: the addresses reserved. Raises ``DelegateError``, ``TryAgain``.

    After any failure the caller owes the delegate a DEL: it may have reserved before
    it failed.
    """
    name = str(config["ipam"]["type"])
    answer = execute(reach, "ADD", config, env, deadline)
    try:
        result = read(loads(answer))
        problems = tuple(unroutable(result))
    except ConfigError as error:
        problems = error.problems
    except (ValueError, RecursionError) as error:
        raise DelegateError(f"IPAM plugin {name} answered no CNI result: {error}") from error
    if problems:
        raise DelegateError(f"IPAM plugin {name} answered no CNI result: {ConfigError(problems)}")
    if not result.ips:
        raise DelegateError(f"IPAM plugin {name} answered no address")
    return result


def execute(
    reach: Reach,
    command: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    deadline: float = DEADLINE,
) -> bytes:
    """Run the IPAM plugin for one verb; its standard output.

    ``deadline`` is in seconds. Raises ``DelegateError`` (missing, failed) and ``TryAgain``
    (did not end in time).
    """
    name = str(config["ipam"]["type"])
    given = json.dumps(config).encode()
    ended = reach.run(name, given, {**env, "CNI_COMMAND": command}, deadline)
    if ended.status is None:
        raise TryAgain(
            f"IPAM plugin {name} did not answer {command} within {deadline:g} s and was ended"
        )
    if len(ended.output) > LIMIT:
        raise DelegateError(f"IPAM plugin {name} answered {command} with more than {LIMIT} bytes")
    if ended.status:
        raise _failure(name, command, ended.status, ended.output)
    return ended.output


def _failure(name: str, command: str, status: int, out: bytes) -> DelegateError:
    """What the delegate says of its failure, with its own code where it gives one."""
    what = f"IPAM plugin {name} failed at {command}"
    try:
        document = json.loads(out)
        code, message = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError, RecursionError):
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        said = out.decode(errors="replace").strip()[:500]
        return DelegateError(f"{what} {how}" + (f": {said}" if said else ""))
    details = str(document.get("details") or "")
    kept = code if type(code) is int and code > 0 else None
    return DelegateError(f"{what}: {message}", details, kept)
