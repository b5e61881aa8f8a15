"""Explains why the kernel refused to make a link a member, and what to do: one table.

The kernel returns an errno, and seldom a text. A row names the errnos, and a part of the text,
that it explains; the first matching row is used, and the last row matches everything. A refusal
of the bonding driver itself has a text. One without a text comes from the member's driver, which
must accept the bond's MTU and MAC and bring the link up.

Source: drivers/net/bonding/bond_main.c, bond_enslave; bond_alb.c, bond_alb_init_slave;
net/core/dev.c, netif_set_mac_address and __dev_change_net_namespace; drivers/net/macvlan.c.
"""

import errno
from dataclasses import asdict, dataclass

from bondcni.core.options import MODES
from bondcni.core.plan import ChangeLink, Plan, Step
from bondcni.core.state import OptionValue

ENOTSUPP = 524
"""Internal to the kernel (include/linux/errno.h), but some drivers return it."""

ACTIVE = 1  # fail_over_mac


@dataclass(frozen=True, slots=True)
class Enslavement:
    """A link that was to become a member, and what its driver had to accept."""

    member: str
    bond: str
    mac: str  # "": none
    mac_origin: str  # where that MAC comes from
    mtu: int
    mode: str
    keep_macs: str = ""  # how to let the members keep their MACs


@dataclass(frozen=True, slots=True)
class Explanation:
    """``why`` and ``remedy`` are format strings for the fields of ``Enslavement``."""

    errnos: tuple[int, ...]  # (): every errno
    text: str  # a part of the kernel's text; "": any text, or none
    why: str
    remedy: str


EXPLANATIONS = (
    # Refused by the bonding driver
    Explanation(
        (errno.EBUSY,),
        "is in use",
        "{member} is in use: a bridge, a macvlan, an ipvlan or a program receives its frames",
        "remove {member} from it, or use another link",
    ),
    Explanation(
        (errno.EPERM,),
        "while up",
        "{member} was set up by another program during ADD",
        "configure NetworkManager or similar programs not to manage {member}; the runtime tries "
        "again",
    ),
    Explanation(
        (errno.EPERM,),
        "master device",
        "{member} is itself a master (such as a VRF or a team), so it cannot be a member",
        "use another link",
    ),
    Explanation((errno.EPERM,), "itself", "{member} is the bond itself", "use another link"),
    Explanation(
        (errno.EPERM,),
        "VLAN challenged",
        "{member} does not support VLANs, and {bond} has a VLAN",
        "use another link",
    ),
    Explanation(
        (errno.EINVAL,),
        "type is different",
        "{member} has another device type than the first member",
        "use links of the same type",
    ),
    Explanation(
        (errno.EOPNOTSUPP,),
        "infiniband",
        "{member} is an InfiniBand link, which is supported in mode active-backup only",
        'write "mode": "active-backup"',
    ),
    Explanation(
        (errno.EOPNOTSUPP,),
        "XDP",
        "{member} does not support XDP, and {bond} has an XDP program",
        "use a link whose driver supports XDP",
    ),
    Explanation(
        (errno.EOPNOTSUPP,),
        "MAC address",
        "{member} cannot change its MAC to {mac}, {mac_origin}",
        "use a link whose driver can change the MAC; {keep_macs}",
    ),
    # Refused on the move into the pod
    Explanation(
        (errno.EEXIST,),
        "",
        "an interface with the name or an alternative name of {member} was created in the pod "
        "during ADD",
        "the runtime tries again; the next error names that interface",
    ),
    Explanation(
        (errno.EBUSY,),
        "index",
        "the ifindex chosen for {member} was taken in the pod during ADD",
        "the runtime tries again",
    ),
    Explanation(
        (errno.EINVAL,),
        "immutable",
        "the driver of {member} does not allow it to leave its network namespace",
        "use another link, such as a macvlan or a VLAN on {member}",
    ),
    # Refused by the driver of the member
    Explanation(
        (errno.EADDRINUSE,),
        "",
        "{member} cannot have the MAC {mac}, {mac_origin}, because another link on the same parent "
        "has it (macvlans on one parent must have different MACs)",
        "use links on different parents; {keep_macs}",
    ),
    Explanation(
        (errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES),
        "",
        "{member} may not change its MAC to {mac}, {mac_origin} (a PF allows a VF to change its MAC "
        "only if the VF is trusted or has no administrative MAC)",
        "if {member} is a VF, make it trusted (ip link set PF vf N trust on, or "
        '"trust": "on" in the sriov-cni configuration; DEL of sriov-cni keeps the administrative '
        "MAC, so the next pod with this VF also needs trust); {keep_macs}",
    ),
    Explanation(
        (errno.EOPNOTSUPP, ENOTSUPP),
        "",
        "the driver of {member} cannot change the MAC, which must become {mac}, {mac_origin}",
        "use a link whose driver can change the MAC; {keep_macs}",
    ),
    Explanation(
        (errno.EFAULT,),
        "",
        "{member} has the same MAC as another member ({mac}, {mac_origin}), which mode {mode} does "
        "not allow",
        "give each link a different MAC",
    ),
    Explanation(
        (errno.EBUSY,),
        "",
        "{member} is busy: another program uses it, it is on top of {bond} already, or its driver "
        "cannot change the MAC now",
        "see what uses {member} (ip -d link show {member}); the kernel log (dmesg) may have "
        "details",
    ),
    Explanation(
        (errno.EINVAL, errno.ERANGE),
        "",
        "the driver of {member} did not accept the MTU {mtu} or the MAC {mac}, {mac_origin}",
        "the kernel log (dmesg) may say which; write a lower mtu, or use another link; {keep_macs}",
    ),
    Explanation(
        (errno.ENODEV, errno.ENXIO),
        "",
        "{member} disappeared during ADD: it was unplugged, deleted, or moved by another program",
        "look for it in ip link and the kernel log (dmesg); the runtime tries again",
    ),
    Explanation(
        (errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC),
        "",
        "the node, or the device of {member}, is out of memory",
        "free memory on the node, or use fewer links of the same device",
    ),
    Explanation(
        (errno.ELOOP, errno.EMLINK),
        "",
        "{member} is on top of {bond} itself, or too many links are stacked",
        "use a link that is not on top of another bond",
    ),
    Explanation(
        (errno.ENETDOWN, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOLINK),
        "",
        "the driver of {member} could not bring it up",
        "if {member} is a VF, set its PF up; the kernel log (dmesg) may have details",
    ),
    Explanation(
        (),
        "",
        "the driver of {member} refused a setting that a member needs, such as the MTU {mtu} or "
        "the MAC {mac}, {mac_origin}",
        "the kernel log (dmesg) may have details; {keep_macs}",
    ),
)


