"""The table of every option of a bond and of its members, one row each.

A row has everything about an option: its spellings, netlink number and codec, its range or
names, its default, the modes in which the kernel accepts it and those in which it has an
effect, what it requires and what it excludes. The configuration parser, the checks, the
encoder, the read-back and ``docs/options.md`` derive from the table: to add an option, add a
row.

A test compares the rows with the answers of three kernels to every option in every mode
(``tests/unit/kernel-matrix``). ``since``, ``newer_values`` and ``obsolete`` say in which kernels an
option exists. Versions are not compared at run time, because stable kernels have backports:
the read-back after ADD detects an option that the kernel ignored.

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
"""The name of each mode; the index is the kernel's number."""

RR, AB, XOR, BC, AD, TLB, ALB = ALL = tuple(range(7))
ARP_MODES = (RR, AB, XOR, BC)  # the others require MII monitoring
PRIMARY_MODES = (AB, TLB, ALB)  # bond_mode_uses_primary()
INT_MAX = 2**31 - 1
OFF_ON = ("off", "on")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Its value is a number, a MAC, addresses or a link.

    ``codec`` is one of u8 u16 u32 s32 mac ipv4-list ipv6-list ifindex ad-info.
    """

    kernel: str  # the kernel's name (sysfs), the key in every mapping of values
    key: str  # in the configuration
    number: int  # IFLA_BOND_* or IFLA_BOND_SLAVE_*
    codec: str
    help: str
    default: OptionValue | None = None  # of a new bond; None: not reported
    default_in: Mapping[int, OptionValue] = field(
        default_factory=dict
    )  # modes with another default
    low: int = 0
    high: int = 0
    names: tuple[str, ...] = ()  # names[i] means i, and the range is 0 to the last i
    unit: str = ""
    aliases: tuple[str, ...] = ()  # further spellings; case, "_" and "-" are ignored
    accepted_in: tuple[int, ...] = ALL  # modes that accept it; others EACCES, even for the default
    effective_in: tuple[int, ...] = ALL  # modes in which it has an effect
    reported_in: tuple[int, ...] = ALL  # modes in which the kernel reports it
    requires: tuple[str, ...] = ()  # options that must not be 0, else EPERM
    effective_with: tuple[str, ...] = ()  # no effect unless one of these is set
    conflicts: tuple[str, ...] = ()  # options that must be 0 or absent, else EINVAL
    multiple_of: str = ""  # of this option; the kernel rounds the value down
    exact: bool = False  # another value than a multiple is an error, not a warning
    forbidden: tuple[int, ...] = ()  # values in range that are not allowed here
    limited_by: str = ""  # a device property that also limits it (EPERM without text)
    nla_policy: bool = False  # nla_policy checks the range (ERANGE, before the mode)
    needs_down: bool = False  # EBUSY while the bond is up
    needs_empty: bool = False  # ENOTEMPTY while the bond has members
    read_only: bool = False  # reported; ignored when set
    since: str = ""  # oldest tested kernel with the option; older ones ignore it
    newer_values: Mapping[int, str] = field(
        default_factory=dict
    )  # later values: value -> oldest tested kernel
    obsolete: str = ""  # oldest tested kernel that accepts only the default

    @property
    def maximum(self) -> int:
        """The largest value in range."""
        return len(self.names) - 1 if self.names else self.high

    def default_of(self, mode: int | None) -> OptionValue | None:
        """The default in a mode; for None the default in most modes."""
        return self.default if mode is None else self.default_in.get(mode, self.default)


BOND_OPTIONS: tuple[Option, ...] = (
    Option(
        "mode", "mode", 1, "u8", "how traffic is distributed over the members",
        default=0, default_in=dict(enumerate(ALL)), names=MODES, needs_down=True, needs_empty=True,
    ),
    Option(
        "active_slave", "activeSlave", 2, "ifindex", "the active member; it must be up",
        accepted_in=PRIMARY_MODES, effective_in=PRIMARY_MODES, reported_in=PRIMARY_MODES,
    ),
    Option(
        "miimon", "miimon", 3, "u32", "interval of MII monitoring (the link state of each member)",
        default=0, default_in=dict.fromkeys((AD, TLB, ALB), 100), high=INT_MAX, unit="ms",
        conflicts=("arp_interval", "arp_validate"),
    ),
    Option(
        "updelay", "updelay", 4, "u32", "delay before a recovered member is used",
        default=0, high=INT_MAX, unit="ms", requires=("miimon",), multiple_of="miimon",
    ),
    Option(
        "downdelay", "downdelay", 5, "u32", "delay before a failed member is disabled",
        default=0, high=INT_MAX, unit="ms", requires=("miimon",), multiple_of="miimon",
    ),
    Option(
        "use_carrier", "useCarrier", 6, "u8", "use the carrier state instead of the MII registers",
        default=1, names=OFF_ON, obsolete="7.2",
    ),
    Option(
        "arp_interval", "arpInterval", 7, "u32", "interval of ARP monitoring",
        default=0, high=INT_MAX, unit="ms", accepted_in=ARP_MODES, effective_in=ARP_MODES,
        effective_with=("arp_ip_target", "ns_ip6_target"), conflicts=("miimon",),
    ),
    Option(
        "arp_ip_target", "arpIpTarget", 8, "ipv4-list",
        "the IPv4 addresses that ARP monitoring probes",
        effective_in=ARP_MODES, effective_with=("arp_interval",), aliases=("arp_ip_targets",),
    ),
    Option(
        "arp_validate", "arpValidate", 9, "u32",
        "members whose ARP probes and replies are validated",
        default=0, accepted_in=ARP_MODES, effective_in=ARP_MODES,
        effective_with=("arp_interval",), conflicts=("miimon",),
        names=("none", "active", "backup", "all", "filter", "filter_active", "filter_backup"),
    ),
    Option(
        "arp_all_targets", "arpAllTargets", 10, "u32", "whether one or all ARP targets must reply",
        default=0, names=("any", "all"), effective_in=(AB,), effective_with=("arp_validate",),
    ),
    Option(
        "primary", "primary", 11, "ifindex", "the preferred active member",
        accepted_in=PRIMARY_MODES, effective_in=PRIMARY_MODES, reported_in=PRIMARY_MODES,
    ),
    Option(
        "primary_reselect", "primaryReselect", 12, "u8",
        "when a recovered primary becomes active again",
        default=0, names=("always", "better", "failure"), effective_in=PRIMARY_MODES,
        effective_with=("primary",),
    ),
    Option(
        "fail_over_mac", "failOverMac", 13, "u8", "which MAC the bond and its members have",
        default=0, names=("none", "active", "follow"), effective_in=(AB,), needs_empty=True,
    ),
    Option(
        "xmit_hash_policy", "xmitHashPolicy", 14, "u8",
        "packet fields whose hash selects the member",
        default=0, effective_in=(XOR, AD, TLB),
        names=("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"),
    ),
    Option(
        "resend_igmp", "resendIgmp", 15, "u32", "number of IGMP reports after a failover",
        default=1, high=255, effective_in=(RR, AB, TLB, ALB),
    ),
    Option(
        "num_peer_notif", "numPeerNotif", 16, "u8",
        "number of gratuitous ARPs and unsolicited NAs after a failover",
        default=1, high=255, effective_in=(AB,), aliases=("num_grat_arp", "num_unsol_na"),
    ),
    Option(
        "all_slaves_active", "allSlavesActive", 17, "u8",
        "deliver frames that inactive members receive",
        default=0, names=OFF_ON,
    ),
    Option(
        "min_links", "minLinks", 18, "u32",
        "number of active members that the bond needs for its carrier",
        default=0, high=INT_MAX, effective_in=(AD,),
    ),
    Option(
        "lp_interval", "lpInterval", 19, "u32", "interval of learning packets",
        default=1, low=1, high=INT_MAX, unit="s", effective_in=(TLB, ALB),
    ),
    Option(
        "packets_per_slave", "packetsPerSlave", 20, "u32",
        "packets sent through a member before the next one is used; 0: random",
        default=1, high=65535, accepted_in=(RR,), effective_in=(RR,),
    ),
    Option(
        "lacp_rate", "lacpRate", 21, "u8",
        "requested rate of LACPDUs from the partner: every 30 s or 1 s",
        default=0, names=("slow", "fast"), accepted_in=(AD,), effective_in=(AD,), needs_down=True,
        aliases=("ad_lacp_rate",),
    ),
    Option(
        "ad_select", "adSelect", 22, "u8", "how the active aggregator is selected",
        default=0, names=("stable", "bandwidth", "count", "actor_port_prio"), effective_in=(AD,),
        needs_down=True, newer_values={3: "7.2"},
    ),
    Option(
        "ad_info", "adInfo", 23, "ad-info", "the active aggregator and its partner",
        effective_in=(AD,), reported_in=(AD,), read_only=True,
    ),
    Option(
        "ad_actor_sys_prio", "adActorSysPrio", 24, "u16", "LACP system priority",
        default=65535, low=1, high=65535, accepted_in=(AD,), effective_in=(AD,), reported_in=(AD,),
    ),
    Option(
        "ad_user_port_key", "adUserPortKey", 25, "u16", "upper 10 bits of the LACP port key",
        default=0, high=1023, accepted_in=(AD,), effective_in=(AD,), reported_in=(AD,),
        needs_down=True,
    ),
    Option(
        "ad_actor_system", "adActorSystem", 26, "mac",
        "LACP system ID; 00:00:00:00:00:00: the MAC of the bond",
        default="00:00:00:00:00:00", accepted_in=(AD,), effective_in=(AD,), reported_in=(AD,),
    ),
    Option(
        "tlb_dynamic_lb", "tlbDynamicLb", 27, "u8", "rebalance flows by load",
        default=1, names=OFF_ON, accepted_in=(TLB, ALB), effective_in=(TLB, ALB), needs_down=True,
    ),
    Option(
        "peer_notif_delay", "peerNotifDelay", 28, "u32",
        "delay between the announcements of numPeerNotif",
        default=0, high=300000, unit="ms", effective_in=(AB,), requires=("miimon",),
        multiple_of="miimon",
        exact=True, nla_policy=True,
    ),
    Option(
        "lacp_active", "lacpActive", 29, "u8",
        "send LACPDUs periodically; off: only in reply to the partner",
        default=1, names=OFF_ON, accepted_in=(AD,), effective_in=(AD,), needs_down=True,
        aliases=("ad_lacp_active",),
    ),
    Option(
        "arp_missed_max", "arpMissedMax", 30, "u8", "missed ARP replies before a member is down",
        default=2, low=1, high=255, accepted_in=ARP_MODES, effective_in=ARP_MODES,
        effective_with=("arp_interval",),
        aliases=("missed_max",),
    ),
    Option(
        "ns_ip6_target", "nsIp6Target", 31, "ipv6-list",
        "the IPv6 addresses that NS monitoring probes",
        effective_in=ARP_MODES, effective_with=("arp_interval",), aliases=("ns_ip6_targets",),
    ),
    Option(
        "coupled_control", "coupledControl", 32, "u8",
        "enable LACP collecting and distributing together",
        default=1, names=OFF_ON, accepted_in=(AD,), effective_in=(AD,), needs_down=True,
    ),
    Option(
        "broadcast_neighbor", "broadcastNeighbor", 33, "u8", "send ARP and NS through every member",
        default=0, names=OFF_ON, accepted_in=(AD,), effective_in=(AD,), since="7.2",
    ),
    Option(
        "lacp_strict", "lacpStrict", 34, "u8", "no carrier without an LACP partner",
        default=0, names=OFF_ON, accepted_in=(AD,), effective_in=(AD,), since="7.2",
    ),
)  # fmt: skip

AD_INFO: tuple[Option, ...] = (
    Option("ad_aggregator", "adAggregator", 1, "u16", "the active aggregator", read_only=True),
    Option("ad_num_ports", "adNumPorts", 2, "u16", "number of its ports", read_only=True),
    Option("ad_actor_key", "adActorKey", 3, "u16", "LACP key of the bond", read_only=True),
    Option("ad_partner_key", "adPartnerKey", 4, "u16", "LACP key of the partner", read_only=True),
    Option("ad_partner_mac", "adPartnerMac", 5, "mac", "MAC of the partner", read_only=True),
)
"""The attributes in ``ad_info`` (IFLA_BOND_AD_INFO_*)."""

MEMBER_OPTIONS: tuple[Option, ...] = (
    Option(
        "state", "state", 1, "u8", "whether the member carries traffic",
        default=0, default_in={AB: 1, AD: 1}, names=("active", "backup"), read_only=True,
    ),
    Option(
        "mii_status", "miiStatus", 2, "u8", "link state by MII monitoring",
        default=2, names=("up", "going down", "down", "going back"), read_only=True,
    ),
    Option(
        "link_failure_count", "linkFailureCount", 3, "u32", "number of link failures",
        default=0, high=2**32 - 1, read_only=True,
    ),
    Option("perm_hwaddr", "permHwaddr", 4, "mac", "MAC before it became a member", read_only=True),
    Option(
        "queue_id", "queueId", 5, "u16",
        "transmit queue of the bond that uses this member; 0: none",
        default=0, high=65535, limited_by="transmit queues",
    ),
    Option(
        "ad_aggregator_id", "adAggregatorId", 6, "u16", "aggregator of the member",
        reported_in=(AD,), read_only=True,
    ),
    Option(
        "ad_actor_oper_port_state", "adActorOperPortState", 7, "u8", "LACP state of the port",
        reported_in=(AD,), read_only=True,
    ),
    Option(
        "ad_partner_oper_port_state", "adPartnerOperPortState", 8, "u16",
        "LACP state of the partner's port", reported_in=(AD,), read_only=True,
    ),
    Option(
        "prio", "prio", 9, "s32", "priority when a new active member is selected; the highest wins",
        default=0, low=-(2**31), high=INT_MAX, accepted_in=PRIMARY_MODES,
        effective_in=PRIMARY_MODES,
    ),
    Option(
        "actor_port_prio", "actorPortPrio", 10, "u16", "LACP port priority",
        # Kernels without commit 067bf016e99a crash on these three.
        default=255, high=65535, accepted_in=(AD,), effective_in=(AD,), reported_in=(AD,),
        forbidden=(0, 255, 65535),
    ),
    Option(
        "churn_actor_state", "churnActorState", 11, "u8", "LACP churn state of the port",
        reported_in=(AD,), read_only=True,
    ),
    Option(
        "churn_partner_state", "churnPartnerState", 12, "u8", "LACP churn state of the partner",
        reported_in=(AD,), read_only=True,
    ),
)  # fmt: skip


def folded_key(spelling: str) -> str:
    """A key in lower case without ``_`` and ``-``, for comparison."""
    return spelling.casefold().replace("_", "").replace("-", "")


def _index(table: tuple[Option, ...]) -> dict[str, Option]:
    return {folded_key(name): row for row in table for name in (row.kernel, row.key, *row.aliases)}


_BOND_SPELLINGS = _index(BOND_OPTIONS)
_MEMBER_SPELLINGS = _index(MEMBER_OPTIONS)


def bond_option(spelling: str) -> Option | None:
    """The bond option with any of its spellings: ``xmitHashPolicy``, ``xmit_hash_policy``, ..."""
    return _BOND_SPELLINGS.get(folded_key(spelling))


def member_option(spelling: str) -> Option | None:
    """The member option with any of its spellings."""
    return _MEMBER_SPELLINGS.get(folded_key(spelling))


def key_of(kernel: str) -> str:
    """The configuration key of an option, by its kernel name."""
    row = _BOND_SPELLINGS.get(folded_key(kernel)) or _MEMBER_SPELLINGS.get(folded_key(kernel))
    return row.key if row else kernel


def name_of(option: Option, value: OptionValue) -> str:
    """A value as text for messages: ``802.3ad``, ``on``, ``100``, ``10.0.0.1, 10.0.0.2``."""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, int) and 0 <= value < len(option.names):
        return option.names[value]
    return str(value)
