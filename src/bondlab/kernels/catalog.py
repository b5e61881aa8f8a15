"""The kernels that a guest can run, and how each is obtained.

Three are Debian's packages of user-mode Linux, one per release: one processor, booted in a second.
``smp`` is a stock kernel under QEMU, for behaviour that needs more than one processor: RCU grace
periods take as long as on a node. ``host`` is this machine's kernel.

All but ``host`` are fetched at their first use (`debian`) and never installed. `guest` runs them.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from bondlab.kernels.debian import (
    KernelUnavailable,
    Progress,
    Suite,
    cache_directory,
    run,
    unpacked,
)

__all__ = [
    "DEFAULT",
    "HOST",
    "NAMES",
    "SMP",
    "SUITES",
    "Kernel",
    "KernelUnavailable",
    "Progress",
    "bootable",
    "cache_directory",
    "delegates",
    "fetch",
    "has_cables",
    "missing_packages",
    "usable_host_kernel",
]

HOST, SMP = "host", "smp"
DEFAULT = "7.2"
"""Boots on every x86-64 processor, and is the fastest."""
GUEST_TOOLS = ("iproute2", "iputils-ping", "kmod", "procps")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"


class Kernel(NamedTuple):
    """A kernel that has been obtained and can be booted."""

    name: str  # the value of --kernel: 6.1, 6.12, 7.2, smp, host
    version: str  # as printed by uname -r
    package: str  # "user-mode-linux 6.12um1+b22"; empty for host
    binary: Path | None  # user-mode Linux or QEMU; None: the machine's own kernel
    root: Path  # holds lib/modules/<version>
    libraries: Path | None  # the binary's own C library; None: this machine's
    options: tuple[str, ...]  # arguments for its command line
    image: Path | None = None  # the kernel image for QEMU
    busybox: Path | None = None  # for the initramfs


# 6.12 and 7.2 need glibc 2.38, bookworm has 2.36. expires=False: a mirror's copy of a suite that is
# not released yet may be past its Valid-Until; its signature is checked nevertheless.
SUITES = {
    "6.1": Suite("bookworm", ("user-mode-linux",)),
    "6.12": Suite("trixie", ("user-mode-linux", "libc6")),
    "7.2": Suite("forky", ("user-mode-linux", "libc6", "libgcc-s1"), expires=False),
    SMP: Suite(
        "bookworm-backports",
        ("linux-image-amd64",),  # depends on the newest; the rest is for an installer
        base="bookworm",
        wanted=r"linux-image-\d.*",
    ),
}
OPTIONS = {"7.2": ("seccomp=on",)}

PTRACE_ONLY = ("6.1", "6.12")
"""User-mode kernels that set the registers of their processes by ptrace only, from a buffer of
2,696 bytes (arch/x86/um): with AMX the registers need 11,008 bytes, and ptrace fails with EFAULT.
Kernels from 6.13 on query the size; those from 6.16 on can run without ptrace (seccomp=on)."""
# Fetched with all libraries: this machine may run another release and lack most of them.
QEMU = Suite("bookworm-backports", ("qemu-system-x86", "busybox-static"), base="bookworm")
DELEGATES = Suite("bookworm", ("containernetworking-plugins",))
# Version 1.1.1 (bookworm, trixie) ignores linkInContainer; 1.9.1 supports it.
NEW_DELEGATES = Suite("forky", ("containernetworking-plugins",), expires=False)
NAMES = (*SUITES, HOST)


def has_cables(name: str | None) -> bool:
    """Whether the kernel ``name`` can have NICs on cables; None: the default kernel."""
    return name not in {SMP, HOST}


def bootable(name: str, cpuinfo: str = "/proc/cpuinfo") -> str | None:
    """Why the kernel ``name`` cannot boot on this machine's processor; None if it can."""
    if name not in PTRACE_ONLY or " amx_tile" not in Path(cpuinfo).read_text():
        return None
    return (
        f"kernel {name} cannot boot on this processor: user-mode Linux before 6.13 does not "
        "support AMX (amx_tile); use --kernel 7.2 or --kernel smp"
    )


def fetch(name: str, progress: Progress) -> Kernel:
    """The kernel ``name``, from the cache or from Debian's mirror.

    Raises KernelUnavailable: unknown name, no mirror, no network.
    """
    if name == HOST:
        return Kernel(HOST, platform.release(), "", None, Path("/"), None, ())
    if name not in SUITES:
        raise KernelUnavailable(f"unknown kernel {name}; known kernels: {', '.join(NAMES)}")
    if platform.machine() != "x86_64":
        raise KernelUnavailable(f"kernel {name} needs x86_64; this machine is {platform.machine()}")
    return stock(progress) if name == SMP else user_mode(name, progress)


