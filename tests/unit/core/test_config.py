"""Valid and invalid configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondcni.core.config import PARAMETERS, BondConfig, LinkRef, parse, parse_leniently
from bondcni.core.errors import BondError, ConfigError, InputError, VersionError
from bondcni.core.options import BOND_OPTIONS
from bondcni.core.result import SUPPORTED, Result

HOST_LINKS = """{
    "cniVersion": "0.3.1",
    "name": "bond0",
    "type": "bond",
    "ifname": "net1",
    "mode": "active-backup",
    "miimon": "100",
    "failOverMac": 1,
    "links": [
      { "name": "eth1000" },
      { "name": "eth1001" }
    ],
    "ipam": {
      "type": "calico-ipam",
      "assign_ipv4": "true",
      "ipv4_pools": ["mypool"]
    },
    "kubernetes": {
      "kubeconfig": "/etc/cni/net.d/calico-kubeconfig"
    },
    "datastore_type": "kubernetes"
  }"""

LACP = """{
    "cniVersion": "0.3.1",
    "name": "bond0",
    "ifname": "bond0",
    "type": "bond",
    "mode": "802.3ad",
    "miimon": "100",
    "linksInContainer": true,
    "links": [
      { "name": "net1" },
      { "name": "net2" }
    ],
    "ipam": {
      "type": "static",
      "addresses": [{ "address": ""}]
    }
  }"""

ABSENT = object()


def document(**changes: Any) -> dict[str, Any]:
    found = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bond",
        "mode": "active-backup",
        "miimon": 100,
        "links": [{"name": "a"}, {"name": "b"}],
        **changes,
    }
    return {key: value for key, value in found.items() if value is not ABSENT}


def read(**changes: Any) -> BondConfig:
    return parse(json.dumps(document(**changes)).encode())


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        read(**changes)
    found = {p.pointer: f"{p.message}: {p.advice}" for p in refused.value.problems}
    assert len(found) == len(refused.value.problems)
    return found


def test_the_first_published_case() -> None:
    config = parse(HOST_LINKS.encode())
    assert replace(config, raw={}) == BondConfig(
        cni_version="0.3.1",
        name="bond0",
        mode=1,
        options={"miimon": 100, "fail_over_mac": 1},
        links=(LinkRef("name", "eth1000"), LinkRef("name", "eth1001")),
        links_in_container=False,
        mtu=None,
        mtu_inherit=False,
        ifname="net1",
        ipam={"type": "calico-ipam", "assign_ipv4": "true", "ipv4_pools": ["mypool"]},
        warnings=(),
    )
    assert config.raw == json.loads(HOST_LINKS)


def test_the_second_published_case() -> None:
    config = parse(LACP.encode())
    assert config.mode == 4
    assert config.options == {"miimon": 100}
    assert config.links == (LinkRef("name", "net1"), LinkRef("name", "net2"))
    assert config.links_in_container is True
    assert config.ipam == {"type": "static", "addresses": [{"address": ""}]}
    assert config.warnings == ()


def test_defaults() -> None:
    config = read()
    assert config.options == {"miimon": 100}
    assert (config.mtu, config.mtu_inherit, config.links_in_container) == (None, False, False)
    assert (config.ifname, config.ipam, config.dns, config.mac, config.ips) == (
        "",
        None,
        {},
        "",
        (),
    )
    assert config.prev_result is None
    assert config.warnings == ()


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_version(version: str) -> None:
    assert read(cniVersion=version).cni_version == version


@pytest.mark.parametrize("version", [ABSENT, None, ""])
def test_an_absent_version_is_0_1_0(version: Any) -> None:
    assert read(cniVersion=version).cni_version == "0.1.0"


@pytest.mark.parametrize("version", ["2.0.0", "1.1", 1.0, [], {"a": 1}, "v1.0.0"])
def test_unsupported_versions(version: Any) -> None:
    with pytest.raises(VersionError) as refused:
        read(cniVersion=version, mode="nonsense")
    assert json.dumps(version) in refused.value.message
    assert "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in refused.value.details


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"bond"',
        b"null",
        b'{"mtu": NaN}',
        b'{"mtu": -Infinity}',
        b'{"x": 1e999}',
        b'{"name": "\xff"}',
        b'{"miimon": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b"{} {}",
        "{}".encode("utf-16"),
    ],
)
def test_not_a_json_object(text: bytes) -> None:
    with pytest.raises(InputError):
        parse(text)
    assert parse_leniently(text).links == ()
    assert parse_leniently(text).warnings


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse(b"\xef\xbb\xbf" + HOST_LINKS.encode()) == parse(HOST_LINKS.encode())


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        name="-x",
        mode="active",
        miimon=-5,
        mtu=10,
        linksInContainer="maybe",
        links=[{"name": "a"}],
        ipam={"type": "../sh"},
        dns=[],
        options={"lacpRat": 1, "mtu": 9000, "queueId": 1},
        runtimeConfig={"mac": "01:00:00:00:00:01", "ips": ["10.0.0.256/24"]},
    )
    assert set(found) == {
        "/name", "/mode", "/miimon", "/mtu", "/linksInContainer", "/links",
        "/ipam/type", "/dns", "/options/lacpRat", "/options/mtu", "/options/queueId",
        "/runtimeConfig/mac", "/runtimeConfig/ips/0",
    }  # fmt: skip
    assert 'did you mean "lacpRate"?' in found["/options/lacpRat"]
    assert "top level" in found["/options/mtu"]
    assert "links" in found["/options/queueId"]
    assert "balance-rr, active-backup" in found["/mode"]
    assert "0 to 2147483647 ms" in found["/miimon"]
    assert "68 to 65535" in found["/mtu"]


@pytest.mark.parametrize("name", [ABSENT, None, "", 7, "a b", ".a", "a/b", "ä"])
def test_names(name: Any) -> None:
    assert set(problems(name=name)) == {"/name"}


def test_the_type_may_be_any_string() -> None:
    assert read(type="my-bond").warnings == ()
    assert "/type" in read(type=ABSENT).warnings[0]
    assert set(problems(type=1)) == {"/type"}


@pytest.mark.parametrize("mode", [ABSENT, None])
def test_the_mode_is_required(mode: Any) -> None:
    assert problems(mode=mode) == {
        "/mode": "is required: write one of balance-rr, active-backup, balance-xor, broadcast, "
        "802.3ad, balance-tlb, balance-alb (or 0 to 6)"
    }


def test_miimon_is_required_and_the_error_says_what_to_write() -> None:
    assert '"miimon": 100' in problems(miimon=ABSENT)["/miimon"]
    assert "arpInterval" in problems(miimon=None)["/miimon"]
    assert set(problems(miimon=ABSENT, arpInterval=100)) == {"/miimon"}


def test_arp_monitoring_instead() -> None:
    config = read(miimon=ABSENT, arpInterval=100, arpIpTarget="10.0.0.1")
    assert config.options == {"arp_interval": 100, "arp_ip_target": ("10.0.0.1",)}
    config = read(miimon=ABSENT, options={"arp_interval": "100", "ns_ip6_target": ["fd00::1"]})
    assert config.options == {"arp_interval": 100, "ns_ip6_target": ("fd00::1",)}


def test_both_monitors_are_a_problem() -> None:
    assert set(problems(arpInterval=100, arpIpTarget="10.0.0.1")) == {"/arpInterval"}


def test_miimon_zero_is_accepted_with_a_warning() -> None:
    assert "0 disables link monitoring" in read(miimon="0", mode="802.3ad").warnings[0]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"xmitHashPolicy": "layer3+4"}, {"xmit_hash_policy": 1}),
        ({"allSlavesActive": 1}, {"all_slaves_active": 1}),
        ({"allSlavesActive": None}, {}),
        ({"failOverMac": "active"}, {"fail_over_mac": 1}),
        ({"failOverMac": 0}, {"fail_over_mac": 0}),
        ({"fail_over_mac": "1"}, {"fail_over_mac": 1}),
        ({"FailOverMac": 2}, {"fail_over_mac": 2}),
        ({"options": {"num_grat_arp": 3}}, {"num_peer_notif": 3}),
        ({"options": None}, {}),
        ({"options": {"miimon": "100"}}, {}),
        ({"failOverMac": 1, "options": {"fail_over_mac": "active"}}, {"fail_over_mac": 1}),
    ],
)
def test_options_in_any_spelling_and_place(changes: dict[str, Any], options: Any) -> None:
    assert read(**changes).options == {"miimon": 100, **options}


def test_an_option_given_twice() -> None:
    found = problems(failOverMac=1, options={"fail_over_mac": 2})
    said = "follow conflicts with active at /failOverMac: remove one of them"
    assert found == {"/options/fail_over_mac": said}


def test_the_mode_may_be_in_options() -> None:
    assert read(mode=ABSENT, options={"mode": 6}).mode == 6
    assert set(problems(options={"mode": 6})) == {"/options/mode"}


@pytest.mark.parametrize("mode", ["balance-tlb", 6, "5"])
def test_tlb_dynamic_lb_as_in_the_go_plugin(mode: Any) -> None:
    assert read(mode=mode, tlbDynamicLb=0).options["tlb_dynamic_lb"] == 0
    assert set(problems(tlbDynamicLb=0)) == {"/tlbDynamicLb"}


def test_a_problem_points_at_the_spelling_that_was_used() -> None:
    assert set(problems(options={"lacp_rate": "fast"})) == {"/options/lacp_rate"}
    assert set(problems(LacpRate="fast")) == {"/LacpRate"}


def test_a_delay_is_rounded_as_the_kernel_rounds_it() -> None:
    config = read(updelay=250)
    assert config.options == {"miimon": 100, "updelay": 200}
    assert config.warnings == (
        "/updelay: 250 is not a multiple of miimon: the kernel rounds it down to 200",
    )


def test_keys_of_other_tools_cause_no_warning() -> None:
    others = {
        "capabilities": {"ips": True}, "deviceID": "0000:00:01.0", "pciBusID": "x",
        "cni.dev/valid-attachments": [], "_comment": "x", "args": {"other": 1},
        "kubernetes": {}, "datastore_type": "kubernetes", "log_level": "info",
        "log_file_path": "/x", "etcd_endpoints": "x", "ipam": {"type": "calico-ipam"},
    }  # fmt: skip
    assert read(**others).warnings == ()


def test_unknown_keys_cause_warnings() -> None:
    warnings = read(mimon=1, lnksInContainer=True, vlan=5).warnings
    assert warnings == (
        '/mimon: unknown key, ignored: did you mean "miimon"?',
        '/lnksInContainer: unknown key, ignored: did you mean "linksInContainer"?',
        "/vlan: unknown key, ignored",
    )


def test_keys_are_case_insensitive_as_in_go() -> None:
    text = (
        HOST_LINKS.replace('"mode"', '"Mode"').replace('"links"', '"LINKS"')
        .replace('"ipam"', '"IPAM"').replace('"miimon"', '"MiiMon"')
    )  # fmt: skip
    config = parse(text.encode())
    assert replace(config, raw={}) == replace(parse(HOST_LINKS.encode()), raw={})
    assert {"links", "ipam"} <= set(config.raw)


def test_of_a_repeated_key_the_last_one_is_used_as_in_go() -> None:
    config = parse(b'{"mtu": 1000,' + HOST_LINKS.encode()[1:-1] + b', "mtu": 1400}')
    assert config.mtu == 1400
    assert any('"mtu" appears twice' in warning for warning in config.warnings)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (ABSENT, (None, False)), (None, (None, False)), (0, (None, False)),
        (1500, (1500, False)), ("9000", (9000, False)), (68, (68, False)),
        (65535, (65535, False)), ("inherit", (None, True)), ("Inherit", (None, True)),
    ],
)  # fmt: skip
def test_mtu(raw: Any, value: Any) -> None:
    config = read(mtu=raw)
    assert (config.mtu, config.mtu_inherit) == value


@pytest.mark.parametrize("raw", [67, 65536, -1, True, False, 1500.0, "", "x", [1500], {}])
def test_mtu_refused(raw: Any) -> None:
    assert set(problems(mtu=raw)) == {"/mtu"}


@pytest.mark.parametrize(
    ("raw", "value"),
    [(True, True), (False, False), (None, False), ("true", True), ("off", False), (1, True),
     (0, False), ("0", False), ("1", True)],
)  # fmt: skip
def test_links_in_container(raw: Any, value: bool) -> None:  # noqa: FBT001
    assert read(linksInContainer=raw).links_in_container is value


@pytest.mark.parametrize("raw", [2, 1.0, 0.0, "x", [], {}])
def test_links_in_container_refused(raw: Any) -> None:
    assert set(problems(linksInContainer=raw)) == {"/linksInContainer"}


@pytest.mark.parametrize("name", ["net1", "a" * 15, None, "", "bond.100"])
def test_ifname(name: Any) -> None:
    assert read(ifname=name).ifname == (name or "")


@pytest.mark.parametrize("name", ["a" * 16, "ä" * 8, "a b", "a:b", "a/b", ".", "..", 1, "\ud800"])
def test_10_2_an_ifname_that_no_interface_can_have_is_left_out(name: Any) -> None:
    config = read(ifname=name)
    assert config.ifname == ""
    (warning,) = config.warnings
    assert warning.startswith(f"/ifname: alternative name {json.dumps(name)} is left out: an inter")


def test_links_by_name_mac_and_pci() -> None:
    links = [
        {"name": "eth0", "queue_id": 1, "prio": "-5"},
        {"mac": "02-AA-00-00-00-01", "queueId": 2},
        {"pci": "3B:02.1"},
        {"pci": "10000:3b:02.2"},
        {"name": "a-long-alternative-name", "mac": None},
    ]
    assert read(links=links).links == (
        LinkRef("name", "eth0", {"queue_id": 1, "prio": -5}),
        LinkRef("mac", "02:aa:00:00:00:01", {"queue_id": 2}),
        LinkRef("pci", "0000:3b:02.1"),
        LinkRef("pci", "10000:3b:02.2"),
        LinkRef("name", "a-long-alternative-name"),
    )


@pytest.mark.parametrize(
    ("links", "pointers"),
    [
        (ABSENT, {"/links"}),
        (None, {"/links"}),
        ("eth0,eth1", {"/links"}),
        ([], {"/links"}),
        ([{"name": "a"}], {"/links"}),
        (["a", "b"], {"/links/0", "/links/1"}),
        ([{"name": "a"}, {}], {"/links/1"}),
        ([{"name": "a"}, {"name": ""}], {"/links/1/name"}),
        ([{"name": "a"}, {"name": 7}], {"/links/1/name"}),
        ([{"name": "a"}, {"name": "a"}], {"/links/1/name"}),
        ([{"mac": "02:00:00:00:00:0a"}, {"mac": "02-00-00-00-00-0A"}], {"/links/1/mac"}),
        ([{"pci": "3b:00.0"}, {"pci": "0000:3B:00.0"}], {"/links/1/pci"}),
        ([{"pci": "3b:00.8"}, {"mac": "ff:ff:ff:ff:ff:ff"}], {"/links/0/pci", "/links/1/mac"}),
        ([{"name": "a"}, {"mac": "02:00:00:00:00:01", "pci": "3b:00.0"}], {"/links/1"}),
        ([{"name": "a", "queueId": -1}, {"name": "b"}], {"/links/0/queueId"}),
        ([{"name": "a", "actorPortPrio": 7}, {"name": "b"}], {"/links/0/actorPortPrio"}),
        ([{"name": "a", "queueId": 1}, {"name": ""}, {"name": "c", "queue_id": 1}],
         {"/links/1/name", "/links/2/queue_id"}),
    ],
)  # fmt: skip
def test_links_refused(links: Any, pointers: set[str]) -> None:
    assert set(problems(links=links)) == pointers


def test_a_link_entry_as_in_the_go_plugin() -> None:
    links = [{"name": "a", "foo": 1}, {"name": "b", "mac": "02:00:00:00:00:01"}]
    config = read(links=links)
    assert config.links == (LinkRef("name", "a"), LinkRef("name", "b"))
    assert [warning.split(":")[0] for warning in config.warnings] == ["/links/0/foo", "/links/1"]


def test_primary_is_one_of_the_links() -> None:
    assert read(primary="b").options["primary"] == "b"
    assert set(problems(primary="c")) == {"/primary"}
    links = [{"mac": "02:00:00:00:00:0a"}, {"name": "b"}]
    assert read(links=links, primary="02-00-00-00-00-0A").options["primary"] == "02:00:00:00:00:0a"
    assert read(links=links, primary="ens3").options["primary"] == "ens3"


@pytest.mark.parametrize("raw", [ABSENT, None, {}, {"type": ""}])
def test_no_ipam(raw: Any) -> None:
    assert read(ipam=raw).ipam is None


def test_ipam_without_type_causes_a_warning() -> None:
    config = read(ipam={"addresses": []})
    assert config.ipam is None
    assert "/ipam" in config.warnings[0]


@pytest.mark.parametrize("kind", ["/bin/sh", "../x", "..", ".", 7, [], "bond", "a\0b"])
def test_ipam_refused(kind: Any) -> None:
    assert set(problems(ipam={"type": kind})) == {"/ipam/type"}


def test_mac_and_ips_from_the_runtime() -> None:
    config = read(
        runtimeConfig={"mac": "02-00-00-00-00-0A", "ips": ["10.0.0.5/24", "FD00::5/64"]},
        args={"cni": {"mac": "02:00:00:00:00:0b", "ips": ["10.0.0.6/24"]}},
    )
    assert config.mac == "02:00:00:00:00:0a"
    assert config.ips == ("10.0.0.5/24", "fd00::5/64")
    config = read(args={"cni": {"mac": "02:00:00:00:00:0b", "ips": ["10.0.0.6"]}})
    assert (config.mac, config.ips) == ("02:00:00:00:00:0b", ("10.0.0.6/32",))
    assert set(problems(runtimeConfig=[])) == {"/runtimeConfig"}
    assert set(problems(runtimeConfig={"ips": "10.0.0.1/24"})) == {"/runtimeConfig/ips"}


def test_dns_and_prev_result() -> None:
    dns = {"nameservers": ["10.0.0.1"], "domain": "x", "search": None, "options": ["a"]}
    assert read(dns=dns).dns == {"nameservers": ["10.0.0.1"], "domain": "x", "options": ["a"]}
    assert set(problems(dns={"nameservers": "x", "domain": 1})) == {
        "/dns/nameservers",
        "/dns/domain",
    }
    assert read(prevResult={"ips": []}).prev_result == Result()
    assert read(prevResult={}).prev_result == Result()
    assert set(problems(prevResult=[])) == {"/prevResult"}


def test_leniently() -> None:
    config = parse_leniently(
        json.dumps(
            {
                "cniVersion": "9", "name": "net", "mode": "?", "linksInContainer": True,
                "links": [{"name": "a"}, {"name": "a"}, 7], "ipam": {"type": "static"},
                "mtu": -1, "options": {"x": 1},
            }
        ).encode()
    )  # fmt: skip
    assert config.cni_version == "0.1.0"
    assert (config.name, config.mode, config.links_in_container) == ("net", 0, True)
    assert config.links == (LinkRef("name", "a"),)
    assert config.ipam == {"type": "static"}
    assert config.mtu is None
    assert any("cniVersion" in warning for warning in config.warnings)


@pytest.mark.parametrize("text", [HOST_LINKS, LACP])
def test_a_valid_configuration_reads_the_same_leniently(text: str) -> None:
    assert parse_leniently(text.encode()) == parse(text.encode())


# Without the whole of Unicode, whose table takes seconds to build in a fresh clone.
words = st.text("ab1 /:-_.~\0\u00e9\ud800", max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
KEYS = (*PARAMETERS, *(row.key for row in BOND_OPTIONS), "Mode", "lacp_rate", "x")
NUMERIC = [row.key for row in BOND_OPTIONS if row.codec[0] in "us" and row.number > 1]
link = st.dictionaries(
    st.sampled_from(["name", "mac", "pci", "queueId", "prio", "x"]),
    json_values | st.sampled_from(["a", "b", "02:00:00:00:00:01", "3b:00.0"]),
    max_size=3,
)
plausible = st.one_of(
    json_values,
    st.lists(link, max_size=3),
    st.sampled_from(["1.0.0", "net", "802.3ad", "active-backup", "100", 1, 0, True, "on"]),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), plausible, max_size=12), st.booleans())
def test_anything_is_a_configuration_or_an_error(found: dict[str, Any], full: bool) -> None:  # noqa: FBT001
    text = json.dumps({**(document() if full else {}), **found}).encode()
    try:
        config = parse(text)
    except ConfigError as error:
        reported: tuple[Any, ...] = error.problems
    except BondError as error:
        reported = (error.message,)
    else:
        reported = ("nothing",)
        assert len(config.links) >= 2
        json.dumps(config.raw)
    assert reported
    assert all(reported)
    lenient = parse_leniently(text)
    assert isinstance(lenient.mode, int)
    assert lenient.cni_version in SUPPORTED


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(text: bytes) -> None:
    with pytest.raises(BondError):  # 60 bytes are too few for a bond
        parse(text)
    assert parse_leniently(text).links is not None


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(NUMERIC),
        st.integers(-1, 300),
        max_size=5,
    ),
    st.integers(0, 6),
)
def test_numbers_and_their_text_give_the_same_bond(numbers: dict[str, int], mode: int) -> None:
    def outcome(spell: Any) -> Any:
        options = {key: spell(number) for key, number in numbers.items()}
        try:
            return replace(read(mode=spell(mode), options=options, miimon=ABSENT), raw={})
        except ConfigError as error:
            return [problem.pointer for problem in error.problems]

    assert outcome(int) == outcome(str)
