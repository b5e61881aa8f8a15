"""Reads the MAC and the addresses that the runtime passes, and checks the MTU for IPv6.

``runtimeConfig`` holds the values of capabilities, ``args.cni`` the CNI arguments (Multus:
``cni-args``). ``runtimeConfig`` takes precedence.

Source: CNI CONVENTIONS.md; net/ipv6/addrconf.c (a link with an MTU below IPV6_MIN_MTU has no
IPv6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bondcni.core.document import Diagnostics, Object, did_you_mean, pointer_token
from bondcni.core.values import mac_text, show, unicast_mac

IPV6_MIN_MTU = 1280

RUNTIME = "/runtimeConfig"
ARGS = "/args/cni"

UNSUPPORTED_CAPABILITIES = {
    "portMappings": "add the portmap plugin after bond in the list of plugins",
    "bandwidth": "add the bandwidth plugin after bond in the list of plugins",
    "dns": "write dns in the configuration",
    "infinibandGUID": "set it in the networks of the links",
    "aliases": "",
}
"""Capabilities that neither a bond nor an IPAM plugin has, and advice for each."""

RUNTIME_KEYS = ("deviceID", "CNIDeviceInfoFile", "io.kubernetes.cri.pod-annotations")
"""Keys that a runtime adds on its own."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """The MAC and the addresses in CIDR notation, and the JSON pointer of each."""

    mac: str = ""
    ips: tuple[str, ...] = ()
    mac_pointer: str = ""
    ips_pointer: str = ""


def read_runtime_config(document: Object, diagnostics: Diagnostics) -> RuntimeConfig:
    """The MAC and the addresses; a key without effect is a warning."""
    found = RuntimeConfig()
    for pointer, source in _sources(document, diagnostics):
        for key in ("mac", "ips"):
            raw = source.get(key)
            if raw in (None, "") or (key == "ips" and not raw):
                continue
            at = pointer + pointer_token(key)
            first = found.mac_pointer if key == "mac" else found.ips_pointer
            if first:
                if raw != document["runtimeConfig"][key]:
                    diagnostics.warn(at, f"{show(raw)} has no effect: {first} takes precedence")
            elif key == "mac":
                found = replace(found, mac=_mac(raw, at, diagnostics), mac_pointer=at)
            else:
                found = replace(found, ips=_ips(raw, at, diagnostics), ips_pointer=at)
    return found


def _sources(document: Object, diagnostics: Diagnostics) -> Iterator[tuple[str, Mapping[str, Any]]]:
    ipam = document.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) else None
    runtime = document.get("runtimeConfig")
    if isinstance(runtime, dict):
        _without_effect(runtime, RUNTIME, kind, diagnostics)
        yield RUNTIME, runtime
    elif runtime is not None:
        diagnostics.problem(RUNTIME, f"{show(runtime)} is not allowed", "write an object, { ... }")
    args = document.get("args")
    given = args.get("cni") if isinstance(args, dict) else None
    if isinstance(given, dict):
        _without_effect(given, ARGS, kind, diagnostics)
        yield ARGS, given
    elif given is not None or not (args is None or isinstance(args, dict)):
        where, what = ("/args", args) if given is None else (ARGS, given)
        diagnostics.warn(where, f"{show(what)} has no effect", "write an object, { ... }")


def _without_effect(
    source: Mapping[str, Any], pointer: str, ipam: Any, diagnostics: Diagnostics
) -> None:
    """Warn of keys that are not read. With ``ipam`` others are passed to the IPAM plugin."""
    for key in source:
        if key in ("mac", "ips", *RUNTIME_KEYS):
            continue
        if pointer == RUNTIME and key in UNSUPPORTED_CAPABILITIES:
            diagnostics.warn(
                pointer + pointer_token(key),
                "has no effect on a bond",
                UNSUPPORTED_CAPABILITIES[key],
            )
        elif not ipam:
            near = did_you_mean(key, ("mac", "ips"))
            diagnostics.warn(
                pointer + pointer_token(key), "has no effect without an IPAM plugin", near
            )


def _mac(value: Any, pointer: str, diagnostics: Diagnostics) -> str:
    mac = unicast_mac(value)
    if mac is None:
        advice = "write a unicast MAC address such as 02:00:00:00:00:01"
        diagnostics.problem(pointer, f"{show(value)} is not allowed", advice)
    return mac or ""


def _ips(value: Any, pointer: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    if not isinstance(value, list):
        advice = 'write a list of addresses, such as ["10.0.0.5/24"]'
        diagnostics.problem(pointer, f"{show(value)} is not allowed", advice)
        return ()
    found = []
    for index, entry in enumerate(value):
        cidr = _cidr(entry)
        if cidr is None:
            advice = "write an address with its prefix length, such as 10.0.0.5/24"
            diagnostics.problem(f"{pointer}/{index}", f"{show(entry)} is not allowed", advice)
        else:
            found.append(cidr)
    return tuple(found)


def _cidr(value: Any) -> str | None:
    import ipaddress  # noqa: PLC0415  # slow to import, and few requests have ips

    if not isinstance(value, str) or "%" in value:
        return None
    try:
        return str(ipaddress.ip_interface(value.strip()))
    except ValueError:
        return None


def has_mac_capability(document: Mapping[str, Any]) -> bool:
    """Whether the runtime set ``runtimeConfig.mac`` because of the capability ``mac`` (libcni,
    injectRuntimeConfig). Without the capability it is part of the configuration.
    """
    capabilities = document.get("capabilities")
    return isinstance(capabilities, dict) and bool(capabilities.get("mac"))


def ignored_cni_args(cni_args: str, mac: str, *, ipam: bool) -> Iterator[str]:
    """A warning for each value in CNI_ARGS that is not read: ``MAC``, and without an IPAM plugin
    ``IP``. Older versions of Multus set both, with or without the capability.
    """
    pairs = dict(pair.partition("=")[::2] for pair in cni_args.split(";"))
    for name, capability in (("MAC", "mac"), ("IP", "ips")):
        value = pairs.get(name)
        if not value or (name == "IP" and ipam) or (name == "MAC" and mac_text(value) == mac):
            continue
        yield (
            f"CNI_ARGS: {name}={value} has no effect on a bond: write "
            f'"capabilities": {{"{capability}": true}} in the configuration'
        )


def unassigned_addresses(ips: Iterable[str], answered: Iterable[str]) -> str:
    """The requested addresses that an IPAM plugin did not assign, or ""."""
    given = {address.split("/")[0] for address in answered}
    return ", ".join(cidr for cidr in ips if cidr.split("/")[0] not in given)


def expected_ipv6(
    ips: tuple[str, ...], ipam: Mapping[str, Any] | None, raw: Mapping[str, Any]
) -> str:
    """An IPv6 address or network that the bond will have, if the configuration of the IPAM plugin
    tells it; else "".
    """
    kind = ipam.get("type") if ipam else None
    if ipam is None or (kind == "static" and ips):
        found: Iterable[Any] = ips
    elif kind == "static":
        found = (entry.get("address") for entry in _objects(ipam.get("addresses")))
    elif kind == "host-local":
        runtime = raw.get("runtimeConfig")
        sets = [*_list(ipam.get("ranges"))]
        sets += _list(runtime.get("ipRanges") if isinstance(runtime, dict) else None)
        ranges = [ipam, *(part for one in sets for part in _objects(one))]
        found = (part.get("subnet") for part in ranges)
    else:
        return ""
    return next((text for text in found if isinstance(text, str) and ":" in text), "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in _list(value) if isinstance(entry, dict))


def ipv6_mtu_problem(address: str, mtu: int) -> str:
    """Why a bond with this MTU cannot have the IPv6 address; "" if it can."""
    if not address or mtu >= IPV6_MIN_MTU:
        return ""
    return f"{mtu} is below the minimum MTU for IPv6 ({IPV6_MIN_MTU}), which {address} requires"
