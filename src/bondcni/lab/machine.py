"""The guest as a process of this machine: how it is started, and that it ends.

Two kinds: user-mode Linux, a kernel that is an ordinary program, and the machine's own kernel
in fresh namespaces. Both run the agent as process 1 and speak to it over a socket pair; what
is said there is the holder's business. The guest is the first process of a PID namespace whose
parent dies with us (prctl PR_SET_PDEATHSIG), so that however we end, killed too, the kernel
ends every process of it: user-mode Linux alone leaves its helpers behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TAIL_LINES = 40  # a panic with its trace


class Settings(NamedTuple):
    """What a guest is made of; plain values, so that they travel as JSON."""

    kernel: str
    binary: str | None  # None: the machine's own kernel
    modules: str
    libraries: str | None
    options: list[str]
    nics: list[list[str]]
    memory_mb: int
    shares: dict[str, str]
    boot_seconds: float


def command(settings: Settings, line: int, folder: Path, nics: list[str]) -> list[str]:
    """The command that starts the guest; ``line`` is the descriptor of the agent's channel."""
    python = [os.path.realpath(sys.executable), "-S", "-P", "-m", "bondcni.lab.agent"]
    path = f"PYTHONPATH={Path(__file__).parents[2]}"
    leash = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    if settings.binary is None:
        return [*leash, "--net", "--mount", "--uts", "--ipc", "--", "env", path, *python, str(line)]
    if os.geteuid():
        leash += ["--user", "--map-current-user"]
    # For the kernel alone: the machine's own programs can not use another suite's C library.
    libraries = ["env", f"LD_LIBRARY_PATH={settings.libraries}"] if settings.libraries else []
    return [
        *leash, "--", "sh", "-c", '"$@"; exit $?', "guest", *libraries, settings.binary, f"mem={settings.memory_mb}M",
        "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "panic=-1",
        f"uml_dir={folder}", "umid=guest", "con=null", "con0=null,fd:1", f"ssl0=fd:{line}",
        *settings.options, *nics, quoted(path), quoted(f"init={python[0]}"), "--", *python[1:], "/dev/ttyS0",
    ]  # fmt: skip


def quoted(parameter: str) -> str:
    """A kernel parameter as its command line wants it: ``key="a value"``, next_arg() in lib/."""
    key, _, value = parameter.partition("=")
    return f'{key}="{value}"' if " " in value else parameter


class Machine:
    """A started guest; ``line`` is our end of the agent's channel."""

    def __init__(self, settings: Settings, folder: Path, nics: list[str]) -> None:
        self.log = folder / "console"
        self.line, theirs = socket.socketpair()
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command(settings, theirs.fileno(), folder, nics),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pidfd = os.pidfd_open(self._process.pid)

    def stop(self, patience: float) -> int:
        """Wait ``patience`` seconds for its end, then kill it; its status."""
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def last_words(self) -> list[str]:
        """The last lines of its console."""
        text = self.log.read_bytes().decode(errors="replace")
        return text.replace("\r", "").splitlines()[-TAIL_LINES:]
