"""Steps to netlink messages, and the two namespaces of one request.

A ``Node`` holds a socket and a file descriptor of the host's namespace and, where it
exists, of the pod's. Steps that follow each other through the same socket go in one
send; the kernel answers each, and goes on after one that failed. There is no list of
undos: ``bring_home`` computes the way back from the record and the kernel's state,
round by round, until nothing is left to do or nothing moves any more.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import NamedTuple

from bondcni.core.config import LinkRef
from bondcni.core.errors import BondError, KernelError, TryAgain
from bondcni.core.home import clues, destroyed, identities, plan_home, suffices
from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, Option, encode, key_of
from bondcni.core.plan import (
    AddAltname,
    ChangeLink,
    Claimed,
    CreateBond,
    DropAltname,
    Step,
    Wanted,
)
from bondcni.core.state import Address, Device, Link, Location, Namespace, OptionValue, Route
from bondcni.kernel import link as messages
from bondcni.kernel.address import add_address, add_route
from bondcni.kernel.devices import device_of
from bondcni.kernel.driver import explained
from bondcni.kernel.keeping import give_back, turn
from bondcni.kernel.namespace import namespace_fd, open_in, set_ipv6_sysctls
from bondcni.kernel.reading import (
    Look,
    about,
    all_links,
    known,
    link_by_index,
    look_everywhere,
    meant,
    snapshot,
    wait_dad,
)
from bondcni.kernel.rtnetlink import Rtnetlink, failure
from bondcni.kernel.watch import Watch
from bondcni.kernel.wire import NLM_F_REQUEST, Request, pack_message

DAD_PATIENCE = 10.0
"""Seconds for duplicate address detection, which takes one to two."""

ROUNDS = 8
"""Bound on the rounds of ``bring_home``: the bond, the move, what differs, altnames."""


Explain = Callable[[Step, KernelError], str]
"""Why a step was refused, and what helps; "" where nothing is known of it."""

DeviceOf = Callable[[Link], "Device | None"]
"""What the node has at the bus address of hardware; None: that is not known."""

SetSysctls = Callable[[str, str, Mapping[str, int]], None]
"""Sets IPv6 sysctls of an interface: namespace, interface, values by key."""


class Side(NamedTuple):
    """One of the two namespaces: a socket that acts in it, and its file descriptor."""

    rtnl: Rtnetlink
    fd: int


class Back(NamedTuple):
    """What came of bringing links home: what the kernel refused, what to tell, what to await."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    awaited: tuple[str, ...]


WATCH = Watch()
"""For all requests of a resident process: what is near the links of its own namespace."""


def listen() -> None:
    """Have the first look, so that no request has to; where it fails the first request has it."""
    with (
        suppress(BondError, OSError),
        Rtnetlink.open() as rtnl,
        open("/proc/thread-self/ns/net") as own,
    ):
        if WATCH.knows(own.fileno()):
            WATCH(rtnl, ())


