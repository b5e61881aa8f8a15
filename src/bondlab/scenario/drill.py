"""A drill: the link of one member is taken down while probes run, then restored.

Probes are one ``ping`` every 50 ms with ``-D`` (a timestamp on each line) and ``-O`` (a line for
each late answer); the lost probes, the longest gap and whether answers arrived while the link was
down are read from its output. The times until the bond detected the fault and until all members
were up again are measured by polling the bond; their error is some tens of milliseconds.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bondlab.scenario import guest_commands
from bondlab.scenario.events import BondState, Drill, OtherNode, Ping
from bondlab.scenario.guest_commands import CommandFailed, GuestCommands
from bondlab.scenario.topology import HOST, PEER, POD, BondPlan, MemberLink

LOG = "/run/bondlab/ping"
INTERVAL = 0.05
WARM_SECONDS = 1.0  # probes before the fault, and after the recovery
HOLD_SECONDS = 1.0  # how long the link stays down after the bond has detected it
FLOW_SECONDS = 10.0  # balance-alb may need seconds to announce another MAC to all peers
DETECTION_SECONDS = 15.0
LACP_SLOW_SECONDS = 110.0  # LACP's long timeout is 90 s (IEEE 802.1AX, Long_Timeout_Time)
POLL_SECONDS = 0.05
LACP = "802.3ad"
COLLECTING_DISTRIBUTING = 0x30  # LACP_STATE_COLLECTING | LACP_STATE_DISTRIBUTING
ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*bytes from .*icmp_seq=(\d+)", re.MULTILINE)
SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")


class Observer(NamedTuple):
    """Reads the bond in a pod and waits; tests replace ``pause`` and ``clock``."""

    commands: GuestCommands
    netns: str
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def bond(self, ifname: str) -> BondState | None:
        """The current state of the bond in the pod."""
        return guest_commands.bond(self.commands.links(self.netns), ifname)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Milliseconds until ``condition()`` is true, -1 if it is not within ``seconds``."""
        began = self.clock()
        while not condition():
            if self.clock() - began > seconds:
                return -1.0
            self.pause(POLL_SECONDS)
        return (self.clock() - began) * 1000


def ping(observer: Observer, bond: str, target: str, count: int = 5) -> Ping:
    """Send ``count`` probes through an interface of the pod."""
    family = "-6" if ":" in target else "-4"
    script = f"ping {family} -n -c {count} -i 0.2 -W 1 -I {bond} {target} || true"
    sent, received = counts(observer.commands.shell(script, namespace=observer.netns))
    return Ping(bond, target, sent, received)


def other_node(observer: Observer, bond: str, target: str) -> OtherNode:
    """Send a few probes as an application does: the pod's routes select the link.

    Not with -I, which makes the kernel treat each address as on-link (ip_route_output()).
    """
    bare = target.partition("/")[0]
    script = f"ping -n -c 3 -i 0.2 -W 1 {bare} 2>&1 || true"
    return OtherNode(
        bond, target, *counts(observer.commands.shell(script, namespace=observer.netns))
    )


