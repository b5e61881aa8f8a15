"""The guest as a process of this machine: how it is started, and that it ends.

Three kinds: user-mode Linux, a kernel that is an ordinary program; a stock kernel under QEMU;
and the machine's own kernel in fresh namespaces. All run the agent as process 1 and speak to it
over a socket pair; what is said there is the holder's business. The guest is the first process
of a PID namespace whose parent dies with us (prctl PR_SET_PDEATHSIG), so that however we end,
killed too, the kernel ends every process of it: user-mode Linux alone leaves its helpers behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from bondlab.guest import qemu
from bondlab.guest.guest_init import MS_BIND
from bondlab.guest.initramfs import NINE_P, initramfs

TAIL_LINES = 60  # a panic with its trace


class Kind(Enum):
    """What a guest's kernel runs on."""

    HOST = auto()
    USER_MODE = auto()
    QEMU = auto()


class Settings(NamedTuple):
    """What a guest is made of; plain values, so that they travel as JSON."""

    kernel: str
    binary: str | None  # None: the machine's own kernel
    image: str | None  # None: the binary is the kernel
    busybox: str | None
    modules: str
    libraries: str | None
    options: list[str]
    nics: list[list[str]]
    memory_mb: int
    shares: dict[str, str]
    boot_seconds: float

    @property
    def kind(self) -> Kind:
        """Which kind of guest this makes."""
        if self.binary is None:
            return Kind.HOST
        return Kind.QEMU if self.image else Kind.USER_MODE


AGENT = (os.path.realpath(sys.executable), "-S", "-P", "-m", "bondlab.guest.agent")
AGENT_PATH = f"PYTHONPATH={Path(__file__).parents[2]}"


def command(settings: Settings, line: int, folder: Path, nics: list[str]) -> list[str]:
    """The command that starts the guest; ``line`` is the descriptor of the agent's channel."""
    leash = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    if settings.binary is None:
        own = ["--net", "--mount", "--uts", "--ipc", "--", "env", AGENT_PATH]
        return [*leash, *own, *AGENT, str(line)]
    if os.geteuid():
        leash += ["--user", "--map-current-user"]
    # For the kernel alone: the machine's own programs can not use another suite's C library.
    libraries = ["env", f"LD_LIBRARY_PATH={settings.libraries}"] if settings.libraries else []
    words = (
        emulated(settings, settings.image, line, folder)
        if settings.image
        else user_mode(settings, line, folder, nics)
    )
    return [
        *(*leash, "--", "sh", "-c", '"$@"; exit $?', "guest"),
        *(*libraries, settings.binary, *settings.options, *words),
    ]


def user_mode(settings: Settings, line: int, folder: Path, nics: list[str]) -> list[str]:
    """The words of user-mode Linux's command line."""
    return [
        *(f"mem={settings.memory_mb}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
        *("ro", "panic=-1", f"uml_dir={folder}", "umid=guest"),
        *("con=null", "con0=null,fd:1", f"ssl0=fd:{line}", *nics),
        *(quoted(AGENT_PATH), quoted(f"init={AGENT[0]}"), "--", *AGENT[1:], "/dev/ttyS0"),
    ]


def emulated(settings: Settings, image: str, line: int, folder: Path) -> list[str]:
    """The words of QEMU's command line; the kernel's first files are `first_files`."""
    kernel = (image, str(folder / "initramfs"))
    return qemu.machine(settings.memory_mb, line, kernel, settings.shares.values())


def first_files(settings: Settings) -> bytes:
    """What a kernel under QEMU starts in."""
    assert settings.image  # noqa: S101 of a QEMU guest only
    assert settings.busybox  # noqa: S101
    version = Path(settings.image).name.removeprefix("vmlinuz-")
    modules = Path(settings.modules, "lib/modules", version)
    return initramfs(Path(settings.busybox), modules, AGENT_PATH, AGENT)


def share_mounts(settings: Settings) -> list[tuple[str, str, str, int, str]]:
    """What makes the shares writable inside: source, target, kind, flags and data of mount(2).

    cache=mmap: what this machine writes there is seen, and files can be mapped all the same.
    """
    shares = settings.shares.items()
    if settings.kind is Kind.HOST:
        return [(folder, path, "", MS_BIND, "") for path, folder in shares]
    if settings.kind is Kind.USER_MODE:
        return [("none", path, "hostfs", 0, folder) for path, folder in shares]
    options = f"{NINE_P},cache=mmap"
    return [(qemu.tag(place), path, "9p", 0, options) for place, (path, _) in enumerate(shares)]


def quoted(parameter: str) -> str:
    """A kernel parameter as its command line wants it: ``key="a value"``, next_arg() in lib/."""
    key, _, value = parameter.partition("=")
    return f'{key}="{value}"' if " " in value else parameter


class Machine:
    """A started guest; ``line`` is our end of the agent's channel."""

    def __init__(self, settings: Settings, folder: Path, nics: list[str]) -> None:
        self.log = folder / "console"
        if settings.kind is Kind.QEMU:
            (folder / "initramfs").write_bytes(first_files(settings))
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