class Node:
    """The host's namespace and a pod's, as one request sees them.

    ``pod`` is None when the pod's namespace is gone. ``watch`` is for a process that stays;
    one that ends with its request would start it in vain.
    """

    def __init__(
        self,
        host: Side,
        pod: Side | None,
        netns: str,
        set_sysctls: SetSysctls = set_ipv6_sysctls,
        watch: Watch | None = WATCH,
        device_of: DeviceOf = device_of,
    ) -> None:
        self.host = host
        self.pod = pod
        self.netns = netns
        self._set_sysctls = set_sysctls
        self._watch = watch
        self._device_of = device_of

    @classmethod
    @contextmanager
    def open(cls, netns: str) -> Iterator[Node]:
        """Sockets in both namespaces, closed with the context. ``netns`` "": no pod.

        Raises ``NamespaceGone``, ``NotANamespace`` and ``KernelError``.
        """
        with namespace_fd("/proc/self/ns/net") as host_fd, Rtnetlink.open() as host:
            if not netns:
                yield cls(Side(host, host_fd), None, netns, watch=None)
                return
            with namespace_fd(netns) as fd, open_in(netns) as pod:
                yield cls(Side(host, host_fd), Side(pod, fd), netns, watch=None)

    def inside(self) -> Namespace:
        """What the pod's namespace holds; nothing when it is gone."""
        return snapshot(self.pod.rtnl) if self.pod else Namespace()

    def links_inside(self) -> Namespace:
        """The links alone of the pod's namespace; nothing when it is gone."""
        return all_links(self.pod.rtnl) if self.pod else Namespace()

    def meant(self, refs: Sequence[LinkRef]) -> tuple[Link, ...]:
        """The links of the host that are named."""
        return meant(self.host.rtnl, refs)

    def about(self, refs: Sequence[LinkRef], numbers: range = range(0)) -> Namespace:
        """Of the host all that matters when these links are to be taken.

        With it the links that have the ifindexes ``numbers`` (``plan.new_ifindexes``) are read,
        which ``free_ifindexes`` needs.
        """
        if len(numbers) == 1:  # only the bond's, which need not be free on the host
            numbers = range(0)
        look: Look = look_everywhere
        if self._watch and self._watch.knows(self.host.fd):
            look = self._watch
        return about(self.host.rtnl, refs, look, numbers)

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
            if not known(self.host.rtnl, (), numbers).links:
                return numbers

    def apply(self, steps: Sequence[Step], explain: Explain = lambda _step, _error: "") -> None:
        """Make the changes in their order. Raises ``KernelError`` for the first refused, with
        what ``explain`` says of it.

        A later step of the same send may have been done all the same.
        """
        for step, error in self._try(steps):
            error.details = error.details or explain(step, error)
            raise error

    def _try(self, steps: Sequence[Step]) -> Iterator[tuple[Step, KernelError]]:
        """Each step that was refused, and its error, send by send."""
        for where, run in groupby(steps, key=lambda step: step.where):
            side = self._side(where)
            these = list(run)
            requests = [self._request(step) for step in these]
            answers = side.rtnl.send(requests, None)
            for step, request, answer in zip(these, requests, answers, strict=True):
                if answer.number:
                    error = failure(request, answer)
                    yield step, explained(error) if isinstance(step, CreateBond) else error

    def _side(self, where: Location) -> Side:
        side = self.host if where == Location.HOST else self.pod
        if side is None:
            raise AssertionError("a step in a pod whose namespace is gone")
        return side

    def _request(self, step: Step) -> Request:
        if isinstance(step, CreateBond):
            return messages.create_bond(
                step.name,
                _encoded(BOND_OPTIONS, step.options),
                step.mac or None,
                step.mtu,
                step.index,
            )
        if isinstance(step, AddAltname):
            return messages.add_altnames(step.index, step.label, step.altname)
        if isinstance(step, DropAltname):
            return messages.delete_altnames(step.index, step.label, step.altname)
        if isinstance(step, ChangeLink):
            return messages.change_link(step.index, _words(step), self._change(step))
        return messages.delete_link(step.index, step.label)

    def _change(self, step: ChangeLink) -> messages.Change:
        return messages.Change(
            namespace=self._side(step.to).fd if step.to else None,
            new_index=step.new_index or None,
            mac=step.mac or None,
            mtu=step.mtu or None,
            name=step.name or None,
            alias=step.alias,
            master=step.master,
            txqlen=step.txqlen,
            flags=step.flags,
            mask=step.change,
            bond=_encoded(BOND_OPTIONS, step.bond_options),
            member=_encoded(MEMBER_OPTIONS, step.member_options),
        )

    def bring_home(self, bond: Wanted, claimed: tuple[Claimed, ...]) -> Back:
        """Everything as it was before, as far as it can be, round by round."""
        errors: list[str] = []
        before: tuple[Step, ...] = ()
        devices: dict[str, Device | None] = {}
        for _ in range(ROUNDS):
            pod = self.links_inside() if self.pod else None
            host = self._near_home(bond, claimed, pod)
            home = plan_home(bond, claimed, host, pod)
            if not home.steps:
                # A NIC may come home between two looks: one that is destroyed was that before
                # the links were read.
                missing = {t.link.name: t.link for t in claimed if t.link.name in home.awaited}
                spaces = (host, pod) if pod else (host,)
                lost = {n: destroyed(was, devices.get(n), spaces) for n, was in missing.items()}
                devices = {name: self._device_of(was) for name, was in missing.items()}
                if any(
                    destroyed(w, devices[n], spaces) and not lost[n] for n, w in missing.items()
                ):
                    continue
                warnings = (*home.warnings, *(why for why in lost.values() if why))
                return Back((), warnings, tuple(name for name, why in lost.items() if not why))
            if home.steps == before:
                errors = errors or [f"{_words_of(step)}: no effect" for step in home.steps]
                break
            errors = [error.message for _, error in self._try(home.steps)]
            before = home.steps
        return Back(tuple(errors), home.warnings, home.awaited)

    def give_back(self, bond: Wanted, claimed: tuple[Claimed, ...]) -> list[str]:
        """Restore what links of the host lost when they left it; what could not be, in words.

        What is there already stays. A link that somebody else has by now gets nothing.
        """
        if not any(item.kept for item in claimed):
            return []
        host = self._near_home(bond, claimed, None)
        requests = []
        for one, item in zip(identities(bond, claimed), claimed, strict=True):
            now = one.among(host, Location.HOST)[1]
            if now and not now.master:
                requests += [give_back(each, now.index, now.name) for each in item.kept]
        requests.sort(key=turn)  # what a gateway is reached by comes first
        answers = self.host.rtnl.send(requests, None)
        return [
            f"{failure(request, answer).message}; restore it by hand where it is still wanted"
            for request, answer in zip(requests, answers, strict=True)
            if answer.number not in (0, errno.EEXIST)
        ]

    def _near_home(
        self, bond: Wanted, claimed: tuple[Claimed, ...], pod: Namespace | None
    ) -> Namespace:
        """Of the host what the way home depends on; where that is not enough, all links."""
        host = known(self.host.rtnl, *clues(bond, claimed))
        return host if suffices(bond, claimed, host, pod) else all_links(self.host.rtnl)

    def add_addresses(
        self, bond: Wanted, addresses: Sequence[Address], warn: Callable[[str], None]
    ) -> None:
        """Put addresses on the bond and wait until IPv6 ones may be used.

        Without carrier duplicate detection cannot run: that is told, and no failure.
        """
        rtnl = self._side(Location.POD).rtnl
        six = any(":" in address.address for address in addresses)
        if six:
            self._set_sysctls(self.netns, bond.name, {"disable_ipv6": 0, "keep_addr_on_down": 1})
        rtnl.execute([add_address(address, bond.name) for address in addresses])
        if not six:
            return
        try:
            wait_dad(rtnl, bond.index, time.monotonic() + DAD_PATIENCE)
        except TryAgain as error:
            now = link_by_index(rtnl, bond.index)
            if now is None or now.carrier:
                raise
            warn(f"{bond.name} has no carrier yet: {error.message}")

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Add routes; one that is there already is fine."""
        requests = [add_route(route) for route in routes]
        for request, ack in zip(
            requests, self._side(Location.POD).rtnl.send(requests, None), strict=True
        ):
            if ack.number not in (0, errno.EEXIST):
                raise failure(request, ack)


def way_home(bond: Wanted, claimed: tuple[Claimed, ...]) -> bytes:
    """Messages for the pod's socket that send its links home to the host, as they come: the bond
    deleted, each link moved. Whoever sends them puts in the host's namespace and numbers. They
    are for who cannot compute the way from the state: ``shim/bond.c``, while no daemon runs.
    """
    pairs = zip(bond.members, claimed, strict=True)
    homes = [(inside, item.link) for inside, item in pairs if item.home == Location.HOST]
    if not homes:
        return b""
    requests = [messages.delete_link(bond.index, bond.name)]
    for inside, was in homes:
        # As it was; without its ifindex, where that is taken; without names, where one is. What
        # comes after a move that went well finds no link any more.
        move = messages.Change(namespace=0, mac=was.mac if inside.mac else None)
        tries = [move._replace(new_index=was.index)] * (was.index != inside.index)
        tries.append(move)
        requests += [messages.change_link(inside.index, inside.name, each) for each in tries]
        requests += [messages.delete_altnames(inside.index, inside.name, a) for a in was.altnames]
        last = move._replace(name="dev%d")
        requests.append(messages.change_link(inside.index, inside.name, last))
    return b"".join(pack_message(r.type, r.flags | NLM_F_REQUEST, 0, r.body) for r in requests)


def _encoded(table: tuple[Option, ...], values: Mapping[str, OptionValue]) -> dict[int, bytes]:
    """Payloads by attribute number."""
    return {row.number: encode(row, values[row.kernel]) for row in table if row.kernel in values}


def _words(step: ChangeLink) -> str:
    """What a step does, for the kernel's refusal to stand behind."""
    parts = []
    if step.to:
        parts.append(
            "into the pod" if step.to == Location.POD else f"home as {step.name or step.label}"
        )
    if step.master:
        parts.append("into the bond")
    if step.bond_options or step.member_options:
        names = (*step.bond_options, *step.member_options)
        parts.append("options " + ", ".join(map(key_of, names)))
    if step.mac:
        parts.append(f"mac {step.mac}")
    if step.mtu:
        parts.append(f"mtu {step.mtu}")
    if step.name and not step.to:
        parts.append(f"name {step.name}")
    if step.change:
        parts.append(f"flags {step.flags & step.change:#x}")
    return f"set {step.label}: {', '.join(parts) or 'attributes'}"


def _words_of(step: Step) -> str:
    return _words(step) if isinstance(step, ChangeLink) else f"{type(step).__name__} {step.index}"
