"""The devices of the node's buses, by sysfs: whether hardware is away or destroyed.

Netlink shows one namespace. A device's directory in sysfs is the same in all of them; of its
``net`` directory each mount lists the interfaces of one namespace, but the directory's link count
is of all (fs/kernfs/inode.c sets it from ``subdirs``, which knows no namespace), and without an
interface there is no such directory (drivers/base/core.c, cleanup_glue_dir).
"""

from __future__ import annotations

import os

from bondcni.core.state import Device, Link

BUSES = "/sys/bus"

OWN_LINKS = 2
"""Of a directory: its name and its "."; each directory in it has one more, ".."."""


def device_of(link: Link, buses: str = BUSES) -> Device | None:
    """The device at the bus address of a link; None where nothing can be said: the link has no
    such address, or sysfs is not there.
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
