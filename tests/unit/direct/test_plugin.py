"""The executable: one request, one JSON document, an exit status."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bondcni.core.result import SUPPORTED

COMMAND = (sys.executable, "-I", "-m", "bondcni.direct.plugin")
LINKS = [{"name": "bondcni-none0"}, {"name": "bondcni-none1"}]
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "bond",
    "mode": "active-backup",
    "miimon": 100,
    "links": LINKS,
}
POD = {"CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/bondcni-none", "CNI_IFNAME": "net1"}


class Answer(NamedTuple):
    status: int
    document: Any  # None: nothing was printed
    stderr: str


class Bond:
    """The plugin with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.env = {"BONDCNI_STATE": f"{folder}/state", "BONDCNI_POLICY": f"{folder}/none.yaml"}

    def __call__(self, config: Any = None, **env: str) -> Answer:
        """Run it; ``config`` is bytes, or what becomes JSON."""
        given = config if isinstance(config, bytes) else json.dumps(config).encode()
        return self.run(env, input=given)

    def run(self, env: dict[str, str], **pipes: Any) -> Answer:
        done = subprocess.run(
            COMMAND,
            env={**self.env, **env},
            capture_output=True,
            check=False,
            timeout=30,
            **pipes,
        )
        text = done.stdout.decode()
        document = json.loads(text) if text else None  # one document, or this fails
        return Answer(done.returncode, document, done.stderr.decode())


@pytest.fixture
def bond(tmp_path: Path) -> Bond:
    return Bond(tmp_path)


def error(answer: Answer) -> dict[str, Any]:
    """The error document, which is all that there may be."""
    assert answer.status == 1
    assert answer.stderr == ""
    document: dict[str, Any] = answer.document
    assert document.keys() <= {"cniVersion", "code", "msg", "details"}
    assert isinstance(document["code"], int)
    assert document["msg"]
    return document


@pytest.mark.parametrize("version", SUPPORTED)
def test_version_echoes_what_is_supported(bond: Bond, version: str) -> None:
    answer = bond({"cniVersion": version}, CNI_COMMAND="VERSION")
    assert answer == (
        0,
        {"cniVersion": version, "supportedVersions": list(SUPPORTED)},
        "",
    )


@pytest.mark.parametrize(
    "given", [b"", b"{", b"\xff", b"[]", b"{}", b'{"cniVersion": "9.9.9"}', b'{"cniVersion": 1}']
)
def test_version_never_fails(bond: Bond, given: bytes) -> None:
    answer = bond(given, CNI_COMMAND="VERSION")
    assert answer == (0, {"cniVersion": "1.1.0", "supportedVersions": list(SUPPORTED)}, "")


def test_without_a_command_a_person_is_told_what_this_is(bond: Bond) -> None:
    ours, theirs = pty.openpty()
    try:
        answer = bond.run({}, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (answer.status, answer.document) == (0, None)
    assert answer.stderr.startswith("bond is a CNI plugin")
    assert all(version in answer.stderr for version in SUPPORTED)


def test_without_a_command_a_runtime_is_answered(bond: Bond) -> None:
    document = error(bond(CONFIG))
    assert document["code"] == 4
    assert document["msg"].startswith("CNI_COMMAND is not set: must be one of ADD, DEL, CHECK")


def test_a_bad_environment_names_every_variable(bond: Bond) -> None:
    document = error(bond(CONFIG, CNI_COMMAND="ADD", CNI_CONTAINERID="/", CNI_IFNAME="a:b"))
    assert document["code"] == 4
    for name in ("CNI_NETNS", "CNI_CONTAINERID '/'", "CNI_IFNAME 'a:b'"):
        assert name in document["msg"]


@pytest.mark.parametrize("command", ["add", "", "FOO"])
def test_an_unknown_command(bond: Bond, command: str) -> None:
    assert error(bond(CONFIG, CNI_COMMAND=command))["code"] == 4


def test_an_interface_name_that_is_not_utf8(bond: Bond) -> None:
    document = error(bond(CONFIG, CNI_COMMAND="ADD", **{**POD, "CNI_IFNAME": "a\udcff"}))
    assert document["code"] == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "nested deeper than 100 levels"),
        (b" " * ((4 << 20) + 1), "standard input exceeds 4194304 bytes"),
    ],
    ids=["empty", "cut", "no text", "list", "deep", "large"],
)
def test_garbage_on_standard_input(bond: Bond, given: bytes, said: str) -> None:
    document = error(bond(given, CNI_COMMAND="ADD", **POD))
    assert (document["code"], document["cniVersion"]) == (6, "1.1.0")
    assert said in document["msg"]


