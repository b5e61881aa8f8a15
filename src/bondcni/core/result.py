"""Reads, merges and renders CNI results of every version, 0.1.0 to 1.1.0.

A result has the shape of version 1.1.0: ``read`` converts a document of any version to it,
``render`` converts it to the requested version. ``merge`` appends the bond and the addresses of
the IPAM plugin to the result of the earlier plugins in the chain, and sets the interface index
of the addresses.

Source: CNI SPEC 1.1.0, section "Result types"; SPEC 0.2.0 and 0.4.0 for the older.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bondcni.core.document import Object
from bondcni.core.errors import ConfigError, Problem

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Every supported cniVersion, oldest first."""

DNS_LISTS = ("nameservers", "search", "options")


@dataclass(frozen=True, slots=True)
class Result:
    """Interfaces, ips, routes and dns as in a result of version 1.1.0."""

    interfaces: tuple[Object, ...] = ()
    ips: tuple[Object, ...] = ()
    routes: tuple[Object, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


def at_least(version: str, least: str) -> bool:
    """Whether a supported version is ``least`` or later."""
    return SUPPORTED.index(version) >= SUPPORTED.index(least)


def read(document: Any) -> Result:
    """A result document of any version. Raises ``ConfigError`` with every problem.

    Accepts what the Go types of CNI can decode, so that every runtime can decode the result:
    addresses and destinations with a prefix length (host bits may be set), gateways that are IP
    addresses, no IPv6 zones. An empty gateway means none.
    """
    if not isinstance(document, dict):
        raise ConfigError((Problem("", "a result must be an object"),))
    problems: list[Problem] = []
    old = "ip4" in document or "ip6" in document
    result = _read_020(document, problems) if old else _read_030(document, problems)
    if problems:
        raise ConfigError(tuple(problems))
    return result


@dataclass(frozen=True, slots=True)
class _ValueType:
    """What a value must be, as text and as a predicate."""

    words: str
    accepts: Callable[[Any], bool]
    required: bool = False


def _is_ip(value: Any) -> bool:
    import ipaddress  # noqa: PLC0415  # 1 ms to import, only for results with addresses

    if not isinstance(value, str) or "%" in value:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_cidr(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    address, _, prefix = value.partition("/")
    digits = prefix.isascii() and prefix.isdigit() and len(prefix) <= 3
    return digits and _is_ip(address) and int(prefix) <= (128 if ":" in address else 32)


_TEXT = _ValueType("a string", lambda value: isinstance(value, str))
_INTEGER = _ValueType("an integer", lambda value: type(value) is int)
_ADDRESS = _ValueType(
    "an address with a prefix length, such as 10.0.0.5/24 or fd00::5/64", _is_cidr, required=True
)
_NETWORK = _ValueType(
    "a network with a prefix length, such as 10.0.0.0/24 or ::/0", _is_cidr, required=True
)
_GATEWAY = _ValueType(
    "an IP address without a prefix length or zone", lambda v: v == "" or _is_ip(v)
)

_INTERFACE: Mapping[str, _ValueType] = {
    **dict.fromkeys(("name", "mac", "sandbox", "socketPath", "pciID"), _TEXT),
    "mtu": _INTEGER,
}
_IP: Mapping[str, _ValueType] = {"address": _ADDRESS, "gateway": _GATEWAY, "interface": _INTEGER}
_IP_020: Mapping[str, _ValueType] = {"ip": _ADDRESS, "gateway": _GATEWAY}
_ROUTE: Mapping[str, _ValueType] = {
    "dst": _NETWORK,
    "gw": _GATEWAY,
    **dict.fromkeys(("mtu", "advmss", "priority", "table", "scope"), _INTEGER),
}


def _check_values(
    part: Object, pointer: str, types: Mapping[str, _ValueType], problems: list[Problem]
) -> None:
    """Add a problem for each key of ``part`` with a wrong value; null means absent, as in Go."""
    for key, kind in types.items():
        value = part.get(key)
        if value is None or (kind.required and value == ""):
            if kind.required:
                problems.append(Problem(f"{pointer}/{key}", f"is required: {kind.words}"))
        elif not kind.accepts(value):
            from bondcni.core.values import show  # noqa: PLC0415  # only for messages

            words = f"{show(value)} is not allowed: must be {kind.words}"
            problems.append(Problem(f"{pointer}/{key}", words))


def _read_030(document: Object, problems: list[Problem]) -> Result:
    return Result(
        _objects(document, "", "interfaces", _INTERFACE, problems),
        tuple(_without(ip, "version") for ip in _objects(document, "", "ips", _IP, problems)),
        _objects(document, "", "routes", _ROUTE, problems),
        _dns(document, problems),
    )


def _read_020(document: Object, problems: list[Problem]) -> Result:
    ips: list[Object] = []
    routes: list[Object] = []
    for family in ("ip4", "ip6"):
        part = document.get(family) or {}
        if not isinstance(part, dict):
            problems.append(Problem(f"/{family}", "must be an object with an ip in CIDR notation"))
        elif part:
            _check_values(part, f"/{family}", _IP_020, problems)
            ips.append(_without_empty({"address": part.get("ip"), "gateway": part.get("gateway")}))
            routes += _objects(part, f"/{family}", "routes", _ROUTE, problems)
    return Result((), tuple(ips), tuple(routes), _dns(document, problems))


def _dns(document: Object, problems: list[Problem]) -> Object:
    dns = document.get("dns") or {}
    if not isinstance(dns, dict):
        problems.append(Problem("/dns", "must be an object"))
        return {}
    for key, value in _without_empty(dns).items():
        if key == "domain" and not isinstance(value, str):
            problems.append(Problem("/dns/domain", "must be a string"))
        if key in DNS_LISTS and not (
            isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        ):
            problems.append(Problem(f"/dns/{key}", "must be a list of strings"))
    return _without_empty(dns)


def _objects(
    document: Mapping[str, Any],
    pointer: str,
    key: str,
    types: Mapping[str, _ValueType],
    problems: list[Problem],
) -> tuple[Object, ...]:
    """A list of objects, with each key checked; () if absent or invalid."""
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        problems.append(Problem(f"{pointer}/{key}", "must be a list of objects"))
        return ()
    for number, entry in enumerate(value):
        _check_values(entry, f"{pointer}/{key}/{number}", types, problems)
    return tuple(value)


_LARGEST = {"scope": 0xFF, **dict.fromkeys(("mtu", "advmss", "priority", "table"), 0xFFFFFFFF)}
"""The largest number of each key of a route (include/uapi/linux/rtnetlink.h); the smallest is 0."""


def route_problems(result: Result) -> Iterator[Problem]:
    """A problem for each number in a route that the kernel cannot have."""
    for number, route in enumerate(result.routes):
        for key, top in _LARGEST.items():
            if not 0 <= (route.get(key) or 0) <= top:
                words = f"{route[key]} is not allowed: must be 0 to {top}"
                yield Problem(f"/routes/{number}/{key}", words)


def _without_empty(part: Mapping[str, Any]) -> Object:
    return {key: value for key, value in part.items() if value not in (None, "", [], {})}


def _without(part: Object, *keys: str) -> Object:
    return {key: value for key, value in part.items() if key not in keys}


def merge(before: Result, interface: Object, ipam: Result, dns: Mapping[str, Any]) -> Result:
    """``before`` with the bond and its addresses appended.

    DNS lists are those of ``before``, the IPAM plugin and the configuration, in this order; the
    last domain is used.
    """
    index = len(before.interfaces)
    ips = tuple({**ip, "interface": index} for ip in ipam.ips)
    return Result(
        (*before.interfaces, interface),
        (*before.ips, *ips),
        (*before.routes, *ipam.routes),
        merge_dns(before.dns, ipam.dns, dns),
    )


def merge_dns(*parts: Mapping[str, Any]) -> Object:
    """One DNS object: the lists joined without duplicates, and the last domain."""
    merged: Object = {}
    for part in parts:
        for key, value in _without_empty(part).items():
            if key in DNS_LISTS:
                joined = [*merged.get(key, []), *value]
                merged[key] = [v for i, v in enumerate(joined) if v not in joined[:i]]
            else:
                merged[key] = value
    return merged


def render(result: Result, version: str) -> Object:
    """The document in a cniVersion, without what that version does not have."""
    if not at_least(version, "0.3.0"):
        return _render_020(result, version)
    document: Object = {"cniVersion": version}
    interfaces = [_interface(i, version) for i in result.interfaces]
    ips = [_ip(ip, version) for ip in result.ips]
    routes = [_route(route, version) for route in result.routes]
    for key, value in (("interfaces", interfaces), ("ips", ips), ("routes", routes)):
        if value:
            document[key] = value
    if result.dns or not at_least(version, "1.0.0"):
        document["dns"] = dict(result.dns)
    return document


def _render_020(result: Result, version: str) -> Object:
    document: Object = {"cniVersion": version}
    for family, colon in (("ip4", False), ("ip6", True)):
        first = next((ip for ip in result.ips if (":" in ip["address"]) is colon), None)
        if first is None:
            continue
        routes = [_route(r, version) for r in result.routes if (":" in str(r.get("dst"))) is colon]
        part = {"ip": first["address"], "gateway": first.get("gateway"), "routes": routes}
        document[family] = _without_empty(part)
    document["dns"] = dict(result.dns)
    return document


def _interface(interface: Object, version: str) -> Object:
    if at_least(version, "1.1.0"):
        return interface
    return _without(interface, "mtu", "socketPath", "pciID")


def _ip(ip: Object, version: str) -> Object:
    if at_least(version, "1.0.0"):
        return ip
    return {"version": "6" if ":" in ip["address"] else "4", **ip}


def _route(route: Object, version: str) -> Object:
    if at_least(version, "1.1.0"):
        return route
    return {key: value for key, value in route.items() if key in ("dst", "gw")}
