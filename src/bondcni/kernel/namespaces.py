"""The two network namespaces of one request: open, and read.

A ``Namespaces`` has a netlink socket and a file descriptor of the host's namespace and, where it
exists, of the pod's. What it reads are the frozen values of ``core.state``. Steps are carried out
by ``apply.py``; here only addresses and routes are added, which are no steps.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bondcni.core.config import LinkRef
from bondcni.core.errors import TryAgain
from bondcni.core.plan import Wanted
from bondcni.core.state import Address, Link, Location, Namespace, Route
from bondcni.kernel.address import add_address, add_route
from bondcni.kernel.namespace import namespace_fd, open_in, set_ipv6_sysctls
from bondcni.kernel.reading import (
    FindUses,
    all_links,
    find_links,
    find_uses,
    link_by_index,
    named_links,
    read_candidates,
    snapshot,
    wait_dad,
)
from bondcni.kernel.rtnetlink import Rtnetlink, failure
from bondcni.kernel.watch import Watch

DAD_TIMEOUT = 10.0
"""Seconds for duplicate address detection, which takes one to two."""

SetSysctls = Callable[[str, str, Mapping[str, int]], None]
"""Sets IPv6 sysctls of an interface: path of the namespace, interface, values by key."""


class Handle(NamedTuple):
    """An open network namespace: a netlink socket in it, and its file descriptor."""

    rtnl: Rtnetlink
    fd: int


class Namespaces:
    """The host's namespace and a pod's, as one request uses them.

    ``pod`` is None when the pod's namespace does not exist any more. ``watch`` is what a resident
    process knows of the host from events; without one, all host links are read instead.
    """

    def __init__(
        self,
        host: Handle,
        pod: Handle | None,
        netns: str,
        set_sysctls: SetSysctls = set_ipv6_sysctls,
        watch: Watch | None = None,
    ) -> None:
        self.host = host
        self.pod = pod
        self.netns = netns
        self._set_sysctls = set_sysctls
        self._watch = watch

    @classmethod
    @contextmanager
    def open(cls, netns: str) -> Iterator[Namespaces]:
        """Sockets in both namespaces, closed with the context. ``netns`` "": the host's alone.

        Raises ``NamespaceGone``, ``NotANamespace`` and ``KernelError``.
        """
        with namespace_fd("/proc/self/ns/net") as host_fd, Rtnetlink.open() as host:
            if not netns:
                yield cls(Handle(host, host_fd), None, netns)
                return
            with namespace_fd(netns) as fd, open_in(netns) as pod:
                yield cls(Handle(host, host_fd), Handle(pod, fd), netns)

    def handle(self, where: Location) -> Handle:
        """The namespace itself; the pod's must exist."""
        handle = self.host if where == Location.HOST else self.pod
        if handle is None:
            raise AssertionError("the pod's namespace does not exist")
        return handle

    def inside(self) -> Namespace:
        """Links, addresses and routes of the pod; nothing when its namespace does not exist."""
        return snapshot(self.pod.rtnl) if self.pod else Namespace()

    def links_inside(self) -> Namespace:
        """The links of the pod; nothing when its namespace does not exist."""
        return all_links(self.pod.rtnl) if self.pod else Namespace()

    def host_links(self) -> Namespace:
        """All links of the host."""
        return all_links(self.host.rtnl)

    def find_host_links(self, names: Iterable[str], ifindexes: Iterable[int]) -> Namespace:
        """The links of the host that have one of these names, alternative names or ifindexes."""
        return find_links(self.host.rtnl, names, ifindexes)

    def named_links(self, refs: Sequence[LinkRef]) -> tuple[Link, ...]:
        """The links of the host that these references name."""
        return named_links(self.host.rtnl, refs)

    def read_candidates(self, refs: Sequence[LinkRef], numbers: range = range(0)) -> Namespace:
        """What a plan needs to know of the host to claim these links.

        With it the links that have the ifindexes ``numbers`` (``plan.new_ifindexes``) are read,
        which ``free_ifindexes`` needs.
        """
        if len(numbers) == 1:  # only the bond's, which need not be free on the host
            numbers = range(0)
        look: FindUses = find_uses
        if self._watch and self._watch.knows(self.host.fd):
            look = self._watch
        return read_candidates(self.host.rtnl, refs, look, numbers)

    def free_ifindexes(self, numbers: range, host: Namespace) -> range:
        """``numbers``, or as many higher ifindexes in a row, that no link of the host has.

        ``host`` is what ``about`` read along with ``numbers``. A single one is the bond's, which
        need not be free on the host.
        """
        if len(numbers) == 1 or not any(link.index in numbers for link in host.links):
            return numbers
        while True:
            first = numbers.start * 8  # kernels count up from 1: soon above all that were assigned
            numbers = range(first, first + len(numbers))
            if not self.find_host_links((), numbers).links:
                return numbers

    def add_addresses(
        self, bond: Wanted, addresses: Sequence[Address], warn: Callable[[str], None]
    ) -> None:
        """Add addresses to the bond, and wait until IPv6 ones can be used.

        Without carrier duplicate address detection cannot run: that is a warning, no error.
        """
        rtnl = self.handle(Location.POD).rtnl
        six = any(":" in address.address for address in addresses)
        if six:
            self._set_sysctls(self.netns, bond.name, {"disable_ipv6": 0, "keep_addr_on_down": 1})
        rtnl.execute([add_address(address, bond.name) for address in addresses])
        if not six:
            return
        try:
            wait_dad(rtnl, bond.index, time.monotonic() + DAD_TIMEOUT)
        except TryAgain as error:
            now = link_by_index(rtnl, bond.index)
            if now is None or now.carrier:
                raise
            warn(f"{bond.name} has no carrier yet: {error.message}")

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Add routes. One that exists already is no error."""
        requests = [add_route(route) for route in routes]
        answers = self.handle(Location.POD).rtnl.send(requests, None)
        for request, answer in zip(requests, answers, strict=True):
            if answer.number not in (0, errno.EEXIST):
                raise failure(request, answer)
