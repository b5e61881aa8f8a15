"""What a network namespace has, as frozen values.

The kernel layer makes these from netlink messages; the planner and CHECK read them.
Names are the kernel's (include/uapi/linux/if_link.h).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_PROMISC = 0x100
IFF_ALLMULTI = 0x200
ARPHRD_ETHER = 1
ARPHRD_INFINIBAND = 32

OptionValue = int | str | tuple[str, ...]
"""The value of an option: a number (of an enum, too), a MAC or link, or addresses."""


class Location(StrEnum):
    """The network namespace that a link is in."""

    HOST = "host"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface. MACs are lower-case colon text, "" when it has none."""

    index: int
    name: str
    mac: str = ""
    permanent_mac: str = ""  # IFLA_PERM_ADDRESS; "" where the driver has none
    mtu: int = 1500
    min_mtu: int = 0  # 0: the kernel reports no bound
    max_mtu: int = 0
    flags: int = 0
    type: int = ARPHRD_ETHER  # ARPHRD_*
    kind: str = ""  # IFLA_INFO_KIND: bond, veth, vlan, ...; "" for hardware
    master: int = 0  # ifindex, 0: none
    lower: int = 0  # IFLA_LINK in the same namespace: the link that this one is on top of
    altnames: tuple[str, ...] = ()
    alias: str = ""
    txqlen: int = 1000
    parent: str = ""  # IFLA_PARENT_DEV_NAME: the PCI address of hardware
    parent_bus: str = ""  # IFLA_PARENT_DEV_BUS_NAME: "pci"
    vfs: int = 0  # how many SR-IOV VFs it has; read only of host links that ADD may claim
    carrier: bool = False
    operstate: int = 0  # IF_OPER_*
    bond: Mapping[str, OptionValue] | None = None  # kernel option name -> value, bonds only
    member: Mapping[str, OptionValue] | None = None  # member option name -> value, members only

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class Device:
    """The device at the bus address of hardware."""

    present: bool
    interfaces: int = 0  # its network interfaces, in all namespaces together


@dataclass(frozen=True, slots=True)
class Address:
    """One address on a link; ``address`` is CIDR text as ``10.0.0.5/24``."""

    index: int
    address: str
    scope: int = 0  # RT_SCOPE_*: 0 global, 253 link, 254 host
    flags: int = 0  # IFA_F_*


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route; ``dst`` is CIDR text (``0.0.0.0/0`` for a default route)."""

    dst: str
    gw: str = ""
    index: int = 0  # outgoing ifindex
    table: int = 254
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    scope: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """An address, a route or a neighbour that a link loses when it leaves its namespace."""

    index: int  # the link's, in its home namespace
    words: str  # as text: "route 192.0.2.0/24 via 198.51.100.1"
    message: str  # the netlink message that restores it, in hex


@dataclass(frozen=True, slots=True)
class Namespace:
    """What was read of one network namespace.

    ``kept`` is read only of host links that ADD may claim.
    """

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    kept: tuple[Kept, ...] = ()

    def named(self, name: str) -> Link | None:
        """The link of that name or alternative name."""
        return next((n for n in self.links if n.name == name or name in n.altnames), None)

    def indexed(self, index: int) -> Link | None:
        """The link of that ifindex."""
        return next((n for n in self.links if n.index == index), None)

    def members(self, bond: Link) -> tuple[Link, ...]:
        """The links whose master is ``bond``."""
        return tuple(n for n in self.links if n.master == bond.index)
