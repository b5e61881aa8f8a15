"""Installation below a root of the test's own: what is written, refused and kept."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bondcni.cli import main
from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import Link, Location
from bondcni.daemon.protocol import Tag, Type, number, pack
from bondcni.direct.launcher import launcher
from bondcni.install.installer import InstallOptions, InstallRefused, Target, install
from bondcni.install.uninstaller import uninstall
from bondcni.service import policy
from bondcni.service.journal import Journal, Record
from bondcni.service.paths import SOCKET, STATE_DIRECTORY

SHIM = b"\x7fELF the bond daemon does not answer: is `bondctl serve` running?"
USER = str(os.geteuid())
UNIT = "etc/systemd/system/bond-cni.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("opt/cni/bin", "etc/systemd/system", "var/lib"):
        (tmp_path / "node" / folder).mkdir(parents=True)
    return tmp_path / "node"


@pytest.fixture
def options(tmp_path: Path, root: Path) -> InstallOptions:
    shim = tmp_path / "shim"
    shim.write_bytes(SHIM)
    shim.chmod(0o755)
    return InstallOptions(
        Target(str(root)), shim=str(shim), user=USER, bondctl="/bin/true", launcher=launcher()
    )


def said(lines: list[str]) -> set[str]:
    """The verdicts of an installation."""
    return {line.partition(": ")[2] for line in lines}


def call(*words: str) -> Result:
    result = CliRunner().invoke(main.main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_everything_is_put_in_place(options: InstallOptions, root: Path) -> None:
    lines = list(install(options))
    bond = root / "opt/cni/bin/bond"
    assert (bond.read_bytes(), bond.stat().st_mode & 0o7777) == (SHIM, 0o755)
    assert (root / "var/lib/bond-cni").stat().st_mode & 0o7777 == 0o700
    assert "next: systemctl daemon-reload" in lines[-1]
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "etc/cni/bond/policy.yaml",
        UNIT,
        "opt/cni/bin/bond",
    ]


def test_the_second_run_changes_nothing(options: InstallOptions, root: Path) -> None:
    list(install(options))
    before = {path: path.stat() for path in root.rglob("*")}
    assert said(list(install(options))) == {"unchanged"}
    assert {path: path.stat().st_ino for path in before} == {
        path: found.st_ino for path, found in before.items()
    }


def test_an_executable_in_use_is_replaced(options: InstallOptions, root: Path) -> None:
    """The running program continues; the new one is complete at once."""
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(Path("/bin/sleep").read_bytes() + b"bondctl serve")
    bond.chmod(0o755)
    with subprocess.Popen([str(bond), "60"]) as running:
        with pytest.raises(OSError, match="busy"):
            bond.write_bytes(b"")
        assert f"{bond}: replaced" in list(install(options))
        assert running.poll() is None
        running.kill()
    assert bond.read_bytes() == SHIM


def test_a_reader_always_finds_a_complete_executable(options: InstallOptions, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    whole = [SHIM + bytes([number]) * 100_000 for number in range(20)]
    list(install(options))
    seen, done = set[bytes](), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(bond.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for content in whole:
        Path(options.shim).write_bytes(content)
        list(install(options))
    done.set()
    reader.join(10)
    assert seen <= {SHIM, *whole}


def test_a_file_left_by_a_killed_installer_is_replaced(options: InstallOptions, root: Path) -> None:
    left = root / "opt/cni/bin/.bond.new"
    left.symlink_to(root / "victim")
    list(install(options))
    assert not left.is_symlink()
    assert not (root / "victim").exists()
    assert (root / "opt/cni/bin/bond").read_bytes() == SHIM


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    wrong = InstallOptions(
        Target(str(tmp_path)), shim="/nowhere/bond", user="nobody-9", bondctl="/home/x/b"
    )
    with pytest.raises(InstallRefused) as error:
        list(install(wrong))
    text = "\n".join(error.value.problems)
    for word in (
        "opt/cni/bin: not a directory",
        "/nowhere/bond",
        "user nobody-9 does not exist",
        "systemd/system: not a directory",
        "/home/x/b: not an executable file",
    ):
        assert word in text
    assert "hides this directory" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(SHIM, 0o644, "not executable"), (b"\x7fELF another", 0o755, "not the executable bond")],
)
def test_a_file_that_is_not_the_shim(
    options: InstallOptions, content: bytes, mode: int, why: str
) -> None:
    shim = Path(options.shim)
    shim.write_bytes(content)
    shim.chmod(mode)
    with pytest.raises(InstallRefused, match=why):
        list(install(options))


def test_without_root_this_machine_is_not_changed(options: InstallOptions) -> None:
    if os.geteuid():
        with pytest.raises(InstallRefused, match="must be run as root"):
            list(install(options._replace(target=Target())))


def test_a_policy_is_never_overwritten(options: InstallOptions, root: Path) -> None:
    file = root / "etc/cni/bond/policy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("links: [{name: eth7}]\n")
    list(install(options))
    assert file.read_text() == "links: [{name: eth7}]\n"


def test_the_policy_that_is_written_has_the_effect_of_none(
    options: InstallOptions, root: Path
) -> None:
    list(install(options))
    rules = policy.load(str(root / "etc/cni/bond/policy.yaml"))
    for namespace in ("", "default"):
        verdict = rules.verdict(Link(3, "eth1"), "virtio_net", namespace)
        assert (verdict.allowed, verdict.force) == (True, False)


def test_the_unit_has_one_capability_and_starts_the_daemon(
    options: InstallOptions, root: Path
) -> None:
    list(install(options))
    lines = (root / UNIT).read_text().splitlines()
    setting = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert [line for line in lines if "CAP_" in line] == [
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
    ]
    assert setting["ExecStart"] == "/bin/true serve"
    assert setting["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert setting["User"] == USER
    assert (setting["Type"], setting["Restart"]) == ("notify", "always")
    assert f"/run/{setting['RuntimeDirectory']}/bond.sock" == SOCKET
    assert f"/var/lib/{setting['StateDirectory']}" == STATE_DIRECTORY
    assert "PrivateNetwork" not in setting


def test_users_of_another_root_are_its_own(options: InstallOptions, root: Path) -> None:
    (root / "etc/passwd").write_text(f"bond-cni:x:{os.geteuid()}:{os.getegid()}::/:/none\n")
    assert f"{root}/{UNIT}: written" in list(install(options._replace(user="bond-cni")))
    assert "User=bond-cni" in (root / UNIT).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which takes root")
def test_the_state_directory_changes_its_owner_with_all_in_it(
    options: InstallOptions, root: Path
) -> None:
    """From direct to thick mode the daemon must read root's files; no symlink is followed."""
    queue = root / "var/lib/bond-cni/queue"
    queue.mkdir(parents=True)
    (queue / "a:b.del").write_text("x")
    (root / "victim").write_text("")
    (queue / "link").symlink_to(root / "victim")
    list(install(options._replace(user="4711", systemd=False)))
    for path in (queue.parent, queue, queue / "a:b.del", queue / "link", root / "run/bond-cni"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (4711, 4711)
    assert (root / "victim").stat().st_uid == 0


# Direct mode


def direct(options: InstallOptions) -> InstallOptions:
    return options._replace(mode="direct", systemd=False)


def test_direct_mode_needs_no_daemon(options: InstallOptions, root: Path) -> None:
    list(install(direct(options)))
    assert b"bondcni.direct.plugin" in (root / "opt/cni/bin/bond").read_bytes()
    assert not (root / UNIT).exists()
    assert not (root / "etc/cni").exists()  # each request would pay for reading it


def test_back_to_direct_mode_when_the_queue_is_empty(options: InstallOptions, root: Path) -> None:
    list(install(options))
    queue = root / "var/lib/bond-cni/queue"
    queue.mkdir()
    (queue / "c:net1.del").write_text("")
    with pytest.raises(InstallRefused, match="1 DEL is queued"):
        list(install(direct(options)))
    (queue / "c:net1.del").unlink()
    assert f"{root}/opt/cni/bin/bond: replaced" in list(install(direct(options)))


# A bond of another origin


def test_another_bond_is_kept(options: InstallOptions, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    lines = list(install(options))
    assert f"{bond}.replaced: the previous bond, of another product" in lines
    assert Path(f"{bond}.replaced").read_bytes() == b"\x7fELF go"
    assert bond.read_bytes() == SHIM


def test_a_second_one_would_be_lost(options: InstallOptions, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    Path(f"{bond}.replaced").write_bytes(b"first")
    with pytest.raises(InstallRefused, match="belongs to another product"):
        list(install(options))
    assert bond.read_bytes() == b"\x7fELF go"


def test_another_bond_is_not_removed(root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    assert f"{bond}: kept, belongs to another product" in list(uninstall(Target(str(root))))
    assert bond.read_bytes() == b"\x7fELF go"


# Uninstalling


def attached(root: Path) -> None:
    link = Link(4, "eth1")
    wanted = Wanted(9, "net1", "", {}, 1500, "", (Member(4, "eth1", {}),))
    claimed = (Claimed(Location.HOST, link),)
    Journal(f"{root}{STATE_DIRECTORY}").write(Record("c1", "net1", "/x", {}, wanted, claimed))


def test_uninstalled(options: InstallOptions, root: Path) -> None:
    list(install(options))
    wants = root / "etc/systemd/system/multi-user.target.wants/bond-cni.service"
    wants.parent.mkdir()
    wants.symlink_to("/etc/systemd/system/bond-cni.service")
    lines = list(uninstall(options.target))
    assert not (root / UNIT).exists()
    assert not wants.is_symlink()
    assert list((root / "opt/cni/bin").iterdir()) == []
    for path in ("var/lib/bond-cni", "etc/cni/bond/policy.yaml"):
        assert (root / path).exists()
        assert f"{root}/{path}: kept" in lines
    assert "systemctl stop bond-cni" in lines[-1]
    assert f"{root}/opt/cni/bin/bond: not found" in list(uninstall(options.target))


def test_not_while_attachments_are_on_record(options: InstallOptions, root: Path) -> None:
    list(install(options))
    attached(root)
    with pytest.raises(
        InstallRefused, match="attachment c1 net1 has a record and claims eth1 of the host"
    ):
        list(uninstall(options.target))
    assert (root / "opt/cni/bin/bond").exists()
    list(uninstall(options.target, force=True))
    assert not (root / "opt/cni/bin/bond").exists()
    assert list((root / "var/lib/bond-cni").glob("c1*"))


def test_a_unit_that_is_not_ours_is_kept(options: InstallOptions, root: Path) -> None:
    (root / UNIT).write_text("[Service]\n")
    list(uninstall(options.target))
    assert (root / UNIT).exists()


# The command line


def test_the_commands(options: InstallOptions, root: Path) -> None:
    words = (
        "install",
        "--root",
        f"{root}/",
        "--shim",
        options.shim,
        "--no-systemd",
        "--user",
        USER,
    )
    result = call(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{root}/opt/cni/bin/bond: written" in result.stdout.splitlines()
    assert call("uninstall", "--root", str(root)).exit_code == 0


def test_problems_are_lines(tmp_path: Path) -> None:
    result = call("install", "--root", str(tmp_path), "--user", "nobody-9", "--no-systemd")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("bondctl: error: nothing was changed:\n    ")
    assert "--bin-dir" in result.stderr


def test_ping_without_a_daemon(tmp_path: Path) -> None:
    result = call("ping", "--socket", str(tmp_path / "none.sock"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No such file" in result.stderr


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1)])
def test_ping(tmp_path: Path, status: int, code: int) -> None:
    path = tmp_path / "bond.sock"

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == pack(Type.PING)
            connection.send(pack(Type.ANSWER, [(Tag.STATUS, number(status))]))

    with listening(path) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        result = call("ping", "--socket", str(path))
        thread.join(10)
    assert result.exit_code == code
    assert ("the daemon answers" in result.stdout) == (not code)


def test_ping_has_a_deadline(tmp_path: Path) -> None:
    with listening(tmp_path / "silent.sock"):
        result = call("ping", "--socket", str(tmp_path / "silent.sock"), "--timeout", "0.05")
    assert result.exit_code == 1
    assert "timed out waiting" in result.stderr
