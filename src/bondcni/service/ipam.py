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
from bondcni.core.errors import (
    BondError,
    ConfigError,
    DelegateError,
    DelegateIncompatible,
    TryAgain,
)
from bondcni.core.result import SUPPORTED, Result, at_least, read, render, unroutable
from bondcni.service.delegate import LIMIT, Ended
from bondcni.service.reach import Reach
from bondcni.service.request import SINCE
from bondcni.service.timeouts import Timeouts

DETAILS = 2048
"""Characters of standard error in an error's details."""

INCOMPATIBLE = 1
"""The CNI code of a plugin that does not know the cniVersion. It has done nothing then."""

_BAD_ENVIRONMENT = 4
_SUSPECT = dict.fromkeys(("GC", "STATUS"), (INCOMPATIBLE, _BAD_ENVIRONMENT))
"""Codes that may mean the version. A plugin older than a verb looks at CNI_COMMAND first."""


def add(
    reach: Reach,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    timeouts: Timeouts,
) -> Result:
    """IPAM ADD: the addresses reserved. Raises ``DelegateError``, ``TryAgain``.

    After a failure the caller owes the delegate a DEL, for it may have reserved before it failed;
    not after ``DelegateUnstarted`` and ``DelegateIncompatible``.
    """
    name = str(config["ipam"]["type"])
    ended = _execute(reach, "ADD", config, env, timeouts)
    try:
        result = read(loads(ended.output))
        problems = tuple(unroutable(result))
    except ConfigError as error:
        problems = error.problems
    except (ValueError, RecursionError) as error:
        words = f"IPAM plugin {name} answered no CNI result: {error}"
        raise DelegateError(words, _last_words(ended)) from error
    if problems:
        words = f"IPAM plugin {name} answered no CNI result: {ConfigError(problems)}"
        raise DelegateError(words, _last_words(ended))
    if not result.ips:
        raise DelegateError(f"IPAM plugin {name} answered no address", _last_words(ended))
    return result


def execute(
    reach: Reach,
    command: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    timeouts: Timeouts,
) -> bytes:
    """Run the IPAM plugin for one verb; its standard output.

    One that does not know the configuration's cniVersion is asked again, in the highest that both
    know; only then is it asked for its versions (docs/decisions/0009). Raises ``DelegateError`` (``DelegateUnstarted``, ``DelegateIncompatible``), and
    ``TryAgain`` where it did not end in time; in their details is what it wrote to standard error.
    """
    return _execute(reach, command, config, env, timeouts).output


def _execute(
    reach: Reach,
    command: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    timeouts: Timeouts,
) -> Ended:
    try:
        return _run(reach, command, config, env, timeouts.delegate)
    except DelegateError as error:
        if error.code not in _SUSPECT.get(command, (INCOMPATIBLE,)):
            raise
        theirs = _versions(reach, config, env, timeouts.delegate_version)
        least = SINCE.get(command, SUPPORTED[0])
        both = [v for v in SUPPORTED if v in theirs and at_least(v, least)]
        settled = not both or config.get("cniVersion") in both
        if settled and (error.code == INCOMPATIBLE or (theirs and not both)):
            knows = (
                f"it knows cniVersion {', '.join(theirs)}" if theirs else "it names no cniVersion"
            )
            raise DelegateIncompatible(f"{error.message} ({knows})", error.details) from error
        if settled:
            raise
    return _run(reach, command, _speaking(config, both[-1]), env, timeouts.delegate)


def _versions(
    reach: Reach, config: Mapping[str, Any], env: Mapping[str, str], deadline: float
) -> tuple[str, ...]:
    """The cniVersions that the IPAM plugin says it knows; () where it does not say."""
    asked = {"cniVersion": config.get("cniVersion") or SUPPORTED[0], "ipam": config["ipam"]}
    try:
        answer = _run(reach, "VERSION", asked, env, deadline).output
        found = loads(answer)["supportedVersions"]
    except (BondError, ValueError, TypeError, KeyError, RecursionError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _speaking(config: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The configuration in another cniVersion, and with it what it says of earlier results."""
    spoken = {**config, "cniVersion": version}
    if "prevResult" in spoken:
        try:
            spoken["prevResult"] = render(read(spoken["prevResult"]), version)
        except ConfigError:  # DEL goes on without
            del spoken["prevResult"]
    return spoken


def _run(
    reach: Reach, command: str, config: Mapping[str, Any], env: Mapping[str, str], deadline: float
) -> Ended:
    """One process of the IPAM plugin, which did not fail."""
    name = str(config["ipam"]["type"])
    given = json.dumps(config).encode()
    ended = reach.run(name, given, {**env, "CNI_COMMAND": command}, deadline)
    if ended.status is None:
        raise TryAgain(
            f"IPAM plugin {name} did not answer {command} within {deadline:g} s and was ended",
            _last_words(ended),
        )
    if len(ended.output) > LIMIT:
        words = f"IPAM plugin {name} answered {command} with more than {LIMIT} bytes"
        raise DelegateError(words, _last_words(ended))
    if ended.status:
        raise _failure(name, command, ended)
    return ended


def _failure(name: str, command: str, ended: Ended) -> DelegateError:
    """What the delegate says of its failure, with its own code where it gives one."""
    what = f"IPAM plugin {name} failed at {command}"
    try:
        document = json.loads(ended.output)
        code, message = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError, RecursionError):
        status = ended.status or 0
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        said = ended.output.decode(errors="replace").strip()[:500]
        return DelegateError(f"{what} {how}" + (f": {said}" if said else ""), _last_words(ended))
    details = "; ".join(filter(None, (str(document.get("details") or ""), _last_words(ended))))
    kept = code if type(code) is int and code > 0 else None
    return DelegateError(f"{what}: {message}", details, kept)


def _last_words(ended: Ended) -> str:
    """What the delegate wrote to standard error, for an error's details: its lines in one, without
    control characters. Of much the first is kept, where a panic has its reason, and the last.
    """
    lines = ended.errors.decode(errors="replace").splitlines()
    plain = ("".join(c if c.isprintable() else " " for c in line).strip() for line in lines)
    text = " | ".join(filter(None, plain))
    if len(text) > DETAILS:
        text = f"{text[: DETAILS // 4]} [...] {text[-DETAILS * 3 // 4 :]}"
    return f"standard error: {text}" if text else ""
