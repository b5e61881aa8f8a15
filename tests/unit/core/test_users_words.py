"""Issue 10, items 23, 24 and 26: the messages about an invalid configuration.

Each problem says what is wrong and what to write instead, in the user's keys; one broken
part hides no other, and warnings come with errors.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.test_config import ABSENT, document

from bondcni.core import rules, suggest
from bondcni.core.config import parse
from bondcni.core.errors import ConfigError, Problem, VersionError
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, MODES
from bondlab.manifests import config_check
from bondlab.manifests.yaml_nodes import YamlNode


def refused(**changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        parse(json.dumps(document(**changes)).encode())
    return error.value


def test_10_26_a_problem_is_a_pointer_a_message_and_advice() -> None:
    error = refused(mtu=10)
    assert error.problems == (
        Problem(
            "/mtu", "10 is not allowed", 'write a number of bytes from 68 to 65535, or "inherit"'
        ),
    )
    assert error.message == (
        '/mtu: 10 is not allowed: write a number of bytes from 68 to 65535, or "inherit"'
    )


EVERYTHING_WRONG: dict[str, Any] = {
    "name": "-x",
    "type": 1,
    "mode": "nonsense",
    "miimon": -5,
    "mtu": 10,
    "linksInContainer": "maybe",
    "links": ["a", {}, {"name": 7}, {"name": "b"}, {"name": "b"}, {"name": "c", "prio": "x"}],
    "ipam": {"type": "../sh"},
    "dns": {"domain": 1, "search": 1},
    "options": {"lacpRat": 1, "mtu": 9000, "queueId": 1, "ad_info": 1, "updelay": []},
    "runtimeConfig": {"mac": "x", "ips": ["10.0.0.256/24"]},
}


def test_10_26_every_problem_says_what_to_write() -> None:
    problems = refused(**EVERYTHING_WRONG).problems
    assert len(problems) > 20
    assert [problem for problem in problems if not problem.advice] == []
    for problem in problems:
        assert ";" not in problem.advice  # it separates problems
        assert not problem.advice.endswith(".")  # the lab appends one


@pytest.mark.parametrize("mode", range(len(MODES)))
def test_10_26_every_finding_of_the_rules_says_what_to_write(mode: int) -> None:
    odd: dict[str, Any] = {row.kernel: 150 for row in BOND_OPTIONS if row.codec[0] in "us"}
    odd |= {"mode": mode, "miimon": 100, "primary": "z", "active_slave": "z"}
    members: dict[int, dict[str, Any]] = {
        place: {"queue_id": 3, "prio": 1, "actor_port_prio": 2} for place in (0, 1)
    }
    found = rules.problems(mode, odd, ["a", "b"], members)
    assert len(found) > 3
    assert [finding for finding in found if not finding.advice] == []


def test_10_26_findings_use_the_keys_of_the_configuration() -> None:
    """No message has the kernel's name of an option whose key differs."""
    names = {row.kernel for row in (*BOND_OPTIONS, *MEMBER_OPTIONS) if row.kernel != row.key}
    reported = [str(problem) for problem in refused(**EVERYTHING_WRONG).problems]
    for mode in range(len(MODES)):
        odd: dict[str, Any] = {row.kernel: 150 for row in BOND_OPTIONS if row.codec[0] in "us"}
        findings = (*rules.problems(mode, odd), *rules.warnings(mode, odd))
        reported += [f"{finding.message} {finding.advice}" for finding in findings]
    for text in reported:
        said = text.split(": ", 1)[-1]
        assert [name for name in names if name in said.replace(",", " ").split()] == []


def test_10_26_the_lab_shows_the_advice() -> None:
    """The lab prints the problem, and the advice as a sentence below it."""
    tree = YamlNode({}, "net.yaml", 7)
    found = config_check.config(document(mode=ABSENT), tree)
    says = "Write one of balance-rr, active-backup, balance-xor, broadcast, 802.3ad, "
    says += "balance-tlb, balance-alb (or 0 to 6)."
    assert [str(finding) for finding in found] == [f"net.yaml:7: /mode: is required\n    {says}"]


# 23: warnings come with errors; suggested values.


def test_10_23_the_warning_of_a_misspelled_key_comes_with_its_error() -> None:
    error = refused(mode=ABSENT, mdoe=1)
    assert error.message.startswith("/mode: is required: write one of ")
    assert error.warnings == (Problem("/mdoe", "unknown key, ignored", 'did you mean "mode"?'),)
    assert error.details == 'warnings: /mdoe: unknown key, ignored: did you mean "mode"?'


def test_10_23_the_lab_shows_a_warning_that_comes_with_an_error() -> None:
    found = config_check.config(document(mode=ABSENT, mdoe=1), YamlNode({}, "net.yaml", 7))
    assert [finding.advice for finding in found][1:] == ['Did you mean "mode"?']


def test_10_23_a_list_of_plugins_is_the_only_problem() -> None:
    text = json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": [document()]}).encode()
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert [problem.pointer for problem in error.value.problems] == ["/plugins"]
    assert "conflist" in error.value.message
    assert '"type": "bond"' in error.value.message


