"""Links and configurations to test with, and a kernel that is one pure function.

The kernel does to two namespaces what Linux does with our messages, as far as the way
there and back depends on it: ifindexes and names kept or given anew, MAC and MTU lent to
a bond and given back, what a namespace leaves behind. ``max_mtu`` is each device's mark:
nothing changes it, so that a test knows a link again however it is named by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from bondcni.core.config import BondConfig, LinkRef
from bondcni.core.errors import KernelError
from bondcni.core.plan import (
    AddAltname,
    ChangeLink,
    CreateBond,
    DropAltname,
    Facts,
    Plan,
    Step,
    new_ifindexes,
    plan_add,
)
from bondcni.core.policy import Policy
from bondcni.core.resolve import matches
from bondcni.core.state import IFF_LOOPBACK, IFF_UP, Link, Location, Namespace
from bondcni.kernel.apply import describe
from bondcni.service.restore import restore_with

NO_FILE = Policy()
BOND_MAC = "02:b0:0d:00:00:01"
LO = Link(1, "lo", "00:00:00:00:00:00", mtu=65536, flags=IFF_UP | IFF_LOOPBACK, type=772)


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def nic(index: int, name: str, **changes: Any) -> Link:
    """Hardware: a PCI parent and a permanent MAC."""
    link = Link(
        index,
        name,
        mac(index),
        permanent_mac=mac(index),
        min_mtu=68,
        max_mtu=9000 + index,
        flags=IFF_UP,
        parent=f"0000:{index:02x}:00.0",
        parent_bus="pci",
    )
    return replace(link, **changes)


def veth(index: int, name: str, **changes: Any) -> Link:
    """A virtual link: neither parent nor permanent MAC."""
    link = Link(index, name, mac(index), max_mtu=9000 + index, flags=IFF_UP, kind="veth")
    return replace(link, **changes)


def space(*links: Link, **tables: Any) -> Namespace:
    return Namespace((LO, *links), **tables)


def config(*links: str | LinkRef, mode: int = 1, **changes: Any) -> BondConfig:
    """A configuration; a link that is text is named by name."""
    refs = tuple(LinkRef("name", link) if isinstance(link, str) else link for link in links)
    base = BondConfig("1.1.0", "net", mode, {"miimon": 100}, refs)
    return replace(base, **changes)


def facts(
    asked: BondConfig, host: Namespace, pod: Namespace, policy: Policy = NO_FILE, **others: Any
) -> Facts:
    """What the service reads before it plans."""
    links = [link for link in host.links if any(matches(ref, link) for ref in asked.links)]
    read = {
        "free": new_ifindexes(links, pod),
        "verdicts": {link.index: policy.verdict(link, "", "") for link in links},
    }
    return Facts(host, pod, **{**read, **others})


def plan_for(
    asked: BondConfig, host: Namespace, pod: Namespace, policy: Policy = NO_FILE, **others: Any
) -> Plan:
    """The plan of an ADD with CNI_IFNAME net1."""
    return plan_add(asked, "net1", facts(asked, host, pod, policy, **others))


class World(NamedTuple):
    """The two namespaces; ``pod`` is None when it is gone."""

    host: Namespace
    pod: Namespace | None


def marked(world: World) -> dict[int, tuple[Location, Link]]:
    """Mark -> where each device is, and the device."""
    pod = world.pod.links if world.pod else ()
    found = [(Location.HOST, link) for link in world.host.links] + [
        (Location.POD, link) for link in pod
    ]
    return {link.max_mtu: (where, link) for where, link in found if link.max_mtu}


def apply(world: World, step: Step) -> tuple[World, str]:
    """One message: the world after it, and the errno's name ("" when it was done)."""
    kernel = _Kernel(world)
    try:
        kernel.do(step)
    except _RefusedError as error:
        return kernel.world(), str(error)
    return kernel.world(), ""


def die(world: World) -> World:
    """The pod's namespace ends: hardware goes to the host, all else is destroyed."""
    kernel = _Kernel(world)
    for link in list(kernel.links[Location.POD]):
        if not link.kind and link.name != "lo":
            kernel.orphan(link)
    return World(Namespace(tuple(kernel.links[Location.HOST])), None)


class Model:
    """The kernel as ``restore_with`` reads and changes it. ``refuse`` may answer a step with an
    errno; another error than those is a failure of the test.
    """

    def __init__(self, world: World, refuse: Callable[[Step], int] = lambda _: 0) -> None:
        self.world = world
        self._refuse = refuse

    def read(self) -> World:
        return self.world

    def attempt(self, steps: Sequence[Step]) -> Iterator[tuple[Step, KernelError]]:
        for step in steps:
            if number := self._refuse(step):
                yield step, KernelError(describe(step), number)
                continue
            self.world, error = apply(self.world, step)
            assert not error, (step, error)


def restored(world: World, plan: Plan) -> tuple[World, tuple[str, ...]]:
    """The world after a restore that succeeds, and its warnings."""
    model = Model(world)
    done = restore_with(plan.wanted, plan.claimed, model.read, model.attempt, lambda _: None)
    assert done.errors == ()
    return model.world, done.warnings


class _RefusedError(Exception):
    pass


