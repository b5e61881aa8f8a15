"""The delegate: real programs, good and bad."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bondcni.core.errors import DelegateError, TryAgain
from bondcni.service import delegate, ipam
from bondcni.service.reach import Direct
from bondcni.service.timeouts import DEFAULT, Timeouts

DIRECT = Direct()
Plugin = Callable[[str], dict[str, str]]
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "bond", "ipam": {"type": "delegate"}}
SOON = 0.4
"""Seconds: a deadline that is over soon."""


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Make the delegate of a shell script; the environment that finds it."""

    def make(script: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "delegate"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return {"CNI_PATH": f"{tmp_path}/none::{folder}", "PATH": os.environ["PATH"]}

    return make


def answering(document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return f"cat >/dev/null\ncat <<'END'\n{text}\nEND"


def failure(env: dict[str, str], deadline: float = 10) -> DelegateError:
    with pytest.raises(DelegateError) as caught:
        ipam.add(DIRECT, CONFIG, env, Timeouts(delegate=deadline))
    return caught.value


@pytest.mark.parametrize(
    "document",
    [
        {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1"}, "dns": {}},
        {
            "cniVersion": "0.4.0",
            "ips": [{"version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1"}],
        },
        {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]},
        {"ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}], "new": {}},
    ],
)
def test_an_answer_of_any_version(plugin: Plugin, document: dict[str, Any]) -> None:
    result = ipam.add(DIRECT, CONFIG, plugin(answering(document)), DEFAULT)
    assert result.ips == ({"address": "10.0.0.5/24", "gateway": "10.0.0.1"},)


def test_it_is_given_our_whole_environment_but_for_the_command(
    plugin: Plugin, tmp_path: Path
) -> None:
    given = {"CNI_ARGS": "A=B;C=d e", "TRACEPARENT": "00-1", "X": "\udcff", "CNI_COMMAND": "ADD"}
    ipam.execute(DIRECT, "CHECK", CONFIG, {**plugin(f"env -0 > {tmp_path}/env"), **given}, DEFAULT)
    text = os.fsdecode((tmp_path / "env").read_bytes())
    seen = dict(entry.split("=", 1) for entry in text.rstrip("\0").split("\0"))
    assert {**given, "CNI_COMMAND": "CHECK"}.items() <= seen.items()
    assert "HOME" not in seen, "nothing of ours is added"


@pytest.mark.parametrize("size", [10, 1 << 16, 1 << 18])
def test_it_is_given_the_complete_configuration(plugin: Plugin, tmp_path: Path, size: int) -> None:
    config = {**CONFIG, "prevResult": {"dns": {"domain": "ä" * size}}, "unknown": None}
    env = plugin(f"cat > {tmp_path}/config\necho '{{}}'")
    assert ipam.execute(DIRECT, "DEL", config, env, DEFAULT) == b"{}\n"
    assert json.loads((tmp_path / "config").read_bytes()) == config


def test_one_that_does_not_read_its_configuration_is_fine(plugin: Plugin) -> None:
    large = {**CONFIG, "x": "y" * (1 << 18)}
    assert ipam.execute(DIRECT, "DEL", large, plugin("echo done"), DEFAULT) == b"done\n"


def test_what_it_says_on_standard_error_goes_to_ours(
    plugin: Plugin, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ipam.execute(DIRECT, "DEL", CONFIG, plugin("echo careful >&2"), DEFAULT) == b""
    assert capfd.readouterr() == ("", "careful\n")


def test_signals_that_python_ignores_work_again(plugin: Plugin) -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    with pytest.raises(DelegateError, match=f"with signal {int(signal.SIGPIPE)}"):
        ipam.execute(DIRECT, "DEL", CONFIG, plugin("kill -PIPE $$; echo survived"), DEFAULT)


def test_an_error_document_keeps_its_code_text_and_details(plugin: Plugin) -> None:
    document = {"cniVersion": "1.0.0", "code": 11, "msg": "no address", "details": "pool full"}
    error = failure(plugin(answering(document) + "\nexit 1"))
    assert (error.code, error.details) == (11, "pool full")
    assert error.message == "IPAM plugin delegate: ADD failed: no address"


@pytest.mark.parametrize("code", ["7", 0, -1, None, True])
def test_a_code_that_is_none_is_ours(plugin: Plugin, code: Any) -> None:
    error = failure(plugin(answering({"code": code, "msg": "no"}) + "\nexit 1"))
    assert (error.code, error.message) == (104, "IPAM plugin delegate: ADD failed: no")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "ADD failed with exit code 3"),
        ("echo ' segmentation fault '; exit 1", "ADD failed with exit code 1: segmentation fault"),
        ("kill -KILL $$", "ADD failed with signal 9"),
        ("echo '[]'; exit 1", "ADD failed with exit code 1: []"),
        ('echo \'{"msg": "x"}\'; exit 1', ': ADD failed with exit code 1: {"msg": "x"}'),
        ("printf '\\377'; exit 1", "ADD failed with exit code 1: \ufffd"),
        ("head -c 9999 /dev/zero | tr '\\0' x; exit 1", f"with exit code 1: {'x' * 500}"),
    ],
)
def test_a_failure_without_an_error_document(plugin: Plugin, script: str, said: str) -> None:
    error = failure(plugin(script))
    assert error.code == 104
    assert error.message.startswith("IPAM plugin delegate: ADD failed ")
    assert error.message.endswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "returned an invalid CNI result: Expecting value"),
        ("none", "returned an invalid CNI result: Expecting value"),
        ("[]", "returned an invalid CNI result: /: a result must be an object"),
        (
            '{"ips": [{"gateway": "10.0.0.1"}]}',
            "returned an invalid CNI result: /ips/0/address: is req",
        ),
        (
            '{"ips": "10.0.0.5/24"}',
            "returned an invalid CNI result: /ips: must be a list of objects",
        ),
        ('{"ip4": "10.0.0.5/24"}', "returned an invalid CNI result: /ip4: must be an object"),
        ('{"ips": []} {"ips": []}', "returned an invalid CNI result: Extra data"),
        ("[" * 100_000, "returned an invalid CNI result: "),
        ("{}", "returned no address"),
        ('{"cniVersion": "0.2.0", "dns": {}}', "returned no address"),
        ('{"ips": []}', "returned no address"),
    ],
)
def test_an_answer_without_addresses(plugin: Plugin, answer: str, said: str) -> None:
    error = failure(plugin(answering(answer)))
    assert error.message.startswith(f"IPAM plugin delegate {said}")
    assert error.code == 104


