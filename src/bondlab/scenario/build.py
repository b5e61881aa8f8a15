"""The ``ip`` and ``bridge`` commands that create a `Topology`, and those that remove it.

Commands are grouped into few ``ip -batch`` runs, one per namespace, because a process takes tens of
milliseconds under user-mode Linux. Between cases the hardware-like NICs, both ends of each cable,
are in the namespace ``lab-unused``, so that a case has only its own NICs, in their initial state.

Pure: returns commands. ``story`` runs them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bondlab.scenario.topology import (
    ETHERNET_MTU,
    HOST,
    LAN,
    SRIOV_NAMESPACE,
    BondPlan,
    HostNic,
    NicKind,
    Topology,
)

UNUSED_NAMESPACE = "lab-unused"
FUNCTIONS_FILE = "/run/bondlab/functions.json"
MAX_FAR_NAME = 11  # with the prefix "far-" it fits into an interface name
NODE_PID = "1"  # process 1 is in the node's namespace
LACP_LINK_LOCAL = 4  # bit 2 of group_fwd_mask: 01:80:c2:00:00:02 (net/bridge/br_input.c)


class Batch(NamedTuple):
    """Lines for ``ip -batch`` in one namespace; with ``force`` errors are ignored."""

    namespace: str
    lines: tuple[str, ...]
    force: bool = False

    def argv(self) -> list[str]:
        """The command; it reads the lines from its standard input."""
        inside = ["-n", self.namespace] if self.namespace else []
        return ["ip", *inside, *(["-force"] if self.force else []), "-batch", "-"]

    def text(self) -> bytes:
        """The standard input of the command."""
        return "".join(f"{line}\n" for line in self.lines).encode()


def far_name(nic: str) -> str:
    """The name of the other end of a NIC's cable while it is not in use."""
    return f"far-{nic}" if len(nic) <= MAX_FAR_NAME else f"far-{zlib.crc32(nic.encode()):x}"


def move_to_unused(nics: Iterable[str]) -> list[Batch]:
    """Move all hardware-like NICs to the namespace for unused NICs, after the boot."""
    moves = [
        f"link set {one} netns {UNUSED_NAMESPACE}" for nic in nics for one in (nic, far_name(nic))
    ]
    return [Batch(HOST, (f"netns add {UNUSED_NAMESPACE}", *moves))]


def create(topology: Topology) -> list[Batch]:
    """Create namespaces, NICs and switches, in the order of their dependencies."""
    switches = {planned.switch for planned in topology.bonds}
    batches = [
        Batch(HOST, tuple(f"netns add {one}" for one in [SRIOV_NAMESPACE, *sorted(switches)]))
    ]
    for nic in topology.nics:
        batches += _MAKERS[nic.kind](nic)
    node = [line for nic in topology.nics for line in _nic_settings(nic)]
    batches.append(Batch(HOST, tuple(node)))
    batches += [_switch(planned, topology.nics) for planned in topology.bonds]
    return [batch for batch in batches if batch.lines]


def functions_file(topology: Topology) -> bytes:
    """The file that lists the SR-IOV functions by device ID, for the stand-in for sriov."""
    table = {
        nic.device: {"link": nic.name, "port": nic.port, "uplink": nic.port.replace("vf", "up")}
        for nic in topology.nics
        if nic.device
    }
    return json.dumps({"namespace": SRIOV_NAMESPACE, "functions": table}).encode()


def remove(topology: Topology) -> list[Batch]:
    """Remove the topology, and move hardware-like NICs back; missing links are ignored."""
    batches = []
    for nic in topology.nics:
        if nic.kind is NicKind.CABLE:
            switch_end = f"link set {nic.port} netns {UNUSED_NAMESPACE} name {far_name(nic.name)}"
            batches.append(Batch(nic.switch, (f"link set {nic.port} down", switch_end), force=True))
            node_end = f"link set {nic.name} netns {UNUSED_NAMESPACE}"
            batches.append(Batch(HOST, (f"link set {nic.name} down", node_end), force=True))
    gone = [f"link del {nic.name}" for nic in topology.nics if nic.kind is not NicKind.CABLE]
    spaces = [SRIOV_NAMESPACE, *{planned.switch for planned in topology.bonds}]
    lines = (*gone, *(f"netns del {one}" for one in spaces))
    return [*batches, Batch(HOST, lines, force=True)]


