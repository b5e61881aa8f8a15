"""Finds out whether this kernel can create a bond, without loading the bonding module.

Loading the module would create an interface bond0, unless max_bonds=0 is configured. So this
module checks what the kernel does on demand: it runs the program in kernel.modprobe for the
alias rtnl-link-bond (net/core/rtnetlink.c, rtnl_link_ops_get). In a container some of the files
may not be visible; then the answer is "not known", and not "missing".
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from bondcni.core.errors import KernelError

REMEDY = (
    "run `modprobe bonding max_bonds=0` on the node, and add bonding to a file in "
    "/etc/modules-load.d"
)

NO_LOADERS = ("true", "false", "null")
"""Programs that administrators configure instead of modprobe, so that no module is loaded."""

MODPROBE_D = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
"""Directories that contain modprobe.d (modprobe.d(5))."""


class Driver(NamedTuple):
    """``missing``: why no bond can be created. ``unknown``: why that is not known.

    Both are "" if a bond can be created.
    """

    missing: str = ""
    unknown: str = ""


def bonding_driver(root: str = "") -> Driver:
    """Whether a bond can be created. ``root`` is the directory of another root file system."""
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
            f"/lib/modules/{release}: install the package with the modules of this kernel"
        )
    return _loader(root)


def with_driver_advice(error: KernelError) -> KernelError:
    """The error of creating a bond, with advice added if the bonding driver is missing."""
    if error.number == errno.EOPNOTSUPP and not os.path.isdir("/sys/module/bonding"):
        found = bonding_driver()
        why = found.missing or f"the kernel could not load the bonding driver: {REMEDY}"
        error.message = f"{error.message}; {why}"
    return error


def _read(path: str) -> str | None:
    """The text of a file; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _lists(root: str, release: str, listing: str) -> bool | None:
    """Whether a list of kernel modules has the driver; None if the list cannot be read."""
    text = _read(f"{root}/lib/modules/{release}/{listing}")
    if text is None:
        return None
    return any("/bonding.ko" in line.partition(":")[0] for line in text.splitlines())


def _unseen(place: str) -> Driver:
    """The answer without module lists: missing, if only modules of other kernels exist."""
    above = os.path.dirname(place)
    others = os.listdir(above) if os.access(above, os.R_OK | os.X_OK) else []
    if others and not os.path.lexists(place):
        return Driver(
            missing=f"the bonding driver is not loaded, and {place} does not exist; modules of "
            f"{', '.join(sorted(others))} exist: boot one of these kernels"
        )
    return _unknown(f"{place} is not visible here")


def _unknown(why: str) -> Driver:
    return Driver(
        unknown=f"the bonding driver is not loaded, and it is not known whether it can be: {why}"
    )


def _loading_is_off(root: str) -> str:
    """Why the kernel does not load modules on demand; "" if it does."""
    if (_read(f"{root}/proc/sys/kernel/modules_disabled") or "").strip() == "1":
        return (
            "no module can be loaded until the node is rebooted (kernel.modules_disabled is 1): "
            "add bonding to a file in /etc/modules-load.d, then reboot"
        )
    loader = _read(f"{root}/proc/sys/kernel/modprobe")
    if loader is None or os.path.basename(loader.strip()) not in ("", *NO_LOADERS):
        return ""
    setting = f"kernel.modprobe is {loader.strip()!r}"
    return f"the kernel does not load modules on demand ({setting}): {REMEDY}"


def _kept_from_loading(root: str) -> str:
    """The configuration of modprobe that prevents loading the driver on demand, or ""."""
    parameters = (_read(f"{root}/proc/cmdline") or "").split()
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "modprobe.blacklist" and "bonding" in value.split(","):
            return f"the kernel command line prevents loading it ({parameter}): {REMEDY}"
    for directory in MODPROBE_D:
        place = f"{root}{directory}/modprobe.d"
        names = os.listdir(place) if os.access(place, os.R_OK | os.X_OK) else []
        for name in sorted(names):
            for line in (_read(f"{place}/{name}") or "").splitlines():
                words = line.split()
                if name.endswith(".conf") and words[:2] == ["blacklist", "bonding"]:
                    return f"{place}/{name} prevents loading it ({line.strip()}): {REMEDY}"
                if name.endswith(".conf") and _installs_nothing(words):
                    return f"{place}/{name} prevents loading it: remove `{line.strip()}`"
    return ""


def _installs_nothing(words: list[str]) -> bool:
    return words[:2] == ["install", "bonding"] and (
        len(words) == 3 and os.path.basename(words[2]) in NO_LOADERS
    )


def _loader(root: str) -> Driver:
    """Whether the program that loads the driver exists."""
    loader = (_read(f"{root}/proc/sys/kernel/modprobe") or "").strip()
    if not loader:
        return _unknown("/proc/sys/kernel/modprobe is not visible here")
    if os.access(f"{root}{loader}", os.X_OK):
        return Driver()
    if os.path.ismount(f"{root}/lib/modules"):  # mounted into a container, which may have no kmod
        return _unknown(f"{loader}, with which the kernel loads modules, is not visible here")
    return Driver(
        missing=f"the bonding driver is not loaded, and {loader}, with which the kernel loads "
        f"modules, does not exist: install kmod, or {REMEDY}"
    )
