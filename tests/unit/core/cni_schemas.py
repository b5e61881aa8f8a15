"""The shape of a CNI result in every version, as JSON Schemas.

Written from the CNI specification's sections on results (SPEC.md of the tags spec-v0.1.0
to spec-v1.1.0), and not from our code. No key is allowed that the version does not have.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "array", "items": TEXT}
NUMBER: Schema = {"type": "integer", "minimum": 0}
MAC: Schema = {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}
CIDR: Schema = {"type": "string", "pattern": "^[0-9a-f.:]+/[0-9]{1,3}$"}
CIDR4: Schema = {"type": "string", "pattern": "^[0-9.]+/[0-9]{1,2}$"}
CIDR6: Schema = {"type": "string", "pattern": "^[0-9a-f]*:[0-9a-f:.]*/[0-9]{1,3}$"}


def shape(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def many(entry: Schema) -> Schema:
    return {"type": "array", "items": entry}


DNS = shape((), nameservers=TEXTS, domain=TEXT, search=TEXTS, options=TEXTS)
ROUTE = shape(("dst",), dst=CIDR, gw=TEXT)
ROUTE_110 = shape(
    ("dst",),
    dst=CIDR,
    gw=TEXT,
    **dict.fromkeys(("mtu", "advmss", "priority", "table", "scope"), NUMBER),
)
INTERFACE = shape(("name",), name=TEXT, mac=MAC, sandbox=TEXT)
INTERFACE_110 = shape(
    ("name",), name=TEXT, mac=MAC, sandbox=TEXT, mtu=NUMBER, socketPath=TEXT, pciID=TEXT
)
IP_100 = shape(("address",), address=CIDR, gateway=TEXT, interface=NUMBER)
IP_030: Schema = {
    **shape(
        ("version", "address"),
        version={"enum": ["4", "6"]},
        address=CIDR,
        gateway=TEXT,
        interface=NUMBER,
    ),
    "if": {"properties": {"version": {"const": "4"}}},
    "then": {"properties": {"address": CIDR4}},
    "else": {"properties": {"address": CIDR6}},
}


def _020(version: str) -> Schema:
    def family(address: Schema) -> Schema:
        return shape(("ip",), ip=address, gateway=TEXT, routes=many(ROUTE))

    return shape(
        ("cniVersion", "dns"),
        cniVersion={"const": version},
        ip4=family(CIDR4),
        ip6=family(CIDR6),
        dns=DNS,
    )


def _030(version: str) -> Schema:
    return shape(
        ("cniVersion", "dns"),
        cniVersion={"const": version},
        interfaces=many(INTERFACE),
        ips=many(IP_030),
        routes=many(ROUTE),
        dns=DNS,
    )


def _100(version: str, interface: Schema, route: Schema) -> Schema:
    return shape(
        ("cniVersion",),
        cniVersion={"const": version},
        interfaces=many(interface),
        ips=many(IP_100),
        routes=many(route),
        dns={**DNS, "minProperties": 1},
    )


SCHEMAS: dict[str, Schema] = {
    "0.1.0": _020("0.1.0"),
    "0.2.0": _020("0.2.0"),
    "0.3.0": _030("0.3.0"),
    "0.3.1": _030("0.3.1"),
    "0.4.0": _030("0.4.0"),
    "1.0.0": _100("1.0.0", INTERFACE, ROUTE),
    "1.1.0": _100("1.1.0", INTERFACE_110, ROUTE_110),
}
