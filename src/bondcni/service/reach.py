"""What a request can do beyond the disk: work in namespaces, run delegates.

A process of the node's with root's rights does it by itself (``Direct``). The resident server
has neither: what called it does it for the server when it is asked to
(``daemon/server.py``). The service takes either and does not ask which.
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
    """The seam between the service and who may do what it needs."""

    def node(self, netns: str) -> AbstractContextManager[Namespaces]:
        """The host's namespace and the one at ``netns``; "": the host's alone.

        Raises ``NamespaceGone``, ``NotANamespace`` and ``KernelError``.
        """

    def presence(self, netns: str) -> Presence:
        """Which namespace is at a path, that none is, or that this cannot be known."""

    def is_own(self, netns: str) -> bool:
        """Whether it is the caller's own. Raises ``NamespaceGone`` and ``NotANamespace``."""

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """Raise ``DelegateUnstarted`` unless CNI_PATH has an executable of that name."""

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """Run a delegate. ``deadline`` is in seconds. Raises ``DelegateUnstarted``.

        What it wrote to standard error has been passed on to the runtime's and to the log.
        """

    def surroundings(self) -> Mapping[str, str]:
        """The environment that a delegate gets besides the CNI variables."""


class Direct:
    """The process itself."""

    def node(self, netns: str) -> AbstractContextManager[Namespaces]:
        """As ``Reach``."""
        return Namespaces.open(netns)

    def presence(self, netns: str) -> Presence:
        """As ``Reach``. What is absent is gone only where the place for it is visible."""
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
    """The resident server without a caller: it may be in a container, where the paths of the
    runtime mean something else or nothing. It knows what it sees, and never that a pod is gone.
    """

    def presence(self, netns: str) -> Presence:
        """As ``Reach``."""
        found = super().presence(netns)
        if found.state is not NamespaceState.GONE:
            return found
        why = f"{netns} is not visible in the mount namespace of this process"
        return Presence(NamespaceState.UNKNOWN, why=why)


class Careful(Direct):
    """Root at work on records that a daemon with fewer rights could have written: they say where
    delegates are, and only what nobody but root can change is run from there, with our own
    environment.
    """

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """As ``Reach``."""
        program = delegate.find(name, env.get("CNI_PATH", ""))
        if changeable := delegate.changeable(program):
            raise DelegateError(
                f"IPAM plugin {name}: {changeable} can be changed by others than root, and the "
                "records are not root's: it is not run"
            )
        said = {key: value for key, value in env.items() if key.startswith("CNI_")}
        return super().run(name, stdin, {**self.surroundings(), **said}, deadline)


def _blind(netns: str) -> str:
    """Why an absent path says nothing of a pod; "" where the pod is gone.

    The directory of a named namespace outlives it. That of a process (/proc/PID/ns) does not,
    but a process ID means the same to the runtime and to us only on the node itself.
    """
    if netns.startswith("/proc/"):
        if os.stat("/proc/self/ns/pid").st_ino == INITIAL_PID_NAMESPACE:
            return ""
        return f"{netns} names a process, and this one is not in the node's PID namespace"
    directory = os.path.dirname(netns)
    return "" if os.path.isdir(directory) else f"the directory {directory} is not visible"


def identity_of(found: os.stat_result) -> str:
    """A namespace's device and inode."""
    return f"{found.st_dev}:{found.st_ino}"


def without_cni(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what one CNI request says."""
    return {name: value for name, value in env.items() if not name.startswith("CNI_")}
