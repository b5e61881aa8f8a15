"""The links around a pod, as values: NICs of the node, members of its bonds, switches.

Each switch is a network namespace. Its device ``lan`` is the other end of the bond: a bridge where
the bond needs no support by the switch, else a link aggregate, because a bridge would loop or
duplicate the frames of balance-rr, balance-xor, 802.3ad and broadcast.

``planning`` decides what a pod needs; ``build`` makes it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

HOST = ""  # the guest's initial namespace: the node's
POD = "@pod"  # placeholder for the pod's namespace, whose name differs in each run
PEER = "@peer"  # placeholder for the host's end of a veth whose other end is in the pod
SRIOV_NAMESPACE = "lab-sriov"  # holds what would be inside an SR-IOV NIC
LAN = "lan"
ETHERNET_MTU = 1500


class NicKind(StrEnum):
    """How a NIC of the node is made."""

    CABLE = "cable"  # a hardware-like NIC of the guest, on a cable of the lab
    VETH = "veth"
    FUNCTION = "function"  # an SR-IOV function, emulated by a veth
    BRIDGE = "bridge"  # a bridge of the node, for the plugin of that name


class HostNic(NamedTuple):
    """A link that exists on the node before the first plugin runs."""

    name: str
    kind: NicKind
    switch: str  # the namespace of its other end, "" for none
    port: str  # the name of the other end there
    mac: str = ""
    mtu: int = ETHERNET_MTU
    device: str = ""  # functions: the PCI address that the kubelet would allocate
    up: bool = True  # its state before the first plugin


class MemberLink(NamedTuple):
    """One member of a bond, and how to take its link down.

    Both lists hold (namespace, link) pairs to set down: ``carrier_links`` take the member's
    carrier, ``silent_links`` only stop its frames. ``cable`` is the NIC whose cable is
    disconnected too.
    """

    name: str  # in the pod
    nic: str
    carrier_links: tuple[tuple[str, str], ...] = ()
    silent_links: tuple[tuple[str, str], ...] = ()
    cable: str = ""


class Vlan(NamedTuple):
    """A VLAN interface of the pod on its bond."""

    ifname: str
    number: int


class BondPlan(NamedTuple):
    """One bond that the pod is to get, and its switch."""

    ifname: str
    mode: str
    switch: str
    partner: str  # the mode of the switch's link aggregate, "" for a bridge
    ports: tuple[str, ...]  # ports of the aggregate or bridge: p0, or p0.1350 with a VLAN
    members: tuple[MemberLink, ...]
    arp_targets: tuple[str, ...] = ()  # addresses that the bond's ARP monitor probes
    slow_detection: bool = False  # a silent fault is only detected by LACP's long timeout (90 s)
    vlans: tuple[Vlan, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether a drill leaves the carrier, so that the ARP monitor detects the fault."""
        return bool(self.arp_targets)


class Topology(NamedTuple):
    """Everything that a case needs around its pod; ``notes`` are sentences for the report."""

    nics: tuple[HostNic, ...]
    bonds: tuple[BondPlan, ...]
    notes: tuple[str, ...]

    def device(self, place: int) -> str:
        """The device ID of the pod's attachment with index ``place``, "" for none."""
        found = [nic.device for nic in self.nics if nic.port == f"vf{place}"]
        return found[0] if found else ""
