"""The descriptors that came with a frame: each must be what its letter says, or all are refused.

A peer can send any descriptor; these checks do not change it.
"""

from __future__ import annotations

import fcntl
import socket
from contextlib import ExitStack

from bondcni.core.errors import TryAgain
from bondcni.daemon.protocol import ProtocolError
from bondcni.kernel.namespace import CLONE_NEWNET, NS_GET_NSTYPE
from bondcni.kernel.namespaces import Handle
from bondcni.kernel.rtnetlink import Rtnetlink

LETTERS = b"hHpP"
"""Netlink socket and namespace: of the host, of the pod."""


def by_letter(letters: bytes, given: list[int]) -> dict[str, int]:
    """Map letters to descriptors. Raises ``ProtocolError`` if one is not what its letter says."""
    if len(letters) != len(given) or set(letters) - set(LETTERS) or len(set(letters)) < len(given):
        said = letters[:8].decode(errors="replace")
        raise ProtocolError(f"{len(given)} descriptors, but DESCRIPTORS is {said!r}")
    found = dict(zip(letters.decode(), given, strict=True))
    for letter, descriptor in found.items():
        if letter in "hp" and not _is_rtnetlink(descriptor):
            raise ProtocolError(f"descriptor {letter} is not a route netlink socket")
        if letter in "HP" and not _is_namespace(descriptor):
            raise ProtocolError(f"descriptor {letter} is not a network namespace")
    return found


def side(found: dict[str, int], letters: str, held: ExitStack) -> Handle:
    """The namespace of two letters, such as ``hH``. ``held`` closes what is opened for it.

    Raises ``ProtocolError``, and ``TryAgain`` if the process has no free descriptors.
    """
    if not found.keys() >= set(letters):
        raise ProtocolError(f"descriptors {letters} are missing")
    rtnl, namespace = (found[letter] for letter in letters)
    try:
        kind = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        return Handle(Rtnetlink.adopt(held.enter_context(socket.fromfd(rtnl, *kind))), namespace)
    except OSError as error:
        raise TryAgain(f"cannot duplicate a netlink socket: {error.strerror}") from error


def _is_rtnetlink(descriptor: int) -> bool:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return False
    found = (sock.family, sock.proto)
    sock.detach()
    return found == (socket.AF_NETLINK, socket.NETLINK_ROUTE)


def _is_namespace(descriptor: int) -> bool:
    try:
        return bool(fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET)
    except OSError:
        return False