def _explanation(number: int, text: str, attempt: Enslavement) -> str:
    """Why the kernel returned this errno and text, and what to do."""
    row = next(
        row
        for row in EXPLANATIONS
        if (not row.errnos or number in row.errnos) and row.text.lower() in text.lower()
    )
    words = asdict(attempt)
    return f"{row.why.format(**words)}: {row.remedy.format(**words)}"


def explain(plan: Plan, step: Step, number: int, text: str) -> str:
    """Why the kernel refused a step of the plan, and what to do; "" if the step does not make a
    link a member.
    """
    if not isinstance(step, ChangeLink) or not (step.master or step.to or step.mac):
        return ""
    wanted = plan.wanted
    mode = MODES[int(str(wanted.options["mode"]))]
    if step.mac:
        mac, origin = step.mac, f"a new MAC because {mode} needs different ones"
    elif wanted.mac:
        mac, origin = wanted.mac, f"the MAC requested for {wanted.name}"
    else:
        mac, origin = (
            plan.claimed[0].link.mac,
            f"the MAC of {wanted.members[0].name}, the first link",
        )
    keep = _keep_macs(mode, wanted.options.get("fail_over_mac"), replaced=bool(step.mac))
    attempt = Enslavement(step.label, wanted.name, mac, origin, wanted.mtu, mode, keep)
    return _explanation(number, text, attempt)


def _keep_macs(mode: str, fail_over_mac: OptionValue | None, *, replaced: bool) -> str:
    """How to let the members keep their MACs."""
    if replaced:
        return "or give the links different MACs before ADD"
    if mode != "active-backup":
        return (
            f"in mode {mode} every member gets this MAC, whatever failOverMac is; in mode "
            'active-backup with "failOverMac": 1 each member keeps its own'
        )
    if fail_over_mac == ACTIVE:
        return "or use another link"
    return 'or write "failOverMac": 1, so that each member keeps its own MAC'
