"""Issue 10, item 7: results of delegates and earlier plugins are checked before they are passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.test_result import BOND

from bondcni.core.config import parse, parse_leniently
from bondcni.core.errors import ConfigError
from bondcni.core.result import SUPPORTED, Result, merge, read, render, route_problems

ADDRESS = "must be an address with a prefix length"
GATEWAY = "must be an IP address without a prefix length or zone"
DST = "must be a network with a prefix length"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1/24",
        "10.0.0.0/0",
        "10.0.0.1/32",
        "10.0.0.1/024",
        "fe80::1/64",
        "::/0",
        "2001:DB8::0005/128",
        "::ffff:10.0.0.1/120",
    ],
)
def test_10_7_what_go_parses_as_a_cidr_is_accepted(address: str) -> None:
    result = read({"ips": [{"address": address}], "routes": [{"dst": address}]})
    assert result == Result(ips=({"address": address},), routes=({"dst": address},))


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "10.0.0.1/",
        "10.0.0.1/33",
        "10.0.0.1/-1",
        "10.0.0.1/+24",
        "10.0.0.1/24 ",
        " 10.0.0.1/24",
        "10.0.0.1 /24",
        "10.0.0.1/2 4",
        "10.0.0.1/24/24",
        "10.0.0.1/255.255.255.0",
        "10.0.0.1/0x18",
        "10.0.0.1/\u0662\u0664",
        "10.0.0.01/24",
        "10.0.0/24",
        "10.0.0.256/24",
        "167772161/24",
        "0x0a000001/24",
        "fe80::1%eth0/64",
        "fe80::1/64%eth0",
        "fe80::1/129",
        "fe80:::1/64",
        "[fe80::1]/64",
        "::1",
        "/24",
        "/",
        "default",
        "pod",
        5,
        True,
        1.5,
        ["10.0.0.1/24"],
        {"ip": "10.0.0.1/24"},
    ],
)
def test_10_7_an_invalid_address_or_destination_is_refused(address: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"ips": [{"address": address}], "routes": [{"dst": "::/0"}, {"dst": address}]})
    ip, route = caught.value.problems
    shown = json.dumps(address)
    assert ip.pointer == "/ips/0/address"
    assert ip.message.startswith(f"{shown} is not allowed: {ADDRESS}")
    assert route.pointer == "/routes/1/dst"
    assert route.message.startswith(f"{shown} is not allowed: {DST}")


@pytest.mark.parametrize("gateway", ["10.0.0.254", "fd00::1", "::", "", None])
def test_10_7_what_go_parses_as_a_gateway_is_accepted(gateway: str | None) -> None:
    ip = {"address": "10.0.0.1/24", "gateway": gateway}
    route = {"dst": "0.0.0.0/0", "gw": gateway}
    assert read({"ips": [ip], "routes": [route]}) == Result(ips=(ip,), routes=(route,))


@pytest.mark.parametrize(
    "gateway", ["gw", "10.0.0.1/24", "fe80::1%eth0", "10.0.0", " 10.0.0.1", "::g", 1, False, []]
)
def test_10_7_an_invalid_gateway_is_refused(gateway: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read(
            {
                "ips": [{"address": "10.0.0.1/24", "gateway": gateway}],
                "routes": [{"dst": "0.0.0.0/0", "gw": gateway}],
            }
        )
    assert [problem.pointer for problem in caught.value.problems] == [
        "/ips/0/gateway",
        "/routes/0/gw",
    ]
    for problem in caught.value.problems:
        assert problem.message == f"{json.dumps(gateway)} is not allowed: {GATEWAY}"


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({"ips": [{}]}, ["/ips/0/address"]),
        ({"ips": [{"address": ""}]}, ["/ips/0/address"]),
        ({"ips": [{"address": None}]}, ["/ips/0/address"]),
        ({"ips": [{"address": "::1/128", "interface": True}]}, ["/ips/0/interface"]),
        ({"ips": [{"address": "::1/128", "interface": "0"}]}, ["/ips/0/interface"]),
        ({"routes": [{"gw": "10.0.0.1"}]}, ["/routes/0/dst"]),
        (
            {"routes": [{"dst": "::/0", "mtu": "big", "table": 1.0, "scope": True}]},
            ["/routes/0/mtu", "/routes/0/table", "/routes/0/scope"],
        ),
        (
            {"interfaces": [{"name": "a"}, {"name": 5, "mac": [], "sandbox": 1, "mtu": "1500"}]},
            [f"/interfaces/1/{key}" for key in ("name", "mac", "sandbox", "mtu")],
        ),
        (
            {"interfaces": [{"socketPath": 1, "pciID": 2}]},
            ["/interfaces/0/socketPath", "/interfaces/0/pciID"],
        ),
        (
            {"ip4": {"ip": "10.0.0.5", "gateway": "gw", "routes": [{"dst": "default"}]}},
            ["/ip4/ip", "/ip4/gateway", "/ip4/routes/0/dst"],
        ),
        (
            {"ip4": {"ip": 5}, "ip6": {"gateway": "::1"}, "dns": 1},
            ["/ip4/ip", "/ip6/ip", "/dns"],
        ),
    ],
)
def test_10_7_every_problem_has_its_pointer(document: Any, pointers: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(document)
    assert [problem.pointer for problem in caught.value.problems] == pointers


def test_10_7_calicos_own_route_is_accepted() -> None:
    """Calico 3.32 and later: the destination has host bits."""
    answer = {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.0.0.5/26"}],
        "routes": [{"dst": "10.0.0.5/26"}, {"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
    }
    assert read(answer).routes == ({"dst": "10.0.0.5/26"}, {"dst": "0.0.0.0/0", "gw": "10.0.0.1"})


@pytest.mark.parametrize("version", SUPPORTED[:2])
def test_10_7_an_old_result_is_accepted(version: str) -> None:
    answer = {
        "cniVersion": version,
        "ip4": {"ip": "10.0.0.5/24", "gateway": "", "routes": [{"dst": "0.0.0.0/0", "gw": ""}]},
        "ip6": None,
    }
    result = read(answer)
    assert result.ips == ({"address": "10.0.0.5/24"},)
    assert render(merge(Result(), BOND, result, {}), version)["ip4"]["ip"] == "10.0.0.5/24"


def test_10_7_numbers_that_no_route_can_have() -> None:
    routes = [
        {"dst": "::/0", "mtu": 1400, "table": 0xFFFFFFFF, "scope": 253, "priority": None},
        {"dst": "::/0", "mtu": -1, "table": 1 << 32, "scope": 256, "priority": -5, "advmss": -1},
    ]
    assert {problem.pointer for problem in route_problems(read({"routes": routes}))} == {
        f"/routes/1/{key}" for key in ("mtu", "table", "scope", "priority", "advmss")
    }


def test_10_7_problems_of_prevresult_come_with_the_others() -> None:
    previous = {"ips": [{"address": "10.0.0.1", "gateway": "gw"}], "routes": [{"dst": "default"}]}
    asked = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bond",
        "mode": "active-backup",
        "miimon": 100,
        "mtu": "big",
        "links": [{"name": "eth1"}, {"name": "eth2"}],
        "prevResult": previous,
    }
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps(asked).encode())
    assert caught.value.code == 7
    assert {problem.pointer for problem in caught.value.problems} == {
        "/mtu",
        "/prevResult/ips/0/address",
        "/prevResult/ips/0/gateway",
        "/prevResult/routes/0/dst",
    }
    assert len(parse_leniently(json.dumps(asked).encode()).links) == 2, "DEL goes on"
