"""Issue 10, items 13, 15 and 16: keys without effect, the minimum MTU for IPv6, failOverMac 1."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.test_config import problems, read

from bondcni.core.runtime_config import ignored_cni_args, unassigned_addresses

MAC = "02:00:00:00:00:77"


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"kubernetes": {}},
            "/kubernetes: is a setting of calico-ipam and has no effect without it",
        ),
        (
            {"log_level": "x"},
            "/log_level: is a setting of calico-ipam and has no effect without it",
        ),
        (
            {"datastore_type": "x", "ipam": {"type": "static"}},
            "/datastore_type: is a setting of calico-ipam and has no effect without it",
        ),
        (
            {"spoofChk": "off"},
            (
                "/spoofChk: has no effect on a bond: write it in the sriov-cni configuration of the "
                "links"
            ),
        ),
        (
            {"mac": MAC},
            (
                "/mac: has no effect on a bond: enable this capability, so that the runtime passes it "
                "in runtimeConfig, or write it in args.cni"
            ),
        ),
        ({"args": "x"}, '/args: "x" has no effect: write an object, { ... }'),
        ({"args": {"cni": []}}, "/args/cni: [] has no effect: write an object, { ... }"),
        (
            {"args": {"cni": {"macs": MAC}}},
            '/args/cni/macs: has no effect without an IPAM plugin: did you mean "mac"?',
        ),
        (
            {"runtimeConfig": {"portMappings": []}},
            (
                "/runtimeConfig/portMappings: has no effect on a bond: add the portmap plugin after "
                "bond in the list of plugins"
            ),
        ),
        (
            {"runtimeConfig": {"bandwidth": {}}, "ipam": {"type": "static"}},
            (
                "/runtimeConfig/bandwidth: has no effect on a bond: add the bandwidth plugin "
                "after bond in the list of plugins"
            ),
        ),
        (
            {"runtimeConfig": {"ipRanges": []}},
            "/runtimeConfig/ipRanges: has no effect without an IPAM plugin",
        ),
        (
            {"runtimeConfig": {"mac": MAC}, "args": {"cni": {"mac": "02:00:00:00:00:78"}}},
            '/args/cni/mac: "02:00:00:00:00:78" has no effect: /runtimeConfig/mac takes precedence',
        ),
        (
            {"ipam": {"type": "", "subnet": "10.0.0.0/24"}},
            (
                "/ipam: has no type, so no IPAM plugin is called: write the name of an IPAM plugin "
                'as "type"'
            ),
        ),
        (
            {"dns": {"nameserver": ["10.0.0.1"]}},
            '/dns/nameserver: unknown key, ignored: did you mean "nameservers"?',
        ),
        ({"delegate": {}}, "/delegate: unknown key, ignored"),
    ],
)
def test_10_13_a_key_without_effect_is_warned_about_by_name(
    changes: dict[str, Any], warning: str
) -> None:
    assert read(**changes).warnings == (warning,)


@pytest.mark.parametrize(
    "changes",
    [
        {"runtimeConfig": {"ipRanges": [], "mac": MAC}, "ipam": {"type": "host-local"}},
        {"runtimeConfig": {"deviceID": "x", "CNIDeviceInfoFile": "/x"}},
        {"runtimeConfig": {"ips": [], "mac": ""}, "args": {"cni": {"ips": None}}},
        {"runtimeConfig": {"mac": MAC}, "args": {"cni": {"mac": MAC}}},
        {"args": {"cni": {"x": 1}}, "ipam": {"type": "whereabouts"}},
        {"ipam": {"type": ""}},
        {"dns": {"nameservers": ["10.0.0.1"], "domain": "x", "search": [], "options": []}},
    ],
)
def test_10_13_no_warning_of_keys_with_an_effect_or_from_the_runtime(
    changes: dict[str, Any],
) -> None:
    assert read(**changes).warnings == ()


def test_10_13_addresses_that_the_ipam_plugin_did_not_assign() -> None:
    asked = ("10.0.0.5/24", "fd00::5/64")
    assert unassigned_addresses(asked, ["10.0.0.5/16", "fd00::5/64"]) == ""
    assert unassigned_addresses(asked, ["10.0.0.9/24"]) == "10.0.0.5/24, fd00::5/64"


@pytest.mark.parametrize(
    ("given", "mac", "ipam", "said"),
    [
        ("", "", False, []),
        ("IgnoreUnknown=1;K8S_POD_NAME=a", "", False, []),
        (f"MAC={MAC}", "", True, [("MAC", "mac")]),
        (f"MAC={MAC};IP=10.0.0.5/24", "", False, [("MAC", "mac"), ("IP", "ips")]),
        ("IP=10.0.0.5/24", "", True, []),
        (f"MAC={MAC}", MAC, True, []),
        (f"MAC={MAC}", "02:00:00:00:00:78", True, [("MAC", "mac")]),
        ("MAC=x", "", True, [("MAC", "mac")]),
        ("MAC=;IP;;=", "", False, []),
    ],
)
def test_10_13_cni_args_without_effect(
    given: str,
    mac: str,
    ipam: bool,  # noqa: FBT001
    said: list[tuple[str, str]],
) -> None:
    words = list(ignored_cni_args(given, mac, ipam=ipam))
    assert len(words) == len(said)
    for word, (name, capability) in zip(words, said, strict=True):
        assert word.startswith(f"CNI_ARGS: {name}=")
        assert word.endswith(f'write "capabilities": {{"{capability}": true}} in the configuration')


V6 = "fd00::5/64"


@pytest.mark.parametrize(
    "changes",
    [
        {"runtimeConfig": {"ips": ["10.0.0.5/24", V6]}},
        {"args": {"cni": {"ips": [V6]}}},
        {"ipam": {"type": "static", "addresses": [{"address": "10.0.0.5/24"}, {"address": V6}]}},
        {"ipam": {"type": "static"}, "runtimeConfig": {"ips": [V6]}},
        {"ipam": {"type": "host-local", "subnet": V6}},
        {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": V6}]]}},
        {"ipam": {"type": "host-local"}, "runtimeConfig": {"ipRanges": [[{"subnet": V6}]]}},
    ],
)
def test_10_15_an_mtu_that_is_too_small_for_ipv6(changes: dict[str, Any]) -> None:
    assert problems(mtu=1279, **changes) == {
        "/mtu": "1279 is below the minimum MTU for IPv6 (1280), which fd00::5/64 requires: "
        "write an mtu of 1280 or more, or use no IPv6 address"
    }
    assert read(mtu=1280, **changes).mtu == 1280
    assert read(**changes).mtu is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"runtimeConfig": {"ips": ["10.0.0.5/24"]}},
        {"ipam": {"type": "dhcp"}, "runtimeConfig": {"ips": [V6]}},  # which it does not look at
        {"ipam": {"type": "static", "addresses": [{"address": V6}]},
         "runtimeConfig": {"ips": ["10.0.0.5/24"]}},  # which it takes instead
        {"ipam": {"type": "static", "addresses": [7, {"address": 7}, {}]}},
        {"ipam": {"type": "host-local", "subnet": 7, "ranges": [7, [7, {}], {}]}},
        {"ipam": {"type": "host-local", "ranges": 7}, "runtimeConfig": {"ipRanges": 7}},
    ],
)  # fmt: skip
def test_10_15_a_small_mtu_without_a_known_ipv6_address(changes: dict[str, Any]) -> None:
    assert read(mtu=1000, **changes).mtu == 1000


BY_CAPABILITY = {"capabilities": {"mac": True}, "runtimeConfig": {"mac": MAC}}


@pytest.mark.parametrize(
    ("changes", "where"),
    [(BY_CAPABILITY, "/runtimeConfig/mac"), ({"args": {"cni": {"mac": MAC}}}, "/args/cni/mac")],
)
def test_10_16_a_mac_from_the_runtime_is_left_out_with_a_warning(
    changes: dict[str, Any], where: str
) -> None:
    config = read(failOverMac=1, **changes)
    assert config.mac == ""
    assert config.warnings == (
        (
            f"{where}: {MAC} is not set: with failOverMac 1 the bond takes the MAC of its active "
            "member: write failOverMac 0 or 2 if the members can change their MAC"
        ),
    )


@pytest.mark.parametrize("capabilities", [None, {}, {"mac": False}, {"ips": True}, "x"])
def test_10_16_a_mac_in_the_configuration_itself_is_a_problem(capabilities: Any) -> None:
    found = problems(failOverMac="active", runtimeConfig={"mac": MAC}, capabilities=capabilities)
    assert found == {
        "/runtimeConfig/mac": f"{MAC} cannot be set: with failOverMac 1 the bond takes the MAC of "
        "its active member: remove mac, or write failOverMac 0 or 2 if the members can change "
        "their MAC"
    }


@pytest.mark.parametrize(
    "changes",
    [{"failOverMac": 0}, {"failOverMac": 2}, {}, {"mode": 0, "failOverMac": 1}],
)
def test_10_16_a_mac_that_the_bond_can_have(changes: dict[str, Any]) -> None:
    assert read(runtimeConfig={"mac": MAC}, **changes).mac == MAC
