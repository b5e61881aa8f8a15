"""The devices of the node's buses, by sysfs: whether missing hardware was destroyed.

Netlink shows one namespace. A device's directory in sysfs is the same in all of them. Its ``net``
directory lists the interfaces of one namespace, that of the mount, but the link count of that
directory counts those of all namespaces (fs/kernfs/inode.c sets it from ``subdirs``). A device
without an interface has no such directory (drivers/base/core.c, cleanup_glue_dir).
"""

from __future__ import annotations

import os

from bondcni.core.state import Device, Link

BUSES = "/sys/bus"

OWN_LINKS = 2
"""The link count of an empty directory; each subdirectory adds one."""


def device_of(link: Link, buses: str = BUSES) -> Device | None:
    """The device at the bus address of a link; None where it is not known: the link has no bus
    address, or sysfs is not mounted.
    """
    bus = f"{buses}/{link.parent_bus}/devices"
    if not link.parent or not link.parent_bus or not os.path.isdir(bus):
        return None
    here = f"{bus}/{link.parent}"
    try:
        links = os.stat(f"{here}/net").st_nlink
    except FileNotFoundError:
        return Device(present=os.path.exists(here))
    except OSError:
        return None
    return Device(present=True, interfaces=links - OWN_LINKS) if links >= OWN_LINKS else None
