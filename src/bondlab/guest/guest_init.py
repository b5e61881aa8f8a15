"""How a guest becomes a machine to work on: mounts, modules, link names.

From a read-only root to a writable one with fresh kernel file systems, done by process 1 with
system calls where it can: under user-mode Linux each command costs up to 26 ms. It leaves the
host's files as they are: what is written goes to a tmpfs, except in the shares. /tmp is not
fresh, so that a checkout or an interpreter there is seen. Any failure is an OSError that says
which step it was.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Any

# Of the kernel's headers: linux/mount.h, linux/reboot.h, linux/sockios.h.
MS_BIND = 4096
MNT_DETACH = 2
RB_POWER_OFF = 0x4321FEDC
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFNAME, IFF_UP = 0x8913, 0x8914, 0x8923, 1

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}

CONFIGURATION = "/etc/cni"

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


def dress(order: dict[str, Any]) -> None:
    """Fresh kernel file systems, modules and shares, in the order they need each other."""
    if order["overlay"]:
        overlay_root(order["modules"])
        mount("devtmpfs", "/dev", "devtmpfs")
        mount("devpts", "/dev/pts", "devpts", 0, "mode=620,ptmxmode=666")
        mount("tmpfs", "/dev/shm", "tmpfs")  # noqa: S108
        mount(order["modules"] + "/lib/modules", "/lib/modules", "", MS_BIND)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    mount("tmpfs", "/var/lib/cni", "tmpfs", 0, "mode=700")
    if order["overlay"] or os.path.isdir(CONFIGURATION):
        # The machine's policy file is not asked for. Empty, for the directory may be closed to
        # the daemon's user, and a policy that cannot be read is not the same as none.
        mount("tmpfs", CONFIGURATION, "tmpfs", 0, "mode=755")
    for source, target, kind, flags, data in order["shares"]:
        mount(source, target, kind, flags, data)
    with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
        file.write("lab")
    finish("modprobe", "bonding", "max_bonds=0")


def name_links(names: dict[str, str]) -> None:
    """Give each NIC its name while it is still down, and set loopback up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        for old, new in names.items():
            fcntl.ioctl(door, SIOCSIFNAME, struct.pack("16s16s", old.encode(), new.encode()))
        answer = fcntl.ioctl(door, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(door, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def power_off() -> None:
    """End the kernel; only process 1 of a machine may."""
    check(libc.reboot(RB_POWER_OFF), "power off")