def test_a_missing_plugin_is_named_with_the_path(tmp_path: Path) -> None:
    error = failure({"CNI_PATH": str(tmp_path)})
    assert error.message == f"IPAM plugin delegate is not in CNI_PATH ({tmp_path})"
    assert failure({}).message == "IPAM plugin delegate is not in CNI_PATH (not set)"


def test_a_file_that_is_no_program_is_not_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "delegate").write_text("not executable")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "delegate").mkdir()
    with pytest.raises(DelegateError, match="is not in CNI_PATH"):
        delegate.find("delegate", f"{tmp_path}:{tmp_path}/a")


@pytest.mark.parametrize("name", ["../sh", "/bin/sh", "a/b"])
def test_a_path_is_no_name_of_a_plugin(name: str) -> None:
    with pytest.raises(DelegateError, match="must be the name of a plugin, not a path"):
        delegate.find(name, "/bin")


def test_the_first_folder_with_it_counts(plugin: Plugin, tmp_path: Path) -> None:
    env = plugin("echo first")
    other = tmp_path / "other"
    other.mkdir()
    (other / "delegate").symlink_to("/bin/false")
    found = delegate.find("delegate", f"{env['CNI_PATH']}:{other}")
    assert found == f"{tmp_path}/bin/delegate"


def test_a_program_that_cannot_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "delegate"
    path.write_bytes(b"\x7fELF rubbish")
    path.chmod(0o755)
    said = failure({"CNI_PATH": str(tmp_path)}).message
    assert said == f"IPAM plugin {path} cannot be started: Exec format error"


