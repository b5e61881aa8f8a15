"""A guest: a machine with its own kernel, in which commands are run.

`boot` returns a `Guest`: user-mode Linux or a stock kernel under QEMU, on a temporary copy of this
machine's files, or this machine's kernel in new namespaces. Paths are the same inside, so an
interpreter or a checkout can be used as it is; writes are discarded, except in the shares.
Commands run as root, several at the same time if wanted; an exit status is a message of its own,
not part of the output.

Each wait has a deadline. A lost guest is not a failed command: `LostGuest` says that the kernel
died or does not answer, with the end of its console. A guest ends with the process that booted
it, also when that process is killed. A kept guest ends with `halt`, or after some time without a
client. No process, file or mount remains; see `supervisor`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bondlab.guest import terminal
from bondlab.guest.control_client import (
    GRACE_SECONDS,
    ControlClient,
    LostGuest,
    connect,
    connection_lost,
    raise_if_lost,
    receive,
)
from bondlab.guest.guest_process import GuestSettings
from bondlab.guest.lines import Lines
from bondlab.guest.process import Cable, CableState, Completed, Process
from bondlab.kernels.catalog import (
    DEFAULT,
    HOST,
    Kernel,
    KernelUnavailable,
    Progress,
    bootable,
    cache_directory,
    fetch,
    has_cables,
    usable_host_kernel,
)

__all__ = [
    "Cable",
    "CableState",
    "Completed",
    "Guest",
    "LostGuest",
    "Process",
    "attach",
    "boot",
    "kept_path",
    "open_guest",
    "usable_host_kernel",
]

BOOT_SECONDS = 120.0  # measured under QEMU: 18 s on a machine with a load average of 5
IDLE_SECONDS = 7200.0


class Guest:
    """A running guest. As a context manager it halts the guest, unless kept or only attached."""

    def __init__(
        self,
        control: str,
        supervisor: subprocess.Popen[bytes] | None,
        launcher_socket: Lines | None,
    ) -> None:
        self._client = ControlClient(control)
        self._supervisor = supervisor
        self._launcher_socket = launcher_socket
        facts = self._client.request({"do": "describe"})
        self.kernel: str = facts["kernel"]
        self.release: str = facts["release"]
        self.cables: list[str] = facts["cables"]

    def __enter__(self) -> Self:
        """Return the guest."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Halt the guest, unless it is kept or was only attached."""
        if self._launcher_socket:
            self.halt()

    # Commands

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002 subprocess's word
        cwd: str | None = None,
    ) -> Process:
        """Start a command without waiting; ``env`` is added to root's default environment."""
        return Process(self._client, argv, {"env": dict(env or {}), "cwd": cwd}, input)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002 subprocess's word
        timeout: float = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        """Run a command and wait for it. Raises like `Process.wait`."""
        return self.start(argv, env=env, input=input, cwd=cwd).wait(timeout)

    def stream(
        self,
        argv: Sequence[str],
        on_line: Callable[[str], object],
        timeout: float,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Run a command and call ``on_line`` for each line of its output, of both streams.

        Returns the exit status; raises like `Process.wait`.
        """
        rest = {"out": b"", "err": b""}

        def split(stream: str, data: bytes) -> None:
            *whole, rest[stream] = (rest[stream] + data).split(b"\n")
            for line in whole:
                on_line(line.decode(errors="replace"))

        status = self.start(argv, env=env, cwd=cwd).follow(split, timeout)
        for line in filter(None, rest.values()):
            on_line(line.decode(errors="replace"))
        return status

    def shell(self, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> int:
        """Run a shell on this process's standard input and output; its exit status.

        If these are a terminal, the shell has a terminal too; else it reads its input to the
        end. There is no deadline. Raises LostGuest, OSError.
        """
        size = terminal.size() if terminal.is_terminal() else None
        extra = {"TERM": os.environ.get("TERM", "dumb")} | dict(env or {})
        order = {"do": "run", "argv": list(argv or ["bash"]), "env": extra, "pty": size}
        lines = self._client.open(order)
        with contextlib.closing(lines):
            try:
                return terminal.relay(lines, raise_if_lost)
            except EOFError:
                raise connection_lost() from None

    # Cables, keep and halt

    def cable(self, name: str) -> Cable:
        """The cable with this name, or the one of the NIC with this name. Raises LookupError."""
        for cable in self.cables:
            if name == cable or name in cable.split("/"):
                return Cable(self._client, cable)
        raise LookupError(f"no cable {name}; cables: {', '.join(self.cables) or 'none'}")

    def keep(self, path: Path, idle_seconds: float = IDLE_SECONDS) -> None:
        """Keep the guest running after this process; `attach` connects to it at ``path``.

        It ends with `halt`, or after ``idle_seconds`` without a client. Raises FileExistsError
        if another guest is kept at ``path``.
        """
        if is_answering(path):
            raise FileExistsError(f"another guest is kept at {path}")
        path.unlink(missing_ok=True)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client.request({"do": "keep", "path": str(path), "idle": idle_seconds})
        if self._launcher_socket:
            self._launcher_socket.close()
        self._launcher_socket = None

    def halt(self) -> None:
        """End the guest and wait until nothing of it remains; repeatable."""
        with contextlib.suppress(LostGuest, EOFError, TimeoutError):
            lines = self._client.open({"do": "halt"})
            with contextlib.closing(lines):
                lines.wait(time.monotonic() + 2 * GRACE_SECONDS)
        if self._launcher_socket:
            self._launcher_socket.close()
            self._launcher_socket = None
        if self._supervisor:
            try:
                self._supervisor.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()  # the guest ends with it (PR_SET_PDEATHSIG)
                self._supervisor.wait()
            shutil.rmtree(Path(self._client.path).parent, ignore_errors=True)  # if it was killed


def is_answering(path: Path) -> bool:
    """Whether a guest is kept at ``path``."""
    try:
        connect(str(path)).close()
    except LostGuest:
        return False
    return True


def kept_path() -> Path:
    """The default path of the user's kept guest."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "bondcni-lab" if base else cache_directory() / "kept"


def attach(path: Path) -> Guest:
    """Attach to the guest kept at ``path``; its context does not end it. Raises LostGuest."""
    return Guest(str(path), None, None)


def boot(
    kernel: Kernel,
    *,
    nics: Sequence[tuple[str, str]] = (),
    memory_mb: int = 1024,
    shares: Mapping[str, Path] | None = None,
    boot_seconds: float = BOOT_SECONDS,
    progress: Progress,
) -> Guest:
    """Boot ``kernel``; returns when the guest accepts commands.

    ``nics`` are pairs of NIC names, with a cable between the two of each pair; ``shares`` are
    directories of this machine that the guest may write to, by their path inside. Raises
    LostGuest, and KernelUnavailable if ``nics`` are given for a kernel other than user-mode Linux.
    """
    if nics and not has_cables(kernel.name):
        raise KernelUnavailable(
            f"the {kernel.name} guest has no NICs on cables; use a user-mode Linux kernel"
        )
    settings = GuestSettings(
        kernel=kernel.name,
        binary=str(kernel.binary) if kernel.binary else None,
        image=str(kernel.image) if kernel.image else None,
        busybox=str(kernel.busybox) if kernel.busybox else None,
        modules=str(kernel.root),
        libraries=str(kernel.libraries) if kernel.libraries else None,
        options=list(kernel.options),
        nics=[list(pair) for pair in nics],
        memory_mb=memory_mb,
        shares={path: str(directory.resolve()) for path, directory in (shares or {}).items()},
        boot_seconds=boot_seconds,
    )
    began = time.monotonic()
    progress(f"booting kernel {kernel.version}")
    supervisor, launcher_socket = start_supervisor(settings)
    try:
        control = await_boot(launcher_socket, began + boot_seconds + GRACE_SECONDS)
        guest = Guest(control, supervisor, launcher_socket)
    except BaseException:
        launcher_socket.close()
        supervisor.wait()
        raise
    progress(f"kernel {guest.release} ready after {time.monotonic() - began:.1f} s")
    return guest


def start_supervisor(settings: GuestSettings) -> tuple[subprocess.Popen[bytes], Lines]:
    """Start the supervisor, in a new session so that it gets no signals of the terminal."""
    ours, theirs = socket.socketpair()
    with theirs:
        supervisor = subprocess.Popen(
            [
                *(sys.executable, "-S", "-P", "-m", "bondlab.guest.supervisor"),
                *(str(theirs.fileno()), json.dumps(settings._asdict())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return supervisor, Lines(ours)


def await_boot(launcher_socket: Lines, deadline: float) -> str:
    """Wait until the guest is ready; the path of the control socket. Raises LostGuest."""
    try:
        return str(receive(launcher_socket, deadline)["ready"])
    except TimeoutError:
        raise LostGuest("its supervisor does not answer") from None


def open_guest(
    name: str | None,
    *,
    nics: Sequence[tuple[str, str]] = (),
    memory_mb: int = 1024,
    shares: Mapping[str, Path] | None = None,
    progress: Progress,
) -> Guest:
    """Boot the kernel ``name``; None: this machine's if it has bonding, else the default.

    Raises LostGuest, KernelUnavailable.
    """
    chosen = name or (DEFAULT if nics or usable_host_kernel() else HOST)
    if why := bootable(chosen):
        raise KernelUnavailable(why)
    kernel = fetch(chosen, progress)
    return boot(kernel, nics=nics, memory_mb=memory_mb, shares=shares, progress=progress)
