"""Which kernels a guest can have, and how each is had.

Three are Debian's packages of user-mode Linux, one a suite: one processor each, and there in a
second. ``smp`` is a stock kernel under QEMU, for what only a kernel with more than one processor
shows: there RCU waits cost what they cost on a node. ``host`` is the machine's own kernel.

All of them are fetched at their first use (`debian`) and installed nowhere. What runs in a
kernel is the business of `guest`.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from bondlab.kernels.debian import KernelUnavailable, Progress, Suite, cache_folder, run, unpacked

__all__ = [
    "HOST",
    "NAMES",
    "SMP",
    "SUITES",
    "Kernel",
    "KernelUnavailable",
    "Progress",
    "bootable",
    "cache_folder",
    "default",
    "delegates",
    "fetch",
    "has_cables",
    "missing_packages",
    "usable_host_kernel",
]

HOST, SMP = "host", "smp"
PREFERRED = ("6.1", "7.2")
GUEST_TOOLS = ("iproute2", "iputils-ping", "kmod", "procps")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"


class Kernel(NamedTuple):
    """A kernel that is there and can be booted."""

    name: str  # what a user types: 6.1, 6.12, 7.2, smp, host
    version: str  # what uname says
    package: str  # "user-mode-linux 6.12um1+b22"; empty for host
    binary: Path | None  # user-mode Linux or QEMU; None: the machine's own kernel
    root: Path  # holds lib/modules/<version>
    libraries: Path | None  # where the binary's own C library is; None: the machine's
    options: tuple[str, ...]  # words for its command line
    image: Path | None = None  # what QEMU boots
    busybox: Path | None = None  # what prepares its root


# 6.12 and 7.2 want glibc 2.38, bookworm has 2.36. A mirror's copy of a suite that is not
# released yet may be past its Valid-Until; its signature is checked all the same.
SUITES = {
    "6.1": Suite("bookworm", ("user-mode-linux",)),
    "6.12": Suite("trixie", ("user-mode-linux", "libc6")),
    "7.2": Suite("forky", ("user-mode-linux", "libc6", "libgcc-s1"), expires=False),
    SMP: Suite(
        "bookworm-backports",
        ("linux-image-amd64",),  # stands for the newest; its own dependencies are the installer's
        base="bookworm",
        wanted=r"linux-image-\d.*",
    ),
}
OPTIONS = {"7.2": ("seccomp=on",)}

PTRACE_ONLY = ("6.1", "6.12")
"""User-mode kernels that set the registers of their processes by ptrace alone, from a buffer of
2,696 bytes (arch/x86/um): with AMX the registers take 11,008, and the host answers EFAULT. Kernels
from 6.13 on ask for the size, and those from 6.16 on can do without ptrace (seccomp=on)."""
# With every library: the machine may be of another release, and has few of them.
QEMU = Suite("bookworm-backports", ("qemu-system-x86", "busybox-static"), base="bookworm")
DELEGATES = Suite("bookworm", ("containernetworking-plugins",))
# 1.1.1, in bookworm and trixie, ignores linkInContainer; 1.9.1 knows it.
NEW_DELEGATES = Suite("forky", ("containernetworking-plugins",), expires=False)
NAMES = (*SUITES, HOST)


def has_cables(name: str | None) -> bool:
    """Whether a kernel of this name can have NICs on cables; None: whichever suits."""
    return name not in {SMP, HOST}


def bootable(name: str, cpuinfo: str = "/proc/cpuinfo") -> str | None:
    """Why the kernel of that name cannot boot on this machine's processor; None if it can."""
    if name not in PTRACE_ONLY or " amx_tile" not in Path(cpuinfo).read_text():
        return None
    return (
        f"kernel {name} cannot boot on this processor: it has AMX, whose registers user-mode "
        "Linux before 6.13 cannot set; use --kernel 7.2 or smp"
    )


def default() -> str:
    """The first of ``PREFERRED`` that boots on this machine."""
    return next((name for name in PREFERRED if bootable(name) is None), PREFERRED[-1])


def fetch(name: str, progress: Progress) -> Kernel:
    """The kernel a user calls ``name``, from the cache or from Debian's mirror.

    Raises KernelUnavailable: no such name, no mirror, no network.
    """
    if name == HOST:
        return Kernel(HOST, platform.release(), "", None, Path("/"), None, ())
    if name not in SUITES:
        raise KernelUnavailable(f"no kernel is called {name}; there are {', '.join(NAMES)}")
    if platform.machine() != "x86_64":
        raise KernelUnavailable(f"kernel {name} needs x86_64, this machine is {platform.machine()}")
    return stock(progress) if name == SMP else user_mode(name, progress)