def gone(group: int) -> bool:
    """Whether no process of the group is left, but for zombies that await their parent."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        states = []
        for entry in os.listdir("/proc"):
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if entry.isdigit() and int(fields[2]) == group:
                states.append(fields[0])
        if not set(states) - {"Z", "X"}:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100",
        "sleep 100 & sleep 100 & wait",
        "exec >&-; sleep 100",
        "echo '{}'; trap '' TERM HUP; sleep 100 & sleep 100",
        "while :; do echo x; sleep 0.05; done",
    ],
)
def test_one_that_hangs_is_ended_with_all_it_started(
    plugin: Plugin, tmp_path: Path, script: str
) -> None:
    env = plugin(f"echo $$ > {tmp_path}/pid\n{script}")
    began = time.monotonic()
    with pytest.raises(TryAgain) as caught:
        ipam.add(DIRECT, CONFIG, env, Timeouts(delegate=SOON))
    assert SOON <= time.monotonic() - began < SOON + 2
    assert caught.value.code == 11
    assert caught.value.message == (
        f"IPAM plugin delegate did not complete ADD within {SOON} s and was killed"
    )
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_it_leaves_in_the_background_is_neither_waited_for_nor_left(
    plugin: Plugin, tmp_path: Path
) -> None:
    env = plugin(f"echo $$ > {tmp_path}/pid\nsleep 100 &\necho answer")
    began = time.monotonic()
    assert ipam.execute(DIRECT, "DEL", CONFIG, env, DEFAULT) == b"answer\n"
    assert time.monotonic() - began < 2
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_answer_without_end_is_cut_off(plugin: Plugin, tmp_path: Path) -> None:
    env = plugin(f"echo $$ > {tmp_path}/pid\nexec cat /dev/zero")
    error = failure(env)
    assert error.message == "IPAM plugin delegate: ADD returned more than 1048576 bytes"
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_answer_of_exactly_the_limit_is_taken(plugin: Plugin) -> None:
    env = plugin(f"head -c {delegate.LIMIT} /dev/zero")
    assert len(ipam.execute(DIRECT, "DEL", CONFIG, env, DEFAULT)) == delegate.LIMIT


def copied(tmp_path: Path) -> Path:
    """A true binary: a script's interpreter is not what is busy."""
    path = tmp_path / "delegate"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    return path


def test_a_plugin_that_is_just_being_replaced_is_tried_again(tmp_path: Path) -> None:
    with copied(tmp_path).open("ab") as writer:
        timer = threading.Timer(delegate.BUSY_PAUSE * 1.5, writer.close)
        timer.start()
        assert ipam.execute(DIRECT, "DEL", CONFIG, {"CNI_PATH": str(tmp_path)}, DEFAULT) == b""
        timer.join()


@pytest.mark.skipif(
    os.uname().release.startswith(("6.11.", "6.12.")),
    reason="these kernels run what is open for writing",
)
def test_a_plugin_that_stays_busy_is_told(tmp_path: Path) -> None:
    path = copied(tmp_path)
    with path.open("ab"), pytest.raises(DelegateError) as caught:
        ipam.execute(DIRECT, "DEL", CONFIG, {"CNI_PATH": str(tmp_path)}, DEFAULT)
    assert caught.value.message == f"IPAM plugin {path} cannot be started: Text file busy"


@pytest.mark.parametrize("script", ["exit 1", "sleep 100", "echo '{}'"])
def test_no_descriptor_is_left_open(plugin: Plugin, script: str) -> None:
    env = plugin(script)
    before = os.listdir("/proc/self/fd")
    with pytest.raises((DelegateError, TryAgain)):
        ipam.add(DIRECT, CONFIG, env, Timeouts(delegate=SOON))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are nobody else's")
def test_what_others_than_root_can_change(tmp_path: Path) -> None:
    program = tmp_path / "folder" / "delegate"
    program.parent.mkdir(mode=0o755)
    program.write_text("")
    program.chmod(0o755)
    assert delegate.changeable(str(program)) == ""
    program.parent.chmod(0o775)
    assert delegate.changeable(str(program)) == str(program.parent)
    program.parent.chmod(0o755)
    os.chown(program, 65534, 0)
    assert delegate.changeable(str(program)) == str(program)
    link = tmp_path / "link"
    link.symlink_to(program)
    assert delegate.changeable(str(link)) == str(program)