def user_mode(name: str, progress: Progress) -> Kernel:
    """A kernel of user-mode Linux."""
    suite = SUITES[name]
    directory = unpacked(suite, progress, adapt_user_mode)
    libraries = directory / LIBRARIES if "libc6" in suite.packages else None
    binary = directory / "usr/bin/linux.uml"
    options = OPTIONS.get(name, ())
    return Kernel(name, *facts(directory), binary, directory, libraries, options)


def stock(progress: Progress) -> Kernel:
    """A stock Debian kernel, and the QEMU to run it."""
    qemu = unpacked(QEMU, progress, adapt_qemu)
    directory = unpacked(SUITES[SMP], progress, adapt_stock)
    version, package = facts(directory)
    return Kernel(
        SMP,
        version,
        package,
        binary=qemu / "usr/bin/qemu-system-x86_64",
        root=directory,
        libraries=qemu / LIBRARIES,
        options=("-L", f"{qemu}/usr/share/qemu", "-L", f"{qemu}/usr/share/seabios"),
        image=directory / f"boot/vmlinuz-{version}",
        busybox=qemu / "bin/busybox",
    )


def facts(directory: Path) -> tuple[str, str]:
    """The version of the kernel in ``directory``, and its package."""
    version = next((directory / "lib/modules").iterdir()).name
    return version, (directory / "packages").read_text().splitlines()[0]


def delegates(progress: Progress, *, new: bool = False) -> Path:
    """The directory of the reference CNI plugins (static, host-local, dhcp and others).

    ``new``: a version that supports ``linkInContainer``. Raises KernelUnavailable: no mirror, no
    network.
    """
    return unpacked(NEW_DELEGATES if new else DELEGATES, progress) / "usr/lib/cni"


def missing_packages() -> list[str]:
    """The Debian packages that a guest needs on this machine and that are not installed."""
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *GUEST_TOOLS],
        capture_output=True,
        check=False,
        text=True,
    )
    installed = {line.split()[1] for line in found.stdout.splitlines() if line[:10] == "installed "}
    return [name for name in GUEST_TOOLS if name not in installed]


def usable_host_kernel() -> str | None:
    """Why this machine's kernel cannot be used for a guest; None if it can."""
    if os.geteuid():
        return "not root"
    if not shutil.which("modprobe"):
        return "modprobe is not installed (package kmod)"
    if not Path("/sys/class/net/bonding_masters").exists() and not succeeds(
        "modprobe", "--dry-run", "--quiet", "bonding"
    ):
        return f"kernel {platform.release()} has no bonding module"
    if not succeeds("unshare", "--net", "--mount", "--pid", "--fork", "true"):
        return "creating namespaces is not permitted"
    return None


def succeeds(*argv: str) -> bool:
    """Whether a command exits with status 0."""
    return not subprocess.run(argv, capture_output=True, check=False).returncode


def adapt_user_mode(root: Path, final: Path) -> None:
    """Link the modules to where modprobe -d looks, and set the kernel's own C library."""
    # In a suite without merged /usr, lib may exist.
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib/modules").symlink_to("../usr/lib/uml/modules")
    if (root / LIBRARIES / LOADER).exists():
        set_interpreter(root / "usr/bin/linux.uml", final)


def adapt_qemu(root: Path, final: Path) -> None:
    """Move all libraries into one directory, and set QEMU's loader."""
    for path in (root / "lib/x86_64-linux-gnu").iterdir():
        path.rename(root / LIBRARIES / path.name)
    set_interpreter(root / "usr/bin/qemu-system-x86_64", final)


def adapt_stock(root: Path, final: Path) -> None:
    """Run depmod, which an installation would do."""
    del final
    run("/sbin/depmod", "-b", str(root), facts(root)[0])


def set_interpreter(binary: Path, final: Path) -> None:
    """Set the program interpreter of ``binary`` to the loader in ``final``."""
    loader = str(final / LIBRARIES / LOADER)
    binary.write_bytes(with_interpreter(binary.read_bytes(), loader))


def with_interpreter(image: bytes, path: str) -> bytes:
    """An x86-64 ELF image whose program interpreter is ``path``.

    The new path is appended to the file, and PT_INTERP points to it (offsets: elf(5)); the kernel
    reads it from the file, not from memory. Starting user-mode Linux by ``ld.so`` does not work: it
    must be loaded at its own addresses.
    """
    table, size, count = struct.unpack_from("<32xQ14xHH", image)
    for start in range(table, table + size * count, size):
        if struct.unpack_from("<I", image, start)[0] == 3:  # PT_INTERP
            name = os.fsencode(path) + b"\0"
            patched = bytearray(image + name)
            struct.pack_into("<Q", patched, start + 8, len(image))
            struct.pack_into("<Q", patched, start + 32, len(name))
            return bytes(patched)
    raise KernelUnavailable("the kernel's binary has no program interpreter")
