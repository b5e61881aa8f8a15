"""Names of network interfaces.

Source: net/core/dev.c, dev_valid_name(), and lib/ctype.c: white space is that of Latin-1,
byte by byte.
"""

from __future__ import annotations

import re

IFNAMSIZ = 16
"""Bytes of an interface name, with the NUL at its end. Source: include/uapi/linux/if.h."""

_NOT_IN_A_NAME = re.compile(rb"[/:%\s\xa0]")


def invalid_interface_name(name: str) -> str:
    """Why an interface cannot have this name; "" when it can.

    The kernel replaces ``%d`` in a name with a number that it chooses, so '%' is not allowed.
    """
    try:
        octets = name.encode()
    except UnicodeEncodeError:  # os.environ keeps bytes that are not UTF-8 as lone surrogates
        return "an interface name must be valid UTF-8"
    if not octets:
        return "an interface name must not be empty"
    if len(octets) >= IFNAMSIZ:
        return f"an interface name has at most {IFNAMSIZ - 1} bytes"
    if name in (".", "..") or _NOT_IN_A_NAME.search(octets):
        return "an interface name must not contain '/', ':', '%' or white space, or be '.' or '..'"
    return ""
