"""From (configuration, state) to the steps of ADD, or to every reason against it.

Nothing is touched here: steps are values, and the kernel layer turns each into one
netlink message. What was taken is part of the plan, as it was before; the way back
is computed from it and from what the kernel holds by then (``home.py``).

The bond's ifindex is chosen here, not by the kernel, so that the record that is
written before the first change already names the bond, and so that the members
can be enslaved in the same breath.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bondcni.core.asked import IPV6_MIN_MTU, known_ipv6, too_small_for
from bondcni.core.config import BondConfig, LinkRef
from bondcni.core.errors import Refused
from bondcni.core.macs import distinct, replacement_warnings
from bondcni.core.options import MODES, key_of
from bondcni.core.policy import Policy, Verdict
from bondcni.core.resolve import candidate, reasons_between
from bondcni.core.state import IFF_UP, Kept, Link, Location, Namespace, OptionValue

LATE = ("primary", "active_slave")
"""Options that name a member: the kernel ignores an ifindex it does not know yet."""

DEFAULT_MTU = 1500

NAMED = 20
"""How many things that a link loses are named in a warning; all are recorded."""

ABOVE = 1 << 16
"""New ifindexes of links begin here: above what most hosts, which count up, have given out."""


def no_rules(link: Link) -> Verdict:
    """The policy of a node without a policy file."""
    return Policy().verdict(link, "", "")


@dataclass(frozen=True, slots=True)
class CreateBond:
    """Make the bond in the pod with every option that needs no member."""

    name: str
    index: int
    options: Mapping[str, OptionValue]
    mtu: int
    mac: str = ""
    where: Location = Location.POD


@dataclass(frozen=True, slots=True)
class ChangeLink:
    """One RTM_NEWLINK on an existing link; only what is set is sent.

    ``to`` moves it to the other namespace; the kernel does that first, then MAC, MTU,
    name, flags, and the master last (net/core/rtnetlink.c, do_setlink).
    """

    where: Location  # the namespace that it is in now
    index: int
    label: str  # its name, for messages to people
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
    """Delete a link; its members are released with MAC and MTU as they were, down."""

    where: Location
    index: int
    label: str


@dataclass(frozen=True, slots=True)
class AddAltname:
    """Give a link an alternative name."""

    where: Location
    index: int
    label: str
    altname: str


@dataclass(frozen=True, slots=True)
class DropAltname:
    """Take an alternative name from a link."""

    where: Location
    index: int
    label: str
    altname: str


Step = CreateBond | ChangeLink | DeleteLink | AddAltname | DropAltname


@dataclass(frozen=True, slots=True)
class Claimed:
    """A link as it was before it was touched, and the namespace that is its home."""

    home: Location
    link: Link
    kept: tuple[Kept, ...] = ()  # what it loses when it leaves the host


@dataclass(frozen=True, slots=True)
class Member:
    """A link as it shall be in the bond."""

    index: int  # in the pod
    name: str
    options: Mapping[str, OptionValue]
    mac: str = ""  # given by ADD, where another member has its own; "": it keeps its own


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bond as it shall be, in the kernel's terms (links by ifindex)."""

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


def plan_add(  # noqa: PLR0913, PLR0917  what it may ask
    config: BondConfig,
    ifname: str,
    host: Namespace,
    pod: Namespace,
    judge: Callable[[Link], Verdict] = no_rules,
    spare: Callable[[range], range] = lambda numbers: numbers,
    seed: str = "",
    is_lent: Callable[[Link], bool] = lambda _: False,
) -> Plan:
    """The steps that give the pod its bond. ``judge`` is the node's policy on host links.

    ``host`` may hold what concerns the links of the configuration alone, ``pod`` holds all
    links. ``spare`` gives as many ifindexes in a row, those or higher ones, that are free on the
    host; it is asked where a link cannot keep its own. ``seed`` names the attachment: a member
    that cannot keep its MAC gets one that is made from it. ``is_lent`` tells whether a link of the
    pod has the bond's name only as the ``ifname`` of another attachment, which is a wish and yields.

    Raises ``Refused`` with every reason: a link that is missing, named twice, in use,
    of the wrong type; an MTU or MAC that a member cannot take; a name that is taken.
    """
    home = Location.POD if config.links_in_container else Location.HOST
    space = pod if config.links_in_container else host
    names = (ifname,)
    holder = pod.named(ifname)
    lender = holder if holder and holder.name != ifname and is_lent(holder) else None
    reasons = [f"interface name {ifname} is already taken in the pod"] if holder != lender else []
    found: list[tuple[LinkRef, Link]] = []
    for ref in config.links:
        link, against = candidate(ref, names, home, space, pod, judge)
        reasons += against
        found += [] if link is None else [(ref, link)]
    links = [link for _, link in found]
    reasons += reasons_between(links, config)
    if len(found) == len(config.links):
        reasons += _strangers(config, found)
    mtu, warnings = choose_mtu(config, links) if links else (DEFAULT_MTU, [])
    address = known_ipv6(config.ips, config.ipam, config.raw)
    if why := too_small_for(address, mtu):
        low = ", ".join(f"{link.name} ({link.mtu})" for link in links if link.mtu < IPV6_MIN_MTU)
        reasons.append(f"mtu {why}: raise the MTU of {low}, or give no IPv6 address")
    if reasons:
        raise Refused(tuple(dict.fromkeys(reasons)))
    altname, why = choose_altname(config, ifname, links, pod)
    warnings += [f"/ifname: alternative name {config.ifname} is left out: {why}"] if why else []
    wanted = _wanted(config, ifname, altname, mtu, found, pod, spare)
    given = distinct(links, MODES[config.mode], seed, (*space.links, *pod.links))
    warnings += replacement_warnings(links, MODES[config.mode], given)
    members = zip(links, wanted.members, strict=True)
    renewed = tuple(replace(member, mac=given.get(link.index, "")) for link, member in members)
    wanted = replace(wanted, members=renewed)
    steps = tuple(_steps(wanted, found, home))
    if lender:
        steps = (DropAltname(Location.POD, lender.index, lender.name, ifname), *steps)
        warnings.append(f"{ifname} is no alternative name of {lender.name} any more")
    claimed = tuple(
        Claimed(home, link, tuple(one for one in space.kept if one.index == link.index))
        for link in links
    )
    warnings += (*_address_warnings(links, space), *_losses(claimed))
    return Plan(steps, wanted, claimed, tuple(warnings))


