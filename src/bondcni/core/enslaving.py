"""Why the kernel did not make a link a member, and what helps: one table.

The kernel answers with an errno and seldom with a text. Each row says which errnos, and which
part of the text, it explains; the first row that fits counts, and the last fits everything.
The bonding driver's own refusals have a text; one without comes from the member's driver, which
had to take the bond's MTU and MAC and to be opened.

Source: drivers/net/bonding/bond_main.c, bond_enslave; bond_alb.c, bond_alb_init_slave;
net/core/dev.c, netif_set_mac_address and __dev_change_net_namespace; drivers/net/macvlan.c.
"""

import errno
from dataclasses import asdict, dataclass

from bondcni.core.options import MODES
from bondcni.core.plan import ChangeLink, Plan, Step
from bondcni.core.state import OptionValue

ENOTSUPP = 524
"""Not for user space (include/linux/errno.h), yet some drivers return it."""

ACTIVE = 1  # fail_over_mac


@dataclass(frozen=True, slots=True)
class Attempt:
    """One link, and what it had to take to become a member."""

    member: str
    bond: str
    mac: str  # "": none
    whose: str  # in words: whose MAC that is
    mtu: int
    mode: str
    own: str = ""  # how the members could keep the MACs that they have


@dataclass(frozen=True, slots=True)
class Row:
    """``why`` and ``remedy`` are formats over ``Attempt``."""

    numbers: tuple[int, ...]  # (): every errno
    text: str  # what the kernel's text has in it; "": anything
    why: str
    remedy: str


TABLE = (
    # The bonding driver's own words
    Row(
        (errno.EBUSY,),
        "is in use",
        "{member} is in use: a bridge, macvlan, ipvlan or another program receives its frames",
        "take {member} out of that first, or use another link",
    ),
    Row(
        (errno.EPERM,),
        "while up",
        "{member} was set up by another program while the bond was made",
        "keep NetworkManager and the like from managing {member}; the runtime tries again",
    ),
    Row(
        (errno.EPERM,),
        "master device",
        "{member} has members of its own (a VRF, team or the like), so it cannot be one",
        "use another link",
    ),
    Row((errno.EPERM,), "itself", "{member} is the bond itself", "use another link"),
    Row(
        (errno.EPERM,),
        "VLAN challenged",
        "{member} cannot carry VLANs, and a VLAN is on {bond}",
        "use another link",
    ),
    Row(
        (errno.EINVAL,),
        "type is different",
        "{member} is a device of another type than the first member",
        "use links of one type",
    ),
    Row(
        (errno.EOPNOTSUPP,),
        "infiniband",
        "{member} is InfiniBand, which bonds in active-backup only",
        'write "mode": "active-backup"',
    ),
    Row(
        (errno.EOPNOTSUPP,),
        "XDP",
        "{member} cannot run the XDP program of {bond}",
        "use a link whose driver supports XDP",
    ),
    Row(
        (errno.EOPNOTSUPP,),
        "MAC address",
        "{member} cannot change its MAC, and had to take {mac}, {whose}",
        "use a link whose driver can; {own}",
    ),
    # The move into the pod
    Row(
        (errno.EEXIST,),
        "",
        "an interface of the name or alternative name of {member} was made in the pod meanwhile",
        "the runtime tries again; the next answer names that interface",
    ),
    Row(
        (errno.EBUSY,),
        "index",
        "the interface index chosen for {member} was taken in the pod meanwhile",
        "the runtime tries again",
    ),
    Row(
        (errno.EINVAL,),
        "immutable",
        "the driver of {member} does not let it leave its network namespace",
        "use another link, such as a macvlan or a VLAN on {member}",
    ),
    # The member's driver
    Row(
        (errno.EADDRINUSE,),
        "",
        "{member} cannot take the MAC {mac}, {whose}, because another link on the same parent has "
        "it (macvlans of one parent must have different MACs)",
        "use links of different parents; {own}",
    ),
    Row(
        (errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES),
        "",
        "{member} may not take the MAC {mac}, {whose} (a PF lets a VF change its MAC only if the VF "
        "is trusted or has no administrative MAC)",
        "if {member} is a VF, set trust on for it at its PF (ip link set PF vf N trust on, or "
        '"trust": "on" for sriov-cni, whose DEL leaves an administrative MAC behind, so that the '
        "second pod on a VF needs trust, too); {own}",
    ),
    Row(
        (errno.EOPNOTSUPP, ENOTSUPP),
        "",
        "the driver of {member} cannot set a MAC, and it had to take {mac}, {whose}",
        "use a link whose driver can; {own}",
    ),
    Row(
        (errno.EFAULT,),
        "",
        "{member} has the same MAC as another member ({mac}, {whose}), which {mode} cannot use",
        "give each link a MAC of its own",
    ),
    Row(
        (errno.EBUSY,),
        "",
        "{member} is busy: another program uses it, it is above {bond} already, or its driver "
        "changes no MAC now",
        "see who uses {member} (ip -d link show {member}); the kernel log (dmesg) may say more",
    ),
    Row(
        (errno.EINVAL, errno.ERANGE),
        "",
        "the driver of {member} did not take the MTU {mtu} or the MAC {mac}, {whose}",
        "the kernel log (dmesg) says which; write a smaller mtu, or use another link; {own}",
    ),
    Row(
        (errno.ENODEV, errno.ENXIO),
        "",
        "{member} is gone: unplugged, deleted, or moved by another program meanwhile",
        "see what became of it (ip link, dmesg); the runtime tries again",
    ),
    Row(
        (errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC),
        "",
        "the node, or the device of {member}, has no memory left for it",
        "free memory on the node, or use fewer links of one device",
    ),
    Row(
        (errno.ELOOP, errno.EMLINK),
        "",
        "{member} stands on {bond} itself, or too many links stand on each other",
        "use a link that does not stand on another bond",
    ),
    Row(
        (errno.ENETDOWN, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOLINK),
        "",
        "the driver of {member} could not start it",
        "if {member} is a VF, set its PF up; the kernel log (dmesg) may say more",
    ),
    Row(
        (),
        "",
        "the driver of {member} refused what a member must take, the MTU {mtu} and the MAC {mac}, "
        "{whose}",
        "the kernel log (dmesg) may say more; {own}",
    ),
)


