"""The plan of ADD: from the configuration and the facts to the steps, or to every reason against it.

Pure: everything that the plan depends on is read before (``Facts``), and nothing is changed here.
Steps are values; the kernel layer turns each into one netlink message. The plan also describes
the claimed links as they are before the first change; they are restored from that description
and from the state of the kernel at that time (``restore.py``).

The bond's ifindex is chosen before the bond is made. So the record, which is written before the
first change, already identifies the bond, and members can be enslaved in the same send.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bondcni.core.config import BondConfig, LinkRef
from bondcni.core.errors import Refused, TryAgain
from bondcni.core.macs import replacement_macs, replacement_warnings
from bondcni.core.options import MODES, key_of
from bondcni.core.policy import Verdict
from bondcni.core.resolve import candidate, reasons_between
from bondcni.core.runtime_config import IPV6_MIN_MTU, expected_ipv6, ipv6_mtu_problem
from bondcni.core.state import IFF_UP, Kept, Link, Location, Namespace, OptionValue

LATE = ("primary", "active_slave")
"""Options that name a member. They are set last: the kernel ignores an ifindex that is no member."""

DEFAULT_MTU = 1500

MAX_LOSSES = 20
"""How many addresses, routes and neighbours of a link a warning lists; the record has all."""

HIGH_IFINDEX = 1 << 16
"""New ifindexes of links begin here. Kernels count up from 1, so most hosts have none as high."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything but the configuration that a plan depends on.

    ``host`` may hold only what concerns the configured links; ``pod`` holds all links.
    ``verdicts`` is what the node's policy says of the configured host links, by ifindex.
    ``free`` is as many free ifindexes as ``new_ifindexes`` asks for. ``seed`` identifies the
    attachment: a MAC that replaces a duplicate one is derived from it. ``yielding`` has the
    ifindexes of pod links whose alternative name was only given for the ``ifname`` key of
    another attachment: such a name is given up when it is the CNI_IFNAME of this ADD.
    """

    host: Namespace
    pod: Namespace
    free: Sequence[int]
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    seed: str = ""
    yielding: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class CreateBond:
    """Make the bond in the pod, with every option that names no member."""

    name: str
    index: int
    options: Mapping[str, OptionValue]
    mtu: int
    mac: str = ""
    where: Location = Location.POD


@dataclass(frozen=True, slots=True)
class ChangeLink:
    """One RTM_NEWLINK for an existing link; it has only the attributes that are set here.

    ``to`` moves the link to the other namespace. The kernel does that first, then sets MAC, MTU,
    name, flags, and the master last (net/core/rtnetlink.c, do_setlink).
    """

    where: Location  # the namespace that it is in now
    index: int
    label: str  # the name of the link in error messages
    to: Location | None = None
    new_index: int = 0
    name: str = ""
    mac: str = ""
    mtu: int = 0
    txqlen: int | None = None
    alias: str | None = None
    flags: int = 0
    change: int = 0  # mask of the flags to change
    master: int | None = None
    bond_options: Mapping[str, OptionValue] = field(default_factory=dict)
    member_options: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Delete a link. The kernel releases the members of a bond down, with their former MAC and MTU."""

    where: Location
    index: int
    label: str


@dataclass(frozen=True, slots=True)
class AddAltname:
    """Add an alternative name to a link."""

    where: Location
    index: int
    label: str
    altname: str


@dataclass(frozen=True, slots=True)
class DropAltname:
    """Remove an alternative name of a link."""

    where: Location
    index: int
    label: str
    altname: str


Step = CreateBond | ChangeLink | DeleteLink | AddAltname | DropAltname


@dataclass(frozen=True, slots=True)
class Claimed:
    """A link as it was before ADD, and its home namespace."""

    home: Location
    link: Link
    kept: tuple[Kept, ...] = ()  # removed by the kernel when it leaves the host


