"""Configures the bond with the addresses and routes of a delegate's result, and verifies them.

A route without a gateway uses the gateway of the same address family in the result, as in the
reference implementation (containernetworking/plugins, pkg/ipam). A destination with host bits is
masked. A route that the kernel adds with the address itself is left out: Calico 3.32 and later
return such routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bondcni.core.plan import Wanted
from bondcni.core.result import Result
from bondcni.core.state import Address, Link, Namespace, Route
from bondcni.kernel.namespaces import Namespaces


def configure(
    node: Namespaces, wanted: Wanted, result: Result, warn: Callable[[str], None]
) -> None:
    """Add the addresses, then the routes. Raises ``KernelError``, and ``TryAgain`` when duplicate
    address detection does not complete.
    """
    addresses = [Address(wanted.index, _cidr(ip)) for ip in result.ips]
    if addresses:
        node.add_addresses(wanted, addresses, warn)
    routes = list(_routes(result, wanted.index, addresses))
    if routes:
        node.add_routes(routes)


def _cidr(ip: dict[str, Any]) -> str:
    import ipaddress  # noqa: PLC0415  1 ms, saved where there are no addresses

    return ipaddress.ip_interface(ip["address"]).with_prefixlen


def _routes(result: Result, index: int, addresses: list[Address]) -> Iterator[Route]:
    import ipaddress  # noqa: PLC0415

    gateways = {
        ":" in ip["gateway"]: ip["gateway"] for ip in reversed(result.ips) if ip.get("gateway")
    }
    connected = {str(ipaddress.ip_interface(address.address).network) for address in addresses}
    for route in result.routes:
        dst = str(ipaddress.ip_network(route["dst"], strict=False))
        gateway = route.get("gw") or gateways.get(":" in dst, "")
        gateway = str(ipaddress.ip_address(gateway)) if gateway else ""
        if dst in connected and not route.get("gw"):
            continue
        yield Route(
            dst,
            gateway,
            index,
            table=int(route.get("table") or 254),
            mtu=int(route.get("mtu") or 0),
            advmss=int(route.get("advmss") or 0),
            priority=int(route.get("priority") or 0),
            scope=int(route.get("scope") or (0 if gateway or ":" in dst else 253)),
        )


def own_place(result: Result, ifname: str, netns: str) -> int | None:
    """The index of the bond in a result's interfaces; None without it."""
    return next(
        (
            number
            for number, interface in enumerate(result.interfaces)
            if interface.get("name") == ifname and interface.get("sandbox") == netns
        ),
        None,
    )


def own_interface(result: Result, ifname: str, netns: str) -> dict[str, Any]:
    """The bond in a result's interfaces; empty without it."""
    place = own_place(result, ifname, netns)
    return {} if place is None else result.interfaces[place]


def missing(previous: Result, wanted: Wanted, netns: str, pod: Namespace) -> Iterator[str]:
    """The addresses and routes of ``previous`` that the bond lacks.

    MAC and MTU are compared with the bond's other properties (``core/differ.py``).
    """
    ifname = wanted.name
    bond = pod.named(ifname)
    if bond is None:
        return
    ours = own_place(previous, ifname, netns)
    if ours is None:
        yield f"prevResult has no interface {ifname} in {netns}"
        return
    ips = [ip for ip in previous.ips if ip.get("interface") == ours]
    yield from absent(previous, ips, bond, pod)


def absent(
    result: Result, ips: Sequence[dict[str, Any]], bond: Link, pod: Namespace
) -> Iterator[str]:
    """The addresses ``ips`` of a result, and the routes through them, that the bond lacks."""
    held = {address.address for address in pod.addresses if address.index == bond.index}
    for ip in ips:
        if _cidr(ip) not in held:
            yield f"{bond.name}: address {ip['address']} is missing"
    yield from _routes_missing(result, ips, bond, pod)


def _routes_missing(
    previous: Result, ips: Sequence[dict[str, Any]], bond: Link, pod: Namespace
) -> Iterator[str]:
    """The routes through the bond that are missing.

    A result does not say which plugin added a route. A route whose gateway is outside of the
    bond's networks belongs to another plugin, which checks it itself; a route without a gateway
    may use that of any address in the result.
    """
    import ipaddress  # noqa: PLC0415

    there = {(route.dst, route.gw) for route in pod.routes}
    addresses = [Address(bond.index, _cidr(ip)) for ip in ips]
    networks = [ipaddress.ip_interface(address.address).network for address in addresses]
    theirs = {str(ip.get("gateway") or "") for ip in previous.ips}
    for entry in previous.routes:
        alone = replace(previous, ips=tuple(ips), routes=(entry,))
        for route in _routes(alone, bond.index, addresses):
            gateway = ipaddress.ip_address(route.gw) if route.gw else None
            if entry.get("gw") and gateway and not gateway.is_link_local:
                if not any(gateway in network for network in networks):
                    continue
                held = (route.dst, route.gw) in there
            else:
                held = any((route.dst, gw) in there for gw in {route.gw, *theirs})
            if not held:
                yield f"{bond.name}: route {route.dst} via {route.gw or 'the link'} is missing"