def test_10_23_a_stray_plugins_key_stays_a_warning() -> None:
    config = parse(json.dumps(document(plugins=[])).encode())
    assert config.warnings == ("/plugins: unknown key, ignored",)


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"mode": "active_backup"}, '"active-backup"'),
        ({"mode": "ActiveBackup"}, '"active-backup"'),
        ({"mode": "active"}, '"active-backup"'),
        ({"mode": "lacp"}, '"802.3ad"'),
        ({"mode": "8023ad"}, '"802.3ad"'),
        ({"mode": "802.3-ad"}, '"802.3ad"'),
        ({"mode": "IEEE 802.3ad"}, '"802.3ad"'),
        ({"mode": "balance_xor"}, '"balance-xor"'),
        ({"mode": "alb"}, '"balance-alb"'),
        ({"mode": "balance-rrr"}, '"balance-rr"'),
        ({"mode": "brodcast"}, '"broadcast"'),
        ({"xmitHashPolicy": "layer3+layer4", "mode": 2}, '"layer3+4"'),
        ({"xmitHashPolicy": "layer34", "mode": 2}, '"layer3+4"'),
        ({"xmitHashPolicy": "l3+l4", "mode": 2}, '"layer3+4"'),
        ({"xmitHashPolicy": "layer2+layer3", "mode": 2}, '"layer2+3"'),
        ({"xmitHashPolicy": "L2", "mode": 2}, '"layer2"'),
        ({"xmitHashPolicy": "encap34", "mode": 2}, '"encap3+4"'),
        ({"lacpRate": "1s", "mode": 4}, '"fast"'),
        ({"failOverMac": "activ"}, '"active"'),
        ({"miimon": "100ms"}, "100"),
        ({"miimon": "1s"}, "1000"),
        ({"miimon": "0.1 s"}, "100"),
        ({"miimon": 100.0}, "100"),
        ({"lpInterval": "2s", "mode": 5}, "2"),
        ({"lpInterval": "2000ms", "mode": 5}, "2"),
        ({"mtu": "1500 bytes"}, "1500"),
        ({"mtu": 9000.0}, "9000"),
        (
            {"miimon": ABSENT, "arpInterval": 100, "arpIpTarget": "10.0.0.1/24 10.0.0.2"},
            '["10.0.0.1", "10.0.0.2"]',
        ),
    ],
)
def test_10_23_the_suggested_value(changes: dict[str, Any], meant: str) -> None:
    (problem,) = refused(**changes).problems
    assert problem.advice.startswith(f"write {meant} (allowed: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "balance"},
        {"mode": ""},
        {"mode": 7},
        {"mode": "x"},
        {"xmitHashPolicy": "layer4", "mode": 2},
        {"miimon": "-5ms"},
        {"miimon": "1.5ms"},
        {"miimon": "100 apples"},
        {"mtu": "9k"},
        {"mtu": 10.0},
        {"miimon": ABSENT, "arpInterval": 100, "arpIpTarget": "fe80::1"},
    ],
)
def test_10_23_no_suggestion_if_no_value_is_similar(changes: dict[str, Any]) -> None:
    (problem,) = refused(**changes).problems
    assert "allowed:" not in problem.advice
    assert problem.advice.startswith("write ")


@pytest.mark.parametrize(
    ("kind", "meant"),
    [
        ("hostlocal", "host-local"),
        ("host_local", "host-local"),
        ("calico", "calico-ipam"),
        ("wherabouts", "whereabouts"),
        ("my-ipam", ""),
        ("host-local", ""),
    ],
)
def test_10_23_the_suggested_ipam_plugin(kind: str, meant: str) -> None:
    assert suggest.ipam(kind) == (f'did you mean "{meant}"?' if meant else "")


# 24: one mistake neither hides nor causes another.


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"miimon": ABSENT, "arpInterval": 100, "arpIpTarget": "x"}, {"/arpIpTarget"}),
        ({"miimon": ABSENT, "arpInterval": "x", "arpIpTarget": "10.0.0.1"}, {"/arpInterval"}),
        ({"miimon": "x", "updelay": 100}, {"/miimon"}),
        ({"miimon": "x", "mode": 4, "peerNotifDelay": 150}, {"/miimon"}),
        ({"primary": "c", "links": [{"name": "a"}, {"nam": "c"}]}, {"/links/1"}),
        ({"primary": "c", "links": "c"}, {"/links"}),
    ],
)
def test_10_24_an_invalid_value_does_not_count_as_absent(
    changes: dict[str, Any], pointers: set[str]
) -> None:
    assert {problem.pointer for problem in refused(**changes).problems} == pointers


def test_10_24_an_invalid_value_does_not_count_as_absent_in_warnings() -> None:
    error = refused(primary=[], primaryReselect="better")
    assert error.warnings == ()
    error = refused(miimon=0, arpInterval="x", arpIpTarget="10.0.0.1")
    assert error.warnings == ()


@pytest.mark.parametrize("mode", ["nonsense", ABSENT])
def test_10_24_an_invalid_mode_hides_no_other_problem(mode: Any) -> None:
    error = refused(
        mode=mode,
        miimon=100,
        arpInterval=100,
        primary="z",
        peerNotifDelay=150,
        lacpRate="fast",  # depends on the mode: not checked
        links=[{"name": "a", "queueId": 1}, {"name": "b", "queueId": 1}],
    )
    assert {problem.pointer for problem in error.problems} == {
        *("/mode", "/arpInterval", "/primary", "/peerNotifDelay", "/links/1/queueId"),
    }


def test_10_24_an_unsupported_version_hides_no_problem() -> None:
    with pytest.raises(VersionError) as error:
        parse(json.dumps(document(cniVersion="9.0.0", mode="lacp", mtu=10)).encode())
    assert "/mtu: 10 is not allowed" in error.value.details
    assert '/mode: "lacp" is not allowed: write "802.3ad"' in error.value.details


def test_10_24_without_a_mode_a_delay_does_not_require_miimon() -> None:
    pointers = {problem.pointer for problem in refused(mode="x", miimon=ABSENT, updelay=5).problems}
    assert pointers == {"/mode", "/miimon"}
