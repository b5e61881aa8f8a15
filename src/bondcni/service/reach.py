"""Access to network namespaces and delegates, for one request.

A root process on the node has it itself (``Direct``). The daemon has not: the executable that
called it acts on its behalf (``daemon/shim_client.py``). The service uses either.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from bondcni.core.errors import DelegateError
from bondcni.core.lifecycle import NamespaceState
from bondcni.kernel.namespace import same_namespace
from bondcni.kernel.namespaces import Namespaces
from bondcni.service import delegate
from bondcni.service.delegate import Ended

INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""Its inode. Source: include/linux/proc_ns.h, PROC_PID_INIT_INO."""


class Presence(NamedTuple):
    """What is known of the network namespace at a path.

    ``identity`` (device and inode, where PRESENT) distinguishes it from a later namespace at the
    same path; ``why`` says why it is UNKNOWN. A path that cannot be read does not show that the
    pod is gone: nothing may be done to an attachment because of it.
    """

    state: NamespaceState
    identity: str = ""
    why: str = ""


GONE = Presence(NamespaceState.GONE)


class Reach(Protocol):
    """What the service needs and may have no right to do itself."""

    def node(self, netns: str) -> AbstractContextManager[Namespaces]:
        """The host's namespace and the one at ``netns``; the host's alone for "".

        Raises ``NamespaceGone``, ``NotANamespace`` and ``KernelError``.
        """

    def presence(self, netns: str) -> Presence:
        """What is known of the namespace at a path."""

    def is_own(self, netns: str) -> bool:
        """Whether ``netns`` is the namespace of the plugin itself. Raises ``NamespaceGone`` and ``NotANamespace``."""

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """Raise ``DelegateUnstarted`` unless a directory of CNI_PATH has the executable ``name``."""

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """Run a delegate for at most ``deadline`` seconds. Raises ``DelegateUnstarted``.

        Its standard error is copied to that of the plugin and, in thick mode, to the log.
        """

    def surroundings(self) -> Mapping[str, str]:
        """The environment of a delegate without the CNI variables."""


class Direct:
    """This process has the rights itself."""

    def node(self, netns: str) -> AbstractContextManager[Namespaces]:
        """As ``Reach``."""
        return Namespaces.open(netns)

    def presence(self, netns: str) -> Presence:
        """As ``Reach``. A missing path is GONE only if its directory is visible."""
        try:
            found = os.stat(netns)
            if found.st_dev == os.stat("/proc/self/ns/net").st_dev:
                return Presence(NamespaceState.PRESENT, identity_of(found))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            return Presence(NamespaceState.UNKNOWN, why=f"{netns}: {error.strerror}")
        why = _blind(netns)
        return Presence(NamespaceState.UNKNOWN, why=why) if why else GONE

    def is_own(self, netns: str) -> bool:
        """As ``Reach``."""
        return same_namespace(netns)

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """As ``Reach``."""
        delegate.find(name, env.get("CNI_PATH", ""))

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        return delegate.run(name, stdin, env, deadline)

    def surroundings(self) -> Mapping[str, str]:
        """As ``Reach``."""
        return without_cni(os.environ)


class Unaided(Direct):
    """The daemon without a caller. It may run in a container, where the paths of the runtime mean
    something else or nothing: it can see that a namespace exists, and never that it is gone.
    """

    def presence(self, netns: str) -> Presence:
        """As ``Reach``."""
        found = super().presence(netns)
        if found.state is not NamespaceState.GONE:
            return found
        why = f"{netns} is not visible in the mount namespace of this process"
        return Presence(NamespaceState.UNKNOWN, why=why)


class Careful(Direct):
    """Root, with records that an unprivileged daemon could have written. They say where delegates
    are: a delegate is run only if no other user can change it, and with root's own environment.
    """

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        program = delegate.find(name, env.get("CNI_PATH", ""))
        if changeable := delegate.changeable(program):
            raise DelegateError(
                f"IPAM plugin {name} is not run, because the records are not owned by root: "
                f"{changeable} can be changed by users other than root"
            )
        said = {key: value for key, value in env.items() if key.startswith("CNI_")}
        return super().run(name, stdin, {**self.surroundings(), **said}, deadline)


def _blind(netns: str) -> str:
    """Why a missing path does not show that the namespace is gone; "" if it does.

    The directory of a named namespace remains when that is gone. The directory /proc/PID/ns does
    not, and a process ID means the same here and to the runtime only in the node's PID namespace.
    """
    if netns.startswith("/proc/"):
        if os.stat("/proc/self/ns/pid").st_ino == INITIAL_PID_NAMESPACE:
            return ""
        return f"{netns} names a process, and this process is not in the node's PID namespace"
    directory = os.path.dirname(netns)
    return "" if os.path.isdir(directory) else f"the directory {directory} is not visible"


def identity_of(found: os.stat_result) -> str:
    """The device and inode of a namespace."""
    return f"{found.st_dev}:{found.st_ino}"


def without_cni(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without the CNI variables."""
    return {name: value for name, value in env.items() if not name.startswith("CNI_")}
