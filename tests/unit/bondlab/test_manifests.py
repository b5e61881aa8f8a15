"""Manifests to pods and networks; everything wrong at once, at its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondlab.manifests import manifests
from bondlab.manifests.manifests import Manifests
from bondlab.manifests.yaml_nodes import ParseError, documents, embedded

BOND = '{ "cniVersion": "1.0.0", "type": "bond", "mode": "active-backup", "miimon": 100, %s }'
HOST_LINKS = '"links": [{ "name": "eth1000" }, { "name": "eth1001" }]'


def nad(name: str, config: str, namespace: str = "") -> str:
    space = f", namespace: {namespace}" if namespace else ""
    return (
        "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\n"
        f"metadata: {{ name: {name}{space} }}\nspec:\n  config: '{config}'\n"
    )


def pod(networks: str, name: str = "pod") -> str:
    quoted = networks.replace("'", "''")
    return (
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n"
        f"  name: {name}\n  annotations:\n    k8s.v1.cni.cncf.io/networks: '{quoted}'\n"
    )


def read(text: str) -> Manifests:
    return manifests.read([("file.yaml", text)])


def complaints(text: str) -> list[str]:
    return [str(one) for one in read(text).findings]


GOOD_BOND = nad("bond0", BOND % HOST_LINKS)


def test_networks_in_order_with_interfaces_by_position() -> None:
    macvlan = nad("left", '{ "type": "macvlan", "master": "eth0" }')
    found = read(GOOD_BOND + macvlan + pod("left, left@mine, bond0"))
    assert not found.findings
    (case,) = found.pods
    assert [(one.network.name, one.ifname) for one in case.attachments] == [
        ("left", "net1"),
        ("left", "mine"),
        ("bond0", "net3"),
    ]
    assert [one.ifname for one in case.bonds] == ["net3"]


def test_json_annotation_and_all_its_keys() -> None:
    config = BOND % f'"capabilities": {{ "mac": true, "ips": true }}, {HOST_LINKS}'
    wanted = [
        {
            "name": "bond0",
            "namespace": "default",
            "interface": "b",
            "mac": "02:00:00:00:00:01",
            "ips": ["10.0.0.1/24"],
            "cni-args": {"x": 1},
        }
    ]
    (case,) = read(nad("bond0", config) + pod(json.dumps(wanted))).pods
    (one,) = case.attachments
    assert (one.ifname, one.mac, one.ips) == ("b", "02:00:00:00:00:01", ("10.0.0.1/24",))
    assert one.cni_args == {"x": 1}


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment", "StatefulSet", "Job"])
def test_workloads_have_the_pod_of_their_template(kind: str) -> None:
    text = (
        f"---\nkind: {kind}\nmetadata: {{ name: w, namespace: ns }}\nspec:\n  template:\n"
        "    metadata:\n      annotations: { k8s.v1.cni.cncf.io/networks: default/bond0 }\n"
    )
    (case,) = read(GOOD_BOND + text).pods
    assert (case.kind, case.namespace, case.name) == (kind, "ns", "w")


def test_chain_of_plugins_has_a_bond() -> None:
    chain = '{ "cniVersion": "1.0.0", "plugins": [%s, { "type": "tuning" }] }'
    found = read(nad("bond0", chain % (BOND % HOST_LINKS)) + pod("bond0"))
    assert not found.findings
    assert [one["type"] for one in found.pods[0].attachments[0].network.plugins] == [
        "bond",
        "tuning",
    ]


def test_a_missing_comma_is_found_where_it_is_missing() -> None:
    text = GOOD_BOND + (
        "---\nkind: NetworkAttachmentDefinition\nmetadata: { name: sriov0 }\nspec:\n"
        "  config: '{\n"
        '    "type": "sriov",\n'
        '    "vlan": 1350\n'
        '    "spoofchk": "off"\n'
        "  }'\n"
    )
    (found,) = read(text + pod("sriov0, bond0")).findings
    line = text.splitlines().index('    "vlan": 1350') + 1
    assert found.line == line
    assert found.message == (
        'invalid JSON: expected a comma after `"vlan": 1350`, found `"spoofchk":`'
    )
    assert found.advice == f"Add the comma at the end of line {line}."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "invalid YAML"),
        ("\tx: 1", "invalid YAML"),
        ("just words", "is not a Kubernetes object"),
        ("---\nkind: ConfigMap\nmetadata: { name: x }\n", "no network of type bond found"),
        (GOOD_BOND, "no Pod uses the network bond0"),
        (GOOD_BOND + pod("bond"), "Did you mean bond0?"),
        (GOOD_BOND + pod("zzz"), "Networks in these files: bond0."),
        (nad("b", BOND % HOST_LINKS, "a") + pod("b"), "write a/b."),
        (GOOD_BOND + pod("Bond_0"), "is not a valid Kubernetes name"),
        (GOOD_BOND + pod("a@b@c"), "is not a network"),
        (GOOD_BOND + pod('{ "name": "bond0" }'), "is JSON, but not a list"),
        (GOOD_BOND + pod('[{ "nam": "bond0" }]'), "entry 1 of the networks annotation has no name"),
        (GOOD_BOND + pod("bond0@a-name-that-is-too-long"), "is not a valid interface name"),
        (GOOD_BOND + pod("bond0@x, bond0@x"), "two networks of this pod have the interface name x"),
        (GOOD_BOND + pod('[{ "name": "bond0", "mac": "02::" }]'), "which lacks this capability"),
        (GOOD_BOND * 2 + pod("bond0"), "duplicate NetworkAttachmentDefinition bond0"),
        (nad("n", "[]") + pod("n"), "not an object"),
        (nad("n", "{}") + pod("n"), "/type: is missing"),
        (nad("n", '{ "plugins": [] }') + pod("n"), '"plugins" is not a list of plugins'),
        (nad("n", '{ "type": "x", }') + pod("n"), "nothing follows the comma"),
        (nad("n", '{ "type" "x" }') + pod("n"), "expected a colon"),
        (nad("n", "") + pod("n"), "the config is empty"),
        (nad("bond0", BOND % '"links": []') + pod("bond0"), "/links"),
        ("---\nkind: NetworkAttachmentDefinition\nmetadata: { name: n }\n", "has no spec.config"),
        ("---\nkind: NetworkAttachmentDefinition\nmetadata: { x: n }\n", "without a name"),
        ("---\nkind: Deployment\nmetadata: { name: n }\n", "has no template"),
    ],
)
def test_bad_input_is_reported_with_advice(text: str, said: str) -> None:
    found = read(text).findings
    assert any(said in str(one) for one in found), found
    assert all(one.advice and one.line >= 1 and one.file == "file.yaml" for one in found)


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1"])
def test_pools_of_both_groups(version: str) -> None:
    text = (
        f"---\napiVersion: {version}\nkind: IPPool\nmetadata: {{ name: p }}\nspec:\n  cidr: '%s'\n"
    )
    (case,) = read(text % "10.0.0.0/24" + GOOD_BOND + pod("bond0")).pods
    assert [(one.name, one.cidr) for one in case.pools] == [("p", "10.0.0.0/24")]
    (found,) = read(text % "" + GOOD_BOND + pod("bond0")).findings
    assert (found.message, found.line) == ("IPPool p: spec.cidr is empty", 6)


def test_an_empty_static_address_is_found_at_its_line() -> None:
    config = BOND % (
        HOST_LINKS + ',\n"ipam": { "type": "static",\n "addresses": [{ "address": "" }]}'
    )
    text = nad("bond0", config) + pod("bond0")
    (found,) = read(text).findings
    assert "/ipam/addresses/0/address: is empty" in found.message
    assert '"address": ""' in text.splitlines()[found.line - 1]


def test_a_bonds_problems_are_found_at_their_lines() -> None:
    config = BOND % ('"links": [\n{ "name": "eth1000" },\n{ "name": "eth1000" }\n]')
    text = nad("bond0", config) + pod("bond0")
    found = read(text).findings
    assert found
    assert all("eth1000" in text.splitlines()[one.line - 1] for one in found)


def test_all_problems_come_at_once() -> None:
    text = nad("n", "{") + nad("m", "[]") + GOOD_BOND + pod("bond0, nope")
    assert len(complaints(text)) == 3


def test_a_file_finds_its_own_networks_first_and_then_others() -> None:
    other = nad("bond0", BOND % '"links": [{ "name": "a" }, { "name": "b" }]')
    found = manifests.read(
        [
            ("one", GOOD_BOND + pod("bond0", "p1")),
            ("two", other + nad("only", BOND % HOST_LINKS)),
            ("three", pod("only", "p2") + pod("bond0", "p3")),
        ]
    )
    assert [one.message for one in found.findings] == ["network bond0 is defined in one and two"]
    assert found.pods[0].attachments[0].network.config["links"][0] == {"name": "eth1000"}
    assert found.pods[1].name == "p2"


@pytest.mark.parametrize("style", ["'%s'", "|\n    %s", ">-\n    %s"])
def test_places_inside_every_style_of_string(style: str) -> None:
    lines = ["{", '"a": "it is",', '"b": [1,', '{ "c": 2 }]', "}"]
    text = "x: 1\nspec:\n  config: " + style % "\n    ".join(lines) + "\n"
    (document,) = documents("f", text)
    holder = document.at("spec", "config")
    assert holder is not None
    data, tree = embedded(holder)
    assert data == {"a": "it is", "b": [1, {"c": 2}]}
    places = {pointer: tree.line_of(pointer) for pointer in ("/a", "/b/0", "/b/1/c", "/none")}
    shown = text.splitlines()
    assert '"a"' in shown[places["/a"] - 1]
    assert "[1" in shown[places["/b/0"] - 1]
    assert '"c"' in shown[places["/b/1/c"] - 1]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except ParseError as error:  # pragma: no cover
        pytest.fail(str(error))
    assert found.findings or found.pods


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('{}[]",: \n1ab'), max_size=40))
def test_any_config_is_read_or_refused(text: str) -> None:
    found = read(nad("n", text.replace("'", "")) + pod("n"))
    assert found.findings or found.pods
