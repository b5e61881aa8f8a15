"""A machine with a kernel of its own, to run commands in: the door everybody uses.

`boot` gives a `Guest`: user-mode Linux over a throw-away copy of this machine's files, or the
machine's own kernel in fresh namespaces. Paths are the same inside, so an interpreter or a
checkout is simply there; what the guest writes is forgotten, except in its shares. Commands
run as root, many at once if wanted; their status travels beside their output, not in it.

Every wait has a deadline, and a lost guest is not a failed command: `LostGuest` says that the
kernel died or no longer answers, and shows the end of its console. A guest ends with the
process that booted it, however that ends, unless it was kept; then with `halt`, or when nobody
has used it for a while. No process, file or mount remains. How: see `holder`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bondcni.lab import terminal
from bondcni.lab.kernels import DEFAULT, HOST, Kernel, Progress, cache_folder, fetch
from bondcni.lab.kernels import usable_host_kernel as usable_host_kernel
from bondcni.lab.lines import Lines, Message
from bondcni.lab.machine import Settings

BOOT_SECONDS = 60.0
IDLE_SECONDS = 7200.0
GRACE_SECONDS = 10.0
CHUNK = 48 * 1024


class LostGuest(Exception):
    """The guest died or does not answer; no command's fault.

    ``why`` is one sentence, ``console`` the last lines it printed, ``log`` the file they are
    in, which is there as long as the guest is held.
    """

    def __init__(self, why: str, console: Sequence[str] = (), log: str = "") -> None:
        self.why = why
        self.console = list(console)
        self.log = log
        where = f"\nlast on its console ({log}):" if console else ""
        super().__init__("\n  ".join([f"the guest is lost: {why}{where}", *console]))


class Completed(NamedTuple):
    """How a command ended: its status (minus the signal's number if killed) and its output."""

    returncode: int
    stdout: bytes
    stderr: bytes


class CableState(NamedTuple):
    """A cable: whether it is whole, and the frames it carried and dropped since boot."""

    whole: bool
    carried: int
    dropped: int


class Process:
    """A command that runs in the guest; the guest kills it when this is closed."""

    def __init__(self, guest: Guest, argv: Sequence[str], order: Message, given: bytes) -> None:
        self.argv = list(argv)
        self._guest = guest
        self._lines = guest.ask(order | {"do": "run", "argv": self.argv})
        self._output = {"out": bytearray(), "err": bytearray()}
        self._status: int | None = None
        for data in (*chunks(given), b""):
            self._lines.send({"do": "in", "data": base64.b64encode(data).decode()})

    def wait(self, timeout: float = 60.0) -> Completed:
        """Its end, at most ``timeout`` seconds from now.

        Raises subprocess.TimeoutExpired (and the command is killed), OSError if it could not
        be started, LostGuest.
        """
        self.follow(lambda stream, data: self._output[stream].extend(data), timeout)
        return Completed(self._status or 0, bytes(self._output["out"]), bytes(self._output["err"]))

    def follow(self, on_data: Callable[[str, bytes], object], timeout: float) -> int:
        """Call ``on_data("out" | "err", bytes)`` as output comes; its status. Raises as `wait`."""
        deadline = time.monotonic() + timeout
        try:
            self._listen(on_data, deadline)
        except TimeoutError:
            self._end_late(on_data)
            partial = {name: bytes(data) for name, data in self._output.items()}
            raise subprocess.TimeoutExpired(
                self.argv, timeout, partial["out"], partial["err"]
            ) from None
        finally:
            self._lines.close()
        assert self._status is not None  # noqa: S101 _listen returns with a status or raises
        return self._status

    def _listen(self, on_data: Callable[[str, bytes], object], deadline: float) -> None:
        while self._status is None:
            message = self._guest.hear(self._lines, deadline)
            if "exit" in message:
                self._status = message["exit"]
            elif "error" in message:
                raise OSError(message["errno"], message["error"])
            for stream in message.keys() & self._output.keys():
                on_data(stream, base64.b64decode(message[stream]))

    def _end_late(self, on_data: Callable[[str, bytes], object]) -> None:
        """Kill the command; a guest that does not even do that is lost."""
        self.kill()
        try:
            self._listen(on_data, time.monotonic() + GRACE_SECONDS)
        except TimeoutError:
            raise self._guest.lost(f"it does not end {self.argv[0]} when told to") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and what it started in its process group."""
        self._lines.send({"do": "signal", "signal": int(number)})


def chunks(data: bytes) -> list[bytes]:
    """``data`` in pieces that fit a message."""
    return [data[place : place + CHUNK] for place in range(0, len(data), CHUNK)]


class Cable:
    """The cable between two NICs of a guest; see `bondcni.lab.cable` for what a cut does."""

    def __init__(self, guest: Guest, name: str) -> None:
        self.name = name
        self._guest = guest

    def cut(self) -> None:
        """Drop every frame from now on, both ways; the NICs' carrier stays."""
        self._turn(whole=False)

    def mend(self) -> None:
        """Carry frames again."""
        self._turn(whole=True)

    @property
    def state(self) -> CableState:
        """Whether it is whole, and its frame counters."""
        return self._turn(whole=None)

    def _turn(self, *, whole: bool | None) -> CableState:
        answer = self._guest.question({"do": "cable", "name": self.name, "whole": whole})
        return CableState(answer["whole"], answer["carried"], answer["dropped"])


class Guest:
    """A booted guest. A context manager: leaving it halts what was booted and not kept."""

    def __init__(
        self, control: str, holder: subprocess.Popen[bytes] | None, lifeline: Lines | None
    ) -> None:
        self._control = control
        self._holder = holder
        self._lifeline = lifeline
        facts = self.question({"do": "describe"})
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
        return Process(self, argv, {"env": dict(env or {}), "cwd": cwd}, input)

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

    def shell(
        self, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """A shell on this process's own standard input and output; its exit status.

        With a terminal there it has one inside too; with a pipe or a file it reads that to
        its end. No deadline: it is the user's. Raises LostGuest, OSError.
        """
        size = terminal.size() if terminal.present() else None
        extra = {"TERM": os.environ.get("TERM", "dumb")} | dict(env or {})
        order = {"do": "run", "argv": list(argv or ["bash"]), "env": extra, "pty": size}
        lines = self.ask(order)
        with contextlib.closing(lines):
            try:
                return terminal.converse(lines, self.verified)
            except EOFError:
                raise self._gone() from None

    # Cables and life

    def cable(self, name: str) -> Cable:
        """The cable called ``name``, or the one that ends in the NIC of that name (LookupError)."""
        for cable in self.cables:
            if name == cable or name in cable.split("/"):
                return Cable(self, cable)
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
        self.question({"do": "keep", "path": str(path), "idle": idle_seconds})
        if self._lifeline:
            self._lifeline.close()
        self._lifeline = None

    def halt(self) -> None:
        """End the guest and wait until nothing of it is left; ended already is fine."""
        with contextlib.suppress(LostGuest, EOFError, TimeoutError):
            lines = self.ask({"do": "halt"})
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

    # Talking with the holder

    def ask(self, order: Message) -> Lines:
        """A new conversation with the holder, opened with ``order``."""
        lines = connect(self._control)
        lines.send(order)
        return lines

    def question(self, order: Message) -> Message:
        """One order, one answer; the holder's refusal is an OSError."""
        lines = self.ask(order)
        with contextlib.closing(lines):
            try:
                answer = self.hear(lines, time.monotonic() + GRACE_SECONDS)
            except TimeoutError:
                raise LostGuest("the process that holds it does not answer") from None
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer

    def hear(self, lines: Lines, deadline: float) -> Message:
        """The next message; raises LostGuest, and TimeoutError at ``deadline``."""
        try:
            return self.verified(lines.wait(deadline))
        except EOFError:
            raise self._gone() from None

    def verified(self, message: Message) -> Message:
        """The message itself, unless it says that the guest is lost (LostGuest)."""
        if "lost" in message:
            raise LostGuest(message["lost"], message["console"], message["log"])
        return message

    def lost(self, why: str) -> LostGuest:
        """The exception for ``why``, with what the console says now."""
        try:
            self.question({"do": "console", "why": why})
        except LostGuest as error:
            return error
        return LostGuest(why)

    def _gone(self) -> LostGuest:
        return LostGuest("the process that held it has ended")


def connect(path: str) -> Lines:
    """A connection to a holder; LostGuest if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise LostGuest(f"nobody holds a guest at {path} ({error.strerror})") from None
    return Lines(sock)


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
    machine the guest may write to, by their path inside. Raises LostGuest.
    """
    settings = Settings(
        kernel=kernel.name,
        binary=kernel.binary and str(kernel.binary),
        modules=str(kernel.root),
        libraries=kernel.libraries and str(kernel.libraries),
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
        holder = subprocess.Popen(  # noqa: S603 our own command
            [
                *(sys.executable, "-S", "-P", "-m", "bondcni.lab.holder"),
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
        message = lifeline.wait(deadline)
    except (EOFError, TimeoutError):
        raise LostGuest("the process that should hold it does not answer") from None
    if "lost" in message:
        raise LostGuest(message["lost"], message["console"], message["log"])
    return str(message["ready"])


def open_guest(
    name: str | None,
    *,
    nics: Sequence[tuple[str, str]] = (),
    memory_mb: int = 1024,
    shares: Mapping[str, Path] | None = None,
    progress: Progress,
) -> Guest:
    """Boot the kernel called ``name``; None: this machine's if it has bonding, else 6.1.

    Raises LostGuest, and kernels.Unavailable.
    """
    chosen = name or (DEFAULT if nics or usable_host_kernel() else HOST)
    kernel = fetch(chosen, progress)
    return boot(kernel, nics=nics, memory_mb=memory_mb, shares=shares, progress=progress)