def test_a_standard_input_that_is_closed(bond: Bond) -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" <&-', "sh", *COMMAND)
    env = {**bond.env, "CNI_COMMAND": "ADD", **POD}
    done = subprocess.run(shell, env=env, capture_output=True, check=False, timeout=30)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["code"] == 6
    assert document["msg"] == "cannot read standard input: Bad file descriptor"
    assert done.stderr == b""


@pytest.mark.parametrize("version", SUPPORTED)
def test_an_error_has_the_version_of_the_request(bond: Bond, version: str) -> None:
    config = {**CONFIG, "cniVersion": version, "mode": 9}
    document = error(bond(config, CNI_COMMAND="ADD", **POD))
    assert (document["cniVersion"], document["code"]) == (version, 7)
    assert "/mode" in document["msg"]


@pytest.mark.parametrize("version", ["9.9.9", "1", 1, None, ["1.0.0"]])
def test_an_error_about_the_version_has_one_that_we_know(bond: Bond, version: Any) -> None:
    document = error(bond({**CONFIG, "cniVersion": version, "mode": 9}, CNI_COMMAND="ADD", **POD))
    assert document["cniVersion"] in SUPPORTED


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")]
)
def test_a_verb_that_the_version_does_not_have(bond: Bond, command: str, version: str) -> None:
    config = {**CONFIG, "cniVersion": version}
    document = error(bond(config, CNI_COMMAND=command, CNI_PATH="/opt/cni/bin", **POD))
    assert (document["cniVersion"], document["code"]) == (version, 1)


def test_warnings_go_to_standard_error_only(bond: Bond) -> None:
    answer = bond({**CONFIG, "colour": "red"}, CNI_COMMAND="ADD", **POD)
    assert answer.status == 1
    assert isinstance(answer.document["code"], int)
    lines = answer.stderr.splitlines()
    assert lines
    assert all(line.startswith("bond: warning: ") for line in lines)
    assert "colour" in answer.stderr


def test_an_ipam_plugin_that_is_missing_is_named_before_anything_is_touched(
    bond: Bond, tmp_path: Path
) -> None:
    config = {**CONFIG, "ipam": {"type": "no-such-ipam"}}
    pod = {**POD, "CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": "1"}
    document = error(bond(config, CNI_COMMAND="ADD", **pod, CNI_PATH=str(tmp_path)))
    assert document["code"] == 104
    assert document["msg"] == f"IPAM plugin no-such-ipam is not in CNI_PATH ({tmp_path})"
    notes = [path.suffix for path in Path(bond.env["BONDCNI_STATE"]).iterdir()]
    assert notes == [".refused"]  # for the DEL that follows; no record, no lock


def test_the_nodes_own_namespace_is_no_pod(bond: Bond) -> None:
    document = error(bond(CONFIG, CNI_COMMAND="ADD", **{**POD, "CNI_NETNS": "/proc/self/ns/net"}))
    assert document["code"] == 4
    assert "set CNI_NETNS_OVERRIDE=1 to allow it" in document["msg"]


def test_a_namespace_that_is_not_there(bond: Bond) -> None:
    document = error(bond(CONFIG, CNI_COMMAND="ADD", **POD))
    assert POD["CNI_NETNS"] in document["msg"]


def test_a_del_of_what_never_was_succeeds_and_prints_nothing(bond: Bond) -> None:
    for _ in range(2):
        assert bond(CONFIG, CNI_COMMAND="DEL", **POD) == (0, None, "")


def test_a_del_that_knows_nothing_at_all_is_told(bond: Bond) -> None:
    document = error(bond(b"{", CNI_COMMAND="DEL", **POD))
    assert document["code"] == 6
