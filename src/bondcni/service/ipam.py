"""Calls the IPAM plugin, and interprets its result.

It gets the complete configuration. The code and text of its error document are kept. ``Reach``
runs it; the caller decides whether an ADD must be rolled back.

Source: CNI SPEC 1.1.0, section "Plugin Delegation".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bondcni.core.document import load_json
from bondcni.core.errors import (
    BondError,
    ConfigError,
    DelegateError,
    DelegateIncompatible,
    TryAgain,
)
from bondcni.core.result import SUPPORTED, Result, at_least, read, render, route_problems
from bondcni.service.delegate import LIMIT, Ended
from bondcni.service.reach import Reach
from bondcni.service.request import SINCE
from bondcni.service.timeouts import Timeouts

DETAILS = 2048
"""Characters of standard error in the details of an error."""

INCOMPATIBLE = 1
"""The CNI code of a plugin that does not support the cniVersion. It has changed nothing."""

_BAD_ENVIRONMENT = 4
_SUSPECT = dict.fromkeys(("GC", "STATUS"), (INCOMPATIBLE, _BAD_ENVIRONMENT))
"""Codes that may mean the version: a plugin older than the verb reads CNI_COMMAND first."""


def add(
    reach: Reach,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    timeouts: Timeouts,
) -> Result:
    """IPAM ADD; the addresses that it reserved. Raises ``DelegateError``, ``TryAgain``.

    After an error the caller must call DEL, because the plugin may have reserved addresses before
    it failed; except after ``DelegateUnstarted`` and ``DelegateIncompatible``.
    """
    name = str(config["ipam"]["type"])
    ended = _execute(reach, "ADD", config, env, timeouts)
    try:
        result = read(load_json(ended.output))
        problems = tuple(route_problems(result))
    except ConfigError as error:
        problems = error.problems
    except (ValueError, RecursionError) as error:
        words = f"IPAM plugin {name} returned an invalid CNI result: {error}"
        raise DelegateError(words, _last_words(ended)) from error
    if problems:
        words = f"IPAM plugin {name} returned an invalid CNI result: {ConfigError(problems)}"
        raise DelegateError(words, _last_words(ended))
    if not result.ips:
        raise DelegateError(f"IPAM plugin {name} returned no address", _last_words(ended))
    return result


def execute(
    reach: Reach,
    command: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    timeouts: Timeouts,
) -> bytes:
    """Run the IPAM plugin for one verb; its standard output.

    A plugin that does not support the cniVersion of the configuration is called again with the
    highest version that both support; only then is it asked for its versions
    (docs/decisions/0009). Raises ``DelegateError`` (``DelegateUnstarted``, ``DelegateIncompatible``), and
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
                f"it supports cniVersion {', '.join(theirs)}"
                if theirs
                else "it names no cniVersion"
            )
            raise DelegateIncompatible(f"{error.message} ({knows})", error.details) from error
        if settled:
            raise
    return _run(reach, command, _speaking(config, both[-1]), env, timeouts.delegate)


def _versions(
    reach: Reach, config: Mapping[str, Any], env: Mapping[str, str], deadline: float
) -> tuple[str, ...]:
    """The cniVersions that the IPAM plugin supports; () where it does not answer VERSION."""
    asked = {"cniVersion": config.get("cniVersion") or SUPPORTED[0], "ipam": config["ipam"]}
    try:
        answer = _run(reach, "VERSION", asked, env, deadline).output
        found = load_json(answer)["supportedVersions"]
    except (BondError, ValueError, TypeError, KeyError, RecursionError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _speaking(config: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The configuration in another cniVersion, with prevResult converted."""
    spoken = {**config, "cniVersion": version}
    if "prevResult" in spoken:
        try:
            spoken["prevResult"] = render(read(spoken["prevResult"]), version)
        except ConfigError:  # only DEL accepts an invalid one, and it continues without it
            del spoken["prevResult"]
    return spoken


def _run(
    reach: Reach, command: str, config: Mapping[str, Any], env: Mapping[str, str], deadline: float
) -> Ended:
    """Run the IPAM plugin once. Raises ``DelegateError`` and ``TryAgain``."""
    name = str(config["ipam"]["type"])
    given = json.dumps(config).encode()
    ended = reach.run(name, given, {**env, "CNI_COMMAND": command}, deadline)
    if ended.status is None:
        raise TryAgain(
            f"IPAM plugin {name} did not complete {command} within {deadline:g} s and was killed",
            _last_words(ended),
        )
    if len(ended.output) > LIMIT:
        words = f"IPAM plugin {name}: {command} returned more than {LIMIT} bytes"
        raise DelegateError(words, _last_words(ended))
    if ended.status:
        raise _failure(name, command, ended)
    return ended


def _failure(name: str, command: str, ended: Ended) -> DelegateError:
    """The delegate's own message and code, where it returned an error document."""
    what = f"IPAM plugin {name}: {command} failed"
    try:
        document = json.loads(ended.output)
        code, message = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError, RecursionError):
        status = ended.status or 0
        how = f"with exit code {status}" if status > 0 else f"with signal {-status}"
        said = ended.output.decode(errors="replace").strip()[:500]
        return DelegateError(f"{what} {how}" + (f": {said}" if said else ""), _last_words(ended))
    details = "; ".join(filter(None, (str(document.get("details") or ""), _last_words(ended))))
    kept = code if type(code) is int and code > 0 else None
    return DelegateError(f"{what}: {message}", details, kept)


def _last_words(ended: Ended) -> str:
    """The delegate's standard error on one line, without control characters. Of a long text the
    beginning is kept, where a panic has its reason, and the end.
    """
    lines = ended.errors.decode(errors="replace").splitlines()
    plain = ("".join(c if c.isprintable() else " " for c in line).strip() for line in lines)
    text = " | ".join(filter(None, plain))
    if len(text) > DETAILS:
        text = f"{text[: DETAILS // 4]} [...] {text[-DETAILS * 3 // 4 :]}"
    return f"standard error: {text}" if text else ""
