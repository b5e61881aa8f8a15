"""Checks the CNI configuration of a network without running a plugin.

The bond's keys are checked by ``bondcni.core.config``. Of other plugins, only errors are reported
with which the plugin fails for certain: a missing type, an empty address, an invalid subnet. JSON
pointers are converted to lines of the manifest.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bondcni.core import config as bond_config
from bondcni.core.errors import BondError, ConfigError, Problem
from bondcni.core.values import show
from bondlab.manifests.yaml_nodes import ManifestFinding, YamlNode


def config(data: Any, tree: YamlNode) -> list[ManifestFinding]:
    """All errors in a configuration, or in a list of plugins."""
    if not isinstance(data, dict):
        advice = 'Write an object: { "cniVersion": "1.0.0", "type": "...", ... }.'
        return [tree.finding("the config is JSON, but not an object", advice)]
    chain = data.get("plugins")
    if chain is None:
        return _plugin(data, "", tree)
    if not isinstance(chain, list) or not chain:
        return [tree.finding('"plugins" is not a list of plugins', "List at least one plugin.")]
    shared = {key: data[key] for key in ("cniVersion", "name") if key in data}
    found = []
    for place, plugin in enumerate(chain):
        whole = shared | plugin if isinstance(plugin, dict) else plugin
        found += _plugin(whole, f"/plugins/{place}", tree)
    return found


def subnet(text: str) -> str:
    """Why ``text`` is not a network, "" if it is one."""
    if not text.strip():
        return "is empty"
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"`{text}` is not a network"
    return "" if "/" in text else f"`{text}` has no prefix length"


def _plugin(data: Any, base: str, tree: YamlNode) -> list[ManifestFinding]:
    found = []
    for problem in _problems(data):
        line = tree.line_of(base + problem.pointer)
        message = str(replace(problem, advice=""))
        found.append(ManifestFinding(tree.file, line, message, _sentence(problem.advice)))
    return found


def _sentence(advice: str) -> str:
    end = "" if not advice or advice.endswith("?") else "."
    return f"{advice[:1].upper()}{advice[1:]}{end}"


def _problems(data: Any) -> list[Problem]:
    if not isinstance(data, dict):
        return [Problem("", f"{show(data)} is not a plugin configuration", "write an object")]
    kind = data.get("type")
    if not isinstance(kind, str) or not kind:
        return [Problem("/type", "is missing", "write the name of the plugin's executable")]
    return [*(_bond_problems(data) if kind == "bond" else ()), *_ipam_problems(data.get("ipam"))]


def _bond_problems(data: dict[str, Any]) -> list[Problem]:
    """The plugin's own errors and warnings; as Multus does, a missing name is filled in."""
    try:
        bond_config.parse(json.dumps({"name": "unnamed"} | data).encode())
    except ConfigError as error:
        return [*error.problems, *error.warnings]
    except BondError as error:
        return [Problem("/cniVersion", error.message, error.details)]
    return []


def _ipam_problems(ipam: Any) -> Iterator[Problem]:
    if not isinstance(ipam, dict):
        return
    addresses = ipam.get("addresses") if ipam.get("type") == "static" else None
    for place, entry in enumerate(addresses if isinstance(addresses, list) else []):
        address = str(entry.get("address", "")) if isinstance(entry, dict) else ""
        found = subnet(address)
        if found:
            where = f"/ipam/addresses/{place}/address"
            yield Problem(where, found, 'write an address with its prefix length: "10.30.0.5/24"')
    if ipam.get("type") == "host-local" and "subnet" in ipam:
        found = subnet(str(ipam["subnet"]))
        if found:
            yield Problem("/ipam/subnet", found, 'write a network: "10.30.0.0/24"')