def _strangers(config: BondConfig, found: list[tuple[LinkRef, Link]]) -> Iterator[str]:
    for option in LATE:
        name = config.options.get(option)
        if name is not None and str(name).lower() not in _positions(found):
            key, names = key_of(option), ", ".join(link.name for _, link in found)
            yield f"{key} {name} is not one of the links ({names}): write one of these names"


def _positions(found: list[tuple[LinkRef, Link]]) -> dict[str, int]:
    """All that may be written for a link, to its place among the links; names win."""
    spellings = [(n, i) for i, (_, link) in enumerate(found) for n in (link.name, *link.altnames)]
    for i, (ref, link) in enumerate(found):
        spellings += [(s, i) for s in (ref.value, link.permanent_mac, link.mac, link.parent) if s]
    places: dict[str, int] = {}
    for spelling, place in spellings:
        places.setdefault(spelling.lower(), place)
    return places


def choose_mtu(config: BondConfig, links: list[Link]) -> tuple[int, list[str]]:
    """The bond's MTU in bytes, and what to tell about it.

    A number that the user wrote was already held against every member; where none was
    written it is never a reason to refuse.
    """
    if config.mtu is not None:
        return config.mtu, []
    smallest = min(links, key=lambda link: link.mtu)
    if config.mtu_inherit:
        if len({link.mtu for link in links}) == 1:
            return smallest.mtu, []
        return smallest.mtu, [f"mtu: the members' MTUs differ; {smallest.mtu} of {smallest.name}"]
    if smallest.mtu < DEFAULT_MTU:
        return smallest.mtu, [
            f"mtu: {smallest.mtu} instead of {DEFAULT_MTU}, for {smallest.name} has no more"
        ]
    return DEFAULT_MTU, []


def choose_altname(
    config: BondConfig, ifname: str, links: list[Link], pod: Namespace
) -> tuple[str, str]:
    """The bond's alternative name, or "" and why ``ifname`` is not given to it.

    It is a wish: the Go bond-cni ignores the key, so definitions carry leftovers. The name
    that Multus gives to a pod's other networks must stay free for them.
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
        return "", "Multus gives such names to networks of the pod"
    return name, ""


def _address_warnings(links: list[Link], space: Namespace) -> Iterator[str]:
    for link in links:
        for address in space.addresses:
            if address.index == link.index and address.scope == 0:
                yield f"link {link.name} has {address.address}: no use on a member of a bond"


def _losses(claimed: tuple[Claimed, ...]) -> Iterator[str]:
    """What the host is without while the pod has its links."""
    for item in claimed:
        if item.kept:
            words = [one.words for one in item.kept[:NAMED]]
            more = len(item.kept) - len(words)
            words += [f"{more} more"] if more else []
            yield (
                f"host link {item.link.name} loses {', '.join(words)} while the pod has it; DEL "
                "restores that"
            )


def numbers(links: Sequence[Link], pod: Namespace, home: Location = Location.HOST) -> range:
    """The ifindexes to give: the bond's, and one for each link where not all keep their own."""
    first = max((link.index for link in (*links, *pod.links)), default=0) + 1
    in_pod = {link.index for link in pod.links}
    if home == Location.HOST and any(link.index in in_pod for link in links):
        first = max(first, ABOVE)
        return range(first, first + 1 + len(links))
    return range(first, first + 1)


def _wanted(
    config: BondConfig,
    ifname: str,
    altname: str,
    mtu: int,
    found: list[tuple[LinkRef, Link]],
    pod: Namespace,
    spare: Callable[[range], range],
) -> Wanted:
    """Ifindexes are free in the pod. A new one of a link is free on the host, too: when the pod's
    namespace dies hardware comes home with the ifindex it has there, and is known again by it.
    """
    home = Location.POD if config.links_in_container else Location.HOST
    index, *new = numbers([link for _, link in found], pod, home)
    if new:
        index, *new = spare(range(index, new[-1] + 1))
    in_pod = {link.index for link in pod.links} if new else set()
    members = []
    for number, (ref, link) in enumerate(found):
        target = new[number] if link.index in in_pod else link.index
        members.append(Member(target, link.name, ref.options))
    place = _positions(found)
    options = {
        key: members[place[str(value).lower()]].index if key in LATE else value
        for key, value in config.options.items()
    }
    return Wanted(
        index, ifname, altname, {"mode": config.mode, **options}, mtu, config.mac, tuple(members)
    )


def _renewed(join: ChangeLink, member: Member) -> Iterator[Step]:
    """``join`` in parts: a driver may change the MAC only of what is down, and a refusal tells
    which MAC it is about.
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
        yield from _renewed(join, member) if member.mac else (join,)
    for member in wanted.members:
        if member.options:
            yield ChangeLink(Location.POD, member.index, member.name, member_options=member.options)
    late = {k: v for k, v in wanted.options.items() if k in LATE}
    yield ChangeLink(
        Location.POD, wanted.index, wanted.name, flags=IFF_UP, change=IFF_UP, bond_options=late
    )