def advice(number: int, text: str, attempt: Attempt) -> str:
    """Why that errno, with that text of the kernel's, and what to do."""
    row = next(
        row
        for row in TABLE
        if (not row.numbers or number in row.numbers) and row.text.lower() in text.lower()
    )
    words = asdict(attempt)
    return f"{row.why.format(**words)}: {row.remedy.format(**words)}"


def explain(plan: Plan, step: Step, number: int, text: str) -> str:
    """``advice`` on a step of the plan that the kernel refused; "" where no link was to become
    a member by it.
    """
    if not isinstance(step, ChangeLink) or not (step.master or step.to or step.mac):
        return ""
    wanted = plan.wanted
    mode = MODES[int(str(wanted.options["mode"]))]
    if step.mac:
        mac, whose = step.mac, f"its new one because {mode} needs different MACs"
    elif wanted.mac:
        mac, whose = wanted.mac, f"the MAC asked for {wanted.name}"
    else:
        mac, whose = (
            plan.claimed[0].link.mac,
            f"the MAC of {wanted.members[0].name}, the first link",
        )
    own = _own(mode, wanted.options.get("fail_over_mac"), given=bool(step.mac))
    attempt = Attempt(step.label, wanted.name, mac, whose, wanted.mtu, mode, own)
    return advice(number, text, attempt)


def _own(mode: str, fail_over_mac: OptionValue | None, *, given: bool) -> str:
    """How the members could keep the MACs that they have."""
    if given:
        return "or give the links different MACs beforehand"
    if mode != "active-backup":
        return (
            f"in {mode} every member must take the MAC, whatever failOverMac is; in "
            'active-backup with "failOverMac": 1 each keeps its own'
        )
    if fail_over_mac == ACTIVE:
        return "or use another link"
    return 'or write "failOverMac": 1, with which each member keeps its own MAC'
