"""Set-up of a guest by its process 1: mounts, kernel modules, link names.

The root becomes writable, with new kernel file systems. System calls are used instead of commands
where possible, because under user-mode Linux a command takes up to 26 ms. The files of this
machine are not changed: writes go to a tmpfs, except in the shares. /tmp shows this machine's
/tmp, so that a checkout or an interpreter there is visible. Each failure is an OSError that names
the step.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Any

# From the kernel's headers linux/mount.h, linux/reboot.h and linux/sockios.h.
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


def check_result(result: int, what: str) -> None:
    """Raise OSError with the C library's errno if ``result`` is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount, making the target directory if it is missing."""
    os.makedirs(target, exist_ok=True)
    arguments = (source.encode(), target.encode(), kind.encode(), flags, data.encode())
    check_result(libc.mount(*arguments), f"mount {kind or source} on {target}")


def run_command(*argv: str) -> None:
    """Run a command and wait for it; raises OSError if it fails."""
    pid = os.posix_spawn(which(argv[0], ENVIRONMENT, "/"), argv, ENVIRONMENT)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(f"{' '.join(argv)}: exit status {status}")


def which(program: str, env: dict[str, str], cwd: str) -> str:
    """The path of ``program`` by the PATH in ``env``; ``program`` itself if it is not found."""
    if "/" in program:
        return program
    for directory in env.get("PATH", "").split(":"):
        path = os.path.join(cwd, directory, program)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return program


def overlay_root(modules: str) -> None:
    """Make an overlay of a tmpfs over the read-only root the new root.

    By pivot_root, not chroot: the kernel refuses new user namespaces in a chroot.
    """
    mount("proc", "/proc", "proc")
    run_command("modprobe", "-d", modules, "overlay")
    mount("tmpfs", "/tmp", "tmpfs")  # noqa: S108 a directory that every root has
    for directory in ("upper", "work", "root"):
        os.mkdir(f"/tmp/{directory}")  # noqa: S108
    layers = "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work"
    mount("overlay", "/tmp/root", "overlay", 0, layers)  # noqa: S108
    os.chdir("/tmp/root")  # noqa: S108
    check_result(libc.pivot_root(b".", b"."), "pivot_root")
    check_result(libc.umount2(b".", MNT_DETACH), "unmount the old root")
    os.chdir("/")


def set_up(order: dict[str, Any]) -> None:
    """Mount kernel file systems, modules and shares, in the order of their dependencies."""
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
        # Hide this machine's policy file. The new directory can be read by the daemon's user: a
        # policy that cannot be read is an error, not the same as no policy.
        mount("tmpfs", CONFIGURATION, "tmpfs", 0, "mode=755")
    for source, target, kind, flags, data in order["shares"]:
        mount(source, target, kind, flags, data)
    with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
        file.write("lab")
    run_command("modprobe", "bonding", "max_bonds=0")


def rename_links(names: dict[str, str]) -> None:
    """Rename the NICs, which are still down, and set loopback up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for old, new in names.items():
            fcntl.ioctl(sock, SIOCSIFNAME, struct.pack("16s16s", old.encode(), new.encode()))
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def power_off() -> None:
    """Power the guest off; only for process 1."""
    check_result(libc.reboot(RB_POWER_OFF), "power off")
