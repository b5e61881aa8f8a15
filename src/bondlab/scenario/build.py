"""A `Topology` as commands for ``ip`` and ``bridge``, and the same taken away again.

Everything goes in few ``ip -batch`` runs, one a namespace: in user-mode Linux a process costs
tens of milliseconds. Hardware NICs wait in the namespace ``lab-shelf`` between cases, both
ends of each cable, so that a case sees its own NICs alone and finds them as new.

Pure: commands out. Whether they worked is seen by ``story``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bondlab.scenario.topology import ETHERNET_MTU, HOST, LAN, SILICON, Fabric, Form, Nic, Topology

SHELF = "lab-shelf"
FUNCTIONS = "/run/bondlab/functions.json"
LONGEST_FAR = 11  # with "far-" in front it still fits an interface name
NODE = "1"  # process 1 lives in the node's namespace
LACP_LINK_LOCAL = 4  # bit 2 of group_fwd_mask: 01:80:c2:00:00:02 (net/bridge/br_input.c)


class Batch(NamedTuple):
    """Lines for ``ip -batch`` in one namespace; ``force`` goes on after errors."""

    namespace: str
    lines: tuple[str, ...]
    force: bool = False

    def argv(self) -> list[str]:
        """The command that reads the lines from its input."""
        inside = ["-n", self.namespace] if self.namespace else []
        return ["ip", *inside, *(["-force"] if self.force else []), "-batch", "-"]

    def text(self) -> bytes:
        """Its input."""
        return "".join(f"{line}\n" for line in self.lines).encode()


def far(nic: str) -> str:
    """The name of the other end of a hardware NIC's cable while it is on the shelf."""
    return f"far-{nic}" if len(nic) <= LONGEST_FAR else f"far-{zlib.crc32(nic.encode()):x}"


def shelve(nics: Iterable[str]) -> list[Batch]:
    """Put all hardware NICs away, once after the boot."""
    moves = [f"link set {one} netns {SHELF}" for nic in nics for one in (nic, far(nic))]
    return [Batch(HOST, (f"netns add {SHELF}", *moves))]


def make(topology: Topology) -> list[Batch]:
    """Namespaces, NICs, wires and switches, in an order that works."""
    switches = {fabric.switch for fabric in topology.fabrics}
    batches = [Batch(HOST, tuple(f"netns add {one}" for one in [SILICON, *sorted(switches)]))]
    for nic in topology.nics:
        batches += _MAKERS[nic.form](nic)
    node = [line for nic in topology.nics for line in _dress(nic)]
    batches.append(Batch(HOST, tuple(node)))
    batches += [_switch(fabric, topology.nics) for fabric in topology.fabrics]
    return [batch for batch in batches if batch.lines]


def functions(topology: Topology) -> bytes:
    """What the stand-in for sriov knows of the functions: by device id."""
    table = {
        nic.device: {"link": nic.name, "port": nic.port, "uplink": nic.port.replace("vf", "up")}
        for nic in topology.nics
        if nic.device
    }
    return json.dumps({"namespace": SILICON, "functions": table}).encode()


def unmake(topology: Topology) -> list[Batch]:
    """Everything away, hardware back on the shelf; goes on whatever is missing."""
    batches = []
    for nic in topology.nics:
        if nic.form is Form.CABLE:
            back = f"link set {nic.port} netns {SHELF} name {far(nic.name)}"
            batches.append(Batch(nic.switch, (f"link set {nic.port} down", back), force=True))
            home = f"link set {nic.name} netns {SHELF}"
            batches.append(Batch(HOST, (f"link set {nic.name} down", home), force=True))
    gone = [f"link del {nic.name}" for nic in topology.nics if nic.form is not Form.CABLE]
    spaces = [SILICON, *{fabric.switch for fabric in topology.fabrics}]
    lines = (*gone, *(f"netns del {one}" for one in spaces))
    return [*batches, Batch(HOST, lines, force=True)]


def _cable(nic: Nic) -> list[Batch]:
    lines = (
        f"link set {nic.name} netns {NODE}",
        f"link set {far(nic.name)} netns {nic.switch} name {nic.port}",
    )
    return [Batch(SHELF, lines)]


def _veth(nic: Nic) -> list[Batch]:
    peer = f"peer name {nic.port} netns {nic.switch}"
    return [Batch(HOST, (f"link add {nic.name} type veth {peer}",))]


def _bridge(nic: Nic) -> list[Batch]:
    uplink = f"u-{nic.name}"[:15]
    lines = (
        f"link add {nic.name} type bridge forward_delay 0",
        f"link add {uplink} type veth peer name {nic.port} netns {nic.switch}",
        f"link set {uplink} master {nic.name} up",
    )
    return [Batch(HOST, lines)]


def _function(nic: Nic) -> list[Batch]:
    """The function's far end and the uplink, joined by a bridge that knows VLANs.

    A bridge hands LACP on only where its ports are told to.
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
        f"link add {nic.port} type veth peer name {nic.name} netns {NODE}",
        f"link add {uplink} type veth {peer}",
        f"link add pf{number} type bridge vlan_filtering 1 forward_delay 0 mcast_snooping 0",
        f"link set pf{number} up",
        *ports,
    )
    return [Batch(SILICON, lines)]


_MAKERS = {
    Form.CABLE: _cable,
    Form.VETH: _veth,
    Form.BRIDGE: _bridge,
    Form.FUNCTION: _function,
}


def _dress(nic: Nic) -> Iterator[str]:
    """MAC, MTU and state of the node's end."""
    if nic.mac:
        yield f"link set {nic.name} address {nic.mac}"
    if nic.mtu != ETHERNET_MTU:
        yield f"link set {nic.name} mtu {nic.mtu}"
    yield f"link set {nic.name} {'up' if nic.up else 'down'}"


def _switch(fabric: Fabric, nics: Iterable[Nic]) -> Batch:
    """The far end: ``lan`` over all ports."""
    if fabric.partner:
        rate = " lacp_rate fast" if fabric.partner == "802.3ad" else ""
        kind = f"bond mode {fabric.partner} miimon 100{rate}"
    else:
        kind = "bridge forward_delay 0 mcast_snooping 0"
    lines = ["link set lo up", f"link add {LAN} type {kind}"]
    jumbo = max((nic.mtu for nic in nics if nic.switch == fabric.switch), default=ETHERNET_MTU)
    for port in fabric.ports:
        bare, _, vlan = port.partition(".")
        lines.append(f"link set {bare} mtu {jumbo}")
        if vlan:
            lines.append(f"link set {bare} up")
            lines.append(f"link add link {bare} name {port} type vlan id {vlan}")
        lines += [f"link set {port} down", f"link set {port} master {LAN}", f"link set {port} up"]
    lines.append(f"link set {LAN} up")
    lines += [
        f"address add {one}/{128 if ':' in one else 32} dev {LAN}{' nodad' * (':' in one)}"
        for one in fabric.targets
    ]
    return Batch(fabric.switch, tuple(lines))
