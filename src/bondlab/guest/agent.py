"""The agent: process 1 of a guest, which runs the commands that the supervisor sends.

The guest's kernel starts it (on this machine's own kernel: ``unshare``). It sets the guest up
(`guest_init`) and then exchanges JSON lines with the supervisor over one channel: a serial line in
user-mode Linux, a virtio port under QEMU, a socket otherwise. Orders are ``run``, ``in``,
``pause``, ``signal``, ``size`` and ``halt``; answers are ``out``, ``err``, ``exit`` and ``error``.
Each carries the command's ``id``: several commands run at the same time, and an exit status is
never parsed from output.

It runs without ``site`` and imports only a small part of the standard library, because imports
and forks are slow under user-mode Linux. It guarantees that all output of a command is sent
before its exit status, and that orphans are reaped. Deadlines are enforced by the client.
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

from bondlab.guest.guest_init import ENVIRONMENT, power_off, rename_links, set_up, which

Message = dict[str, Any]

CHUNK = 65536
# A serial line of user-mode Linux that was throttled once (4 KB unread) receives nothing more:
# line_throttle() in arch/um/drivers/line.c removes it from epoll for good. So the supervisor has at
# most WINDOW unconfirmed bytes in flight, and the agent confirms after each CONFIRM bytes.
WINDOW, CONFIRM = 3072, 1024


def open_line(path: str) -> int:
    """Open the channel as a plain byte stream: no echo, no line editing, no signals."""
    line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.isatty(line):  # a virtio port is not a terminal
        raw(line)
    return line


def raw(line: int) -> None:
    """Put a terminal into raw mode, as cfmakeraw(3) does."""
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
        """Write one message; blocks until the other side has read it."""
        view = memoryview(json.dumps(message).encode() + b"\n")
        while view:
            view = view[os.write(self.fd, view) :]

    def receive(self) -> list[Message]:
        """The complete messages received; blocks until bytes arrive. EOFError at the end."""
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
        """Wait for one message; use it only where no second message can follow unrequested."""
        while not (messages := self.receive()):
            pass
        return messages[0]


class Command:
    """A running command: its process group, and our ends of its pipes."""

    def __init__(self, order: Message) -> None:
        self.id: int = order["id"]
        self.terminal = bool(order.get("pty"))
        self.pending_input = b""
        self.closing = False
        self.paused = False  # its output is not read, and stays in the pipe
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
        self._set_nonblocking()
        self.resize(size)
        return (slave,)

    def _open_pipes(self) -> tuple[int, ...]:
        (stdin, self.stdin), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        self.outputs = {out: "out", err: "err"}
        self._set_nonblocking()
        return stdin, stdout, stderr

    def _set_nonblocking(self) -> None:
        for fd in {*self.outputs, self.stdin}:
            if fd is not None:
                os.set_blocking(fd, False)

    def _spawn(self, order: Message, opened: tuple[int, ...]) -> int:
        env = ENVIRONMENT | order["env"]
        cwd = order.get("cwd") or "/"
        argv = order["argv"]
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(opened)]
        if self.terminal:
            # A terminal that is opened after setsid becomes the session's controlling terminal.
            name = os.ttyname(opened[0])
            actions = [(os.POSIX_SPAWN_OPEN, 0, name, os.O_RDWR, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, 0, place) for place in (1, 2)]
        os.chdir(cwd)
        try:
            return os.posix_spawn(
                which(argv[0], env, cwd),
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.chdir("/")

    def resize(self, size: list[int]) -> None:
        """Set the terminal's rows and columns."""
        if self.stdin is not None:
            fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))

    def feed(self, data: bytes) -> None:
        """Queue input; empty data means end of file (control-D on a terminal)."""
        self.pending_input += data or (b"\x04" if self.terminal else b"")
        self.closing |= not data and not self.terminal
        self.flush()

    def flush(self) -> None:
        """Write as much as the pipe takes; a command that closed its input is not an error."""
        if self.stdin is None:
            return
        try:
            while self.pending_input:
                self.pending_input = self.pending_input[os.write(self.stdin, self.pending_input) :]
        except BlockingIOError:
            return
        except OSError:
            self.pending_input = b""
        if self.closing:
            os.close(self.stdin)
            self.stdin = None

    def read(self, fd: int) -> bytes:
        """Output of the command; b"" when there is none, and at the end, which closes the pipe."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: no process has the terminal open any more
            data = b""
        if not data and not self.terminal:
            del self.outputs[fd]
            os.close(fd)
        return data

    def close(self) -> None:
        """Close all descriptors."""
        for fd in {*self.outputs, self.stdin}:
            if fd is not None:
                os.close(fd)
        self.outputs, self.stdin = {}, None


class Agent:
    """The main loop: reads orders, sends output and exit statuses, reaps orphans."""

    def __init__(self, channel: Channel, *, machine: bool) -> None:
        self.channel = channel
        self.machine = machine
        self.commands: dict[int, Command] = {}
        wake, alarm = os.pipe()
        for fd in (wake, alarm):
            os.set_blocking(fd, False)
        self.wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Serve until the order to halt, or until the channel is closed."""
        with contextlib.suppress(EOFError):
            while self.turn():
                pass
        self.halt()

    def turn(self) -> bool:
        """Wait for events and handle them; False after the order to halt."""
        ready = self.poll()
        for command in list(self.commands.values()):
            for fd in [fd for fd in command.outputs if ready.get(fd, 0) & ~select.POLLOUT]:
                self.forward(command, fd)
            if command.stdin is not None and ready.get(command.stdin, 0) & ~select.POLLIN:
                command.flush()
        if self.wake in ready:
            os.read(self.wake, CHUNK)
            self.reap()
        if self.channel.fd in ready:
            return all(self.handle(order) for order in self.channel.receive())
        return True

    def poll(self) -> dict[int, int]:
        """Wait for ready descriptors; their poll events, by descriptor."""
        poller = select.poll()
        interest = {self.channel.fd: select.POLLIN, self.wake: select.POLLIN}
        for command in self.commands.values():
            if not command.paused:
                interest |= dict.fromkeys(command.outputs, select.POLLIN)
            if command.pending_input and command.stdin is not None:
                interest[command.stdin] = interest.get(command.stdin, 0) | select.POLLOUT
        for fd, events in interest.items():
            poller.register(fd, events)
        return dict(poller.poll())

    def handle(self, order: Message) -> bool:
        """Execute one order; False if it was the order to halt."""
        action = order["do"]
        command = self.commands.get(order.get("id", 0))
        if action == "run":
            self.run(order)
        elif action == "halt":
            return False
        elif command is None:
            pass  # the command ended before the order arrived
        elif action == "in":
            command.feed(base64.b64decode(order["data"]))
        elif action == "pause":
            command.paused = order["paused"]
        elif action == "size":
            command.resize(order["size"])
        elif action == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, order["signal"])
        return True

    def run(self, order: Message) -> None:
        """Start a command, or send the reason why it could not be started."""
        try:
            self.commands[order["id"]] = Command(order)
        except OSError as error:
            text = f"{error.filename or order['argv'][0]}: {error.strerror}"
            self.channel.send({"id": order["id"], "error": text, "errno": error.errno})

    def forward(self, command: Command, fd: int) -> bool:
        """Send the output that can be read now; False if there was none."""
        stream = command.outputs[fd]
        data = command.read(fd)
        if data:
            text = base64.b64encode(data).decode()
            self.channel.send({"id": command.id, stream: text})
        return bool(data)

    def reap(self) -> None:
        """Reap children; the status of a command is sent after all its output."""
        with contextlib.suppress(ChildProcessError):
            while (child := os.waitpid(-1, os.WNOHANG))[0]:
                for command in [one for one in self.commands.values() if one.pid == child[0]]:
                    self.end(command, os.waitstatus_to_exitcode(child[1]))

    def end(self, command: Command, status: int) -> None:
        """Send the remaining output, then the exit status."""
        for fd in list(command.outputs):
            while self.forward(command, fd) and fd in command.outputs:
                pass
        command.close()
        del self.commands[command.id]
        self.channel.send({"id": command.id, "exit": status})

    def halt(self) -> None:
        """Flush the shares and end; the guest ends with process 1."""
        os.sync()
        if self.machine:
            power_off()


def main() -> None:
    """``agent LINE``: the path of a serial line or virtio port, or the number of a descriptor."""
    line = sys.argv[1]
    machine = not line.isdigit()
    channel = Channel(open_line(line) if machine else int(line))
    channel.send({"hello": os.uname().release})
    try:
        order = channel.first()
        set_up(order)
        rename_links(order["links"])
    except OSError:
        channel.send({"failed": traceback.format_exc()})
        raise
    channel.send({"ready": os.uname().release})
    Agent(channel, machine=machine).serve()


if __name__ == "__main__":
    main()
