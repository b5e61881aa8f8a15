"""Runs the cases, one pod after the other, as a generator of events.

For each pod the networks are added, its bonds tested, and the networks deleted. Events report what
``guest_commands`` read. A case that fails ends with its reasons, and the next case follows. In any
case the networks are deleted, the NICs compared with their state before, and the switches
removed. A lost guest is not a failed case: LostGuest is not caught.
"""

from __future__ import annotations

import ipaddress
import secrets
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bondlab.manifests.ipam_substitute import LEASES, UnsupportedCase, substitute_ipam
from bondlab.manifests.manifests import Attachment, Config, Pod
from bondlab.manifests.multus import Sandbox, configs
from bondlab.scenario import build, crash, drill, node_daemon, planning
from bondlab.scenario.calls import Runtime
from bondlab.scenario.drill import Observer
from bondlab.scenario.events import (
    BondState,
    Call,
    CaseBegin,
    CaseEnd,
    Event,
    Leases,
    NicComparison,
    Note,
)
from bondlab.scenario.guest_commands import CommandFailed, GuestCommands, Link
from bondlab.scenario.topology import LAN, BondPlan, NicKind, Topology, Vlan

READY_SECONDS = 15.0
RESTORE_SECONDS = 5.0
TEMPORARY_ADDRESS = "192.0.2.2/24"  # TEST-NET-1 (RFC 5737), for bonds without an address


class Lab(NamedTuple):
    """A guest that is ready to run cases, and the options of the run."""

    commands: GuestCommands
    cni_path: str
    plugins: Mapping[str, str]  # path in the guest, by type
    strict: bool
    hardware: bool  # whether the guest was booted with NICs on cables
    crash: bool = False  # whether an ADD of a bond over host NICs is killed first
    direct: bool = True  # direct mode: a process per request, no daemon


class CaseFailed(Exception):
    """A case cannot continue; the text is a reason."""


def run_cases(lab: Lab, pods: Sequence[Pod]) -> Iterator[Event]:
    """Run all cases. Raises LostGuest, and nothing else."""
    for pod in pods:
        yield from Case(lab, pod).run()


