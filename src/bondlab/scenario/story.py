"""The lab's story: each pod in turn gets its networks, is looked at, drilled and taken away.

A generator of events; what comes out is what was seen (``hands``), and a case that goes wrong
ends with its reasons and is followed by the next. Whatever happened in a case, its networks are
deleted, its NICs compared with what they were, and its switches removed. A lost guest is no
failed case: its exception passes through.
"""

from __future__ import annotations

import ipaddress
import secrets
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bondlab.manifests.ipam_substitute import LEASES, UnsupportedCase, substitute_ipam
from bondlab.manifests.manifests import Config, Pod
from bondlab.manifests.multus import Sandbox, configs
from bondlab.scenario import build, crash, drill, planning, thick
from bondlab.scenario.calls import Runtime
from bondlab.scenario.drill import Tools
from bondlab.scenario.events import Bond, Call, CaseBegin, CaseEnd, Event, Leases, Nic, Note
from bondlab.scenario.guest_commands import CommandFailed, Hands, Link
from bondlab.scenario.topology import LAN, Fabric, Form, Topology, Vlan

READY_SECONDS = 15.0
HOME_SECONDS = 5.0
LENT = "192.0.2.2/24"  # TEST-NET-1 (RFC 5737), for bonds without an address


class Lab(NamedTuple):
    """A guest that is ready for cases."""

    hands: Hands
    cni_path: str
    plugins: Mapping[str, str]  # type -> path in the guest
    strict: bool
    hardware: bool  # whether NICs on cables were booted
    crash: bool = False  # whether an ADD that takes host NICs is killed half-way first
    direct: bool = True  # whether each request is a process; else there is a daemon


class Failed(Exception):
    """A case can not go on; the text is a reason."""


def tell(lab: Lab, pods: Sequence[Pod]) -> Iterator[Event]:
    """All cases. Raises LostGuest, nothing else, for a guest that answers no more."""
    for pod in pods:
        yield from Case(lab, pod).tell()