def user_mode(name: str, progress: Progress) -> Kernel:
    """A kernel that is an ordinary program."""
    suite = SUITES[name]
    folder = unpacked(suite, progress, adapt_user_mode)
    libraries = folder / LIBRARIES if "libc6" in suite.packages else None
    binary = folder / "usr/bin/linux.uml"
    options = OPTIONS.get(name, ())
    return Kernel(name, *facts(folder), binary, folder, libraries, options)


def stock(progress: Progress) -> Kernel:
    """A kernel as Debian installs it on a node, and the machine it runs on."""
    qemu = unpacked(QEMU, progress, adapt_qemu)
    folder = unpacked(SUITES[SMP], progress, adapt_stock)
    version, package = facts(folder)
    return Kernel(
        SMP,
        version,
        package,
        binary=qemu / "usr/bin/qemu-system-x86_64",
        root=folder,
        libraries=qemu / LIBRARIES,
        options=("-L", f"{qemu}/usr/share/qemu", "-L", f"{qemu}/usr/share/seabios"),
        image=folder / f"boot/vmlinuz-{version}",
        busybox=qemu / "bin/busybox",
    )


def facts(folder: Path) -> tuple[str, str]:
    """The version of the kernel in ``folder``, and its package."""
    version = next((folder / "lib/modules").iterdir()).name
    return version, (folder / "packages").read_text().splitlines()[0]


def delegates(progress: Progress, *, new: bool = False) -> Path:
    """The folder of the standard CNI plugins (static, host-local, dhcp and others).

    ``new`` is for those that know ``linkInContainer``. Raises KernelUnavailable: no mirror, no network.
    """
    return unpacked(NEW_DELEGATES if new else DELEGATES, progress) / "usr/lib/cni"


def missing_packages() -> list[str]:
    """The Debian packages a guest needs of the machine and that are not installed."""
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *GUEST_TOOLS],
        capture_output=True,
        check=False,
        text=True,
    )
    installed = {line.split()[1] for line in found.stdout.splitlines() if line[:10] == "installed "}
    return [name for name in GUEST_TOOLS if name not in installed]


def usable_host_kernel() -> str | None:
    """Why the machine's own kernel can not be the guest's; None if it can."""
    if os.geteuid():
        return "not root"
    if not shutil.which("modprobe"):
        return "modprobe is not installed (package kmod)"
    if not Path("/sys/class/net/bonding_masters").exists() and not succeeds(
        "modprobe", "--dry-run", "--quiet", "bonding"
    ):
        return f"kernel {platform.release()} has no bonding module"
    if not succeeds("unshare", "--net", "--mount", "--pid", "--fork", "true"):
        return "new namespaces are not allowed here"
    return None


def succeeds(*argv: str) -> bool:
    """Whether a command ends with status 0."""
    return not subprocess.run(argv, capture_output=True, check=False).returncode


def adapt_user_mode(root: Path, final: Path) -> None:
    """Put the modules where modprobe -d looks, and give the kernel its own C library."""
    # Without usr-merge lib may be there already.
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib/modules").symlink_to("../usr/lib/uml/modules")
    if (root / LIBRARIES / LOADER).exists():
        set_interpreter(root / "usr/bin/linux.uml", final)


def adapt_qemu(root: Path, final: Path) -> None:
    """Bring all libraries together and have the emulator use them."""
    for path in (root / "lib/x86_64-linux-gnu").iterdir():
        path.rename(root / LIBRARIES / path.name)
    set_interpreter(root / "usr/bin/qemu-system-x86_64", final)


def adapt_stock(root: Path, final: Path) -> None:
    """List what the modules need, which an installer would do."""
    del final
    run("/sbin/depmod", "-b", str(root), facts(root)[0])


def set_interpreter(binary: Path, final: Path) -> None:
    """Have ``binary`` started by the loader that will be in ``final``."""
    loader = str(final / LIBRARIES / LOADER)
    binary.write_bytes(with_interpreter(binary.read_bytes(), loader))


def with_interpreter(image: bytes, path: str) -> bytes:
    """An x86-64 ELF image whose program interpreter is ``path``.

    The new path goes to the end of the file and PT_INTERP points there (offsets of elf(5)):
    the kernel reads it from the file, not from memory. user-mode Linux can not be started
    through ``ld.so``: it needs its own addresses.
    """
    table, size, count = struct.unpack_from("<32xQ14xHH", image)
    for start in range(table, table + size * count, size):
        if struct.unpack_from("<I", image, start)[0] == 3:  # PT_INTERP
            name = os.fsencode(path) + b"\0"
            patched = bytearray(image + name)
            struct.pack_into("<Q", patched, start + 8, len(image))
            struct.pack_into("<Q", patched, start + 32, len(name))
            return bytes(patched)
    raise KernelUnavailable("the kernel's binary names no program interpreter")
