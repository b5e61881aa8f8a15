"""Issue 10, item 5: a delegate that does not know the cniVersion of the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from bondcni.core.errors import DelegateError, DelegateIncompatible
from bondcni.core.result import SUPPORTED
from bondcni.service import ipam
from bondcni.service.delegate import Ended
from bondcni.service.reach import Reach
from bondcni.service.timeouts import DEFAULT

CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "bond", "ipam": {"type": "old"}}
ANSWER = {"ips": [{"address": "10.0.0.5/24"}]}
PREVIOUS = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "net1", "mtu": 1500, "sandbox": "/run/netns/pod"}],
    "ips": [{"address": "10.0.0.5/24", "interface": 0}],
}


class Old:
    """A delegate that follows libcni: it looks at CNI_COMMAND, then at cniVersion."""

    def __init__(
        self,
        versions: Sequence[str] | None,
        verbs: Sequence[str] = ("ADD", "DEL", "CHECK"),
        code: int = 0,
    ) -> None:
        self.versions = versions
        self.verbs = verbs
        self.code = code
        self.asked: list[tuple[str, str]] = []
        self.given: Any = None

    def run(self, _name: str, stdin: bytes, env: Mapping[str, str], _deadline: float) -> Ended:
        verb = env["CNI_COMMAND"]
        self.given = json.loads(stdin)
        version = self.given["cniVersion"]
        self.asked.append((verb, version))
        if verb == "VERSION":
            if self.versions is None:
                return self._failed(4, "unknown CNI_COMMAND: VERSION")
            told = {"cniVersion": SUPPORTED[-1], "supportedVersions": self.versions}
            return Ended(0, json.dumps(told).encode())
        if verb not in self.verbs:
            return self._failed(4, f"unknown CNI_COMMAND: {verb}")
        if self.code or version not in (self.versions or ()):
            return self._failed(self.code or 1, "incompatible CNI versions")
        return Ended(0, json.dumps({"cniVersion": version, **ANSWER}).encode())

    def _failed(self, code: int, words: str) -> Ended:
        return Ended(1, json.dumps({"code": code, "msg": words}).encode())


def execute(old: Old, command: str, **extra: Any) -> bytes:
    return ipam.execute(cast("Reach", old), command, {**CONFIG, **extra}, {}, DEFAULT)


def test_10_5_the_highest_version_that_both_know_is_used() -> None:
    old = Old(["0.4.0", "1.0.0", "0.3.1", "9.9.9"])
    result = ipam.add(cast("Reach", old), CONFIG, {}, DEFAULT)
    assert [ip["address"] for ip in result.ips] == ["10.0.0.5/24"]
    assert old.asked == [("ADD", "1.1.0"), ("VERSION", "1.1.0"), ("ADD", "1.0.0")]
    assert old.given == {**CONFIG, "cniVersion": "1.0.0"}


def test_10_5_who_knows_the_version_is_not_asked_for_it() -> None:
    old = Old(["1.1.0"])
    execute(old, "ADD")
    assert old.asked == [("ADD", "1.1.0")]


def test_10_5_a_newer_version_serves_as_well() -> None:
    old = Old(["1.0.0", "1.1.0"])
    execute(old, "ADD", cniVersion="0.1.0")
    assert old.asked[-1] == ("ADD", "1.1.0")


def test_10_5_the_earlier_result_is_converted_too() -> None:
    old = Old(["0.4.0"])
    execute(old, "CHECK", prevResult=PREVIOUS)
    assert old.given["prevResult"] == {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "net1", "sandbox": "/run/netns/pod"}],
        "ips": [{"version": "4", "address": "10.0.0.5/24", "interface": 0}],
        "dns": {},
    }
    execute(old, "DEL", prevResult={"ips": [{"address": "none"}]})
    assert "prevResult" not in old.given


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (["0.0.9", "2.0.0"], "(it supports cniVersion 0.0.9, 2.0.0)"),
        ([], "(it names no cniVersion)"),
        (None, "(it names no cniVersion)"),
        (["1.1.0"], "(it supports cniVersion 1.1.0)"),  # and says that it does not
    ],
)
def test_10_5_no_version_that_both_know(versions: list[str] | None, said: str) -> None:
    with pytest.raises(DelegateIncompatible) as caught:
        execute(Old(versions, code=int(versions == ["1.1.0"])), "ADD")
    assert caught.value.code == 1
    words = "IPAM plugin old: ADD failed: incompatible CNI versions"
    assert caught.value.message == f"{words} {said}"


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_10_5_a_verb_that_is_newer_than_the_plugin(command: str) -> None:
    old = Old(["0.4.0", "1.0.0"])
    with pytest.raises(DelegateIncompatible) as caught:
        execute(old, command)
    assert "it supports cniVersion 0.4.0, 1.0.0" in caught.value.message
    assert [verb for verb, _ in old.asked] == [command, "VERSION"]


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 4), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
def test_10_5_another_failure_is_as_it_was(command: str, code: int) -> None:
    old = Old(["1.0.0", "1.1.0"], [command], code)
    with pytest.raises(DelegateError) as caught:
        execute(old, command)
    assert caught.value.code == code
    assert [verb for verb, _ in old.asked] == [command]


def test_10_5_a_bad_environment_is_no_matter_of_versions() -> None:
    old = Old(["1.0.0", "1.1.0"], ["STATUS"], 4)
    with pytest.raises(DelegateError) as caught:
        execute(old, "STATUS")
    assert not isinstance(caught.value, DelegateIncompatible)
    assert caught.value.code == 4
