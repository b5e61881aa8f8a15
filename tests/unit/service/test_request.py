"""The environment of a request: every fault of it, in one error."""

from __future__ import annotations

import pytest

from bondcni.core.errors import EnvironError
from bondcni.service.request import NEEDS, read_request

WHOLE = {
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAME=p",
}


def faults(**env: str) -> str:
    with pytest.raises(EnvironError) as caught:
        read_request(env, b"")
    assert caught.value.code == 4
    return caught.value.message


@pytest.mark.parametrize("command", NEEDS)
def test_a_whole_environment(command: str) -> None:
    env = {**WHOLE, "CNI_COMMAND": command, "TRACEPARENT": "x"}
    request = read_request(env, b"{}")
    assert request == (command, "abc", "/run/netns/pod", "net1", env, b"{}")


@pytest.mark.parametrize("command", NEEDS)
def test_what_a_verb_needs_is_enough(command: str) -> None:
    env = {"CNI_COMMAND": command, **{name: WHOLE[name] for name in NEEDS[command]}}
    assert read_request(env, b"").command == command


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID, CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ],
)
def test_every_missing_variable_is_named(command: str, missing: str) -> None:
    said = f"{command} needs these environment variables, not set: {missing}"
    assert faults(CNI_COMMAND=command) == said
    assert faults(CNI_COMMAND=command, **dict.fromkeys(WHOLE, "")) == said


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION"])
def test_what_a_verb_does_not_need_is_not_looked_at(command: str) -> None:
    env = {"CNI_COMMAND": command, "CNI_IFNAME": "a/b", "CNI_PATH": "/opt/cni/bin"}
    assert read_request(env, b"").command == command


def test_the_command() -> None:
    verbs = "ADD, DEL, CHECK, GC, STATUS, VERSION"
    assert faults() == f"CNI_COMMAND is not set: must be one of {verbs}"
    assert faults(CNI_COMMAND="add") == f"CNI_COMMAND is 'add': must be one of {verbs}"


def test_missing_and_unusable_are_told_together() -> None:
    said = faults(CNI_COMMAND="ADD", CNI_CONTAINERID="-x", CNI_IFNAME="a/b")
    assert said == (
        "ADD needs these environment variables, not set: CNI_NETNS; "
        "CNI_CONTAINERID '-x': must start with a letter or digit, then letters, digits, "
        "'_', '.', '-'; CNI_IFNAME 'a/b': an interface name must not contain '/', ':', '%' or white "
        "space, or be '.' or '..'"
    )


@pytest.mark.parametrize("container_id", ["a", "0", "a.b-c_d", "9" * 64])
def test_container_ids(container_id: str) -> None:
    env = {**WHOLE, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container_id}
    assert read_request(env, b"").container_id == container_id


@pytest.mark.parametrize("container_id", [".a", "-a", "a/b", "a:b", "a b", "a\n", "é"])
def test_bad_container_ids(container_id: str) -> None:
    said = faults(**{**WHOLE, "CNI_COMMAND": "DEL", "CNI_CONTAINERID": container_id})
    assert said.startswith("CNI_CONTAINERID ")
