"""Issue 10, numbers 23, 24 and 26: what a wrong configuration is told.

Each problem says what is wrong and what to write instead, in the user's keys; one broken
part hides no other, and warnings come with errors.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.test_config import ABSENT, document

from bondcni.core import rules
from bondcni.core.config import parse
from bondcni.core.errors import ConfigError, Problem
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, MODES
from bondcni.lab import confcheck
from bondcni.lab.located import Node


def refused(**changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        parse(json.dumps(document(**changes)).encode())
    return error.value


def test_10_26_a_problem_is_a_place_a_fault_and_an_advice() -> None:
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
        assert ";" not in problem.advice  # it parts one problem from the next
        assert not problem.advice.endswith(".")  # the lab makes a sentence of it


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


def test_10_26_findings_speak_the_users_keys() -> None:
    """No message has a kernel's name that a user writes otherwise."""
    names = {row.kernel for row in (*BOND_OPTIONS, *MEMBER_OPTIONS) if row.kernel != row.key}
    told = [str(problem) for problem in refused(**EVERYTHING_WRONG).problems]
    for mode in range(len(MODES)):
        odd: dict[str, Any] = {row.kernel: 150 for row in BOND_OPTIONS if row.codec[0] in "us"}
        findings = (*rules.problems(mode, odd), *rules.warnings(mode, odd))
        told += [f"{finding.message} {finding.advice}" for finding in findings]
    for text in told:
        said = text.split(": ", 1)[-1]
        assert [name for name in names if name in said.replace(",", " ").split()] == []


def test_10_26_the_lab_shows_the_advice() -> None:
    """What the lab prints is the problem of core, its advice as a sentence below it."""
    tree = Node({}, "net.yaml", 7)
    found = confcheck.config(document(mode=ABSENT), tree)
    says = "Write one of balance-rr, active-backup, balance-xor, broadcast, 802.3ad, "
    says += "balance-tlb, balance-alb (or 0 to 6)."
    assert [str(finding) for finding in found] == [f"net.yaml:7: /mode: is required\n    {says}"]
