"""Installing below a root of the test's own: what is put where, what is refused, what is let be."""

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
from bondcni.install.installer import Place, Wish, Wrong, install
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
def wish(tmp_path: Path, root: Path) -> Wish:
    shim = tmp_path / "shim"
    shim.write_bytes(SHIM)
    shim.chmod(0o755)
    return Wish(
        Place(str(root)), shim=str(shim), user=USER, bondctl="/bin/true", launcher=launcher()
    )


def said(lines: list[str]) -> set[str]:
    """The verdicts of an installation."""
    return {line.partition(": ")[2] for line in lines}


def call(*words: str) -> Result:
    result = CliRunner().invoke(main.main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_everything_is_put_in_place(wish: Wish, root: Path) -> None:
    lines = list(install(wish))
    bond = root / "opt/cni/bin/bond"
    assert (bond.read_bytes(), bond.stat().st_mode & 0o7777) == (SHIM, 0o755)
    assert (root / "var/lib/bond-cni").stat().st_mode & 0o7777 == 0o700
    assert "next: systemctl daemon-reload" in lines[-1]
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "etc/cni/bond/policy.yaml",
        UNIT,
        "opt/cni/bin/bond",
    ]


def test_the_second_run_changes_nothing(wish: Wish, root: Path) -> None:
    list(install(wish))
    before = {path: path.stat() for path in root.rglob("*")}
    assert said(list(install(wish))) == {"unchanged"}
    assert {path: path.stat().st_ino for path in before} == {
        path: found.st_ino for path, found in before.items()
    }


def test_what_is_executed_is_replaced(wish: Wish, root: Path) -> None:
    """The old program goes on, the new one is there at once; never half of one."""
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(Path("/bin/sleep").read_bytes() + b"bondctl serve")
    bond.chmod(0o755)
    with subprocess.Popen([str(bond), "60"]) as running:
        with pytest.raises(OSError, match="busy"):
            bond.write_bytes(b"")
        assert f"{bond}: replaced" in list(install(wish))
        assert running.poll() is None
        running.kill()
    assert bond.read_bytes() == SHIM


def test_who_looks_meanwhile_finds_a_whole_program(wish: Wish, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    whole = [SHIM + bytes([number]) * 100_000 for number in range(20)]
    list(install(wish))
    seen, done = set[bytes](), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(bond.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for content in whole:
        Path(wish.shim).write_bytes(content)
        list(install(wish))
    done.set()
    reader.join(10)
    assert seen <= {SHIM, *whole}


def test_what_a_killed_installer_left_is_no_hindrance(wish: Wish, root: Path) -> None:
    left = root / "opt/cni/bin/.bond.new"
    left.symlink_to(root / "victim")
    list(install(wish))
    assert not left.is_symlink()
    assert not (root / "victim").exists()
    assert (root / "opt/cni/bin/bond").read_bytes() == SHIM


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    wrong = Wish(Place(str(tmp_path)), shim="/nowhere/bond", user="nobody-9", bondctl="/home/x/b")
    with pytest.raises(Wrong) as error:
        list(install(wrong))
    text = "\n".join(error.value.problems)
    for word in (
        "opt/cni/bin",
        "/nowhere/bond",
        "no user nobody-9",
        "systemd/system",
        "no command",
    ):
        assert word in text
    assert "hides it" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(SHIM, 0o644, "is not executable"), (b"\x7fELF another", 0o755, "is not the executable bond")],
)
def test_a_shim_that_is_none(wish: Wish, content: bytes, mode: int, why: str) -> None:
    shim = Path(wish.shim)
    shim.write_bytes(content)
    shim.chmod(mode)
    with pytest.raises(Wrong, match=why):
        list(install(wish))


def test_without_root_this_machine_is_not_touched(wish: Wish) -> None:
    if os.geteuid():
        with pytest.raises(Wrong, match="needs root"):
            list(install(wish._replace(place=Place())))


def test_a_policy_is_never_overwritten(wish: Wish, root: Path) -> None:
    file = root / "etc/cni/bond/policy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("links: [{name: eth7}]\n")
    list(install(wish))
    assert file.read_text() == "links: [{name: eth7}]\n"


def test_the_policy_that_is_written_says_what_holds_without(wish: Wish, root: Path) -> None:
    list(install(wish))
    rules = policy.load(str(root / "etc/cni/bond/policy.yaml"))
    for namespace in ("", "default"):
        verdict = rules.verdict(Link(3, "eth1"), "virtio_net", namespace)
        assert (verdict.allowed, verdict.force) == (True, False)


def test_the_unit_has_one_capability_and_starts_the_daemon(wish: Wish, root: Path) -> None:
    list(install(wish))
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


def test_users_of_another_root_are_its_own(wish: Wish, root: Path) -> None:
    (root / "etc/passwd").write_text(f"bond-cni:x:{os.geteuid()}:{os.getegid()}::/:/none\n")
    assert f"{root}/{UNIT}: written" in list(install(wish._replace(user="bond-cni")))
    assert "User=bond-cni" in (root / UNIT).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which takes root")
