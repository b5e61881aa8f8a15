"""Thick mode inside a test process: the daemon as threads with credentials of their own.

Credentials belong to a thread in Linux. So the daemon's threads run as a user with CAP_NET_ADMIN
only, as in production, and still use what a test wraps or patches. A child that a test forks in
order to kill it starts its own daemon, which is killed with it: the executable is a process of its
own and sees its daemon vanish.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bondcni.daemon.delete_queue import DeleteQueue, recover_all
from bondcni.daemon.log import Event
from bondcni.daemon.server import Daemon, Settings
from bondcni.daemon.start_up import listening
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.reconcile import Recovered
from bondcni.service.timeouts import DEFAULT, Timeouts

ROOT = Path(__file__).resolve().parents[2]
SHIM = os.environ.get("BONDCNI_SHIM") or str(ROOT / "build" / "bond")
USER = 65534
CAP_NET_ADMIN = 12
SYS_SETRESUID, SYS_SETRESGID, SYS_SETGROUPS, SYS_CAPSET = 117, 119, 116, 126
PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 8, 24
LAST_CAP = 40
LIBC = ctypes.CDLL(None, use_errno=True)
SECONDS = 120.0
T = TypeVar("T")


def drop_rights() -> None:
    """Give this thread the credentials of ``USER`` with CAP_NET_ADMIN only (by raw system calls:
    those of libc affect all threads).
    """
    version = struct.pack("=Ii", 0x20080522, 0)
    only = 1 << CAP_NET_ADMIN
    sets = struct.pack("=6I", only, only, 0, 0, 0, 0)
    for cap in set(range(LAST_CAP + 1)) - {CAP_NET_ADMIN}:
        LIBC.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)
    for call in (
        (SYS_SETGROUPS, 0, None),
        (SYS_SETRESGID, USER, USER, USER),
    ):
        assert LIBC.syscall(*call) == 0, os.strerror(ctypes.get_errno())
    assert LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0
    assert LIBC.syscall(SYS_SETRESUID, USER, USER, USER) == 0
    assert LIBC.syscall(SYS_CAPSET, version, sets) == 0, os.strerror(ctypes.get_errno())


def _open_way(folder: Path) -> None:
    """Let the daemon's user reach its directories: those of pytest are closed to other users."""
    for above in (folder, *folder.parents[:3]):
        if len(above.parts) > 2:
            above.chmod(0o755)


def _give(place: Path) -> None:
    """Give a directory and its content to the daemon's user, as the installer does. A directory
    that cannot be changed stays as a test made it.
    """
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        for path in (place, *place.rglob("*")):
            os.chown(path, USER, USER)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


HANDS = {"root": ThreadPoolExecutor(max_workers=1)}
"""Runs what a daemon's thread has no right to do: the acts of the test itself."""


def _new_hands() -> None:
    """A forked child has none of its parent's threads."""
    HANDS["root"] = ThreadPoolExecutor(max_workers=1)


os.register_at_fork(after_in_child=_new_hands)


def as_root(work: Callable[[], T]) -> T:
    """Run an act of the test with the test's credentials, from any thread."""
    return work() if os.geteuid() == 0 else HANDS["root"].submit(work).result(SECONDS)


def idle() -> bool:
    """Whether no executable runs any more, whether its daemon is alive or not."""
    return not any(map(_is_shim, Path("/proc").glob("[0-9]*/exe")))


def _is_shim(exe: Path) -> bool:
    try:
        return exe.samefile(SHIM)
    except OSError:
        return False


def recovered(state: Path) -> list[Recovered]:
    """As ``bondctl recover``."""
    service = Service(Journal(str(state)), lambda _: None)
    return list(recover_all(service, DeleteQueue(str(state))))


