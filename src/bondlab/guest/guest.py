"""A machine with a kernel of its own, to run commands in: the door everybody uses.

`boot` gives a `Guest`: user-mode Linux or a stock kernel under QEMU, over a throw-away copy of
this machine's files, or the machine's own kernel in fresh namespaces. Paths are the same inside,
so an interpreter or a checkout is simply there; what the guest writes is forgotten, except in its
shares. Commands run as root, many at once if wanted; their status travels beside their output,
not in it.

Every wait has a deadline, and a lost guest is not a failed command: `LostGuest` says that the
kernel died or no longer answers, and shows the end of its console. A guest ends with the
process that booted it, however that ends, unless it was kept; then with `halt`, or when nobody
has used it for a while. No process, file or mount remains. How: see `holder`.
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
    Door,
    LostGuest,
    connect,
    gone,
    hear,
    verified,
)
from bondlab.guest.lines import Lines
from bondlab.guest.machine import Settings
from bondlab.guest.process import Cable, CableState, Completed, Process
from bondlab.kernels.catalog import (
    HOST,
    Kernel,
    Progress,
    Unavailable,
    bootable,
    cache_folder,
    default,
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

BOOT_SECONDS = 120.0  # under QEMU 18 s have been seen on a machine with a load of 5
IDLE_SECONDS = 7200.0


class Guest:
    """A booted guest. A context manager: leaving it halts what was booted and not kept."""

    def __init__(
        self, control: str, holder: subprocess.Popen[bytes] | None, lifeline: Lines | None
    ) -> None:
        self._door = Door(control)
        self._holder = holder
        self._lifeline = lifeline
        facts = self._door.question({"do": "describe"})
        self.kernel: str = facts["kernel"]
        self.release: str = facts["release"]
        self.cables: list[str] = facts["cables"]

    def __enter__(self) -> Self:
        """The guest itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Halt the guest, unless it is kept or was only attached."""
        if self._lifeline:
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
        """Start a command and do not wait; ``env`` is added to a plain root environment."""
        return Process(self._door, argv, {"env": dict(env or {}), "cwd": cwd}, input)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002 subprocess's word
        timeout: float = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        """Run a command to its end. Raises as `Process.wait` does."""
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
        """Run a command, giving each line of its output (both streams) as it comes.

        Returns the status; raises as `Process.wait` does.
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
        """A shell on this process's own standard input and output; its exit status.

        With a terminal there it has one inside too; with a pipe or a file it reads that to
        its end. No deadline: it is the user's. Raises LostGuest, OSError.
        """
        size = terminal.size() if terminal.present() else None
        extra = {"TERM": os.environ.get("TERM", "dumb")} | dict(env or {})
        order = {"do": "run", "argv": list(argv or ["bash"]), "env": extra, "pty": size}
        lines = self._door.ask(order)
        with contextlib.closing(lines):
            try:
                return terminal.converse(lines, verified)
            except EOFError:
                raise gone() from None

    # Cables and life

    def cable(self, name: str) -> Cable:
        """The cable called ``name``, or the one that ends in the NIC of that name (LookupError)."""
        for cable in self.cables:
            if name == cable or name in cable.split("/"):
                return Cable(self._door, cable)
        raise LookupError(f"no cable {name}; there are {', '.join(self.cables) or 'none'}")

    def keep(self, path: Path, idle_seconds: float = IDLE_SECONDS) -> None:
        """Let the guest outlive this process: `attach` finds it at ``path``.

        It ends with `halt`, or after ``idle_seconds`` without a client. FileExistsError if
        another guest is kept there.
        """
        if is_answering(path):
            raise FileExistsError(f"a guest is kept at {path} already")
        path.unlink(missing_ok=True)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._door.question({"do": "keep", "path": str(path), "idle": idle_seconds})
        if self._lifeline:
            self._lifeline.close()
        self._lifeline = None

    def halt(self) -> None:
        """End the guest and wait until nothing of it is left; ended already is fine."""
        with contextlib.suppress(LostGuest, EOFError, TimeoutError):
            lines = self._door.ask({"do": "halt"})
            with contextlib.closing(lines):
                lines.wait(time.monotonic() + 2 * GRACE_SECONDS)
        if self._lifeline:
            self._lifeline.close()
            self._lifeline = None
        if self._holder:
            try:
                self._holder.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._holder.kill()  # and the guest with it: its leash is prctl's
                self._holder.wait()
            shutil.rmtree(Path(self._door.path).parent, ignore_errors=True)  # if it was killed