class Case:
    """The case of one pod."""

    def __init__(self, lab: Lab, pod: Pod) -> None:
        self.lab = lab
        self.commands = lab.commands
        self.pod = pod
        netns = f"{pod.name[:40]}-{secrets.token_hex(3)}"
        sandbox = Sandbox(pod, secrets.token_hex(32), str(uuid.uuid4()), netns)
        self.sandbox = sandbox
        self.observer = Observer(lab.commands, sandbox.netns)
        self.runtime = Runtime(lab.commands, sandbox, lab.cni_path, lab.plugins)
        self.reasons: list[str] = []
        self.before: dict[str, str] = {}
        # Addresses that pods of other nodes could have, by interface.
        self.other_addresses: dict[str, list[str]] = {}

    def run(self) -> Iterator[Event]:
        """Run the whole case."""
        title = f"{self.pod.kind} {self.pod.namespace}/{self.pod.name}"
        networks = tuple(f"{one.network.name}@{one.ifname}" for one in self.pod.attachments)
        yield CaseBegin(title, self.pod.file, networks)
        try:
            topology = planning.plan(self.pod, hardware=self.lab.hardware)
        except UnsupportedCase as error:
            yield CaseEnd((str(error),))
            return
        yield from map(Note, (*self.pod.notes, *topology.notes))
        yield from self.collect_errors(self.test(topology))
        yield from self.collect_errors(self.tear_down(topology))
        yield CaseEnd(tuple(self.reasons))

    def collect_errors(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events; an error ends them and becomes a reason."""
        try:
            yield from events
        except (CaseFailed, UnsupportedCase, CommandFailed) as error:
            self.reasons.append(str(error))
        except OSError as error:
            self.reasons.append(f"a command could not be started: {error}")
        except subprocess.TimeoutExpired as error:
            self.reasons.append(f"{error.cmd} did not end within {error.timeout:g} s")

    # Bring-up and test

    def test(self, topology: Topology) -> Iterator[Event]:
        """Bring the pod up, test its bonds, and call CHECK."""
        yield from self.bring_up(topology)
        for planned in topology.bonds:
            yield from self.test_bond(planned)
        for call in self.runtime.check():
            yield call
            self.require(call)

    def bring_up_only(self) -> Iterator[Event]:
        """Bring the pod up and leave it running, for `bondctl lab shell`."""
        topology = planning.plan(self.pod, hardware=self.lab.hardware)
        yield from self.collect_errors(self.bring_up(topology))

    def bring_up(self, topology: Topology) -> Iterator[Event]:
        """Create the topology and the pod's namespace, and ADD its networks."""
        self.commands.batch(build.create(topology))
        self.commands.write(build.FUNCTIONS_FILE, build.functions_file(topology))
        self.before = _nics(self.commands.links(), topology)
        self.commands.batch([build.Batch("", (f"netns add {self.sandbox.netns}",))])
        self.commands.run(["ip", "-n", self.sandbox.netns, "link", "set", "lo", "up"])
        yield from self.attach(topology)

    def attach(self, topology: Topology) -> Iterator[Event]:
        """ADD each network in order."""
        for place, attachment in enumerate(self.pod.attachments):
            chain = []
            for config in configs(attachment, topology.device(place)):
                ready = substitute_ipam(
                    config, self.pod.pools, self.lab.plugins.keys(), strict=self.lab.strict
                )
                if ready.note:
                    yield Note(ready.note)
                self.other_addresses.setdefault(attachment.ifname, []).extend(ready.other_nodes)
                chain.append(ready.config)
            if self.lab.crash and planning.takes_host_links(attachment):
                yield from self.crash(topology, attachment, chain[0])
            for call in self.runtime.add(attachment.network.name, attachment.ifname, chain):
                yield call
                self.require(call, stop=True)

    def crash(self, topology: Topology, attachment: Attachment, config: Config) -> Iterator[Event]:
        """Kill an ADD of the bond with this configuration, and recover."""
        event = crash.crash_and_recover(
            self.commands,
            self.runtime,
            attachment.network.name,
            attachment.ifname,
            config,
            lambda: self.nics(topology),
            self.restart_daemon,
        )
        yield event
        if not event.ok:
            raise CaseFailed(f"not all NICs were restored after the crash: {event.recover_output}")

    def restart_daemon(self) -> None:
        """Start the daemon again, as systemd or kubelet would; not in direct mode."""
        if not self.lab.direct:
            node_daemon.start(self.commands)

    def nics(self, topology: Topology) -> dict[str, str]:
        """The current state of the case's NICs, by name."""
        return _nics(self.commands.links(), topology)

    def require(self, call: Call, *, stop: bool = False) -> None:
        """Make a failed call a reason; with ``stop`` it also ends the test."""
        if call.ok:
            return
        text = f"{call.verb} of {call.network} failed: {call.message} (code {call.code})"
        if stop:
            raise CaseFailed(text)
        self.reasons.append(text)

    def test_bond(self, planned: BondPlan) -> Iterator[Event]:
        """Read the bond back, probe through it, and run a drill on each member."""
        spent = self.observer.wait_until(
            lambda: drill.all_members_up(self.observer.bond(planned.ifname), planned), READY_SECONDS
        )
        bond = self.observer.bond(planned.ifname)
        if bond is None:
            raise CaseFailed(f"the pod has no bond {planned.ifname}")
        addresses = self.commands.addresses(self.sandbox.netns, planned.ifname)
        yield bond._replace(addresses=addresses, milliseconds=spent)
        self.compare(bond, planned, spent)
        temporary = () if addresses else (TEMPORARY_ADDRESS,)
        if temporary:
            yield Note(
                f"the network assigns no address: the lab uses {TEMPORARY_ADDRESS} for its probes"
            )
            self.address(planned, "add", TEMPORARY_ADDRESS)
        targets = [self.peer(planned, one) for one in (*addresses, *temporary)]
        yield from self.probe(planned, targets)
        yield from self.probe_other_nodes(planned)
        for vlan in planned.vlans:
            yield from self.probe_vlan(planned, vlan)
        if temporary:
            self.address(planned, "del", TEMPORARY_ADDRESS)

    def compare(self, bond: BondState, planned: BondPlan, spent: float) -> None:
        """Compare mode and members with the manifest."""
        if bond.mode != planned.mode:
            raise CaseFailed(f"{bond.name} has mode {bond.mode}, not {planned.mode}")
        missing = {member.name for member in planned.members} - {one.name for one in bond.members}
        if missing:
            raise CaseFailed(f"members missing in {bond.name}: {', '.join(sorted(missing))}")
        if spent < 0:
            raise CaseFailed(
                f"not all members of {bond.name} were up {READY_SECONDS:g} s after ADD: {_state(bond)}"
            )

    def address(self, planned: BondPlan, verb: str, address: str) -> None:
        """Add or remove an address of the bond."""
        line = f"addr {verb} {address} dev {planned.ifname}"
        self.commands.batch([build.Batch(self.sandbox.netns, (line,))])

    def peer(self, planned: BondPlan, address: str) -> str:
        """Give the switch an address in the pod's subnet as ping target; the address."""
        peer = neighbour(address, planned.arp_targets)
        prefix = address.partition("/")[2]
        quick = " nodad" if ":" in peer else ""
        line = f"addr replace {peer}/{prefix} dev {LAN}{quick}"
        self.commands.batch([build.Batch(planned.switch, (line,))])
        return peer

    def probe(self, planned: BondPlan, targets: Sequence[str]) -> Iterator[Event]:
        """Ping each target, then run a drill on each member, the active one first."""
        before = self.commands.links(self.sandbox.netns)
        for target in targets:
            result = drill.ping(self.observer, planned.ifname, target)
            yield result
            if result.received == 0:
                raise CaseFailed(f"no answer from {target} through {planned.ifname}")
        first = drill.busiest_member(self.observer, planned, before)
        for member in sorted(planned.members, key=lambda member: member.name != first):
            done = drill.run(self.observer, planned, member, targets[0])
            yield done
            if not done.flowing:
                self.reasons.append(f"no traffic while the link of {member.name} was down")
            if done.recovered < 0:
                raise CaseFailed(
                    f"not all members of {planned.ifname} were up again after the link of {member.name} "
                    "was restored"
                )

    def probe_other_nodes(self, planned: BondPlan) -> Iterator[Event]:
        """Ping the addresses that pods of another node could have; no answer is no failure."""
        for target in self.other_addresses.get(planned.ifname, ()):
            quick = " nodad" if ":" in target else ""
            line = f"addr replace {target} dev {LAN}{quick}"
            self.commands.batch([build.Batch(planned.switch, (line,))])
            yield drill.other_node(self.observer, planned.ifname, target)

    def probe_vlan(self, planned: BondPlan, vlan: Vlan) -> Iterator[Event]:
        """Ping through a VLAN interface on the bond, to the same VLAN of the switch."""
        addresses = self.commands.addresses(self.sandbox.netns, vlan.ifname)
        if not addresses:
            yield Note(f"{vlan.ifname} has no address: VLAN {vlan.number} is not probed")
            return
        far = f"{LAN}.{vlan.number}"
        lines = (
            f"link add link {LAN} name {far} type vlan id {vlan.number}",
            f"link set {far} up",
            f"addr add {neighbour(addresses[0])}/{addresses[0].partition('/')[2]} dev {far}",
        )
        self.commands.batch([build.Batch(planned.switch, lines)])
        probed = drill.ping(self.observer, vlan.ifname, neighbour(addresses[0]))
        yield probed
        if probed.received == 0:
            raise CaseFailed(f"no answer from {probed.target} through VLAN {vlan.number}")

    # Tear-down

    def tear_down(self, topology: Topology) -> Iterator[Event]:
        """DEL each network in reverse order, compare the NICs, remove the topology."""
        for call in self.runtime.delete():
            yield call
            self.require(call)
        after = _nics(self.commands.links(), topology)
        for name, before in self.before.items():
            nic = NicComparison(name, before, after.get(name, ""))
            yield nic
            if not nic.restored:
                self.reasons.append(
                    f"{name} was not restored: {nic.after or 'not found'}, before: {before}"
                )
        left = self.leases()
        if left:
            yield Leases(left)
            self.reasons.append(f"addresses still allocated after DEL: {', '.join(left)}")
        self.commands.batch([build.Batch("", (f"netns del {self.sandbox.netns}",), force=True)])
        self.recover_hardware_nics(topology)
        self.commands.batch(build.remove(topology))

    def recover_hardware_nics(self, topology: Topology) -> None:
        """Wait for hardware NICs that were left in the pod; the next case may need them.

        The kernel moves them to the initial namespace some time after the pod's namespace is
        deleted, with the name that they had there.
        """
        wanted = {nic.name for nic in topology.nics if nic.kind is NicKind.CABLE}
        macs = {self.before[name].split()[0]: name for name in wanted & self.before.keys()}

        def restored() -> bool:
            found = {link["ifname"]: link.get("address") for link in self.commands.links()}
            returned = {name: macs[mac] for name, mac in found.items() if mac in macs}
            lines = [f"link set {a} name {b}" for a, b in returned.items() if a != b]
            self.commands.batch([build.Batch("", tuple(lines), force=True)] if lines else [])
            return not lines and wanted <= found.keys()

        self.observer.wait_until(restored, RESTORE_SECONDS)

    def leases(self) -> tuple[str, ...]:
        """The addresses that host-local still has allocated for this sandbox, by file name."""
        mine = self.sandbox.container_id
        text = self.commands.shell(f"grep -rlsF {mine} {LEASES} || true")
        return tuple(path.rpartition("/")[2] for path in text.split())


def neighbour(address: str, targets: Sequence[str] = ()) -> str:
    """Another address in the subnet of ``address``; one of ``targets`` if it is in there."""
    own = ipaddress.ip_interface(address)
    for target in targets:
        one = ipaddress.ip_address(target)
        if one in own.network and one != own.ip:
            return target
    hosts = own.network.hosts()
    found = next((one for one in hosts if one != own.ip), None)
    if found is None:
        raise CaseFailed(
            f"the subnet of {address} has no other address for the lab's peer: use a shorter prefix"
        )
    return str(found)


def _nics(links: Sequence[Link], topology: Topology) -> dict[str, str]:
    """MAC, MTU and state of the case's NICs, by name."""
    names = {nic.name for nic in topology.nics}
    return {
        link["ifname"]: f"{link.get('address', '')} mtu {link.get('mtu')} "
        + ("up" if "UP" in link.get("flags", ()) else "down")
        for link in links
        if link["ifname"] in names
    }


def _state(bond: BondState) -> str:
    members = ", ".join(f"{one.name} {one.mii}" for one in bond.members) or "no members"
    lacp = f", {bond.ports} ports with partner {bond.partner}" * (bond.mode == "802.3ad")
    return f"{members}{lacp}"
