"""The thick mode inside a test's process: the daemon as a thread with rights of its own.

Credentials belong to a thread in Linux. So the daemon's threads run as a user without any right
but CAP_NET_ADMIN, as in production, while what a test wraps or patches reaches it. A child
that a test forks, to be killed, starts another, which dies with it: the shim is a process of
its own and sees its daemon vanish.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bondcni.frontends.daemon import Daemon, Settings, listening

ROOT = Path(__file__).resolve().parents[2]
SHIM = os.environ.get("BONDCNI_SHIM") or str(ROOT / "build" / "bond")
USER = 65534
CAP_NET_ADMIN = 12
SYS_SETRESUID, SYS_SETRESGID, SYS_SETGROUPS, SYS_CAPSET = 117, 119, 116, 126
PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 8, 24
LAST_CAP = 40
LIBC = ctypes.CDLL(None, use_errno=True)
SECONDS = 120.0


def drop_rights() -> None:
    """This thread becomes ``USER`` with CAP_NET_ADMIN alone (raw calls: libc's are for all)."""
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


class Thick:
    """A daemon for one node, in this process."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.process = os.getpid()
        self.log: list[dict[str, Any]] = []
        self.policy = folder / "policy-of-the-daemon.yaml"
        self._run = folder / f"run-{os.getpid()}"
        self.socket = self._run / "bond.sock"
        for place in (self._run, state):
            place.mkdir(mode=0o700, exist_ok=True)
            os.chown(place, USER, USER)
        self._state = state
        self._ready = threading.Event()
        self._failed: list[BaseException] = []
        self._daemon: Daemon | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(30), "no daemon"
        assert not self._failed, self._failed

    def _serve(self) -> None:
        try:
            with self._daemon_here() as daemon:
                self._ready.set()
                daemon.run()
        except BaseException as error:  # noqa: BLE001  told by the thread that waits
            self._failed.append(error)
        finally:
            self._ready.set()

    @contextlib.contextmanager
    def _daemon_here(self) -> Iterator[Daemon]:
        drop_rights()
        settings = Settings(str(self.socket), str(self._state), str(self.policy))
        with listening(settings.socket) as listener:
            self._daemon = Daemon(settings, listener, self._tell)
            self._daemon.prepare()
            yield self._daemon

    def _tell(self, **fields: Any) -> None:
        self.log.append(fields)

    def use_policy(self, path: str) -> None:
        """Let the daemon's policy file be this one; "": none."""
        self.policy.unlink(missing_ok=True)
        if path:
            self.policy.symlink_to(path)

    def call(self, env: Mapping[str, str], text: bytes) -> tuple[int, str, str]:
        """Execute the shim as a runtime does: exit code, standard output and error."""
        whole = {**env, "BONDCNI_SOCKET": str(self.socket)}
        done = subprocess.run(
            [SHIM], env=whole, input=text, capture_output=True, check=False, timeout=SECONDS
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def end(self) -> None:
        """As SIGTERM ends it."""
        if self.process != os.getpid():
            return
        assert self._daemon is not None
        self._daemon.end()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the daemon does not end"
        assert not self._failed, self._failed
