"""The guest as a process of this machine: its command line, start and end.

Three kinds: user-mode Linux, a kernel that is an ordinary program; a stock kernel under QEMU; and
this machine's kernel in new namespaces. Each runs the agent as process 1, connected by a socket
pair to the supervisor. The guest is the first process of a PID namespace whose parent gets SIGKILL
when the supervisor ends (PR_SET_PDEATHSIG), so that the kernel ends all its processes, also when the
supervisor is killed; user-mode Linux alone leaves its helper processes running.
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

TAIL_LINES = 60  # enough for a panic with its stack trace


class GuestKind(Enum):
    """How a guest's kernel is run."""

    HOST = auto()
    USER_MODE = auto()
    QEMU = auto()


class GuestSettings(NamedTuple):
    """The parameters of a guest; all values can be sent as JSON."""

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
    def kind(self) -> GuestKind:
        """The kind of guest that these settings describe."""
        if self.binary is None:
            return GuestKind.HOST
        return GuestKind.QEMU if self.image else GuestKind.USER_MODE


AGENT = (os.path.realpath(sys.executable), "-S", "-P", "-m", "bondlab.guest.agent")
AGENT_PATH = f"PYTHONPATH={Path(__file__).parents[2]}"


def command(settings: GuestSettings, line: int, directory: Path, nics: list[str]) -> list[str]:
    """The command that starts the guest; ``line`` is the descriptor of the agent's channel."""
    wrapper = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    if settings.binary is None:
        own = ["--net", "--mount", "--uts", "--ipc", "--", "env", AGENT_PATH]
        return [*wrapper, *own, *AGENT, str(line)]
    if os.geteuid():
        wrapper += ["--user", "--map-current-user"]
    # For the kernel's program alone: this machine's programs cannot use another release's libc.
    libraries = ["env", f"LD_LIBRARY_PATH={settings.libraries}"] if settings.libraries else []
    words = (
        qemu_arguments(settings, settings.image, line, directory)
        if settings.image
        else user_mode_arguments(settings, line, directory, nics)
    )
    return [
        *(*wrapper, "--", "sh", "-c", '"$@"; exit $?', "guest"),
        *(*libraries, settings.binary, *settings.options, *words),
    ]


def user_mode_arguments(
    settings: GuestSettings, line: int, directory: Path, nics: list[str]
) -> list[str]:
    """The command line arguments of user-mode Linux."""
    return [
        *(f"mem={settings.memory_mb}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
        *("ro", "panic=-1", f"uml_dir={directory}", "umid=guest"),
        *("con=null", "con0=null,fd:1", f"ssl0=fd:{line}", *nics),
        *(quoted(AGENT_PATH), quoted(f"init={AGENT[0]}"), "--", *AGENT[1:], "/dev/ttyS0"),
    ]


def qemu_arguments(settings: GuestSettings, image: str, line: int, directory: Path) -> list[str]:
    """The command line arguments of QEMU; its initramfs is `initramfs_archive`."""
    kernel = (image, str(directory / "initramfs"))
    return qemu.arguments(settings.memory_mb, line, kernel, settings.shares.values())


def initramfs_archive(settings: GuestSettings) -> bytes:
    """The initramfs of a kernel under QEMU."""
    assert settings.image  # noqa: S101 only called for a QEMU guest
    assert settings.busybox  # noqa: S101
    version = Path(settings.image).name.removeprefix("vmlinuz-")
    modules = Path(settings.modules, "lib/modules", version)
    return initramfs(Path(settings.busybox), modules, AGENT_PATH, AGENT)


def share_mounts(settings: GuestSettings) -> list[tuple[str, str, str, int, str]]:
    """The mounts of the shares: source, target, type, flags and data of mount(2).

    9p with cache=mmap: the guest sees what this machine writes, and files can be mapped.
    """
    shares = settings.shares.items()
    if settings.kind is GuestKind.HOST:
        return [(directory, path, "", MS_BIND, "") for path, directory in shares]
    if settings.kind is GuestKind.USER_MODE:
        return [("none", path, "hostfs", 0, directory) for path, directory in shares]
    options = f"{NINE_P},cache=mmap"
    return [(qemu.tag(place), path, "9p", 0, options) for place, (path, _) in enumerate(shares)]


def quoted(parameter: str) -> str:
    """A kernel parameter, quoted as next_arg() in lib/cmdline.c reads it: ``key="a value"``."""
    key, _, value = parameter.partition("=")
    return f'{key}="{value}"' if " " in value else parameter


class GuestProcess:
    """A started guest; ``line`` is the supervisor's end of the agent's channel."""

    def __init__(self, settings: GuestSettings, directory: Path, nics: list[str]) -> None:
        self.log = directory / "console"
        if settings.kind is GuestKind.QEMU:
            (directory / "initramfs").write_bytes(initramfs_archive(settings))
        self.line, theirs = socket.socketpair()
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command(settings, theirs.fileno(), directory, nics),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pidfd = os.pidfd_open(self._process.pid)

    def stop(self, seconds: float) -> int:
        """Wait at most ``seconds`` for its end, then kill it; its exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def console_tail(self) -> list[str]:
        """The last lines of the console."""
        text = self.log.read_bytes().decode(errors="replace")
        return text.replace("\r", "").splitlines()[-TAIL_LINES:]
