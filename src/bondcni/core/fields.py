"""The fields of the configuration that are not bonding options, one function each.

Each function reads its field from the object, adds what is wrong with it to the diagnostics, and
returns the field's value, or an empty one if it is absent or invalid. JSON null means absent,
as in Go. What the Go bond-cni accepts is accepted with the same meaning.

Source: CNI SPEC 1.1.0, section 1 "Network configuration format".
"""

from __future__ import annotations

import re
from typing import Any

from bondcni.core.document import Diagnostics, Object, did_you_mean, pointer_token
from bondcni.core.errors import ConfigError, VersionError
from bondcni.core.names import invalid_interface_name
from bondcni.core.result import SUPPORTED, Result, read
from bondcni.core.values import SWITCH, parse_integer, show

MIN_MTU = 68
MAX_MTU = 65535
"""Smallest and largest MTU of a bond (ETH_MIN_MTU, ETH_MAX_MTU)."""


def version(document: Object) -> str:
    """``cniVersion``; absent means 0.1.0. Raises VersionError, which lists the supported ones."""
    value = document.get("cniVersion")
    if value is None or value == "":
        return SUPPORTED[0]
    if value not in SUPPORTED:
        raise VersionError(
            f"cniVersion {show(value)} is not supported",
            f"supported versions: {', '.join(SUPPORTED)}",
        )
    return str(value)


def network_name(document: Object, diagnostics: Diagnostics) -> str:
    """``name``: letters, digits, ``_``, ``.`` and ``-``."""
    value = document.get("name")
    if value is None or value == "":
        diagnostics.problem("/name", "is required", "write the name of the network")
    elif not isinstance(value, str) or not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", value):
        diagnostics.problem(
            "/name",
            f"{show(value)} is not allowed",
            "use letters, digits, '_', '.' and '-', and start with a letter or a digit",
        )
    else:
        return value
    return ""


def plugin_type(document: Object, diagnostics: Diagnostics) -> None:
    """``type``: any string, because the runtime has found this plugin by it."""
    value = document.get("type")
    if value is None:
        diagnostics.warn("/type", "is missing", 'write "type": "bond"')
    elif not isinstance(value, str):
        diagnostics.problem("/type", f"{show(value)} is not allowed", 'write "bond"')


def interface_name(document: Object, diagnostics: Diagnostics) -> str:
    """``ifname``, "" if absent or invalid. No value is an error: the Go bond-cni ignores the key."""
    value = document.get("ifname")
    if value is None or value == "":
        return ""
    why = "an interface name is a string"
    if isinstance(value, str):
        why = invalid_interface_name(value)
    if not why:
        return str(value)
    diagnostics.warn("/ifname", f"alternative name {show(value)} is left out: {why}")
    return ""


def mtu(document: Object, diagnostics: Diagnostics) -> tuple[int | None, bool]:
    """``mtu``: bytes or None, and whether it is ``inherit``."""
    value = document.get("mtu")
    if isinstance(value, str):
        if value.strip().casefold() == "inherit":
            return None, True
        number = parse_integer(value.strip())
    else:
        number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if value is None or number == 0:
        return None, False
    if number is not None and MIN_MTU <= number <= MAX_MTU:
        return number, False
    from bondcni.core import suggest  # noqa: PLC0415  # only for messages about mistakes

    allowed = f'a number of bytes from {MIN_MTU} to {MAX_MTU}, or "inherit"'
    meant = suggest.number(value, "bytes")
    good = meant is not None and MIN_MTU <= meant <= MAX_MTU
    advice = f"write {meant} (allowed: {allowed})" if good else f"write {allowed}"
    diagnostics.problem("/mtu", f"{show(value)} is not allowed", advice)
    return None, False


def boolean(document: Object, key: str, diagnostics: Diagnostics) -> bool:
    """A boolean field; absent means false."""
    value = document.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().casefold() in SWITCH:
        return bool(SWITCH[value.strip().casefold()])
    if value in (0, 1, "0", "1") and not isinstance(value, float):
        return str(value) == "1"
    diagnostics.problem(pointer_token(key), f"{show(value)} is not allowed", "write true or false")
    return False


def object_field(value: Any, pointer: str, diagnostics: Diagnostics) -> Object:
    """An object, {} if absent or not an object."""
    if value is None or isinstance(value, dict):
        return value or {}
    diagnostics.problem(pointer, f"{show(value)} is not allowed", "write an object, { ... }")
    return {}


def ipam(document: Object, diagnostics: Diagnostics) -> Object | None:
    """``ipam``; None if no IPAM plugin is to be called."""
    found = object_field(document.get("ipam"), "/ipam", diagnostics)
    kind = found.get("type")
    if kind is None or kind == "":
        if found.keys() - {"type"}:
            advice = 'write the name of an IPAM plugin as "type"'
            diagnostics.warn("/ipam", "has no type, so no IPAM plugin is called", advice)
        return None
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in (".", ".."):
        advice = "write the name of an IPAM plugin, such as host-local"
        diagnostics.problem("/ipam/type", f"{show(kind)} is not allowed", advice)
    elif kind == "bond":
        advice = "write the name of an IPAM plugin, such as host-local"
        diagnostics.problem("/ipam/type", "bond is not an IPAM plugin", advice)
    else:
        return found
    return None


def dns(document: Object, diagnostics: Diagnostics) -> Object:
    """``dns``: nameservers, search and options are lists of strings, domain is a string."""
    found = object_field(document.get("dns"), "/dns", diagnostics)
    good = dict(found)
    for key, value in found.items():
        strings = key == "domain" or _are_strings(value)
        if value is None:
            del good[key]
        elif key == "domain" and not isinstance(value, str):
            diagnostics.problem("/dns/domain", f"{show(value)} is not allowed", "write a string")
            del good[key]
        elif key != "domain" and key not in _DNS_LISTS:
            near = did_you_mean(key, ("domain", *_DNS_LISTS))
            diagnostics.warn("/dns" + pointer_token(key), "unknown key, ignored", near)
            del good[key]
        elif key in _DNS_LISTS and not strings:
            diagnostics.problem(
                f"/dns/{key}", f"{show(value)} is not allowed", "write a list of strings"
            )
            del good[key]
    return good


_DNS_LISTS = ("nameservers", "search", "options")


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def previous(document: Object, diagnostics: Diagnostics) -> Result | None:
    """``prevResult``, which ADD passes on; None when absent, empty when invalid."""
    if document.get("prevResult") is None:
        return None
    found = object_field(document["prevResult"], "/prevResult", diagnostics)
    try:
        return read(found)
    except ConfigError as error:
        for problem in error.problems:
            diagnostics.problem(f"/prevResult{problem.pointer}", problem.message, problem.advice)
    return Result()
