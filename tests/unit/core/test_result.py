"""CNI results of every version: read, merged and rendered."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.cni_schemas import SCHEMAS
from tests.unit.core.world import mac

from bondcni.core.errors import ConfigError
from bondcni.core.result import SUPPORTED, Result, at_least, merge, merge_dns, read, render

BOND = {"name": "net1", "mac": mac(1), "sandbox": "/run/netns/pod", "mtu": 1500}
DELEGATE = Result(
    ips=(
        {"address": "10.0.0.5/24", "gateway": "10.0.0.1"},
        {"address": "10.0.0.6/24"},
        {"address": "2001:db8::5/64", "gateway": "2001:db8::1"},
    ),
    routes=(
        {"dst": "0.0.0.0/0"},
        {"dst": "192.168.0.0/16", "gw": "10.0.0.9", "mtu": 1400, "table": 5},
        {"dst": "::/0"},
    ),
    dns={"nameservers": ["10.0.0.2"], "domain": "a.example"},
)
FULL = merge(Result(), BOND, DELEGATE, {})
OLD = SUPPORTED[:2]
NEW = SUPPORTED[2:]


def test_every_supported_version_has_a_schema() -> None:
    assert tuple(SCHEMAS) == SUPPORTED


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("result", [FULL, Result(), merge(Result(), BOND, Result(), {})])
def test_a_result_has_the_shape_of_its_version(version: str, result: Result) -> None:
    document = render(result, version)
    jsonschema.validate(document, SCHEMAS[version])
    assert document["cniVersion"] == version


@pytest.mark.parametrize("version", OLD)
def test_versions_before_0_3_0_have_one_address_of_each_family(version: str) -> None:
    assert render(FULL, version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.0.0.5/24",
            "gateway": "10.0.0.1",
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.0.0.9"}],
        },
        "ip6": {
            "ip": "2001:db8::5/64",
            "gateway": "2001:db8::1",
            "routes": [{"dst": "::/0"}],
        },
        "dns": {"nameservers": ["10.0.0.2"], "domain": "a.example"},
    }


def test_keys_that_a_version_does_not_have_are_left_out() -> None:
    newest, before = render(FULL, "1.1.0"), render(FULL, "1.0.0")
    assert newest["interfaces"] == [BOND]
    assert newest["routes"][1] == DELEGATE.routes[1]
    assert before["interfaces"] == [{k: v for k, v in BOND.items() if k != "mtu"}]
    assert before["routes"][1] == {"dst": "192.168.0.0/16", "gw": "10.0.0.9"}


@pytest.mark.parametrize("version", NEW)
def test_an_address_has_its_version_up_to_0_4_0(version: str) -> None:
    families = [ip.get("version") for ip in render(FULL, version)["ips"]]
    assert families == ([None] * 3 if at_least(version, "1.0.0") else ["4", "4", "6"])


@pytest.mark.parametrize("version", NEW)
def test_dns_is_left_out_when_empty_from_1_0_0(version: str) -> None:
    assert ("dns" in render(Result(), version)) is not at_least(version, "1.0.0")


@pytest.mark.parametrize("version", SUPPORTED)
def test_round_trip_of_what_a_version_can_express(version: str) -> None:
    there = read(render(FULL, version))
    again = read(render(there, version))
    assert there == again
    assert there.dns == FULL.dns
    assert [ip["address"] for ip in there.ips] == [
        ip["address"] for ip in FULL.ips if version in NEW or ip["address"] != "10.0.0.6/24"
    ]


def test_round_trip_of_the_newest_version_is_complete() -> None:
    assert read(render(FULL, "1.1.0")) == FULL


def test_the_previous_result_is_kept_and_the_bond_appended() -> None:
    before = read(
        {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cali1"}, {"name": "eth0", "sandbox": "/run/netns/pod"}],
            "ips": [{"address": "10.9.0.5/32", "interface": 1}, {"address": "10.9.0.6/32"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            "dns": {"nameservers": ["10.9.0.2"]},
        }
    )
    merged = merge(before, BOND, DELEGATE, {"nameservers": ["10.9.0.2", "10.8.0.2"]})
    assert merged.interfaces == (*before.interfaces, BOND)
    assert merged.ips[:2] == before.ips
    assert [ip["interface"] for ip in merged.ips[2:]] == [2, 2, 2]
    assert [ip["address"] for ip in merged.ips[2:]] == [ip["address"] for ip in DELEGATE.ips]
    assert merged.routes == (*before.routes, *DELEGATE.routes)
    assert merged.dns["nameservers"] == ["10.9.0.2", "10.0.0.2", "10.8.0.2"]


def test_interface_indexes_of_the_delegate_are_replaced() -> None:
    ipam = Result(ips=({"address": "10.0.0.5/24", "interface": 7},))
    assert merge(Result(), BOND, ipam, {}).ips == ({"address": "10.0.0.5/24", "interface": 0},)


def test_merging_changes_none_of_its_parts() -> None:
    before = Result(dns={"search": ["a"]})
    merge(before, BOND, DELEGATE, {"search": ["b"]})
    assert before == Result(dns={"search": ["a"]})
    assert "interface" not in DELEGATE.ips[0]


@pytest.mark.parametrize(
    ("parts", "merged"),
    [
        (({}, {}), {}),
        (({"domain": "a"}, {"domain": ""}), {"domain": "a"}),
        (({"domain": "a"}, {"domain": "b"}), {"domain": "b"}),
        (({"search": ["a", "b"]}, {"search": ["b", "c"]}), {"search": ["a", "b", "c"]}),
        (({"options": ["ndots:2"]}, {"nameservers": []}), {"options": ["ndots:2"]}),
    ],
)
def test_dns_is_merged(parts: tuple[dict[str, Any], ...], merged: dict[str, Any]) -> None:
    assert merge_dns(*parts) == merged


@pytest.mark.parametrize("version", OLD)
def test_a_result_of_a_delegate_in_an_old_version(version: str) -> None:
    answer = {
        "cniVersion": version,
        "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "2001:db8::5/64"},
        "dns": {"domain": "a.example", "search": []},
    }
    assert read(answer) == Result(
        ips=({"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "2001:db8::5/64"}),
        routes=({"dst": "0.0.0.0/0"},),
        dns={"domain": "a.example"},
    )


def test_an_answer_of_0_4_0_loses_its_version_field() -> None:
    answer = {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.5/24"}]}
    assert read(answer).ips == ({"address": "10.0.0.5/24"},)


@pytest.mark.parametrize("empty", [{}, {"ips": None, "dns": None}, {"cniVersion": "0.2.0"}])
def test_a_result_may_be_empty(empty: dict[str, Any]) -> None:
    assert read(empty) == Result()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "/: a result must be an object"),
        (None, "/: a result must be an object"),
        ({"ips": "x"}, "/ips: must be a list of objects"),
        ({"ips": [1]}, "/ips: must be a list of objects"),
        ({"routes": [None]}, "/routes: must be a list of objects"),
        ({"dns": "x"}, "/dns: must be an object"),
        ({"ip4": {"ip": "10.0.0.5/24"}, "dns": "x"}, "/dns: must be an object"),
        ({"dns": {"nameservers": "10.0.0.2"}}, "/dns/nameservers: must be a list of strings"),
        ({"dns": {"search": [1]}}, "/dns/search: must be a list of strings"),
        ({"dns": {"domain": ["a"]}}, "/dns/domain: must be a string"),
        ({"ip4": "10.0.0.5/24"}, "/ip4: must be an object with an ip in CIDR notation"),
        ({"ip4": {"ip": "10.0.0.5/24", "routes": {"dst": "x"}}}, "/ip4/routes: must be a list"),
    ],
)
def test_not_a_result(document: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(document)
    assert caught.value.message.startswith(said)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["ips", "address", "ip4", "ip", "routes", "dst", "gw", "dns", "domain", "search"]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON, st.sampled_from(SUPPORTED))
def test_any_json_is_a_result_that_can_be_answered_or_refused(document: Any, version: str) -> None:
    with suppress(ConfigError):
        result = read(document)
        merged = merge(result, BOND, result, result.dns)
        assert render(merged, version)["cniVersion"] == version
