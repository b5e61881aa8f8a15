"""The lab's hand inside a guest: process 1, which runs the commands asked of it.

It is started by the guest's kernel (or by ``unshare`` on the machine's own), has the machine
dressed (`dress`), and then speaks JSON lines with the holder over one channel: a serial line in
user-mode Linux, a virtio port under QEMU, a socket otherwise. Orders are ``run``, ``in``,
``hold``, ``signal``, ``size`` and ``halt``; answers are ``out``, ``err``, ``exit`` and ``error``, each with
the order's ``id``, so that many commands run at once and a status is never read from text.

It is started without ``site`` and imports the standard library only, little of it: under
user-mode Linux every import and every fork counts. It guarantees that all output a command
wrote before it ended is sent before its status, and that orphans are reaped. Deadlines are
the business of whoever asks.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import traceback
from typing import Any

from bondlab.guest.guest_init import ENVIRONMENT, dress, find, name_links, power_off

Message = dict[str, Any]

CHUNK = 65536
# Once a serial line of user-mode Linux was throttled (4 KB waiting unread), it hears nothing
# any more: line_throttle() in arch/um/drivers/line.c takes it off epoll for good. So the holder
# has at most WINDOW bytes under way, and every CONFIRM bytes are confirmed.
WINDOW, CONFIRM = 3072, 1024


def open_line(path: str) -> int:
    """The line as a plain pipe of bytes: no echo, no line editing, no signals."""
    line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.isatty(line):  # a virtio port is a pipe already
        raw(line)
    return line


def raw(line: int) -> None:
    """Switch every translation of a terminal off, as cfmakeraw(3) does."""
    mode = termios.tcgetattr(line)
    mode[0] = mode[1] = mode[3] = 0
    mode[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(line, termios.TCSANOW, mode)


class Channel:
    """JSON lines over one file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = bytearray()
        self._unconfirmed = 0

    def send(self, message: Message) -> None:
        """Write one message, waiting as long as the other side needs."""
        view = memoryview(json.dumps(message).encode() + b"\n")
        while view:
            view = view[os.write(self.fd, view) :]

    def receive(self) -> list[Message]:
        """The messages that have arrived; waits for bytes, raises EOFError at the end."""
        data = os.read(self.fd, CHUNK)
        if not data:
            raise EOFError
        self._unconfirmed += len(data)
        if self._unconfirmed >= CONFIRM:
            self.send({"got": self._unconfirmed})
            self._unconfirmed = 0
        self._rest += data
        if b"\n" not in data:
            return []
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def first(self) -> Message:
        """Wait for one whole message; only where a second can not follow unasked."""
        while not (messages := self.receive()):
            pass
        return messages[0]


