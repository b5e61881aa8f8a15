"""What a request can do beyond the disk: work in namespaces, run delegates.

A process of the node's with root's rights does it by itself (``Direct``). The resident server
has neither: what called it does it for the server when it is asked to
(``frontends/daemon.py``). The service takes either and does not ask which.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from bondcni.kernel.executor import Node
from bondcni.kernel.namespace import same_namespace
from bondcni.service import delegate
from bondcni.service.delegate import Ended


class Reach(Protocol):
    """The seam between the service and who may do what it needs."""

    def node(self, netns: str) -> AbstractContextManager[Node]:
        """The host's namespace and the one at ``netns``; "": the host's alone.

        Raises ``NamespaceGone``, ``NotANamespace`` and ``KernelError``.
        """

    def identity(self, netns: str) -> str:
        """Device and inode of the namespace at a path, which tell it from a later one there.

        "" when nothing is there.
        """

    def is_own(self, netns: str) -> bool:
        """Whether it is the caller's own. Raises ``NamespaceGone`` and ``NotANamespace``."""

    def find(self, name: str, env: Mapping[str, str]) -> None:
        """Raise ``DelegateError`` unless CNI_PATH has an executable of that name."""

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        """Run a delegate. ``deadline`` is in seconds. Raises ``DelegateError``."""

    def surroundings(self) -> Mapping[str, str]:
        """The environment that a delegate gets besides the CNI variables."""


class Direct:
    """The process itself."""

    def node(self, netns: str) -> AbstractContextManager[Node]:
        """As ``Reach``."""
        return Node.open(netns)

    def identity(self, netns: str) -> str:
        """As ``Reach``."""
        try:
            return identity_of(os.stat(netns))
        except OSError:
            return ""

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


def identity_of(found: os.stat_result) -> str:
    """A namespace's device and inode."""
    return f"{found.st_dev}:{found.st_ino}"


def without_cni(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what one CNI request says."""
    return {name: value for name, value in env.items() if not name.startswith("CNI_")}