def test_the_state_folder_is_given_with_all_in_it(wish: Wish, root: Path) -> None:
    """From direct to thick mode: the daemon must read what root wrote; no link is followed."""
    queue = root / "var/lib/bond-cni/queue"
    queue.mkdir(parents=True)
    (queue / "a:b.del").write_text("x")
    (root / "victim").write_text("")
    (queue / "link").symlink_to(root / "victim")
    list(install(wish._replace(user="4711", systemd=False)))
    for path in (queue.parent, queue, queue / "a:b.del", queue / "link", root / "run/bond-cni"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (4711, 4711)
    assert (root / "victim").stat().st_uid == 0


# Direct mode


def direct(wish: Wish) -> Wish:
    return wish._replace(mode="direct", systemd=False)


def test_direct_mode_needs_no_daemon(wish: Wish, root: Path) -> None:
    list(install(direct(wish)))
    assert b"bondcni.direct.plugin" in (root / "opt/cni/bin/bond").read_bytes()
    assert not (root / UNIT).exists()
    assert not (root / "etc/cni").exists()  # each request would pay for reading it


def test_back_to_direct_mode_when_the_queue_is_empty(wish: Wish, root: Path) -> None:
    list(install(wish))
    queue = root / "var/lib/bond-cni/queue"
    queue.mkdir()
    (queue / "c:net1.del").write_text("")
    with pytest.raises(Wrong, match="1 DEL is queued"):
        list(install(direct(wish)))
    (queue / "c:net1.del").unlink()
    assert f"{root}/opt/cni/bin/bond: replaced" in list(install(direct(wish)))


# A bond of another origin


def test_another_bond_is_kept(wish: Wish, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    lines = list(install(wish))
    assert f"{bond}.replaced: the bond that was there, which is not ours" in lines
    assert Path(f"{bond}.replaced").read_bytes() == b"\x7fELF go"
    assert bond.read_bytes() == SHIM


def test_a_second_one_would_be_lost(wish: Wish, root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    Path(f"{bond}.replaced").write_bytes(b"first")
    with pytest.raises(Wrong, match="is not ours"):
        list(install(wish))
    assert bond.read_bytes() == b"\x7fELF go"


def test_another_bond_is_not_removed(root: Path) -> None:
    bond = root / "opt/cni/bin/bond"
    bond.write_bytes(b"\x7fELF go")
    assert f"{bond}: left as it is, for it is not ours" in list(uninstall(Place(str(root))))
    assert bond.read_bytes() == b"\x7fELF go"


# Taking it off


def attached(root: Path) -> None:
    link = Link(4, "eth1")
    wanted = Wanted(9, "net1", "", {}, 1500, "", (Member(4, "eth1", {}),))
    claimed = (Claimed(Location.HOST, link),)
    Journal(f"{root}{STATE_DIRECTORY}").write(Record("c1", "net1", "/x", {}, wanted, claimed))


def test_uninstalled(wish: Wish, root: Path) -> None:
    list(install(wish))
    wants = root / "etc/systemd/system/multi-user.target.wants/bond-cni.service"
    wants.parent.mkdir()
    wants.symlink_to("/etc/systemd/system/bond-cni.service")
    lines = list(uninstall(wish.place))
    assert not (root / UNIT).exists()
    assert not wants.is_symlink()
    assert list((root / "opt/cni/bin").iterdir()) == []
    for path in ("var/lib/bond-cni", "etc/cni/bond/policy.yaml"):
        assert (root / path).exists()
        assert f"{root}/{path}: left as it is" in lines
    assert "systemctl stop bond-cni" in lines[-1]
    assert f"{root}/opt/cni/bin/bond: is not there" in list(uninstall(wish.place))


def test_not_while_attachments_are_on_record(wish: Wish, root: Path) -> None:
    list(install(wish))
    attached(root)
    with pytest.raises(Wrong, match="attachment c1 net1 is on record, with the host's eth1"):
        list(uninstall(wish.place))
    assert (root / "opt/cni/bin/bond").exists()
    list(uninstall(wish.place, force=True))
    assert not (root / "opt/cni/bin/bond").exists()
    assert list((root / "var/lib/bond-cni").glob("c1*"))


def test_a_unit_that_is_not_ours_is_let_be(wish: Wish, root: Path) -> None:
    (root / UNIT).write_text("[Service]\n")
    list(uninstall(wish.place))
    assert (root / UNIT).exists()


# The command line


def test_the_commands(wish: Wish, root: Path) -> None:
    words = ("install", "--root", f"{root}/", "--shim", wish.shim, "--no-systemd", "--user", USER)
    result = call(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{root}/opt/cni/bin/bond: written" in result.stdout.splitlines()
    assert call("uninstall", "--root", str(root)).exit_code == 0


def test_problems_are_lines(tmp_path: Path) -> None:
    result = call("install", "--root", str(tmp_path), "--user", "nobody-9", "--no-systemd")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("bondctl: error: nothing was touched:\n    ")
    assert "--bin-dir" in result.stderr


def test_ping_where_nobody_is(tmp_path: Path) -> None:
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
    assert "in time" in result.stderr