class Way:
    """How the requests of a node are made: the executable, and the socket that it connects to.

    Requests can be made whether a daemon listens there or not.
    """

    def __init__(
        self, folder: Path, state: Path, policy: str, timeouts: Timeouts = DEFAULT
    ) -> None:
        self.process = os.getpid()
        self._policy = policy
        self._timeouts = timeouts
        self._state = state
        run = folder.with_name(f"{folder.name}-run-{os.getpid()}")
        self.socket = run / "bond.sock"
        _open_way(folder)
        for place in (run, state):
            _give(place)

    def serves(self, policy: str, timeouts: Timeouts) -> bool:
        """Whether it can be asked: it is of this process and has this policy and these timeouts."""
        asked = os.getpid(), policy, timeouts
        return (self.process, self._policy, self._timeouts) == asked

    def start(self, env: Mapping[str, str], text: bytes) -> subprocess.Popen[bytes]:
        """Start the executable as a runtime does."""
        whole = {**env, "BONDCNI_SOCKET": str(self.socket)}
        reading = os.memfd_create("stdin")
        try:
            os.write(reading, text)
            os.lseek(reading, 0, os.SEEK_SET)
            return subprocess.Popen(
                [SHIM], env=whole, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        finally:
            os.close(reading)

    def call(self, env: Mapping[str, str], text: bytes) -> tuple[int, str, str]:
        """Run the executable to its end: exit code, standard output and standard error."""
        return ended(self.start(env, text))

    def end(self) -> None:
        """End the daemon by SIGTERM, unless it belongs to a parent process."""


def ended(shim: subprocess.Popen[bytes], seconds: float = SECONDS) -> tuple[int, str, str]:
    """The exit code and output of an executable. One that does not end is killed, and the test
    fails.
    """
    try:
        out, err = shim.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        shim.kill()
        shim.communicate()
        raise
    return shim.returncode, out.decode(), err.decode()


class Thick(Way):
    """A daemon for one node, in this process."""

    def __init__(
        self, folder: Path, state: Path, policy: str, timeouts: Timeouts = DEFAULT
    ) -> None:
        super().__init__(folder, state, policy, timeouts)
        self.log: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._failed: list[BaseException] = []
        self._daemon: Daemon | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        HANDS["root"].submit(int)  # start its thread with the test's credentials and namespace
        assert self._ready.wait(30), "no daemon"
        assert not self._failed, self._failed

    def _serve(self) -> None:
        try:
            with self._daemon_here() as daemon:
                self._ready.set()
                daemon.run()
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            self._failed.append(error)
        finally:
            self._ready.set()

    @contextlib.contextmanager
    def _daemon_here(self) -> Iterator[Daemon]:
        drop_rights()
        settings = Settings(
            str(self.socket), str(self._state), self._policy, timeouts=self._timeouts
        )
        with listening(settings.socket) as listener:
            self._daemon = Daemon(settings, listener, self._log)
            self._daemon.prepare()
            yield self._daemon

    def _log(self, event: Event, **fields: Any) -> None:
        if event is not Event.SHIM_CALL:
            self.log.append({"event": event.value, **fields})

    def at_work(self) -> int:
        """The number of requests that it serves now."""
        assert self._daemon is not None
        return self._daemon._pool.busy()

    def end(self) -> None:
        """End it as SIGTERM does."""
        if self.process != os.getpid():
            return
        assert self._daemon is not None
        self._daemon.stop()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the daemon does not end"
        assert not self._failed, self._failed


PROGRAM = """
import sys
sys.path.insert(0, {library!r})
from bondcni.cli.main import main
main()
"""
RIGHTS = "-all,+net_admin"


class Server(Way):
    """``bondctl serve`` as a process of its own, with its credentials of production."""

    def __init__(
        self, folder: Path, state: Path, policy: str, timeouts: Timeouts = DEFAULT
    ) -> None:
        super().__init__(folder, state, policy, timeouts)
        self.log = self.socket.with_name("log")
        caps = [f"--{sort}={RIGHTS}" for sort in ("inh-caps", "ambient-caps", "bounding-set")]
        ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        program = PROGRAM.format(library=str(_library(self.socket.parent)))
        what = ["serve", "--socket", str(self.socket), "--state", str(state), "--policy", policy]
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                ["setpriv", *ids, *caps, sys.executable, "-IS", "-c", program, *what],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )
        self.pid = self._running.pid
        self._told = False
        until = time.monotonic() + 30
        while "event=ready" not in (said := self.log.read_text()):
            assert self._running.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it by SIGKILL, as the kernel does when memory is short."""
        self._running.kill()
        self._running.wait(10)

    def tell_to_end(self) -> None:
        """Send SIGTERM once: a second one may reach Python in its shutdown, without a handler."""
        if not self._told:
            self._running.terminate()
        self._told = True

    def end(self) -> None:
        """End it by SIGTERM; its log is printed if this fails."""
        if self.process != os.getpid() or self._running.poll() is not None:
            return
        self.tell_to_end()
        try:
            status = self._running.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, self.log.read_text()


def _library(run: Path) -> Path:
    """The package and its dependencies, where the daemon's user can read them."""
    library = run / "library"
    if not library.exists():
        for name in ("bondcni", "click", "ruamel.yaml"):
            found = importlib.util.find_spec(name)
            assert found
            assert found.origin
            shutil.copytree(Path(found.origin).parent, library / name.replace(".", "/"))
    return library