class Case:
    """One pod."""

    def __init__(self, lab: Lab, pod: Pod) -> None:
        self.lab = lab
        self.hands = lab.hands
        self.pod = pod
        netns = f"{pod.name[:40]}-{secrets.token_hex(3)}"
        sandbox = Sandbox(pod, secrets.token_hex(32), str(uuid.uuid4()), netns)
        self.sandbox = sandbox
        self.tools = Tools(lab.hands, sandbox.netns)
        self.runtime = Runtime(lab.hands, sandbox, lab.cni_path, lab.plugins)
        self.reasons: list[str] = []
        self.before: dict[str, str] = {}
        self.other_addresses: dict[
            str, list[str]
        ] = {}  # by interface: addresses of other nodes' pods

    def tell(self) -> Iterator[Event]:
        """The whole case."""
        title = f"{self.pod.kind} {self.pod.namespace}/{self.pod.name}"
        networks = tuple(f"{one.network.name}@{one.ifname}" for one in self.pod.attachments)
        yield CaseBegin(title, self.pod.file, networks)
        try:
            made = planning.plan(self.pod, hardware=self.lab.hardware)
        except UnsupportedCase as error:
            yield CaseEnd((str(error),))
            return
        yield from map(Note, (*self.pod.notes, *made.notes))
        yield from self.guarded(self.life(made))
        yield from self.guarded(self.death(made))
        yield CaseEnd(tuple(self.reasons))

    def guarded(self, events: Iterator[Event]) -> Iterator[Event]:
        """Pass events on; what goes wrong is a reason and ends this part."""
        try:
            yield from events
        except (Failed, UnsupportedCase, CommandFailed) as error:
            self.reasons.append(str(error))
        except OSError as error:
            self.reasons.append(f"a command could not be started: {error}")
        except subprocess.TimeoutExpired as error:
            self.reasons.append(f"no end of {error.cmd} after {error.timeout:g} s")

    # Life

    def life(self, made: Topology) -> Iterator[Event]:
        """Make everything around the pod, add its networks, look, drill, check."""
        yield from self.arrive(made)
        for fabric in made.fabrics:
            yield from self.examine(fabric)
        for call in self.runtime.check():
            yield call
            self.want(call)

    def stay(self) -> Iterator[Event]:
        """Bring the pod up and leave it, for somebody to look around."""
        made = planning.plan(self.pod, hardware=self.lab.hardware)
        yield from self.guarded(self.arrive(made))

    def arrive(self, made: Topology) -> Iterator[Event]:
        """Everything around the pod, the pod's namespace, and ADD of its networks."""
        self.hands.batch(build.make(made))
        self.hands.write(build.FUNCTIONS, build.functions(made))
        self.before = _nics(self.hands.links(), made)
        self.hands.batch([build.Batch("", (f"netns add {self.sandbox.netns}",))])
        self.hands.run(["ip", "-n", self.sandbox.netns, "link", "set", "lo", "up"])
        yield from self.attach(made)

    def attach(self, made: Topology) -> Iterator[Event]:
        """ADD of every network in order."""
        for place, attachment in enumerate(self.pod.attachments):
            chain = []
            for config in configs(attachment, made.device(place)):
                ready = substitute_ipam(
                    config, self.pod.pools, self.lab.plugins.keys(), strict=self.lab.strict
                )
                if ready.note:
                    yield Note(ready.note)
                self.other_addresses.setdefault(attachment.ifname, []).extend(ready.other_nodes)
                chain.append(ready.config)
            yield from self.crash(made, attachment.network.name, attachment.ifname, chain)
            for call in self.runtime.add(attachment.network.name, attachment.ifname, chain):
                yield call
                self.want(call, stop=True)

    def crash(
        self, made: Topology, network: str, ifname: str, chain: Sequence[Config]
    ) -> Iterator[Event]:
        """The crash scene, where it is asked for and the network bonds NICs of the node."""
        config = chain[0] if chain else {}
        if not self.lab.crash or config.get("type") != "bond" or config.get("linksInContainer"):
            return
        event = crash.scene(
            self.hands, self.runtime, network, ifname, config, lambda: self.nics(made), self.revive
        )
        yield event
        if not event.ok:
            raise Failed(f"not everything came home after the crash: {event.said}")

    def revive(self) -> None:
        """Start the daemon again, as systemd or kubelet would, where there was one."""
        if not self.lab.direct:
            thick.start(self.hands)

    def nics(self, made: Topology) -> dict[str, str]:
        """The node's NICs that the case is about, as they are now."""
        return _nics(self.hands.links(), made)

    def want(self, call: Call, *, stop: bool = False) -> None:
        """A call that failed is a reason; ``stop`` ends the case's life with it."""
        if call.ok:
            return
        text = f"{call.verb} of {call.network} failed: {call.message} (code {call.code})"
        if stop:
            raise Failed(text)
        self.reasons.append(text)

    def examine(self, fabric: Fabric) -> Iterator[Event]:
        """The bond as the pod sees it, a ping, and a drill on every leg."""
        spent = self.tools.until(
            lambda: drill.whole(self.tools.bond(fabric.ifname), fabric), READY_SECONDS
        )
        bond = self.tools.bond(fabric.ifname)
        if bond is None:
            raise Failed(f"the pod has no bond {fabric.ifname}")
        addresses = self.hands.addresses(self.sandbox.netns, fabric.ifname)
        yield bond._replace(addresses=addresses, milliseconds=spent)
        self.compare(bond, fabric, spent)
        lent = () if addresses else (LENT,)
        if lent:
            yield Note(f"the network gives no address: the lab lends {LENT} while it probes")
            self.address(fabric, "add", LENT)
        targets = [self.peer(fabric, one) for one in (*addresses, *lent)]
        yield from self.probe(fabric, targets)
        yield from self.other_nodes(fabric)
        for vlan in fabric.vlans:
            yield from self.tagged(fabric, vlan)
        if lent:
            self.address(fabric, "del", LENT)

    def compare(self, bond: Bond, fabric: Fabric, spent: float) -> None:
        """Mode and members against what the manifest asks for."""
        if bond.mode != fabric.mode:
            raise Failed(f"{bond.name} has mode {bond.mode}, not {fabric.mode}")
        missing = {leg.member for leg in fabric.legs} - {one.name for one in bond.members}
        if missing:
            raise Failed(f"{bond.name} lacks the members {', '.join(sorted(missing))}")
        if spent < 0:
            raise Failed(f"{bond.name} was not whole {READY_SECONDS:g} s after ADD: {_state(bond)}")

    def address(self, fabric: Fabric, verb: str, address: str) -> None:
        """Add or remove an address of the bond."""
        line = f"addr {verb} {address} dev {fabric.ifname}"
        self.hands.batch([build.Batch(self.sandbox.netns, (line,))])

    def peer(self, fabric: Fabric, address: str) -> str:
        """Give the switch an address in the pod's subnet, for the pod to ping."""
        peer = neighbour(address, fabric.targets)
        prefix = address.partition("/")[2]
        quick = " nodad" if ":" in peer else ""
        line = f"addr replace {peer}/{prefix} dev {LAN}{quick}"
        self.hands.batch([build.Batch(fabric.switch, (line,))])
        return peer

    def probe(self, fabric: Fabric, targets: Sequence[str]) -> Iterator[Event]:
        """Ping each target, then a drill on every leg, the one that carries first."""
        before = self.hands.links(self.sandbox.netns)
        for target in targets:
            calm = drill.ping(self.tools, fabric.ifname, target)
            yield calm
            if calm.received == 0:
                raise Failed(f"no answer from {target} through {fabric.ifname}")
        first = drill.carrying(self.tools, fabric, before)
        for leg in sorted(fabric.legs, key=lambda leg: leg.member != first):
            done = drill.run(self.tools, fabric, leg, targets[0])
            yield done
            if not done.flowing:
                self.reasons.append(f"no traffic while {leg.member} was cut")
            if done.recovered < 0:
                raise Failed(f"{fabric.ifname} was not whole again after {leg.member} was mended")

    def other_nodes(self, fabric: Fabric) -> Iterator[Event]:
        """Ping what pods of another node would have; not to be reached is no failure here."""
        for target in self.other_addresses.get(fabric.ifname, ()):
            quick = " nodad" if ":" in target else ""
            line = f"addr replace {target} dev {LAN}{quick}"
            self.hands.batch([build.Batch(fabric.switch, (line,))])
            yield drill.other_node(self.tools, fabric.ifname, target)

    def tagged(self, fabric: Fabric, vlan: Vlan) -> Iterator[Event]:
        """Ping through a VLAN interface on the bond; the switch has that VLAN, too."""
        addresses = self.hands.addresses(self.sandbox.netns, vlan.ifname)
        if not addresses:
            yield Note(f"{vlan.ifname} has no address: the lab does not probe VLAN {vlan.number}")
            return
        far = f"{LAN}.{vlan.number}"
        lines = (
            f"link add link {LAN} name {far} type vlan id {vlan.number}",
            f"link set {far} up",
            f"addr add {neighbour(addresses[0])}/{addresses[0].partition('/')[2]} dev {far}",
        )
        self.hands.batch([build.Batch(fabric.switch, lines)])
        probed = drill.ping(self.tools, vlan.ifname, neighbour(addresses[0]))
        yield probed
        if probed.received == 0:
            raise Failed(f"no answer from {probed.target} through VLAN {vlan.number}")

    # Death

    def death(self, made: Topology) -> Iterator[Event]:
        """DEL of every network in reverse, everything compared, everything removed."""
        for call in self.runtime.delete():
            yield call
            self.want(call)
        after = _nics(self.hands.links(), made)
        for name, before in self.before.items():
            nic = Nic(name, before, after.get(name, ""))
            yield nic
            if not nic.home:
                self.reasons.append(f"{name} is not as it was: {nic.after or 'gone'}")
        left = self.leases()
        if left:
            yield Leases(left)
            self.reasons.append(f"addresses still taken after DEL: {', '.join(left)}")
        self.hands.batch([build.Batch("", (f"netns del {self.sandbox.netns}",), force=True)])
        self.rescue(made)
        self.hands.batch(build.unmake(made))

    def rescue(self, made: Topology) -> None:
        """Wait for hardware NICs that were left in the pod, so that the next case has them.

        The kernel brings them home some time after the namespace's end, under the name they
        had inside.
        """
        wanted = {nic.name for nic in made.nics if nic.form is Form.CABLE}
        macs = {self.before[name].split()[0]: name for name in wanted & self.before.keys()}

        def home() -> bool:
            held = {link["ifname"]: link.get("address") for link in self.hands.links()}
            strays = {name: macs[mac] for name, mac in held.items() if mac in macs}
            lines = [f"link set {a} name {b}" for a, b in strays.items() if a != b]
            self.hands.batch([build.Batch("", tuple(lines), force=True)] if lines else [])
            return not lines and wanted <= held.keys()

        self.tools.until(home, HOME_SECONDS)

    def leases(self) -> tuple[str, ...]:
        """What host-local still holds for this sandbox: files named after addresses."""
        mine = self.sandbox.container_id
        text = self.hands.shell(f"grep -rlsF {mine} {LEASES} || true")
        return tuple(path.rpartition("/")[2] for path in text.split())


def neighbour(address: str, targets: Sequence[str] = ()) -> str:
    """An address in the subnet of ``address`` that is another; one of ``targets`` if it fits."""
    own = ipaddress.ip_interface(address)
    for target in targets:
        one = ipaddress.ip_address(target)
        if one in own.network and one != own.ip:
            return target
    hosts = own.network.hosts()
    found = next((one for one in hosts if one != own.ip), None)
    if found is None:
        raise Failed(f"{address} leaves no room for a peer in its subnet: use a shorter prefix")
    return str(found)


def _nics(links: Sequence[Link], made: Topology) -> dict[str, str]:
    """Name to MAC, MTU and state, of the node's NICs that the case is about."""
    names = {nic.name for nic in made.nics}
    return {
        link["ifname"]: f"{link.get('address', '')} mtu {link.get('mtu')} "
        + ("up" if "UP" in link.get("flags", ()) else "down")
        for link in links
        if link["ifname"] in names
    }


def _state(bond: Bond) -> str:
    members = ", ".join(f"{one.name} {one.mii}" for one in bond.members) or "no members"
    lacp = f", {bond.ports} ports with partner {bond.partner}" * (bond.mode == "802.3ad")
    return f"{members}{lacp}"
