"""THE table: every option of the bonding driver and of its members, one row each.

A row states an option once: how users spell it, its netlink number and codec, its
range or names, its default, in which modes the kernel takes it and in which it does
anything, what it needs and what it excludes. The configuration parser, the checks, the
encoder, the read-back and the help derive from it: adding an option is adding a row.

The rows are held to what three kernels answered to every option in every mode (the
unit ring's kernel-matrix). What kernels have or lack is told by ``since``, ``newer`` and
``obsolete``; nothing compares versions at run time, for stable kernels carry backports:
reading back decides there.

Source: include/uapi/linux/if_link.h, drivers/net/bonding/bond_options.c, bonding.rst.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bondcni.core.state import OptionValue

MODES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
"""Name of each mode; the index is the kernel's number."""

RR, AB, XOR, BC, AD, TLB, ALB = ALL = tuple(range(7))
ARP_MODES = (RR, AB, XOR, BC)  # the others need MII monitoring
PRIMARY_MODES = (AB, TLB, ALB)  # bond_mode_uses_primary()
INT_MAX = 2**31 - 1
OFF_ON = ("off", "on")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. A value is a number (also of a name), a MAC, addresses or a link.

    ``codec`` is one of u8 u16 u32 s32 mac ipv4-list ipv6-list ifindex ad-info.
    """

    kernel: str  # the kernel's name (sysfs), and the key in every mapping of values
    key: str  # as users write it in JSON
    number: int  # IFLA_BOND_* or IFLA_BOND_SLAVE_*
    codec: str
    help: str
    default: OptionValue | None = None  # of a fresh bond; None: it reports nothing
    default_in: Mapping[int, OptionValue] = field(
        default_factory=dict
    )  # modes whose default is another
    low: int = 0
    high: int = 0
    names: tuple[str, ...] = ()  # names[i] means i; gives the range, too
    unit: str = ""
    aliases: tuple[str, ...] = ()  # further spellings; case, "_" and "-" never matter
    takes: tuple[int, ...] = ALL  # elsewhere EACCES, even for the default
    works: tuple[int, ...] = ALL  # elsewhere accepted and without effect
    shown: tuple[int, ...] = ALL  # modes in which the kernel reports it
    needs: tuple[str, ...] = ()  # EPERM unless these are not 0
    wants: tuple[str, ...] = ()  # without effect unless one of these is set
    conflicts: tuple[str, ...] = ()  # EINVAL when both are not 0
    multiple: str = ""  # of this option, else the kernel rounds it down silently
    exact: bool = False  # not being a multiple is an error here, not a warning
    never: tuple[int, ...] = ()  # in range, but never sent
    bound: str = ""  # a device property that bounds it as well (EPERM without text)
    policy: bool = False  # the range is netlink's own check (ERANGE, before the mode)
    down: bool = False  # EBUSY while the bond is up
    empty: bool = False  # ENOTEMPTY while it has members
    read_only: bool = False  # accepted and ignored by the kernel
    since: str = ""  # oldest measured kernel that has it; older ones ignore it silently
    newer: Mapping[int, str] = field(
        default_factory=dict
    )  # values that came later: value -> kernel
    obsolete: str = ""  # measured kernel from which only the default is taken

    @property
    def top(self) -> int:
        """The largest value in range."""
        return len(self.names) - 1 if self.names else self.high

    def default_of(self, mode: int | None) -> OptionValue | None:
        """What a fresh bond of that mode holds; of no mode, what most hold."""
        return self.default if mode is None else self.default_in.get(mode, self.default)


BOND_OPTIONS: tuple[Option, ...] = (
    Option(
        "mode", "mode", 1, "u8", "how traffic is spread over the members",
        default=0, default_in=dict(enumerate(ALL)), names=MODES, down=True, empty=True,
    ),
    Option(
        "active_slave", "activeSlave", 2, "ifindex", "the member to use now; it must be up",
        takes=PRIMARY_MODES, works=PRIMARY_MODES, shown=PRIMARY_MODES,
    ),
    Option(
        "miimon", "miimon", 3, "u32", "how often each member's carrier is looked at",
        default=0, default_in=dict.fromkeys((AD, TLB, ALB), 100), high=INT_MAX, unit="ms",
        conflicts=("arp_interval", "arp_validate"),
    ),
    Option(
        "updelay", "updelay", 4, "u32", "wait this long before a recovered member is used",
        default=0, high=INT_MAX, unit="ms", needs=("miimon",), multiple="miimon",
    ),
    Option(
        "downdelay", "downdelay", 5, "u32", "wait this long before a failed member is dropped",
        default=0, high=INT_MAX, unit="ms", needs=("miimon",), multiple="miimon",
    ),
    Option(
        "use_carrier", "useCarrier", 6, "u8", "ask the carrier, not the MII registers",
        default=1, names=OFF_ON, obsolete="7.2",
    ),
    Option(
        "arp_interval", "arpInterval", 7, "u32", "how often ARP targets are asked",
        default=0, high=INT_MAX, unit="ms", takes=ARP_MODES, works=ARP_MODES,
        wants=("arp_ip_target", "ns_ip6_target"), conflicts=("miimon",),
    ),
    Option(
        "arp_ip_target", "arpIpTarget", 8, "ipv4-list", "the IPv4 addresses to ask",
        works=ARP_MODES, wants=("arp_interval",), aliases=("arp_ip_targets",),
    ),
    Option(
        "arp_validate", "arpValidate", 9, "u32", "which members' ARP traffic is checked",
        default=0, takes=ARP_MODES, works=ARP_MODES,
        wants=("arp_interval",), conflicts=("miimon",),
        names=("none", "active", "backup", "all", "filter", "filter_active", "filter_backup"),
    ),
    Option(
        "arp_all_targets", "arpAllTargets", 10, "u32", "whether one or all targets must answer",
        default=0, names=("any", "all"), works=(AB,), wants=("arp_validate",),
    ),
    Option(
        "primary", "primary", 11, "ifindex", "the member to prefer while it is up",
        takes=PRIMARY_MODES, works=PRIMARY_MODES, shown=PRIMARY_MODES,
    ),
    Option(
        "primary_reselect", "primaryReselect", 12, "u8", "when a recovered primary is used again",
        default=0, names=("always", "better", "failure"), works=PRIMARY_MODES, wants=("primary",),
    ),
    Option(
        "fail_over_mac", "failOverMac", 13, "u8", "whose MAC the bond has",
        default=0, names=("none", "active", "follow"), works=(AB,), empty=True,
    ),
    Option(
        "xmit_hash_policy", "xmitHashPolicy", 14, "u8", "what of a packet selects the member",
        default=0, works=(XOR, AD, TLB),
        names=("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"),
    ),
    Option(
        "resend_igmp", "resendIgmp", 15, "u32", "IGMP reports sent after a failover",
        default=1, high=255, works=(RR, AB, TLB, ALB),
    ),
    Option(
        "num_peer_notif", "numPeerNotif", 16, "u8", "ARP and NA announcements after a failover",
        default=1, high=255, works=(AB,), aliases=("num_grat_arp", "num_unsol_na"),
    ),
    Option(
        "all_slaves_active", "allSlavesActive", 17, "u8", "deliver what inactive members receive",
        default=0, names=OFF_ON,
    ),
    Option(
        "min_links", "minLinks", 18, "u32", "members that must be up for the bond's carrier",
        default=0, high=INT_MAX, works=(AD,),
    ),
    Option(
        "lp_interval", "lpInterval", 19, "u32", "how often learning packets are sent",
        default=1, low=1, high=INT_MAX, unit="s", works=(TLB, ALB),
    ),
    Option(
        "packets_per_slave", "packetsPerSlave", 20, "u32", "packets per turn, 0 for random",
        default=1, high=65535, takes=(RR,), works=(RR,),
    ),
    Option(
        "lacp_rate", "lacpRate", 21, "u8", "how often the partner shall send: 30 s or 1 s",
        default=0, names=("slow", "fast"), takes=(AD,), works=(AD,), down=True,
        aliases=("ad_lacp_rate",),
    ),
    Option(
        "ad_select", "adSelect", 22, "u8", "how the active aggregator is chosen",
        default=0, names=("stable", "bandwidth", "count", "actor_port_prio"), works=(AD,),
        down=True, newer={3: "7.2"},
    ),
    Option(
        "ad_info", "adInfo", 23, "ad-info", "the active aggregator and its partner",
        works=(AD,), shown=(AD,), read_only=True,
    ),
    Option(
        "ad_actor_sys_prio", "adActorSysPrio", 24, "u16", "the system's priority in LACP",
        default=65535, low=1, high=65535, takes=(AD,), works=(AD,), shown=(AD,),
    ),
    Option(
        "ad_user_port_key", "adUserPortKey", 25, "u16", "the upper bits of the LACP port key",
        default=0, high=1023, takes=(AD,), works=(AD,), shown=(AD,), down=True,
    ),
    Option(
        "ad_actor_system", "adActorSystem", 26, "mac", "the system's MAC in LACP; 0: the bond's",
        default="00:00:00:00:00:00", takes=(AD,), works=(AD,), shown=(AD,),
    ),
    Option(
        "tlb_dynamic_lb", "tlbDynamicLb", 27, "u8", "shuffle flows by load",
        default=1, names=OFF_ON, takes=(TLB, ALB), works=(TLB, ALB), down=True,
    ),
    Option(
        "peer_notif_delay", "peerNotifDelay", 28, "u32", "time between two announcements",
        default=0, high=300000, unit="ms", works=(AB,), needs=("miimon",), multiple="miimon",
        exact=True, policy=True,
    ),
    Option(
        "lacp_active", "lacpActive", 29, "u8", "send LACP frames unasked",
        default=1, names=OFF_ON, takes=(AD,), works=(AD,), down=True, aliases=("ad_lacp_active",),
    ),
    Option(
        "arp_missed_max", "arpMissedMax", 30, "u8", "answers missed before a member is down",
        default=2, low=1, high=255, takes=ARP_MODES, works=ARP_MODES, wants=("arp_interval",),
        aliases=("missed_max",),
    ),
    Option(
        "ns_ip6_target", "nsIp6Target", 31, "ipv6-list", "the IPv6 addresses to ask",
        works=ARP_MODES, wants=("arp_interval",), aliases=("ns_ip6_targets",),
    ),
    Option(
        "coupled_control", "coupledControl", 32, "u8", "collect and distribute as one LACP state",
        default=1, names=OFF_ON, takes=(AD,), works=(AD,), down=True,
    ),
    Option(
        "broadcast_neighbor", "broadcastNeighbor", 33, "u8", "ARP and NS go out of every member",
        default=0, names=OFF_ON, takes=(AD,), works=(AD,), since="7.2",
    ),
    Option(
        "lacp_strict", "lacpStrict", 34, "u8", "no carrier without an LACP partner",
        default=0, names=OFF_ON, takes=(AD,), works=(AD,), since="7.2",
    ),
)  # fmt: skip

AD_INFO: tuple[Option, ...] = (
    Option("ad_aggregator", "adAggregator", 1, "u16", "the active aggregator", read_only=True),
    Option("ad_num_ports", "adNumPorts", 2, "u16", "ports in it", read_only=True),
    Option("ad_actor_key", "adActorKey", 3, "u16", "our key", read_only=True),
    Option("ad_partner_key", "adPartnerKey", 4, "u16", "the partner's key", read_only=True),
    Option("ad_partner_mac", "adPartnerMac", 5, "mac", "the partner's MAC", read_only=True),
)
"""The attributes in the nest of ``ad_info`` (IFLA_BOND_AD_INFO_*)."""

MEMBER_OPTIONS: tuple[Option, ...] = (
    Option(
        "state", "state", 1, "u8", "whether it carries traffic",
        default=0, default_in={AB: 1, AD: 1}, names=("active", "backup"), read_only=True,
    ),
    Option(
        "mii_status", "miiStatus", 2, "u8", "its link as the monitor sees it",
        default=2, names=("up", "going down", "down", "going back"), read_only=True,
    ),
    Option(
        "link_failure_count", "linkFailureCount", 3, "u32", "times that its link failed",
        default=0, high=2**32 - 1, read_only=True,
    ),
    Option("perm_hwaddr", "permHwaddr", 4, "mac", "its MAC before it joined", read_only=True),
    Option(
        "queue_id", "queueId", 5, "u16", "transmit queue that goes out of it; 0: none",
        default=0, high=65535, bound="transmit queues",
    ),
    Option(
        "ad_aggregator_id", "adAggregatorId", 6, "u16", "the aggregator it is in",
        shown=(AD,), read_only=True,
    ),
    Option(
        "ad_actor_oper_port_state", "adActorOperPortState", 7, "u8", "our LACP state bits",
        shown=(AD,), read_only=True,
    ),
    Option(
        "ad_partner_oper_port_state", "adPartnerOperPortState", 8, "u16",
        "the partner's LACP state bits", shown=(AD,), read_only=True,
    ),
    Option(
        "prio", "prio", 9, "s32", "preference when a new active member is chosen",
        default=0, low=-(2**31), high=INT_MAX, takes=PRIMARY_MODES, works=PRIMARY_MODES,
    ),
    Option(
        "actor_port_prio", "actorPortPrio", 10, "u16", "its port priority in LACP",
        # Kernels without commit 067bf016e99a crash on these three.
        default=255, high=65535, takes=(AD,), works=(AD,), shown=(AD,), never=(0, 255, 65535),
    ),
    Option(
        "churn_actor_state", "churnActorState", 11, "u8", "whether our LACP side churns",
        shown=(AD,), read_only=True,
    ),
    Option(
        "churn_partner_state", "churnPartnerState", 12, "u8", "whether the partner's side churns",
        shown=(AD,), read_only=True,
    ),
)  # fmt: skip


def fold(spelling: str) -> str:
    """A key without what never matters: case, ``_`` and ``-``."""
    return spelling.casefold().replace("_", "").replace("-", "")


def _index(table: tuple[Option, ...]) -> dict[str, Option]:
    return {fold(name): row for row in table for name in (row.kernel, row.key, *row.aliases)}


_BOND_SPELLINGS = _index(BOND_OPTIONS)
_MEMBER_SPELLINGS = _index(MEMBER_OPTIONS)


def bond_option(spelling: str) -> Option | None:
    """The bond's row of any spelling: ``xmitHashPolicy``, ``xmit_hash_policy``, ..."""
    return _BOND_SPELLINGS.get(fold(spelling))


def member_option(spelling: str) -> Option | None:
    """The member's row of any spelling."""
    return _MEMBER_SPELLINGS.get(fold(spelling))


def key_of(kernel: str) -> str:
    """How users write an option in JSON, of the kernel's name for it."""
    row = _BOND_SPELLINGS.get(fold(kernel)) or _MEMBER_SPELLINGS.get(fold(kernel))
    return row.key if row else kernel


def name_of(option: Option, value: OptionValue) -> str:
    """A value as people spell it: ``802.3ad``, ``on``, ``100``, ``10.0.0.1, 10.0.0.2``."""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, int) and 0 <= value < len(option.names):
        return option.names[value]
    return str(value)
