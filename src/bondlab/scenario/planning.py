"""Plans the `Topology` for a pod from its attachments. Pure.

Host NICs are hardware-like NICs of the guest (`NicKind.CABLE`) if possible. These report no link
speed, never lose their carrier and support no jumbo frames. A veth is used, and a note says why,
for a bond that needs a link speed (LACP, balance-tlb, balance-alb), a given MAC or a larger MTU,
and for links stacked on a NIC. SR-IOV functions are always emulated by the lab's stand-in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from bondcni.core.config import BondConfig, LinkRef, parse
from bondcni.core.options import AD, ALB, MODES, TLB
from bondlab.manifests.ipam_substitute import UnsupportedCase
from bondlab.manifests.manifests import Attachment, Config, Pod
from bondlab.manifests.multus import configs
from bondlab.scenario.topology import (
    ETHERNET_MTU,
    PEER,
    POD,
    SRIOV_NAMESPACE,
    BondPlan,
    HostNic,
    MemberLink,
    NicKind,
    Topology,
    Vlan,
)

NEED_SPEED = (AD, TLB, ALB)  # bond_needs_speed_duplex() in drivers/net/bonding/bond_main.c
PARTNERS = {
    "balance-rr": "balance-rr",
    "balance-xor": "balance-xor",
    "broadcast": "active-backup",  # accepts one of the copies
    "802.3ad": "802.3ad",
}


def bond_config(attachment: Attachment) -> BondConfig:
    """The configuration of the network's bond plugin, parsed by that plugin's parser."""
    plugin = next(one for one in configs(attachment) if one.get("type") == "bond")
    return parse(json.dumps(plugin).encode())


def takes_host_links(attachment: Attachment) -> bool:
    """Whether the first plugin of the network is a bond over links of the host."""
    bonds = attachment.network.plugins[0].get("type") == "bond"
    return bonds and not bond_config(attachment).links_in_container


def is_pod_vlan(attachment: Attachment) -> bool:
    """Whether a network makes a VLAN interface on a link of the pod, not of the host."""
    config = attachment.network.plugins[0]
    return config.get("type") == "vlan" and config.get("linkInContainer") is True


def host_nics(pods: Sequence[Pod]) -> list[str]:
    """The names of all hardware-like NICs that these pods need, without duplicates."""
    names: list[str] = []
    for pod in pods:
        try:
            topology = plan(pod, hardware=True)
        except UnsupportedCase:
            continue  # its case reports the reason
        names += [nic.name for nic in topology.nics if nic.kind is NicKind.CABLE]
    return list(dict.fromkeys(names))


def plan(pod: Pod, *, hardware: bool) -> Topology:
    """The topology for ``pod``; ``hardware``: whether the guest can have NICs on cables.

    Raises UnsupportedCase if the lab does not support what the pod needs.
    """
    return _Planner(pod, hardware=hardware).plan()


class _Planner:
    """Plans the bonds; collects NICs by name and numbers the switch ports."""

    def __init__(self, pod: Pod, *, hardware: bool) -> None:
        self.pod = pod
        self.hardware = hardware
        self.nics: dict[str, HostNic] = {}
        self.notes: list[str] = []

    def plan(self) -> Topology:
        bonds = tuple(self.bond_plan(place, one) for place, one in enumerate(self.pod.bonds))
        for place, attachment in enumerate(self.pod.attachments):
            if self.first_plugin(attachment).get("type") == "sriov":
                self.sriov_function(place, attachment, "")
        return Topology(tuple(self.nics.values()), bonds, tuple(dict.fromkeys(self.notes)))

    @staticmethod
    def first_plugin(attachment: Attachment) -> Config:
        """The plugin that creates the interface: the first of a chain."""
        return attachment.network.plugins[0]

    def bond_plan(self, place: int, attachment: Attachment) -> BondPlan:
        config = bond_config(attachment)
        self.switch, self.config = f"lab-switch{place}", config
        self.ports: list[str] = []
        member_link = self.pod_link if config.links_in_container else self.host_link
        members = tuple(member_link(link) for link in config.links)
        mode = MODES[config.mode]
        return BondPlan(
            attachment.ifname,
            mode,
            self.switch,
            PARTNERS.get(mode, ""),
            tuple(dict.fromkeys(self.ports)),
            members,
            tuple(_arp_targets(config)),
            slow_detection=config.mode == AD and not config.options.get("lacp_rate"),
            vlans=tuple(self.vlans(attachment.ifname)),
        )

    def vlans(self, master: str) -> Iterator[Vlan]:
        """The VLAN interfaces that this pod's networks create on its link ``master``."""
        for attachment in self.pod.attachments:
            config = self.first_plugin(attachment)
            if is_pod_vlan(attachment) and config.get("master") == master:
                yield Vlan(attachment.ifname, int(config.get("vlanId") or 0))

    # Links of the node

    def host_link(self, link: LinkRef) -> MemberLink:
        """A NIC of the node, which the bond plugin moves into the pod."""
        if link.by == "pci":
            raise UnsupportedCase(
                f"the lab has no PCI NICs ({link.value}): use the name or the mac of the link"
            )
        if link.by == "mac":
            name = f"eth{1000 + len(self.nics)}"
            return self.member_link(self.node_nic(name, link.value), name)
        return self.member_link(self.node_nic(link.value), link.value)

    def node_nic(self, name: str, mac: str = "", vlan: int = 0, veth_reason: str = "") -> HostNic:
        """The NIC ``name`` with a port on this bond's switch; created at its first use."""
        if name not in self.nics:
            reason = veth_reason or self.veth_reason(mac)
            if reason:
                self.notes.append(f"{name} is a veth: {reason}")
            kind = NicKind.VETH if reason else NicKind.CABLE
            mtu = max(ETHERNET_MTU, self.config.mtu or 0)
            self.nics[name] = HostNic(name, kind, self.switch, f"p{len(self.nics)}", mac, mtu)
        nic = self.nics[name]
        self.ports.append(f"{nic.port}.{vlan}" if vlan else nic.port)
        return nic

    def veth_reason(self, mac: str) -> str:
        """Why a NIC of this bond cannot be a hardware-like NIC, "" if it can."""
        if not self.hardware:
            return "this guest has no hardware-like NICs"
        if mac:
            return "the guest's hardware-like NICs have fixed MACs"
        if (self.config.mtu or 0) > ETHERNET_MTU:
            return f"the guest's hardware-like NICs support no MTU above {ETHERNET_MTU}"
        if self.config.mode in NEED_SPEED:
            mode = MODES[self.config.mode]
            return f"the guest's hardware-like NICs report no link speed, which {mode} needs"
        return ""

    def member_link(self, nic: HostNic, member: str) -> MemberLink:
        """A member that is a NIC of the node, moved into the pod.

        A hardware-like NIC cannot lose its carrier; both ends are set down instead.
        """
        far = (nic.switch, nic.port)
        if nic.kind is NicKind.CABLE:
            return MemberLink(member, nic.name, carrier_links=((POD, member), far), cable=nic.name)
        return MemberLink(member, nic.name, carrier_links=(far,))

    # Links that earlier networks of the pod create

    def pod_link(self, link: LinkRef) -> MemberLink:
        """A link of the pod; the plugin that creates it decides what it is connected to."""
        for place, attachment in enumerate(self.pod.attachments):
            if link.by == "name" and attachment.ifname == link.value:
                return self.member_of(place, attachment)
        created = ", ".join(one.ifname for one in self.pod.attachments)
        raise UnsupportedCase(
            f"no network of this pod creates {link.value} (they create {created}): list the networks "
            "of the members before the bond's"
        )

    def member_of(self, place: int, attachment: Attachment) -> MemberLink:
        config = self.first_plugin(attachment)
        makers: dict[str, Callable[[int, Attachment], MemberLink]] = {
            "sriov": lambda place, one: self.sriov_function(place, one, self.switch),
            "host-device": self.host_device,
            "macvlan": self.stacked_link,
            "vlan": self.stacked_link,
            "bridge": self.bridge_port,
        }
        kind = str(config.get("type"))
        if kind not in makers:
            raise UnsupportedCase(
                f"{attachment.ifname} is created by {kind}: the lab supports members created by "
                + ", ".join(makers)
            )
        return makers[kind](place, attachment)

    def sriov_function(self, place: int, attachment: Attachment, switch: str) -> MemberLink:
        """An SR-IOV function; its port VLAN is tagged outside of the function, as by a NIC."""
        config = self.first_plugin(attachment)
        name = f"ens{place + 1}f0v0"
        vlan = int(config.get("vlan") or 0)
        if name not in self.nics:
            given = str(config.get("deviceID") or config.get("pciBusID") or "")
            device = given or f"0000:{0x3B + place:02x}:02.0" * bool(attachment.network.resource)
            self.nics[name] = HostNic(name, NicKind.FUNCTION, switch, f"vf{place}", device=device)
            self.notes += self.sriov_notes(vlan)
        if switch:
            self.ports.append(f"p{place}.{vlan}" if vlan else f"p{place}")
        follows = config.get("link_state", "auto") != "enable"
        carrier_links = ((SRIOV_NAMESPACE, f"vf{place}"),) if follows else ()
        return MemberLink(
            attachment.ifname,
            name,
            carrier_links=carrier_links,
            silent_links=((SRIOV_NAMESPACE, f"up{place}"),),
        )

    def sriov_notes(self, vlan: int) -> Iterator[str]:
        yield (
            "sriov is the lab's stand-in: its functions are veths on a bridge that emulates the "
            "NIC; vlan, mac and link_state work; spoofchk, trust and rates have no effect"
        )
        if vlan:
            yield (
                f"the NIC tags all frames with VLAN {vlan}, also LACP's: the switch must run LACP "
                f"inside VLAN {vlan}, as the lab's does; most switches run it untagged, and the bond "
                "would not come up"
            )

    def host_device(self, _place: int, attachment: Attachment) -> MemberLink:
        name = str(self.first_plugin(attachment).get("device") or "")
        if not name:
            raise UnsupportedCase(
                'host-device: the lab supports "device" only: use the name of the NIC'
            )
        self.nics[name] = self.node_nic(name)._replace(up=False)  # host-device returns it down
        return self.member_link(self.nics[name], attachment.ifname)

    def stacked_link(self, _place: int, attachment: Attachment) -> MemberLink:
        """A macvlan or vlan link on a NIC that stays on the node."""
        config = self.first_plugin(attachment)
        name = str(config.get("master") or "")
        if not name:
            raise UnsupportedCase(
                f'{config["type"]}: "master" is missing: add the NIC below it, as "master": "eth1000"'
            )
        reason = (
            f"a hardware-like NIC cannot lose its carrier, which a {config['type']} on it follows"
        )
        nic = self.node_nic(name, vlan=int(config.get("vlanId") or 0), veth_reason=reason)
        return self.member_link(nic, attachment.ifname)

    def bridge_port(self, _place: int, attachment: Attachment) -> MemberLink:
        """A port of a bridge on the node, which is created here and connected to the switch."""
        name = str(self.first_plugin(attachment).get("bridge") or "cni0")
        if name not in self.nics:
            port = f"p{len(self.nics)}"
            self.nics[name] = HostNic(name, NicKind.BRIDGE, self.switch, port)
        nic = self.nics[name]
        self.ports.append(nic.port)
        return MemberLink(attachment.ifname, name, carrier_links=((PEER, attachment.ifname),))


def _arp_targets(config: BondConfig) -> Iterator[str]:
    """The addresses that the ARP (or IPv6 neighbour) monitor probes."""
    for name in ("arp_ip_target", "ns_ip6_target"):
        found = config.options.get(name, ())
        if isinstance(found, tuple):
            yield from found