def is_answering(path: Path) -> bool:
    """Whether a guest is kept at ``path``."""
    try:
        connect(str(path)).close()
    except LostGuest:
        return False
    return True


def kept_path() -> Path:
    """Where a user's kept guest is found unless told otherwise."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "bondcni-lab" if base else cache_folder() / "kept"


def attach(path: Path) -> Guest:
    """The guest kept at ``path``; leaving its context does not end it. Raises LostGuest."""
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
    """Boot ``kernel`` and come back when it takes commands.

    ``nics`` are pairs of NIC names, a cable between each; ``shares`` are folders of this
    machine the guest may write to, by their path inside. Raises LostGuest, and Unavailable
    for NICs on any other kernel: only user-mode Linux has NICs that come home.
    """
    if nics and not has_cables(kernel.name):
        raise Unavailable(
            f"the {kernel.name} guest has no NICs on cables; use a user-mode Linux kernel"
        )
    settings = Settings(
        kernel=kernel.name,
        binary=str(kernel.binary) if kernel.binary else None,
        image=str(kernel.image) if kernel.image else None,
        busybox=str(kernel.busybox) if kernel.busybox else None,
        modules=str(kernel.root),
        libraries=str(kernel.libraries) if kernel.libraries else None,
        options=list(kernel.options),
        nics=[list(pair) for pair in nics],
        memory_mb=memory_mb,
        shares={path: str(folder.resolve()) for path, folder in (shares or {}).items()},
        boot_seconds=boot_seconds,
    )
    began = time.monotonic()
    progress(f"booting kernel {kernel.version}")
    holder, lifeline = start_holder(settings)
    try:
        control = await_boot(lifeline, began + boot_seconds + GRACE_SECONDS)
        guest = Guest(control, holder, lifeline)
    except BaseException:
        lifeline.close()
        holder.wait()
        raise
    progress(f"kernel {guest.release} ready after {time.monotonic() - began:.1f} s")
    return guest


def start_holder(settings: Settings) -> tuple[subprocess.Popen[bytes], Lines]:
    """A holder in a session of its own, so that the terminal's signals do not reach it."""
    ours, theirs = socket.socketpair()
    with theirs:
        holder = subprocess.Popen(
            [
                *(sys.executable, "-S", "-P", "-m", "bondlab.guest.holder"),
                *(str(theirs.fileno()), json.dumps(settings._asdict())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return holder, Lines(ours)


def await_boot(lifeline: Lines, deadline: float) -> str:
    """The control socket's path, once the guest is ready; raises LostGuest."""
    try:
        return str(hear(lifeline, deadline)["ready"])
    except TimeoutError:
        raise LostGuest("the process that should hold it does not answer") from None


def open_guest(
    name: str | None,
    *,
    nics: Sequence[tuple[str, str]] = (),
    memory_mb: int = 1024,
    shares: Mapping[str, Path] | None = None,
    progress: Progress,
) -> Guest:
    """Boot the kernel called ``name``; None: this machine's if it has bonding, else the default.

    Raises LostGuest, and kernels.Unavailable.
    """
    chosen = name or (default() if nics or usable_host_kernel() else HOST)
    if why := bootable(chosen):
        raise Unavailable(why)
    kernel = fetch(chosen, progress)
    return boot(kernel, nics=nics, memory_mb=memory_mb, shares=shares, progress=progress)