class Job:
    """One command: its process group, and the ends of its pipes that stay here."""

    def __init__(self, order: Message) -> None:
        self.id: int = order["id"]
        self.terminal = bool(order.get("pty"))
        self.backlog = b""
        self.closing = False
        self.held = False  # nobody takes its output at present: it stays in the pipe
        opened = self._open_terminal(order["pty"]) if self.terminal else self._open_pipes()
        try:
            self.pid = self._spawn(order, opened)
        except OSError:
            self.close()
            raise
        finally:
            for fd in opened:
                os.close(fd)

    def _open_terminal(self, size: list[int]) -> tuple[int, ...]:
        master, slave = os.openpty()
        self.stdin: int | None = master
        self.outputs = {master: "out"}
        self._ready()
        self.resize(size)
        return (slave,)

    def _open_pipes(self) -> tuple[int, ...]:
        (stdin, self.stdin), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        self.outputs = {out: "out", err: "err"}
        self._ready()
        return stdin, stdout, stderr

    def _ready(self) -> None:
        for fd in {*self.outputs, self.stdin}:
            if fd is not None:
                os.set_blocking(fd, False)

    def _spawn(self, order: Message, opened: tuple[int, ...]) -> int:
        env = ENVIRONMENT | order["env"]
        cwd = order.get("cwd") or "/"
        argv = order["argv"]
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(opened)]
        if self.terminal:
            # Opening it after setsid makes it the controlling terminal of the session.
            name = os.ttyname(opened[0])
            actions = [(os.POSIX_SPAWN_OPEN, 0, name, os.O_RDWR, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, 0, place) for place in (1, 2)]
        os.chdir(cwd)
        try:
            return os.posix_spawn(
                find(argv[0], env, cwd),
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.chdir("/")

    def resize(self, size: list[int]) -> None:
        """Tell the terminal its rows and columns."""
        if self.stdin is not None:
            fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))

    def feed(self, data: bytes) -> None:
        """Queue input; no bytes mean its end (control-D where the input is a terminal)."""
        self.backlog += data or (b"\x04" if self.terminal else b"")
        self.closing |= not data and not self.terminal
        self.flush()

    def flush(self) -> None:
        """Write what the command takes at once; a command that reads no more is no error."""
        if self.stdin is None:
            return
        try:
            while self.backlog:
                self.backlog = self.backlog[os.write(self.stdin, self.backlog) :]
        except BlockingIOError:
            return
        except OSError:
            self.backlog = b""
        if self.closing:
            os.close(self.stdin)
            self.stdin = None

    def read(self, fd: int) -> bytes:
        """What the command wrote; empty at the end, which closes the pipe."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: the last holder of the terminal is gone
            data = b""
        if not data and not self.terminal:
            del self.outputs[fd]
            os.close(fd)
        return data

    def close(self) -> None:
        """Let go of every descriptor."""
        for fd in {*self.outputs, self.stdin}:
            if fd is not None:
                os.close(fd)
        self.outputs, self.stdin = {}, None


class Agent:
    """The loop: orders in, output and statuses out, orphans reaped."""

    def __init__(self, channel: Channel, *, machine: bool) -> None:
        self.channel = channel
        self.machine = machine
        self.jobs: dict[int, Job] = {}
        wake, alarm = os.pipe()
        for fd in (wake, alarm):
            os.set_blocking(fd, False)
        self.wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serve until told to halt or until nobody is left who could tell."""
        with contextlib.suppress(EOFError):
            while self.turn():
                pass
        self.halt()

    def turn(self) -> bool:
        """Wait for something and deal with it; False after the order to halt."""
        ready = self.poll()
        for job in list(self.jobs.values()):
            for fd in [fd for fd in job.outputs if ready.get(fd, 0) & ~select.POLLOUT]:
                self.forward(job, fd)
            if job.stdin is not None and ready.get(job.stdin, 0) & ~select.POLLIN:
                job.flush()
        if self.wake in ready:
            os.read(self.wake, CHUNK)
            self.reap()
        if self.channel.fd in ready:
            return all(self.obey(order) for order in self.channel.receive())
        return True

    def poll(self) -> dict[int, int]:
        """Wait for descriptors that want attention; which, and with what events."""
        poller = select.poll()
        interest = {self.channel.fd: select.POLLIN, self.wake: select.POLLIN}
        for job in self.jobs.values():
            if not job.held:
                interest |= dict.fromkeys(job.outputs, select.POLLIN)
            if job.backlog and job.stdin is not None:
                interest[job.stdin] = interest.get(job.stdin, 0) | select.POLLOUT
        for fd, events in interest.items():
            poller.register(fd, events)
        return dict(poller.poll())

    def obey(self, order: Message) -> bool:
        """Carry out one order; False if it was the order to halt."""
        action = order["do"]
        job = self.jobs.get(order.get("id", 0))
        if action == "run":
            self.run(order)
        elif action == "halt":
            return False
        elif job is None:
            pass  # it ended while the order was on its way
        elif action == "in":
            job.feed(base64.b64decode(order["data"]))
        elif action == "hold":
            job.held = order["hold"]
        elif action == "size":
            job.resize(order["size"])
        elif action == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, order["signal"])
        return True

    def run(self, order: Message) -> None:
        """Start the command, or say why it could not be started."""
        try:
            self.jobs[order["id"]] = Job(order)
        except OSError as error:
            text = f"{error.filename or order['argv'][0]}: {error.strerror}"
            self.channel.send({"id": order["id"], "error": text, "errno": error.errno})

    def forward(self, job: Job, fd: int) -> bool:
        """Send on what is there to read; False if nothing was."""
        stream = job.outputs[fd]
        data = job.read(fd)
        if data:
            text = base64.b64encode(data).decode()
            self.channel.send({"id": job.id, stream: text})
        return bool(data)

    def reap(self) -> None:
        """Collect the dead; a command's status goes out after the last of its output."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                for job in [job for job in self.jobs.values() if job.pid == dead[0]]:
                    self.end(job, os.waitstatus_to_exitcode(dead[1]))

    def end(self, job: Job, status: int) -> None:
        """Send what is left of the output and then the status."""
        for fd in list(job.outputs):
            while self.forward(job, fd) and fd in job.outputs:
                pass
        job.close()
        del self.jobs[job.id]
        self.channel.send({"id": job.id, "exit": status})

    def halt(self) -> None:
        """Write the shares out and end; with process 1 the guest ends."""
        os.sync()
        if self.machine:
            power_off()


def main() -> None:
    """``agent LINE``: LINE is a serial line's or virtio port's path, or a descriptor's number."""
    line = sys.argv[1]
    machine = not line.isdigit()
    channel = Channel(open_line(line) if machine else int(line))
    channel.send({"hello": os.uname().release})
    try:
        order = channel.first()
        dress(order)
        name_links(order["links"])
    except OSError:
        channel.send({"failed": traceback.format_exc()})
        raise
    channel.send({"ready": os.uname().release})
    Agent(channel, machine=machine).serve()


if __name__ == "__main__":
    main()