def _cable(nic: HostNic) -> list[Batch]:
    lines = (
        f"link set {nic.name} netns {NODE_PID}",
        f"link set {far_name(nic.name)} netns {nic.switch} name {nic.port}",
    )
    return [Batch(UNUSED_NAMESPACE, lines)]


def _veth(nic: HostNic) -> list[Batch]:
    peer = f"peer name {nic.port} netns {nic.switch}"
    return [Batch(HOST, (f"link add {nic.name} type veth {peer}",))]


def _bridge(nic: HostNic) -> list[Batch]:
    uplink = f"u-{nic.name}"[:15]
    lines = (
        f"link add {nic.name} type bridge forward_delay 0",
        f"link add {uplink} type veth peer name {nic.port} netns {nic.switch}",
        f"link set {uplink} master {nic.name} up",
    )
    return [Batch(HOST, lines)]


def _function(nic: HostNic) -> list[Batch]:
    """The other end of the function and the uplink, connected by a VLAN-aware bridge.

    A bridge forwards LACP frames only if group_fwd_mask of its ports says so.
    """
    number = nic.port.removeprefix("vf")
    uplink = f"up{number}"
    peer = f"peer name p{number}" + (f" netns {nic.switch}" if nic.switch else "")
    ports = [
        line
        for port in (nic.port, uplink)
        for line in (
            f"link set {port} master pf{number} up",
            f"link set {port} type bridge_slave group_fwd_mask {LACP_LINK_LOCAL}",
        )
    ]
    lines = (
        f"link add {nic.port} type veth peer name {nic.name} netns {NODE_PID}",
        f"link add {uplink} type veth {peer}",
        f"link add pf{number} type bridge vlan_filtering 1 forward_delay 0 mcast_snooping 0",
        f"link set pf{number} up",
        *ports,
    )
    return [Batch(SRIOV_NAMESPACE, lines)]


_MAKERS = {
    NicKind.CABLE: _cable,
    NicKind.VETH: _veth,
    NicKind.BRIDGE: _bridge,
    NicKind.FUNCTION: _function,
}


def _nic_settings(nic: HostNic) -> Iterator[str]:
    """Set MAC, MTU and state of the node's end."""
    if nic.mac:
        yield f"link set {nic.name} address {nic.mac}"
    if nic.mtu != ETHERNET_MTU:
        yield f"link set {nic.name} mtu {nic.mtu}"
    yield f"link set {nic.name} {'up' if nic.up else 'down'}"


def _switch(planned: BondPlan, nics: Iterable[HostNic]) -> Batch:
    """Create the switch: ``lan`` over all ports."""
    if planned.partner:
        rate = " lacp_rate fast" if planned.partner == "802.3ad" else ""
        kind = f"bond mode {planned.partner} miimon 100{rate}"
    else:
        kind = "bridge forward_delay 0 mcast_snooping 0"
    lines = ["link set lo up", f"link add {LAN} type {kind}"]
    jumbo = max((nic.mtu for nic in nics if nic.switch == planned.switch), default=ETHERNET_MTU)
    for port in planned.ports:
        bare, _, vlan = port.partition(".")
        lines.append(f"link set {bare} mtu {jumbo}")
        if vlan:
            lines.append(f"link set {bare} up")
            lines.append(f"link add link {bare} name {port} type vlan id {vlan}")
        lines += [f"link set {port} down", f"link set {port} master {LAN}", f"link set {port} up"]
    lines.append(f"link set {LAN} up")
    lines += [
        f"address add {one}/{128 if ':' in one else 32} dev {LAN}{' nodad' * (':' in one)}"
        for one in planned.arp_targets
    ]
    return Batch(planned.switch, tuple(lines))
