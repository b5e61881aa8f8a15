"""``bondctl``: usage and bad input, exit codes, one message and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bondcni import __version__
from bondcni.cli import lab, main
from bondlab.guest.guest import LostGuest
from bondlab.kernels import catalog
from bondlab.scenario.guest_commands import CommandFailed
from bondlab.scenario.record import RunRecord
from bondlab.scenario.report import Report


def call(*words: str) -> Result:
    result = CliRunner().invoke(main.main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_version() -> None:
    result = call("version")
    assert (result.exit_code, result.stdout) == (0, f"bondcni {__version__}\n")


def test_kernels_are_listed() -> None:
    result = call("lab", "kernels")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(catalog.NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lab", "run"), "no manifests"),
        (("lab", "run", "none.yaml"), "none.yaml"),
        (("lab", "exec"), "Missing argument"),
        (("lab", "dance"), "No such command"),
        (("lab", "run", "--dance"), "No such option"),
    ],
)
def test_wrong_usage_is_2(words: tuple[str, ...], said: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{ [", ":1: invalid YAML"),
        ("kind: Pod\nmetadata: { name: p }\n", "no network of type bond found"),
        ("words", "is not a Kubernetes object"),
    ],
)
def test_bad_manifests_exit_2_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for command in ("run", "shell"):
        result = call("lab", command, str(path))
        assert result.exit_code == 2
        assert said in result.output
        assert str(path) in result.output


def test_bytes_that_are_no_text_are_2(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    result = call("lab", "run", str(path))
    assert result.exit_code == 2
    assert "not UTF-8 text" in result.output


def test_json_is_one_document_for_bad_input_too(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("kind: Pod\nmetadata: { name: p }\n")
    result = call("lab", "run", "--json", str(path))
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["ok"] is False
    assert document["findings"][0]["line"] == 1
    assert "no network of type bond found" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LostGuest("its kernel ended unexpectedly"), 3),
        (CommandFailed("ip: no"), 3),
        (catalog.KernelUnavailable("no mirror"), 2),
        (lab.Stop("no"), 2),
        (KeyboardInterrupt("interrupted; no guest is left running"), 130),
    ],
)
def test_what_stops_everything_has_its_exit_code(error: BaseException, code: int) -> None:
    record = RunRecord()
    with pytest.raises(SystemExit) as stopped, lab.handle_errors(Report(quiet=True), record):
        raise error
    assert stopped.value.code == code
    assert record.document()["error"] == str(error)


def test_an_unknown_kernel_is_2() -> None:
    result = call("lab", "exec", "--kernel", "2.4", "true")
    assert result.exit_code == 2
    assert "unknown kernel 2.4" in result.output


@pytest.mark.parametrize(
    ("policy", "words", "said"),
    [
        ("links: [{nam: x}]", (), "unknown key 'nam'"),
        ("links: [", (), "line 1"),
        ("links: []", ("--kernel", "host"), "does not work with --kernel host"),
    ],
)
def test_10_10_a_policy_with_mistakes_is_2_before_anything_is_booted(
    policy: str, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(policy)
    example = Path(__file__).parents[3] / "examples/balance-rr.yaml"
    for command in ("run", "shell"):
        result = call("lab", command, *words, "--policy", str(path), str(example))
        assert result.exit_code == 2
        assert said in result.output
        assert "booting" not in result.output
