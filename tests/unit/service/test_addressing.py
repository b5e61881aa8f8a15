"""A delegate's result on the bond, and looked for again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.unit.core.world import mac, space

from bondcni.core.plan import Wanted
from bondcni.core.result import Result
from bondcni.core.state import Address, Link, Namespace, Route
from bondcni.kernel.namespaces import Namespaces
from bondcni.service.addressing import configure, missing

NETNS = "/run/netns/pod"
WANTED = Wanted(50, "net1", "", {"mode": 1}, 1500, "", ())


class Recorder:
    """A node that notes what it is told to do."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.routes: list[Route] = []

    def add_addresses(self, _bond: Wanted, addresses: Sequence[Address], _warn: object) -> None:
        self.addresses += addresses

    def add_routes(self, routes: Sequence[Route]) -> None:
        self.routes += routes


def configured(*ips: dict[str, Any], routes: Sequence[dict[str, Any]] = ()) -> Recorder:
    node = Recorder()
    configure(cast("Namespaces", node), WANTED, Result(ips=ips, routes=tuple(routes)), warn=print)
    return node


V4 = {"address": "10.0.0.5/24", "gateway": "10.0.0.1"}
V6 = {"address": "2001:DB8::0005/64", "gateway": "2001:db8::1"}


def test_addresses_are_in_their_canonical_form() -> None:
    assert configured(V4, V6, {"address": "10.9.9.9"}).addresses == [
        Address(50, "10.0.0.5/24"),
        Address(50, "2001:db8::5/64"),
        Address(50, "10.9.9.9/32"),
    ]


@pytest.mark.parametrize(
    ("route", "made"),
    [
        ({"dst": "0.0.0.0/0"}, Route("0.0.0.0/0", "10.0.0.1", 50)),
        ({"dst": "::/0"}, Route("::/0", "2001:db8::1", 50)),
        ({"dst": "10.1.0.0/16", "gw": "10.0.0.9"}, Route("10.1.0.0/16", "10.0.0.9", 50)),
        ({"dst": "10.1.2.3/16"}, Route("10.1.0.0/16", "10.0.0.1", 50)),  # host bits
        ({"dst": "::/0", "gw": "2001:DB8:0::9"}, Route("::/0", "2001:db8::9", 50)),
        (
            {"dst": "10.1.0.0/16", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 9},
            Route("10.1.0.0/16", "10.0.0.1", 50, 9, 1400, 1360, 7),
        ),
    ],
)
def test_a_route(route: dict[str, Any], made: Route) -> None:
    second = {"address": "10.2.0.5/24", "gateway": "10.2.0.1"}  # the first gateway counts
    assert configured(V4, second, V6, routes=[route]).routes == [made]


def test_a_route_without_any_gateway_is_on_the_link() -> None:
    addresses = ({"address": "10.0.0.5/24"}, {"address": "2001:db8::5/64"})
    routes = [{"dst": "10.1.0.0/16"}, {"dst": "2001:db8:1::/48"}]
    assert configured(*addresses, routes=routes).routes == [
        Route("10.1.0.0/16", "", 50, scope=253),
        Route("2001:db8:1::/48", "", 50, scope=0),
    ]


def test_a_route_that_the_address_makes_is_left_out() -> None:
    """Calico 3.32 and later hand out such routes, with host bits."""
    assert configured(V4, routes=[{"dst": "10.0.0.5/24"}]).routes == []
    kept = configured(V4, routes=[{"dst": "10.0.0.0/24", "gw": "10.0.0.9"}]).routes
    assert kept == [Route("10.0.0.0/24", "10.0.0.9", 50)]


def test_no_addresses_touch_nothing() -> None:
    node = configured()
    assert (node.addresses, node.routes) == ([], [])


BOND = Link(50, "net1", mac(1), kind="bond")
HELD = space(
    BOND,
    addresses=(Address(50, "10.0.0.5/24"), Address(50, "fe80::1/64", 253)),
    routes=(Route("0.0.0.0/0", "10.0.0.1", 50), Route("10.0.0.0/24", "", 50)),
)
PREVIOUS = Result(
    interfaces=(
        {"name": "eth0", "sandbox": NETNS},
        {"name": "net1", "mac": mac(1), "sandbox": NETNS},
    ),
    ips=({"address": "10.9.0.5/32", "interface": 0}, {**V4, "interface": 1}),
    routes=({"dst": "0.0.0.0/0"},),
)


def lacking(pod: Namespace, previous: Result = PREVIOUS, wanted: Wanted = WANTED) -> list[str]:
    return list(missing(previous, wanted, NETNS, pod))


def test_what_is_there_is_not_missing() -> None:
    assert lacking(HELD) == []


@pytest.mark.parametrize(
    ("pod", "previous", "said"),
    [
        (
            replace(HELD, addresses=(Address(1, "10.0.0.5/24"),)),  # on another link
            PREVIOUS,
            "net1: address 10.0.0.5/24 is missing",
        ),
        (replace(HELD, routes=()), PREVIOUS, "net1: route 0.0.0.0/0 via 10.0.0.1 is missing"),
        (
            HELD,
            replace(
                PREVIOUS,
                routes=({"dst": "10.1.0.0/16"},),
                ips=({**V4, "gateway": ""} | {"interface": 1},),
            ),
            "net1: route 10.1.0.0/16 via the link is missing",
        ),
        (HELD, Result(), f"prevResult has no interface net1 in {NETNS}"),
        (
            HELD,
            Result(interfaces=({"name": "net1", "sandbox": "/run/netns/other"},)),
            f"prevResult has no interface net1 in {NETNS}",
        ),
    ],
)
def test_what_is_missing_is_told(pod: Namespace, previous: Result, said: str) -> None:
    assert lacking(pod, previous) == [said]


def test_the_mac_is_compared_elsewhere() -> None:
    assert lacking(replace(HELD, links=(replace(BOND, mac=mac(2)),))) == []


def test_a_bond_that_is_not_there_is_told_by_others() -> None:
    assert lacking(space()) == []
