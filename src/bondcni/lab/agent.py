"""The lab's hand inside a guest: process 1, which runs the commands asked of it.

It is started by the guest's kernel (or by ``unshare`` on the machine's own), dresses the
machine from a read-only root, and then speaks JSON lines with the holder over one channel:
a serial line in user-mode Linux, a socket otherwise. Orders are ``run``, ``in``, ``signal``,
``size`` and ``halt``; answers are ``out``, ``err``, ``exit`` and ``error``, each with the
order's ``id``, so that many commands run at once and a status is never read from text.

It is started with ``python3 -I -S`` and imports the standard library only, little of it: under
user-mode Linux every import and every fork counts. It guarantees that all output a command
wrote before it ended is sent before its status, and that orphans are reaped. Deadlines are
the business of whoever asks.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import traceback
from typing import Any

Message = dict[str, Any]

CHUNK = 65536
# Once a serial line of user-mode Linux was throttled (4 KB waiting unread), it hears nothing
# any more: line_throttle() in arch/um/drivers/line.c takes it off epoll for good. So the holder
# has at most WINDOW bytes under way, and every CONFIRM bytes are confirmed.
WINDOW, CONFIRM = 3072, 1024
# The lines the kernel's own headers hold: linux/mount.h, linux/reboot.h, linux/sockios.h.
MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE = 1, 4096, 16384, 1 << 18
MNT_DETACH = 2
RB_POWER_OFF = 0x4321FEDC
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFNAME, IFF_UP = 0x8913, 0x8914, 0x8923, 1

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError with the C library's errno if ``result`` is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount, making the target folder if it is missing."""
    os.makedirs(target, exist_ok=True)
    arguments = (source.encode(), target.encode(), kind.encode(), flags, data.encode())
    check(libc.mount(*arguments), f"mount {kind or source} on {target}")


def finish(*argv: str) -> None:
    """Run a command of the set-up to its end; raises OSError if it fails."""
    pid = os.posix_spawn(find(argv[0], ENVIRONMENT, "/"), argv, ENVIRONMENT)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(f"{' '.join(argv)} ended with {status}")


def find(program: str, env: dict[str, str], cwd: str) -> str:
    """Where ``program`` is along the command's own PATH; itself if it is nowhere."""
    if "/" in program:
        return program
    for folder in env.get("PATH", "").split(":"):
        path = os.path.join(cwd, folder, program)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return program


def overlay_root(modules: str) -> None:
    """Put a writable overlay on tmpfs over the read-only root and make it the root.

    pivot_root and not chroot: the kernel refuses new user namespaces in a chroot.
    """
    mount("proc", "/proc", "proc")
    finish("modprobe", "-d", modules, "overlay")
    mount("tmpfs", "/tmp", "tmpfs")  # noqa: S108 the one folder every root has
    for folder in ("upper", "work", "root"):
        os.mkdir(f"/tmp/{folder}")  # noqa: S108
    layers = "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work"
    mount("overlay", "/tmp/root", "overlay", 0, layers)  # noqa: S108
    os.chdir("/tmp/root")  # noqa: S108
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leave the old root")
    os.chdir("/")


def dress(order: Message) -> None:
    """Fresh kernel file systems, modules and shares, in the order they need each other."""
    if order["overlay"]:
        overlay_root(order["modules"])
        mount("devtmpfs", "/dev", "devtmpfs")
        mount("devpts", "/dev/pts", "devpts", 0, "mode=620,ptmxmode=666")
        mount("tmpfs", "/dev/shm", "tmpfs")  # noqa: S108
        mount(order["modules"] + "/lib/modules", "/lib/modules", "", MS_BIND)
    else:
        mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    mount("tmpfs", "/var/lib/cni", "tmpfs", 0, "mode=700")
    for path, folder in order["shares"].items():
        share(path, folder, through_hostfs=order["overlay"])
    with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
        file.write("lab")
    finish("modprobe", "bonding", "max_bonds=0")


def share(path: str, folder: str, *, through_hostfs: bool) -> None:
    """Make the host's ``folder`` writable at ``path``."""
    if through_hostfs:
        mount("none", path, "hostfs", 0, folder)
    else:
        mount(folder, path, "", MS_BIND)


def name_links(names: dict[str, str]) -> None:
    """Give each NIC its name while it is still down, and set loopback up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        for old, new in names.items():
            fcntl.ioctl(door, SIOCSIFNAME, struct.pack("16s16s", old.encode(), new.encode()))
        answer = fcntl.ioctl(door, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(door, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def open_line(path: str) -> int:
    """The serial line as a plain pipe of bytes: no echo, no line editing, no signals."""
    line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
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
            return all([self.obey(order) for order in self.channel.receive()])
        return True

    def poll(self) -> dict[int, int]:
        poller = select.poll()
        interest = {self.channel.fd: select.POLLIN, self.wake: select.POLLIN}
        for job in self.jobs.values():
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
        elif action == "size":
            job.resize(order["size"])
        elif action == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, order["signal"])
        return True

    def run(self, order: Message) -> None:
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
            check(libc.reboot(RB_POWER_OFF), "power off")


def main() -> None:
    """``agent.py LINE``: LINE is a serial line's path, or the number of a descriptor."""
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
