"""The bonding driver: whether this kernel can make a bond, found out without a trace.

Asking the kernel itself would load the module, and that makes an interface bond0 where nobody
said max_bonds=0. So it is looked up what the kernel would do: load it by the program that
kernel.modprobe names, for the alias rtnl-link-bond (net/core/rtnetlink.c, rtnl_link_ops_get).
In a container not all of this can be seen; then nothing is said to be missing.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from bondcni.core.errors import KernelError

REMEDY = (
    "run `modprobe bonding max_bonds=0` on the node, and name bonding in a file of "
    "/etc/modules-load.d"
)

NO_LOADERS = ("true", "false", "null")
"""What administrators put in the place of modprobe so that the kernel loads nothing."""

MODPROBE_D = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
"""Where modprobe.d(5) is looked for."""


class Driver(NamedTuple):
    """Why no bond can be made, or why that could not be found out; neither: one can be made."""

    missing: str = ""
    doubt: str = ""


def bonding_driver(root: str = "") -> Driver:
    """Whether a bond can be made. ``root`` stands for a file system other than our own."""
    release = os.uname().release
    if os.path.isdir(f"{root}/sys/module/bonding") or _lists(root, release, "modules.builtin"):
        return Driver()
    for why in (_loading_is_off(root), _kept_from_loading(root)):
        if why:
            return Driver(missing=f"the bonding driver is not loaded, and {why}")
    listed = _lists(root, release, "modules.dep")
    if listed is None:
        return _unseen(f"{root}/lib/modules/{release}")
    if not listed:
        return Driver(
            missing=f"kernel {release} has no bonding driver: it is neither loaded nor in "
            f"/lib/modules/{release}; install the package with this kernel's modules"
        )
    return _loader(root)


def explained(error: KernelError) -> KernelError:
    """The kernel's refusal to make a bond; where the driver is missing, that is said with it."""
    if error.number == errno.EOPNOTSUPP and not os.path.isdir("/sys/module/bonding"):
        found = bonding_driver()
        why = found.missing or f"the kernel could not load the bonding driver: {REMEDY}"
        error.message = f"{error.message}; {why}"
    return error


def _read(path: str) -> str | None:
    """A file's text; None where it cannot be seen."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _lists(root: str, release: str, listing: str) -> bool | None:
    """Whether a list of the kernel's modules has the driver; None where it cannot be seen."""
    text = _read(f"{root}/lib/modules/{release}/{listing}")
    if text is None:
        return None
    return any("/bonding.ko" in line.partition(":")[0] for line in text.splitlines())


def _unseen(place: str) -> Driver:
    """Without the lists: modules of other kernels tell that this is where they would be."""
    above = os.path.dirname(place)
    others = os.listdir(above) if os.access(above, os.R_OK | os.X_OK) else []
    if others and not os.path.lexists(place):
        return Driver(
            missing=f"the bonding driver is not loaded, and {place} does not exist, only "
            f"modules of {', '.join(sorted(others))}: boot the kernel that is installed"
        )
    return _doubt(f"{place} is not visible here")


def _doubt(why: str) -> Driver:
    return Driver(doubt=f"the bonding driver is not loaded; whether it can be is not known: {why}")


def _loading_is_off(root: str) -> str:
    """Why the kernel loads no module when it needs one; "" where it may."""
    if (_read(f"{root}/proc/sys/kernel/modules_disabled") or "").strip() == "1":
        return (
            "no module can be loaded until the node is booted anew (kernel.modules_disabled is "
            "1): name bonding in a file of /etc/modules-load.d, then boot"
        )
    loader = _read(f"{root}/proc/sys/kernel/modprobe")
    if loader is None or os.path.basename(loader.strip()) not in ("", *NO_LOADERS):
        return ""
    return (
        f"the kernel loads no modules by itself (kernel.modprobe is {loader.strip()!r}): {REMEDY}"
    )


def _kept_from_loading(root: str) -> str:
    """What of modprobe's configuration keeps the driver from being loaded on demand."""
    parameters = (_read(f"{root}/proc/cmdline") or "").split()
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "modprobe.blacklist" and "bonding" in value.split(","):
            return f"the kernel's command line keeps it from being loaded ({parameter}): {REMEDY}"
    for directory in MODPROBE_D:
        place = f"{root}{directory}/modprobe.d"
        names = os.listdir(place) if os.access(place, os.R_OK | os.X_OK) else []
        for name in sorted(names):
            for line in (_read(f"{place}/{name}") or "").splitlines():
                words = line.split()
                if name.endswith(".conf") and words[:2] == ["blacklist", "bonding"]:
                    return f"{place}/{name} keeps it from being loaded ({line.strip()}): {REMEDY}"
                if name.endswith(".conf") and _installs_nothing(words):
                    return f"{place}/{name} keeps it from being loaded: remove `{line.strip()}`"
    return ""


def _installs_nothing(words: list[str]) -> bool:
    return words[:2] == ["install", "bonding"] and (
        len(words) == 3 and os.path.basename(words[2]) in NO_LOADERS
    )


def _loader(root: str) -> Driver:
    """With a driver to load: whether the program that loads it is there."""
    loader = (_read(f"{root}/proc/sys/kernel/modprobe") or "").strip()
    if not loader:
        return _doubt("/proc/sys/kernel/modprobe is not visible here")
    if os.access(f"{root}{loader}", os.X_OK):
        return Driver()
    if os.path.ismount(f"{root}/lib/modules"):  # given to a container; the program need not be
        return _doubt(f"{loader}, by which the kernel loads modules, is not visible here")
    return Driver(
        missing=f"the bonding driver is not loaded, and {loader}, by which the kernel loads "
        f"modules, does not exist: install kmod, or {REMEDY}"
    )