@dataclass(frozen=True, slots=True)
class Member:
    """A link as ADD configures it in the bond."""

    index: int  # in the pod
    name: str
    options: Mapping[str, OptionValue]
    mac: str = ""  # assigned by ADD where another member has the same; "": it keeps its own


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bond as ADD configures it, in the kernel's terms (links by ifindex)."""

    index: int
    name: str
    altname: str
    options: Mapping[str, OptionValue]  # mode included
    mtu: int
    mac: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What ADD will do."""

    steps: tuple[Step, ...]
    wanted: Wanted
    claimed: tuple[Claimed, ...]
    warnings: tuple[str, ...]


def plan_add(config: BondConfig, ifname: str, facts: Facts) -> Plan:
    """The steps that make the bond ``ifname`` in the pod.

    Raises ``Refused`` with every reason: a link that is missing, named twice, in use,
    of the wrong type; an MTU or MAC that a member cannot take; a name that is taken. Raises
    ``TryAgain`` where ``facts.free`` is too short, because the links changed between two reads.
    """
    home = Location.POD if config.links_in_container else Location.HOST
    pod = facts.pod
    space = pod if config.links_in_container else facts.host
    holder = pod.named(ifname)
    yielding = holder if holder and holder.index in facts.yielding else None
    reasons = [f"interface name {ifname} is already taken in the pod"] if holder != yielding else []
    found: list[tuple[LinkRef, Link]] = []
    for ref in config.links:
        link, against = candidate(ref, (ifname,), home, space, pod, facts.verdicts)
        reasons += against
        found += [] if link is None else [(ref, link)]
    links = [link for _, link in found]
    reasons += reasons_between(links, config)
    if len(found) == len(config.links):
        reasons += _unknown_members(config, found)
    mtu, warnings = choose_mtu(config, links) if links else (DEFAULT_MTU, [])
    address = expected_ipv6(config.ips, config.ipam, config.raw)
    if why := ipv6_mtu_problem(address, mtu):
        low = ", ".join(f"{link.name} ({link.mtu})" for link in links if link.mtu < IPV6_MIN_MTU)
        reasons.append(f"mtu {why}: raise the MTU of {low}, or give no IPv6 address")
    if reasons:
        raise Refused(tuple(dict.fromkeys(reasons)))
    altname, why = choose_altname(config, ifname, links, pod)
    warnings += [f"/ifname: alternative name {config.ifname} is left out: {why}"] if why else []
    macs = replacement_macs(links, MODES[config.mode], facts.seed, (*space.links, *pod.links))
    warnings += replacement_warnings(links, MODES[config.mode], macs)
    bond, members = _members(found, macs, home, facts)
    options = {"mode": config.mode, **_options(config, found, members)}
    wanted = Wanted(bond, ifname, altname, options, mtu, config.mac, members)
    steps = tuple(_steps(wanted, found, home))
    if yielding:
        steps = (DropAltname(Location.POD, yielding.index, yielding.name, ifname), *steps)
        warnings.append(
            f"alternative name {ifname} is removed from {yielding.name}: it is CNI_IFNAME of this ADD"
        )
    claimed = tuple(
        Claimed(home, link, tuple(one for one in space.kept if one.index == link.index))
        for link in links
    )
    warnings += (*_address_warnings(links, space), *_losses(claimed))
    return Plan(steps, wanted, claimed, tuple(warnings))


def _unknown_members(config: BondConfig, found: list[tuple[LinkRef, Link]]) -> Iterator[str]:
    for option in LATE:
        name = config.options.get(option)
        if name is not None and str(name).lower() not in _positions(found):
            key, names = key_of(option), ", ".join(link.name for _, link in found)
            yield f"{key} {name} is not one of the links ({names}): use one of these names"


def _positions(found: list[tuple[LinkRef, Link]]) -> dict[str, int]:
    """Every spelling of a link, to its position among the links. Names take precedence."""
    spellings = [(n, i) for i, (_, link) in enumerate(found) for n in (link.name, *link.altnames)]
    for i, (ref, link) in enumerate(found):
        spellings += [(s, i) for s in (ref.value, link.permanent_mac, link.mac, link.parent) if s]
    places: dict[str, int] = {}
    for spelling, place in spellings:
        places.setdefault(spelling.lower(), place)
    return places


def choose_mtu(config: BondConfig, links: list[Link]) -> tuple[int, list[str]]:
    """The bond's MTU in bytes, and warnings about it.

    A configured MTU was already compared with every member's. Without one, the members' MTUs
    are never a reason to refuse.
    """
    if config.mtu is not None:
        return config.mtu, []
    smallest = min(links, key=lambda link: link.mtu)
    if config.mtu_inherit:
        if len({link.mtu for link in links}) == 1:
            return smallest.mtu, []
        return smallest.mtu, [
            f"mtu is {smallest.mtu}, the MTU of {smallest.name}: the members' MTUs differ"
        ]
    if smallest.mtu < DEFAULT_MTU:
        return smallest.mtu, [
            f"mtu is {smallest.mtu}, the MTU of {smallest.name}, instead of {DEFAULT_MTU}"
        ]
    return DEFAULT_MTU, []


def choose_altname(
    config: BondConfig, ifname: str, links: list[Link], pod: Namespace
) -> tuple[str, str]:
    """The bond's alternative name; "" and the reason where it does not get the configured one.

    That is never an error: the Go bond-cni ignores the key, so existing definitions have values
    without a meaning. The names that Multus gives to the pod's other networks stay free.
    """
    name = config.ifname
    if name in ("", ifname):
        return "", ""
    member = next((link for link in links if name in (link.name, *link.altnames)), None)
    other = pod.named(name)
    if member:
        return "", f"link {member.name} has this name"
    if other:
        return "", f"interface {other.name} of the pod has this name"
    if name[:3] == "net" and name[3:].isdecimal():
        return "", "Multus gives such names to the pod's networks"
    return name, ""


def _address_warnings(links: list[Link], space: Namespace) -> Iterator[str]:
    for link in links:
        for address in space.addresses:
            if address.index == link.index and address.scope == 0:
                yield f"link {link.name} has the address {address.address}: it has no effect on a member of a bond"


def _losses(claimed: tuple[Claimed, ...]) -> Iterator[str]:
    """Warnings of what host links lose while they are in the pod."""
    for item in claimed:
        if item.kept:
            words = [one.words for one in item.kept[:MAX_LOSSES]]
            more = len(item.kept) - len(words)
            words += [f"{more} more"] if more else []
            yield (
                f"host link {item.link.name} loses {', '.join(words)} while it is in the pod; DEL "
                "restores them"
            )


def new_ifindexes(links: Sequence[Link], pod: Namespace) -> range:
    """The ifindexes that ADD assigns: the bond's, and one for each of these host links unless all
    of them keep theirs. They are free in the pod.
    """
    first = max((link.index for link in (*links, *pod.links)), default=0) + 1
    in_pod = {link.index for link in pod.links}
    if any(link.index in in_pod for link in links):
        first = max(first, HIGH_IFINDEX)
        return range(first, first + 1 + len(links))
    return range(first, first + 1)


def _members(
    found: list[tuple[LinkRef, Link]], macs: Mapping[int, str], home: Location, facts: Facts
) -> tuple[int, tuple[Member, ...]]:
    """The bond's ifindex, and its members.

    The new ifindex of a host link is free on the host as well: hardware returns to the host with
    the ifindex that it has in the pod when the pod's namespace ends, and is identified by it.
    """
    bond, *free = facts.free
    in_pod = {link.index for link in facts.pod.links} if home == Location.HOST else set()
    short = len(free) < len(found) and any(link.index in in_pod for _, link in found)
    if short or any(link.index == bond for _, link in found):
        raise TryAgain("the links changed while ADD waited for them")
    return bond, tuple(
        Member(
            free[place] if link.index in in_pod else link.index,
            link.name,
            ref.options,
            macs.get(link.index, ""),
        )
        for place, (ref, link) in enumerate(found)
    )


def _options(
    config: BondConfig, found: list[tuple[LinkRef, Link]], members: tuple[Member, ...]
) -> dict[str, OptionValue]:
    """The options of the bond; those that name a member have its ifindex in the pod."""
    place = _positions(found)
    return {
        key: members[place[str(value).lower()]].index if key in LATE else value
        for key, value in config.options.items()
    }


def _join_with_mac(join: ChangeLink, member: Member) -> Iterator[Step]:
    """``join`` in three steps: a driver may change the MAC only of a link that is down, and by a
    step of its own the MAC that is refused is known.
    """
    yield replace(join, master=None)
    inside = ChangeLink(Location.POD, member.index, join.label)
    yield replace(inside, mac=member.mac)
    yield replace(inside, master=join.master)


def _steps(wanted: Wanted, found: list[tuple[LinkRef, Link]], home: Location) -> Iterator[Step]:
    early = {k: v for k, v in wanted.options.items() if k not in LATE}
    yield CreateBond(wanted.name, wanted.index, early, wanted.mtu, wanted.mac)
    if wanted.altname:
        yield AddAltname(Location.POD, wanted.index, wanted.name, wanted.altname)
    for (_, link), member in zip(found, wanted.members, strict=True):
        join = ChangeLink(
            home,
            link.index,
            link.name,
            to=Location.POD if home == Location.HOST else None,
            new_index=member.index if member.index != link.index else 0,
            change=IFF_UP if link.up else 0,
            master=wanted.index,
        )
        yield from _join_with_mac(join, member) if member.mac else (join,)
    for member in wanted.members:
        if member.options:
            yield ChangeLink(Location.POD, member.index, member.name, member_options=member.options)
    late = {k: v for k, v in wanted.options.items() if k in LATE}
    yield ChangeLink(
        Location.POD, wanted.index, wanted.name, flags=IFF_UP, change=IFF_UP, bond_options=late
    )