def counts(text: str) -> tuple[int, int]:
    """The numbers of probes sent and answered, from ping's summary."""
    found = SUMMARY.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def longest_gap(text: str) -> float:
    """The longest time between two answers beyond the probe interval, in milliseconds."""
    times = [float(one) for one, _ in ANSWER.findall(text)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return max(0.0, max(gaps, default=0.0) - INTERVAL) * 1000


class LinkFault(NamedTuple):
    """A fault of a member's link: links that are set down, and perhaps a cable."""

    observer: Observer
    planned: BondPlan
    member: MemberLink

    @property
    def silent(self) -> bool:
        """Whether the member keeps its carrier."""
        return self.planned.silent or not self.member.carrier_links

    def links(self) -> list[tuple[str, str]]:
        """(namespace, link) of all links that are set down."""
        if self.planned.silent:
            pairs = self.member.silent_links
        else:
            pairs = (*self.member.carrier_links, *self.member.silent_links)
        return [self._resolve(*one) for one in pairs]

    def description(self) -> str:
        """The fault, for the report."""
        if self.silent:
            return "frames dropped, carrier kept"
        return "cable disconnected, both ends down" if self.member.cable else "carrier lost"

    def set_state(self, state: str) -> None:
        """Set all links and the cable ``down`` or ``up``."""
        if self.member.cable:
            cable = self.observer.commands.guest.cable(self.member.cable)
            cable.disconnect() if state == "down" else cable.reconnect()
        for namespace, link in self.links():
            self.observer.commands.run(
                ["ip", *(["-n", namespace] if namespace else []), "link", "set", link, state]
            )

    def _resolve(self, namespace: str, link: str) -> tuple[str, str]:
        """Replace the placeholders for a namespace by its name."""
        if namespace == PEER:
            return HOST, self._peer(link)
        return (self.observer.netns if namespace == POD else namespace), link

    def _peer(self, member: str) -> str:
        """The host's end of a veth in the pod, found by the ifindex of the peer."""
        commands = self.observer.commands
        ends = [one for one in commands.links(self.observer.netns) if one["ifname"] == member]
        index = ends[0].get("link_index") if ends else None
        for link in commands.links():
            if link["ifindex"] == index:
                return str(link["ifname"])
        raise CommandFailed(f"the peer of {member} was not found on the node")


def run(observer: Observer, planned: BondPlan, member: MemberLink, target: str) -> Drill:
    """Take one member's link down and restore it while probes run. Raises CommandFailed."""
    fault = LinkFault(observer, planned, member)
    _start_probes(observer, planned.ifname, target)
    try:
        observer.pause(WARM_SECONDS)
        try:
            fault.set_state("down")
            noticed = observer.wait_until(
                lambda: _member_down(observer, planned, member), _detection_seconds(planned, fault)
            )
            observer.pause(HOLD_SECONDS)
            while_down = observer.bond(planned.ifname)
            flowing = observer.wait_until(lambda: _answered(observer), FLOW_SECONDS) >= 0
        finally:
            fault.set_state("up")
        recovered = observer.wait_until(
            lambda: all_members_up(observer.bond(planned.ifname), planned), DETECTION_SECONDS
        )
        observer.pause(WARM_SECONDS)
    finally:
        text = _stop_probes(observer)
    sent, received = counts(text)
    return Drill(
        bond=planned.ifname,
        target=target,
        member=member.name,
        how=fault.description(),
        active=while_down.active if while_down else "",
        sent=sent,
        lost=sent - received,
        gap=longest_gap(text),
        noticed=noticed,
        recovered=recovered,
        flowing=flowing,
    )


def _answered(observer: Observer) -> bool:
    """Whether one of the last probes was answered."""
    return "bytes from" in observer.commands.shell(f"tail -n 4 {LOG}.log")


def all_members_up(bond: BondState | None, planned: BondPlan) -> bool:
    """Whether all members are up; with LACP, whether both ends collect and distribute."""
    if bond is None or len(bond.members) < len(planned.members):
        return False
    up = bond.carrier and all(member.mii == "UP" for member in bond.members)
    return up and (bond.mode != LACP or _lacp_converged(bond))


def _lacp_converged(bond: BondState) -> bool:
    """Whether both ends of all members collect and distribute."""
    states = [state for one in bond.members for state in (one.actor, one.partner)]
    all_set = all(one & COLLECTING_DISTRIBUTING == COLLECTING_DISTRIBUTING for one in states)
    return bond.ports == len(bond.members) and all_set


def busiest_member(
    observer: Observer, planned: BondPlan, links: Sequence[guest_commands.Link]
) -> str:
    """The active member; in modes without one, the member that sent most since ``links``."""
    now = observer.commands.links(observer.netns)
    bond = guest_commands.bond(now, planned.ifname)
    if bond is None:
        raise CommandFailed(f"the bond {planned.ifname} no longer exists in the pod")
    if bond.active:
        return bond.active
    before, after = guest_commands.packets_sent(links), guest_commands.packets_sent(now)
    names = [member.name for member in planned.members]
    return max(names, key=lambda name: after.get(name, 0) - before.get(name, 0))


def _member_down(observer: Observer, planned: BondPlan, member: MemberLink) -> bool:
    bond = observer.bond(planned.ifname)
    if bond is None:
        return False
    down = any(one.name == member.name and one.mii != "UP" for one in bond.members)
    left_aggregate = bond.mode == LACP and bond.ports < len(bond.members)
    return (down or left_aggregate) and bond.active != member.name


def _detection_seconds(planned: BondPlan, fault: LinkFault) -> float:
    return LACP_SLOW_SECONDS if planned.slow_detection and fault.silent else DETECTION_SECONDS


def _start_probes(observer: Observer, bond: str, target: str) -> None:
    """Start ping in the background; its process ID is kept in a file."""
    family = "-6" if ":" in target else "-4"
    probe = f"ping {family} -n -D -O -i {INTERVAL} -W 1 -w 300 -I {bond} {target}"
    script = f"{probe} >{LOG}.log 2>&1 </dev/null & echo $! >{LOG}.pid"
    observer.commands.shell(script, namespace=observer.netns)


def _stop_probes(observer: Observer) -> str:
    """Stop ping; its whole output."""
    script = (
        f"read pid <{LOG}.pid; kill -INT $pid; n=0; "
        f"while kill -0 $pid 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; "
        f"cat {LOG}.log"
    )
    return observer.commands.shell(script)
