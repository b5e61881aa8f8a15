"""Issue item 28: what the command line says of itself and of its errors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bondcni import __version__
from bondcni.cli import main
from bondcni.install import installer

PREFIX = "bondctl: error: "
ROOT = Path(__file__).parents[3]


def call(*words: str) -> Result:
    result = CliRunner().invoke(main.main, words, prog_name="bondctl")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_28_version() -> None:
    for words in ("--version", "version"):
        result = call(words)
        assert (result.exit_code, result.output) == (0, f"bondcni {__version__}\n")


@pytest.mark.parametrize("words", [(), *((name,) for name in main.COMMANDS), ("lab", "run")])
def test_28_help_is_short_or_long(words: tuple[str, ...]) -> None:
    short, long = call(*words, "-h"), call(*words, "--help")
    assert (short.exit_code, short.output) == (0, long.output)
    assert short.output.startswith("Usage: bondctl")


def test_28_without_arguments_it_is_the_help() -> None:
    assert call().output == call("-h").output


@pytest.mark.parametrize("missing", ["bondlab", "rich"])
def test_11_without_the_lab(missing: str) -> None:
    """It is listed, and says how it is installed; no other import error is taken for that."""
    code = (
        "import sys; sys.modules[{!r}] = None; sys.argv[0] = 'bondctl'; "
        "from bondcni.cli.main import main; main()"
    )

    def run(missing: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code.format(missing), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    for words in ((), ("run", "a.yaml"), ("--help",), ("exec", "--kernel", "x", "--", "true")):
        done = run(missing, "lab", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"{PREFIX}the lab is not installed: pip install 'bondcni[lab]'\n"
    shown = run(missing, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\n  lab " in shown.stdout
    assert run("bondcni.core.errors", "lab").stderr.startswith("Traceback")


def test_28_what_is_run_in_the_lab_has_its_own_help() -> None:
    """``lab exec ls -h`` is not about ``lab exec``: the first word ends our options."""
    assert not call("lab", "exec", "--kernel", "none", "ls", "-h").output.startswith("Usage")


@pytest.mark.parametrize(
    "words",
    [
        ("dance",),
        ("check", "--dance"),
        ("lab", "dance"),
        ("lab", "run", "none.yaml"),
        ("lab", "run"),
        ("lab", "exec", "--kernel", "none", "true"),
        ("ping", "--timeout", "0"),
        ("ping", "--socket", "/none/bond.sock"),
        ("policy", "explain"),
        ("policy", "explain", ""),
        ("check", "--state", "/none"),
        ("recover", "--state", "/none"),
        ("serve", "--socket", "/proc/none/bond.sock"),
        ("install", "--root", "/none", "--user", "nobody-9"),
        ("uninstall", "--root", "/none", "--dance"),
    ],
    ids=" ".join,
)
def test_28_every_error_begins_alike(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code in (1, 2)
    assert result.output.startswith(PREFIX)
    assert "Traceback" not in result.output
    if words != ("lab", "run"):  # whose story is on standard output, its end too
        assert result.stdout == ""


@pytest.mark.parametrize("command", [("check",), ("recover",), ("recover", "--dry-run")])
def test_28_a_state_directory_that_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = call(*command, "--state", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert f"the state directory {tmp_path}/none does not exist; --state sets" in result.stderr
    (tmp_path / "file").touch()
    result = call(*command, "--state", str(tmp_path / "file"))
    assert f"the state directory {tmp_path}/file is not a directory" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["file"]
    empty = call(*command, "--state", str(tmp_path))
    assert (empty.exit_code, empty.stdout) == (0, "no attachments\n")


def test_28_ping_says_what_to_do_next(tmp_path: Path) -> None:
    """With the names that the deployment has."""
    unit, manifest = os.path.basename(installer.UNIT), installer.daemonset("image", "/opt/cni/bin")
    assert unit == "bond-cni.service"
    for line in ("namespace: kube-system", "app.kubernetes.io/name: bond-cni"):
        assert line in manifest
    path = str(tmp_path / "sock")
    for listens in (False, True):
        with socket.socket(socket.AF_UNIX) as sock:
            if listens:
                sock.bind(path)
                sock.listen()
            result = call("ping", "--socket", path, "--timeout", "0.1")
        assert result.exit_code == 1
        assert f"{PREFIX}the daemon does not answer at {path}: " in result.stderr
        assert "systemctl status bond-cni, and journalctl -u bond-cni" in result.stderr
        assert "kubectl -n kube-system get pods -o wide -l app.kubernetes.io/name=bond-cni" in (
            result.stderr
        )
        assert ("--mode direct" in result.stderr) is not listens


def test_28_the_shell_completes() -> None:
    env = {"_BONDCTL_COMPLETE": "bash_complete", "COMP_WORDS": "bondctl po", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bondctl"))],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == "plain,policy\n"
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"_BONDCTL_COMPLETE={shell}_source bondctl" in guide
