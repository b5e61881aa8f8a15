"""``bondctl serve`` as a process: its socket, its signals, what systemd hears, what it weighs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.unit.daemon.shim import CONFIG, PATIENCE, Shim, wait_until

from bondcni.daemon.protocol import Tag, Type, number
from bondcni.daemon.start_up import CannotServe, listening, notify

COMMAND = (sys.executable, "-m", "bondcni", "serve")
IPAM = {**CONFIG, "ipam": {"type": "delegate"}}
TIME = r"^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
LIGHT = 40 << 10
"""KiB that an idle daemon may hold."""


class Process:
    """A daemon, and a socket at which it tells of itself as it would tell systemd."""

    def __init__(self, folder: Path, *, abstract: bool = False, soft: int = 0) -> None:
        self.folder = folder
        self.path = str(folder / "run" / "bond.sock")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(PATIENCE)
        name = f"bondcni-test-{os.getpid()}-{id(self)}"
        address = f"\0{name}" if abstract else str(folder / "notify")
        self.manager.bind(address)
        self.env = {
            **os.environ,
            "NOTIFY_SOCKET": f"@{name}" if abstract else address,
            "BONDCNI_SOCKET": self.path,
            "BONDCNI_STATE": str(folder / "state"),
            "BONDCNI_POLICY": str(folder / "policy.yaml"),
        }
        limited = ("/bin/sh", "-c", f'ulimit -Sn {soft}; exec "$@"', "sh") if soft else ()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen((*limited, *COMMAND), env=self.env, stderr=log)

    def told(self) -> str:
        """What systemd hears next."""
        return self.manager.recv(1000).decode()

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def ping(self) -> None:
        with Shim.to(self.path) as shim:
            shim.send(Type.PING)
            assert shim.answer() == (0, None, "")

    def signal(self, number_: signal.Signals) -> None:
        self.process.send_signal(number_)

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self.manager.close()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def one(*, abstract: bool = False, soft: int = 0) -> Process:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Process(folder, abstract=abstract, soft=soft))
        assert started[-1].told() == "READY=1"
        return started[-1]

    yield one
    for process in started:
        process.close()


def again(process: Process) -> tuple[int, str]:
    """A second daemon at the same place: its exit code and what it says."""
    env = {name: value for name, value in process.env.items() if name != "NOTIFY_SOCKET"}
    done = subprocess.run(
        COMMAND, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_from_beginning_to_end(start: Start) -> None:
    served = start()
    served.ping()
    lock = os.stat(f"{served.path}.lock")
    assert lock.st_mode & 0o777 == os.stat(served.path).st_mode & 0o777 == 0o600
    assert again(served) == (2, f"bondctl: error: another daemon is listening on {served.path}\n")
    os.unlink(f"{served.path}.lock")  # who cleans /run all too well must not make two of one
    assert again(served) == (2, f"bondctl: error: another daemon is listening on {served.path}\n")
    served.ping()
    served.signal(signal.SIGHUP)
    wait_until(lambda: any("event=policy_reloaded" in line for line in served.lines()))
    served.ping()
    served.signal(signal.SIGTERM)
    assert served.told() == "STOPPING=1"
    assert served.ended() == 0
    assert not os.path.exists(served.path)
    assert [re.sub(TIME, "", line) for line in served.lines()] == [
        "level=info event=ready queued=0 stale=0 unexamined=0",
        "level=info event=policy_reloaded",
        "level=info event=stopped",
    ]


def test_the_end_waits_for_what_runs(start: Start) -> None:
    served = start(abstract=True)
    with Shim.to(served.path) as running:
        running.request("DEL", IPAM)
        assert running.receive().type == Type.EXEC
        served.signal(signal.SIGTERM)
        assert served.told() == "STOPPING=1", "when it begins to end, says sd_notify(3)"
        for command, status in (("ADD", 1), ("DEL", 0)):
            with Shim.to(served.path) as shim:
                shim.request(command, CNI_CONTAINERID="c2")
                answer = shim.answer()
                assert (answer.status, answer.code) == (status, 11 * status)
        assert served.process.poll() is None
        running.send(Type.DONE, [(Tag.STATUS, number(0)), (Tag.EXIT, number(0))])
        assert running.answer() == (0, None, "")
    assert served.ended() == 0
    lines = served.lines()
    assert [line.split()[2] for line in lines] == [
        *("event=ready", "event=request", "event=request", "event=request", "event=stopped")
    ]
    assert (
        "level=error event=request verb=ADD container=c2 ifname=net1 network=net code=11 ms="
        in lines[1]
    )
    assert (
        "level=info event=request verb=DEL container=c1 ifname=net1 network=net code=0 ms="
        in lines[3]
    )


def test_a_socket_that_a_killed_daemon_left_is_taken_over(start: Start) -> None:
    served = start()
    served.signal(signal.SIGKILL)
    served.ended()
    assert os.path.exists(served.path)
    with subprocess.Popen(COMMAND, env=served.env, stderr=subprocess.DEVNULL) as process:
        try:
            assert served.told() == "READY=1"
            served.ping()
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_an_idle_one_is_light(start: Start) -> None:
    served = start()
    for verb in ("DEL", "ADD", "CHECK"):
        with Shim.to(served.path) as shim:
            shim.request(verb, None, "hHpP")
            shim.answer()
    status = Path(f"/proc/{served.process.pid}/status").read_text(encoding="ascii")
    (resident,) = [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
    assert resident < LIGHT


def test_it_makes_room_for_what_requests_bring(start: Start) -> None:
    served = start(soft=256)
    limits = Path(f"/proc/{served.process.pid}/limits").read_text(encoding="ascii")
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert int(soft) == (16384 if hard == "unlimited" else min(16384, int(hard)))


def test_a_log_that_nobody_reads_ends_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    env = {
        **os.environ,
        "BONDCNI_SOCKET": str(tmp_path / "bond.sock"),
        "BONDCNI_STATE": str(tmp_path / "state"),
    }
    with subprocess.Popen(COMMAND, env=env, stderr=writing) as process:
        os.close(writing)
        try:
            assert b" event=ready " in os.read(reading, 1000)
            os.close(reading)
            for _ in range(3):
                with Shim.to(env["BONDCNI_SOCKET"]) as shim:
                    shim.request("DEL")
                    assert shim.answer() == (0, None, "")
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "env", "written"),
    [
        ((), {"BONDCNI_LOG_FORMAT": "json"}, ["ready", "stopped"]),
        (("--log-format", "json"), {"BONDCNI_LOG_FORMAT": "logfmt"}, ["ready", "stopped"]),
        (("--log-format", "json", "--log-level", "warning"), {}, []),
        (("--log-format", "json"), {"BONDCNI_LOG_LEVEL": "error"}, []),
    ],
)
def test_format_and_level_of_the_log(
    tmp_path: Path, options: tuple[str, ...], env: dict[str, str], written: list[str]
) -> None:
    socket_ = tmp_path / "bond.sock"
    words = ("--socket", str(socket_), "--state", str(tmp_path / "state"), *options)
    whole = {**os.environ, **env}
    with subprocess.Popen((*COMMAND, *words), env=whole, stderr=subprocess.PIPE) as process:
        try:
            wait_until(socket_.exists)
            with Shim.to(str(socket_)) as shim:
                shim.send(Type.PING)
                assert shim.answer() == (0, None, "")
            process.terminate()
            _, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert [json.loads(line)["event"] for line in log.decode().splitlines()] == written


@pytest.mark.parametrize(
    ("options", "env"), [(("--log-level", "verbose"), {}), ((), {"BONDCNI_LOG_FORMAT": "xml"})]
)
def test_a_log_option_that_is_not_known(options: tuple[str, ...], env: dict[str, str]) -> None:
    whole = {**os.environ, **env}
    done = subprocess.run(
        (*COMMAND, *options), env=whole, capture_output=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert b"is not one of" in done.stderr


def test_a_state_folder_that_cannot_be_stops_no_start(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    env = {
        **os.environ,
        "BONDCNI_SOCKET": str(tmp_path / "bond.sock"),
        "BONDCNI_STATE": str(tmp_path / "state"),
    }
    with subprocess.Popen(COMMAND, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: os.path.exists(env["BONDCNI_SOCKET"]))
            with Shim.to(env["BONDCNI_SOCKET"]) as shim:
                shim.request("ADD", None, "hHpP")
                assert shim.answer().code == 5
        finally:
            process.kill()


# The socket.


def test_a_stale_socket_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "bond.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
    before = os.stat(path).st_ino
    with listening(path) as listener:
        assert os.stat(path).st_ino != before or listener.getsockname() == path
        with Shim.to(path):
            listener.accept()[0].close()
    assert os.listdir(tmp_path) == ["bond.sock.lock"]


def test_one_where_nobody_is_accepted_any_more_is_of_a_daemon(tmp_path: Path) -> None:
    """Its backlog is full: to connect would block for ever."""
    path = str(tmp_path / "bond.sock")
    with ExitStack() as held:
        other = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        other.bind(path)
        other.listen(0)
        held.enter_context(Shim.to(path))
        started = time.monotonic()
        with pytest.raises(CannotServe, match="another daemon is listening on"), listening(path):
            pass
        assert time.monotonic() - started < 5
    assert os.path.exists(path)


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_socket_is_not_removed(tmp_path: Path, what: str) -> None:
    path, target = tmp_path / "bond.sock", tmp_path / "precious"
    target.write_text("precious", encoding="ascii")
    path.symlink_to(target) if what == "link" else path.write_text("precious", encoding="ascii")
    with pytest.raises(CannotServe, match="is not a socket"), listening(str(path)):
        pass
    assert path.read_text(encoding="ascii") == target.read_text(encoding="ascii") == "precious"


def test_where_no_socket_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in (
        (f"{tmp_path}/file/bond.sock", "Not a directory|File exists"),
        (f"{tmp_path}/{'x' * 120}", "too long"),
        (str(tmp_path), "socket|directory|refused"),
    ):
        with pytest.raises(CannotServe, match=said) as error, listening(path):
            pass
        assert "None" not in str(error.value)


def test_a_path_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with listening("bond.sock"):
        assert sorted(os.listdir(tmp_path)) == ["bond.sock", "bond.sock.lock"]


def test_the_process_makes_files_as_before(tmp_path: Path) -> None:
    before = os.umask(0o22)
    try:
        with listening(str(tmp_path / "bond.sock")):
            assert os.umask(0o22) == 0o22
    finally:
        os.umask(before)


def test_where_nobody_wants_to_know_nothing_is_told(tmp_path: Path) -> None:
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": f"{tmp_path}/none"})
    notify("READY=1", {"NOTIFY_SOCKET": "x" * 200})