class _Kernel:
    def __init__(self, world: World) -> None:
        pod = world.pod.links if world.pod else ()
        self.links = {Location.HOST: list(world.host.links), Location.POD: list(pod)}
        self.gone = world.pod is None

    def world(self) -> World:
        pod = None if self.gone else Namespace(tuple(self.links[Location.POD]))
        return World(Namespace(tuple(self.links[Location.HOST])), pod)

    def do(self, step: Step) -> None:
        if isinstance(step, CreateBond):
            self.create(step)
            return
        link = self.get(step.where, step.index)
        if isinstance(step, AddAltname):
            self.check_free(step.where, step.altname)
            self.put(step.where, link, altnames=(*link.altnames, step.altname))
        elif isinstance(step, DropAltname):
            if step.altname not in link.altnames:
                raise _RefusedError("ENOENT")
            kept = tuple(name for name in link.altnames if name != step.altname)
            self.put(step.where, link, altnames=kept)
        elif isinstance(step, ChangeLink):
            self.change(step)
        else:
            for member in [one for one in self.links[step.where] if one.master == link.index]:
                self.release(step.where, member)
            self.links[step.where].remove(link)

    def create(self, step: CreateBond) -> None:
        self.check_free(Location.POD, step.name)
        if self.at(Location.POD, step.index):
            raise _RefusedError("EEXIST")
        given = step.mac or BOND_MAC
        bond = Link(step.index, step.name, given, mtu=step.mtu, kind="bond", bond=step.options)
        self.links[Location.POD].append(bond)

    def change(self, step: ChangeLink) -> None:
        """In the kernel's order: see ``bondcni.kernel.link.Change``."""
        where, index = step.where, step.index
        if step.member_options and not self.get(where, index).master:
            raise _RefusedError("EOPNOTSUPP")
        if step.to:
            where, index = self.move(step)
        if step.mac:
            self.put(where, self.get(where, index), mac=step.mac)
        if step.mtu:
            if step.mtu > self.get(where, index).max_mtu:
                raise _RefusedError("EINVAL")
            self.put(where, self.get(where, index), mtu=step.mtu)
        link = self.get(where, index)
        if step.name and step.name != link.name:
            if link.flags & IFF_UP:
                raise _RefusedError("EBUSY")
            self.check_free(where, step.name)
            self.put(where, link, name=step.name)
        link = self.get(where, index)
        flags = link.flags & ~step.change | step.flags & step.change
        txqlen = link.txqlen if step.txqlen is None else step.txqlen
        alias = link.alias if step.alias is None else step.alias
        self.put(where, link, flags=flags, txqlen=txqlen, alias=alias)
        if step.master:
            self.enslave(where, self.get(where, index), self.get(where, step.master))

    def move(self, step: ChangeLink) -> tuple[Location, int]:
        assert step.to
        link = self.get(step.where, step.index)
        name = link.name
        for altname in link.altnames:
            self.check_free(step.to, altname)
        if self.named(step.to, name):
            if not step.name:
                raise _RefusedError("EEXIST")
            self.check_free(step.to, step.name)
            name = step.name
        if step.new_index and self.at(step.to, step.new_index):
            raise _RefusedError("EBUSY")
        link = self.release(step.where, link)
        self.links[step.where].remove(link)
        index = step.new_index or self.index_for(step.to, link)
        moved = replace(link, name=name, index=index, flags=link.flags & ~IFF_UP)
        self.links[step.to].append(moved)
        return step.to, index

    def orphan(self, link: Link) -> None:
        link = self.release(Location.POD, link)
        name = f"dev{link.index}" if self.named(Location.HOST, link.name) else link.name
        index = self.index_for(Location.HOST, link)
        altnames = tuple(n for n in link.altnames if not self.named(Location.HOST, n))
        flags = link.flags & ~IFF_UP
        self.links[Location.HOST].append(
            replace(link, name=name, index=index, altnames=altnames, flags=flags)
        )

    def enslave(self, where: Location, link: Link, bond: Link) -> None:
        if bond.kind != "bond" or link.flags & IFF_UP or link.master:
            raise _RefusedError("EPERM")
        if bond.mac == BOND_MAC:
            bond = self.put(where, bond, mac=link.mac)
        lent: dict[str, Any] = {"perm_hwaddr": link.mac, "mtu": link.mtu}
        changes = {"mac": bond.mac, "mtu": bond.mtu, "flags": link.flags | IFF_UP}
        self.put(where, link, master=bond.index, member=lent, **changes)

    def release(self, where: Location, link: Link) -> Link:
        if not link.master or link.member is None:
            return link
        lent: Any = link.member
        changes = {"mac": lent["perm_hwaddr"], "mtu": lent["mtu"], "flags": link.flags & ~IFF_UP}
        return self.put(where, link, master=0, member=None, **changes)

    def index_for(self, where: Location, link: Link) -> int:
        if not self.at(where, link.index):
            return link.index
        return max(one.index for one in self.links[where]) + 1

    def put(self, where: Location, link: Link, **changes: Any) -> Link:
        new = replace(link, **changes)
        self.links[where][self.links[where].index(link)] = new
        return new

    def at(self, where: Location, index: int) -> Link | None:
        return Namespace(tuple(self.links[where])).indexed(index)

    def named(self, where: Location, name: str) -> Link | None:
        return Namespace(tuple(self.links[where])).named(name)

    def get(self, where: Location, index: int) -> Link:
        link = self.at(where, index)
        if link is None:
            raise _RefusedError("ENODEV")
        return link

    def check_free(self, where: Location, name: str) -> None:
        if self.named(where, name):
            raise _RefusedError("EEXIST")
