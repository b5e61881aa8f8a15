"""From a pod and its attachments to the `Topology` it needs. Pure.

Host NICs are the guest's hardware NICs (`Form.CABLE`) where that matters and works. They
report no link speed, never lose carrier and take no jumbo frames; a bond that wants a speed
(LACP, balance-tlb, balance-alb), a given MAC or a larger MTU, and links stacked on a NIC get a
veth, and a note says so. SR-IOV functions are always the lab's stand-in.
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
    SILICON,
    Fabric,
    Form,
    Leg,
    Nic,
    Topology,
    Vlan,
)

NEED_SPEED = (AD, TLB, ALB)  # bond_needs_speed_duplex() in drivers/net/bonding/bond_main.c
PARTNERS = {
    "balance-rr": "balance-rr",
    "balance-xor": "balance-xor",
    "broadcast": "active-backup",  # takes one of the copies
    "802.3ad": "802.3ad",
}


def bond_config(attachment: Attachment) -> BondConfig:
    """The configuration of the plugin that makes the bond, as the plugin reads it."""
    plugin = next(one for one in configs(attachment) if one.get("type") == "bond")
    return parse(json.dumps(plugin).encode())


def on_pod_link(attachment: Attachment) -> bool:
    """Whether a network makes a VLAN interface on a link of the pod, not of the host."""
    config = attachment.network.plugins[0]
    return config.get("type") == "vlan" and config.get("linkInContainer") is True


def host_nics(pods: Sequence[Pod]) -> list[str]:
    """The names of all hardware NICs that these pods want, each once."""
    names: list[str] = []
    for pod in pods:
        try:
            made = plan(pod, hardware=True)
        except UnsupportedCase:
            continue  # its case will say why
        names += [nic.name for nic in made.nics if nic.form is Form.CABLE]
    return list(dict.fromkeys(names))


def plan(pod: Pod, *, hardware: bool) -> Topology:
    """The topology for ``pod``; ``hardware`` tells whether the guest can have NICs on cables.

    Raises UnsupportedCase where the lab has nothing to offer.
    """
    return _Planner(pod, hardware=hardware).plan()


class _Planner:
    """Walks over the bonds, collects NICs by name, numbers switch ports."""

    def __init__(self, pod: Pod, *, hardware: bool) -> None:
        self.pod = pod
        self.hardware = hardware
        self.nics: dict[str, Nic] = {}
        self.notes: list[str] = []

    def plan(self) -> Topology:
        fabrics = tuple(self.fabric(place, one) for place, one in enumerate(self.pod.bonds))
        for place, attachment in enumerate(self.pod.attachments):
            if self.provider(attachment).get("type") == "sriov":
                self.function(place, attachment, "")
        return Topology(tuple(self.nics.values()), fabrics, tuple(dict.fromkeys(self.notes)))

    @staticmethod
    def provider(attachment: Attachment) -> Config:
        """The plugin that makes the interface: the first of a chain."""
        return attachment.network.plugins[0]

    def fabric(self, place: int, attachment: Attachment) -> Fabric:
        config = bond_config(attachment)
        self.switch, self.config = f"lab-switch{place}", config
        self.ports: list[str] = []
        leg = self.inside if config.links_in_container else self.outside
        legs = tuple(leg(link) for link in config.links)
        mode = MODES[config.mode]
        return Fabric(
            attachment.ifname,
            mode,
            self.switch,
            PARTNERS.get(mode, ""),
            tuple(dict.fromkeys(self.ports)),
            legs,
            tuple(_targets(config)),
            patient=config.mode == AD and not config.options.get("lacp_rate"),
            vlans=tuple(self.vlans(attachment.ifname)),
        )

    def vlans(self, master: str) -> Iterator[Vlan]:
        """The VLAN interfaces that networks of this pod make on its link ``master``."""
        for attachment in self.pod.attachments:
            config = self.provider(attachment)
            if on_pod_link(attachment) and config.get("master") == master:
                yield Vlan(attachment.ifname, int(config.get("vlanId") or 0))

    # Links of the node

    def outside(self, link: LinkRef) -> Leg:
        """A NIC of the node, which the bond plugin itself moves into the pod."""
        if link.by == "pci":
            raise UnsupportedCase(
                f"the lab has no PCI NICs ({link.value}): name the link, or give its mac"
            )
        if link.by == "mac":
            name = f"eth{1000 + len(self.nics)}"
            return self.leg(self.node_nic(name, link.value), name)
        return self.leg(self.node_nic(link.value), link.value)

    def node_nic(self, name: str, mac: str = "", vlan: int = 0, why_veth: str = "") -> Nic:
        """The NIC of that name, made on first mention, with a port on this bond's switch."""
        if name not in self.nics:
            why = why_veth or self.why_veth(mac)
            if why:
                self.notes.append(f"{name} is a veth: {why}")
            form = Form.VETH if why else Form.CABLE
            mtu = max(ETHERNET_MTU, self.config.mtu or 0)
            self.nics[name] = Nic(name, form, self.switch, f"p{len(self.nics)}", mac, mtu)
        nic = self.nics[name]
        self.ports.append(f"{nic.port}.{vlan}" if vlan else nic.port)
        return nic

    def why_veth(self, mac: str) -> str:
        """Why a NIC of this bond can not be hardware, "" if it can."""
        if not self.hardware:
            return "this guest has no hardware NICs"
        if mac:
            return "the guest's hardware NICs have MACs of their own"
        if (self.config.mtu or 0) > ETHERNET_MTU:
            return f"the guest's hardware NICs take no MTU above {ETHERNET_MTU}"
        if self.config.mode in NEED_SPEED:
            mode = MODES[self.config.mode]
            return f"the guest's hardware NICs report no speed, and {mode} wants one"
        return ""

    def leg(self, nic: Nic, member: str) -> Leg:
        """A member that is a NIC of the node, moved into the pod.

        The hardware NICs have no carrier to lose: setting both ends down is as near as it gets.
        """
        far = (nic.switch, nic.port)
        if nic.form is Form.CABLE:
            return Leg(member, nic.name, seen=((POD, member), far), cable=nic.name)
        return Leg(member, nic.name, seen=(far,))

    # Links that earlier networks brought

    def inside(self, link: LinkRef) -> Leg:
        """A link of the pod; the network that makes it decides what is behind it."""
        for place, attachment in enumerate(self.pod.attachments):
            if link.by == "name" and attachment.ifname == link.value:
                return self.provided(place, attachment)
        made = ", ".join(one.ifname for one in self.pod.attachments)
        raise UnsupportedCase(
            f"no network of this pod makes {link.value}: they make {made}. "
            "Order the networks of the members before the bond's"
        )

    def provided(self, place: int, attachment: Attachment) -> Leg:
        config = self.provider(attachment)
        makers: dict[str, Callable[[int, Attachment], Leg]] = {
            "sriov": lambda place, one: self.function(place, one, self.switch),
            "host-device": self.host_device,
            "macvlan": self.over_nic,
            "vlan": self.over_nic,
            "bridge": self.bridged,
        }
        kind = str(config.get("type"))
        if kind not in makers:
            raise UnsupportedCase(
                f"{attachment.ifname} comes from {kind}: the lab can bond links of "
                + ", ".join(makers)
            )
        return makers[kind](place, attachment)

    def function(self, place: int, attachment: Attachment, switch: str) -> Leg:
        """An SR-IOV function; its port VLAN is tagged beyond the function, as in a NIC."""
        config = self.provider(attachment)
        name = f"ens{place + 1}f0v0"
        vlan = int(config.get("vlan") or 0)
        if name not in self.nics:
            given = str(config.get("deviceID") or config.get("pciBusID") or "")
            device = given or f"0000:{0x3B + place:02x}:02.0" * bool(attachment.network.resource)
            self.nics[name] = Nic(name, Form.FUNCTION, switch, f"vf{place}", device=device)
            self.notes += self.function_notes(vlan)
        if switch:
            self.ports.append(f"p{place}.{vlan}" if vlan else f"p{place}")
        follows = config.get("link_state", "auto") != "enable"
        seen = ((SILICON, f"vf{place}"),) if follows else ()
        return Leg(attachment.ifname, name, seen=seen, unseen=((SILICON, f"up{place}"),))

    def function_notes(self, vlan: int) -> Iterator[str]:
        yield (
            "sriov is the lab's stand-in: its functions are veth ends on a small bridge that "
            "plays the NIC; VLAN, MAC and link state work, spoof check, trust and rates do not"
        )
        if vlan:
            yield (
                f"the NIC tags everything with VLAN {vlan}, LACP too: the partner must bond "
                f"VLAN {vlan} of its ports, and this one does; one that bonds the bare ports "
                "would never answer"
            )

    def host_device(self, _place: int, attachment: Attachment) -> Leg:
        name = str(self.provider(attachment).get("device") or "")
        if not name:
            raise UnsupportedCase('host-device: the lab finds NICs by "device" only: name it so')
        self.nics[name] = self.node_nic(name)._replace(up=False)  # it gives them back down
        return self.leg(self.nics[name], attachment.ifname)

    def over_nic(self, _place: int, attachment: Attachment) -> Leg:
        """For macvlan and vlan: a link on top of a NIC that stays on the node."""
        config = self.provider(attachment)
        name = str(config.get("master") or "")
        if not name:
            raise UnsupportedCase(f'{config["type"]}: name the NIC below it: "master": "eth1000"')
        why = f"a hardware NIC here can not lose the carrier that a {config['type']} on it follows"
        nic = self.node_nic(name, vlan=int(config.get("vlanId") or 0), why_veth=why)
        return self.leg(nic, attachment.ifname)

    def bridged(self, _place: int, attachment: Attachment) -> Leg:
        """The bridge plugin uses a bridge that is there; this one leads to the switch."""
        name = str(self.provider(attachment).get("bridge") or "cni0")
        if name not in self.nics:
            port = f"p{len(self.nics)}"
            self.nics[name] = Nic(name, Form.BRIDGE, self.switch, port)
        nic = self.nics[name]
        self.ports.append(nic.port)
        return Leg(attachment.ifname, name, seen=((PEER, attachment.ifname),))


def _targets(config: BondConfig) -> Iterator[str]:
    """The addresses that the ARP (or IPv6 neighbour) monitor probes."""
    for name in ("arp_ip_target", "ns_ip6_target"):
        found = config.options.get(name, ())
        if isinstance(found, tuple):
            yield from found
