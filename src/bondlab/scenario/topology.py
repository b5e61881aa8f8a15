"""What is around a pod, as values: NICs of the node, the legs of its bonds, their far ends.

One namespace a switch; its device ``lan`` is the far end: a bridge where the bond needs nothing
of its switch, else a link aggregate, because a bridge would loop or double what balance-rr,
balance-xor, 802.3ad and broadcast send.

Which of these a pod needs is decided in ``planning``; making them is the business of ``build``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

HOST = ""  # the guest's first namespace, the node's
POD = "@pod"  # stands for the pod's namespace, whose name differs each time
PEER = "@peer"  # stands for the host's end of a veth in the pod
SILICON = "lab-silicon"  # what would be inside SR-IOV NICs
LAN = "lan"
ETHERNET_MTU = 1500


class Form(StrEnum):
    """How a NIC of the node is made."""

    CABLE = "cable"  # a NIC of the guest kernel, on a cable that the lab holds
    VETH = "veth"
    FUNCTION = "function"  # an SR-IOV function, played by a veth
    BRIDGE = "bridge"  # a bridge of the node, for the plugin of that name


class Nic(NamedTuple):
    """A link that the node has before the first plugin runs."""

    name: str
    form: Form
    switch: str  # the namespace of its other end, "" for none
    port: str  # the other end's name there
    mac: str = ""
    mtu: int = ETHERNET_MTU
    device: str = ""  # functions: the PCI address the kubelet would give
    up: bool = True  # as an administrator leaves it


class Leg(NamedTuple):
    """One member of a bond, and how to cut it.

    ``seen`` are (namespace, link) pairs whose downing takes the member's carrier, ``unseen``
    those that stop frames and leave it; ``cable`` names the NIC whose cable is cut as well.
    """

    member: str  # its name in the pod
    nic: str
    seen: tuple[tuple[str, str], ...] = ()
    unseen: tuple[tuple[str, str], ...] = ()
    cable: str = ""


class Vlan(NamedTuple):
    """A VLAN interface of the pod on its bond."""

    ifname: str
    number: int


class Fabric(NamedTuple):
    """One bond of the pod and its far end."""

    ifname: str
    mode: str
    switch: str
    partner: str  # the mode of the aggregate, "" for a bridge
    ports: tuple[str, ...]  # what is joined by the partner: p0, or p0.1350 with a VLAN
    legs: tuple[Leg, ...]
    targets: tuple[str, ...] = ()  # addresses that the bond's ARP monitor probes
    patient: bool = False  # only LACP's long timeout (90 s) notices a silent cut
    vlans: tuple[Vlan, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether a drill cuts without touching carrier: the ARP monitor is to notice."""
        return bool(self.targets)


class Topology(NamedTuple):
    """Everything a case needs around its pod; ``notes`` are plain words for the story."""

    nics: tuple[Nic, ...]
    fabrics: tuple[Fabric, ...]
    notes: tuple[str, ...]

    def device(self, place: int) -> str:
        """The device id of the pod's attachment number ``place`` (from 0), "" for none."""
        found = [nic.device for nic in self.nics if nic.port == f"vf{place}"]
        return found[0] if found else ""
