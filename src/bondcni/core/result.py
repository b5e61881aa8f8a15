"""CNI results of every version, 0.1.0 to 1.1.0.

Inside there is one shape, that of 1.1.0, as plain lists and objects; ``read`` brings
any older document to it and ``render`` gives it the shape of the version asked for.
``merge`` appends our interface and the delegate's addresses to what earlier plugins
in the chain made, with every interface index shifted to fit.

Source: CNI SPEC 1.1.0, section "Result types"; SPEC 0.2.0 and 0.4.0 for the older.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Every cniVersion that requests may have, oldest first."""

DNS_LISTS = ("nameservers", "search", "options")

Object = dict[str, Any]


class Result(NamedTuple):
    """Interfaces, ips, routes and dns as in a 1.1.0 result document."""

    interfaces: tuple[Object, ...] = ()
    ips: tuple[Object, ...] = ()
    routes: tuple[Object, ...] = ()
    dns: Mapping[str, Any] = {}


def at_least(version: str, least: str) -> bool:
    """Whether a supported version is ``least`` or newer."""
    return SUPPORTED.index(version) >= SUPPORTED.index(least)


def read(document: Any) -> Result:
    """A result document of any version. Raises ``ValueError`` with what is wrong."""
    if not isinstance(document, dict):
        raise ValueError("a result must be an object")
    old = "ip4" in document or "ip6" in document
    result = _read_020(document) if old else _read_030(document)
    for ip in result.ips:
        _typed("an entry of ips", ip, _IP)
    for route in result.routes:
        _typed("a route", route, _ROUTE)
    return result


_IP: Mapping[str, type] = {"address": str, "gateway": str, "interface": int}
_ROUTE: Mapping[str, type] = {
    "dst": str,
    "gw": str,
    **dict.fromkeys(("mtu", "advmss", "priority", "table", "scope"), int),
}


def _typed(what: str, part: Object, types: Mapping[str, type]) -> None:
    """The first key of ``types`` is required; the others may be left out."""
    required = next(iter(types))
    if not part.get(required):
        raise ValueError(f"{what} has no {required}")
    for key, kind in types.items():
        if part.get(key) is not None and type(part[key]) is not kind:
            raise ValueError(f"{key} of {what} must be {_KIND[kind]}")


_KIND = {str: "text", int: "a whole number"}


def _read_030(document: Object) -> Result:
    return Result(
        _objects(document, "interfaces"),
        tuple(_without(ip, "version") for ip in _objects(document, "ips")),
        _objects(document, "routes"),
        _dns(document),
    )


def _read_020(document: Object) -> Result:
    ips: list[Object] = []
    routes: list[Object] = []
    for family in ("ip4", "ip6"):
        part = document.get(family) or {}
        if not isinstance(part, dict) or (part and not isinstance(part.get("ip"), str)):
            raise ValueError(f"{family} must be an object with an ip in CIDR form")
        if part:
            ips.append(_filled({"address": part["ip"], "gateway": part.get("gateway")}))
            routes += _objects(part, "routes")
    return Result((), tuple(ips), tuple(routes), _dns(document))


def _dns(document: Object) -> Object:
    dns = document.get("dns") or {}
    if not isinstance(dns, dict):
        raise ValueError("dns must be an object")
    for key, value in _filled(dns).items():
        if key == "domain" and not isinstance(value, str):
            raise ValueError("the domain of dns must be text")
        if key in DNS_LISTS and not (
            isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        ):
            raise ValueError(f"the {key} of dns must be a list of text")
    return _filled(dns)


def _objects(document: Mapping[str, Any], key: str) -> tuple[Object, ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{key} must be a list of objects")
    return tuple(value)


def _filled(part: Mapping[str, Any]) -> Object:
    return {key: value for key, value in part.items() if value not in (None, "", [], {})}


def _without(part: Object, *keys: str) -> Object:
    return {key: value for key, value in part.items() if key not in keys}


def merge(before: Result, interface: Object, ipam: Result, dns: Mapping[str, Any]) -> Result:
    """``before`` with our interface and its addresses appended.

    DNS: what the delegate says, then what the configuration says; lists are joined
    and a domain in the configuration wins, as it is nearer to the user.
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
    """One DNS object of several: lists joined without repeats, the last domain wins."""
    merged: Object = {}
    for part in parts:
        for key, value in _filled(part).items():
            if key in DNS_LISTS:
                joined = [*merged.get(key, []), *value]
                merged[key] = [v for i, v in enumerate(joined) if v not in joined[:i]]
            else:
                merged[key] = value
    return merged


def render(result: Result, version: str) -> Object:
    """The document of that version; what a version has no place for is left out."""
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
        document[family] = _filled(part)
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
