"""A drill: one leg of a bond is cut while probes run, then mended; what was lost is counted.

Probes are ``ping`` every 50 ms with ``-D`` (a time on each line) and ``-O`` (a line for each
probe that is late), so that losses, the longest silence and whether answers came before the
mending are all read from its output. Times until the bond noticed and until the leg was back
come from looking at the bond again and again, so they are right to some tens of milliseconds.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bondlab.scenario import guest_commands as seen
from bondlab.scenario.events import Bond, Drill, OtherNode, Ping
from bondlab.scenario.guest_commands import CommandFailed, Hands
from bondlab.scenario.topology import HOST, PEER, POD, Fabric, Leg

LOG = "/run/bondlab/ping"
INTERVAL = 0.05
WARM_SECONDS = 1.0  # probes before the cut, and after the recovery
HOLD_SECONDS = 1.0  # how long a leg stays cut after the bond has left it
FLOW_SECONDS = 10.0  # balance-alb may need seconds to tell all peers another MAC
NOTICE_SECONDS = 15.0
PATIENCE_SECONDS = 110.0  # LACP's long timeout is 90 s (IEEE 802.1AX, Long_Timeout_Time)
LOOK_SECONDS = 0.05
LACP = "802.3ad"
CARRIES = 0x30  # collecting and distributing (drivers/net/bonding: LACP_STATE_*)
ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*bytes from .*icmp_seq=(\d+)", re.MULTILINE)
SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")


class Tools(NamedTuple):
    """What a drill works with; ``pause`` is time.sleep outside tests."""

    hands: Hands
    netns: str
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def bond(self, ifname: str) -> Bond | None:
        """The bond in the pod now."""
        return seen.bond(self.hands.links(self.netns), ifname)

    def until(self, true: Callable[[], bool], seconds: float) -> float:
        """Milliseconds until ``true()``, -1 if ``seconds`` passed before."""
        began = self.clock()
        while not true():
            if self.clock() - began > seconds:
                return -1.0
            self.pause(LOOK_SECONDS)
        return (self.clock() - began) * 1000


def ping(tools: Tools, bond: str, target: str, count: int = 5) -> Ping:
    """A few probes."""
    family = "-6" if ":" in target else "-4"
    script = f"ping {family} -n -c {count} -i 0.2 -W 1 -I {bond} {target} || true"
    sent, received = counts(tools.hands.shell(script, namespace=tools.netns))
    return Ping(bond, target, sent, received)


def other_node(tools: Tools, bond: str, target: str) -> OtherNode:
    """A few probes as an application sends them: the routes of the pod say over which link.

    Not with -I, with which the kernel takes any address for one of the link (ip_route_output()).
    """
    bare = target.partition("/")[0]
    script = f"ping -n -c 3 -i 0.2 -W 1 {bare} 2>&1 || true"
    return OtherNode(bond, target, *counts(tools.hands.shell(script, namespace=tools.netns)))


def counts(text: str) -> tuple[int, int]:
    """Probes sent and answered, from ping's summary."""
    found = SUMMARY.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def silence(text: str) -> float:
    """The longest time in milliseconds by which an answer was later than it should be."""
    times = [float(one) for one, _ in ANSWER.findall(text)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return max(0.0, max(gaps, default=0.0) - INTERVAL) * 1000


class Cutter(NamedTuple):
    """How a leg is cut: links that are set down, and perhaps a cable."""

    tools: Tools
    fabric: Fabric
    leg: Leg

    @property
    def unseen(self) -> bool:
        """Whether the member keeps its carrier."""
        return self.fabric.silent or not self.leg.seen

    def links(self) -> list[tuple[str, str]]:
        """(namespace, link) of everything that is set down."""
        both = self.leg.unseen if self.fabric.silent else (*self.leg.seen, *self.leg.unseen)
        return [self._found(*one) for one in both]

    def how(self) -> str:
        """What is done, in words."""
        if self.unseen:
            return "frames are lost, carrier stays"
        return "cable cut, both ends down" if self.leg.cable else "carrier lost"

    def turn(self, state: str) -> None:
        """Set everything ``down`` or ``up``."""
        if self.leg.cable:
            cable = self.tools.hands.machine.cable(self.leg.cable)
            cable.cut() if state == "down" else cable.mend()
        for namespace, link in self.links():
            self.tools.hands.run(
                ["ip", *(["-n", namespace] if namespace else []), "link", "set", link, state]
            )

    def _found(self, namespace: str, link: str) -> tuple[str, str]:
        if namespace == PEER:
            return HOST, self._peer(link)
        return (self.tools.netns if namespace == POD else namespace), link

    def _peer(self, member: str) -> str:
        """The host's end of a veth in the pod: the link whose ifindex the pod's end tells."""
        hands = self.tools.hands
        ends = [one for one in hands.links(self.tools.netns) if one["ifname"] == member]
        index = ends[0].get("link_index") if ends else None
        for link in hands.links():
            if link["ifindex"] == index:
                return str(link["ifname"])
        raise CommandFailed(f"the other end of {member} is not on the node")


def run(tools: Tools, fabric: Fabric, leg: Leg, target: str) -> Drill:
    """Cut and mend one leg under probes. Raises CommandFailed."""
    cutter = Cutter(tools, fabric, leg)
    _begin(tools, fabric.ifname, target)
    try:
        tools.pause(WARM_SECONDS)
        try:
            cutter.turn("down")
            noticed = tools.until(lambda: _left(tools, fabric, leg), _patience(fabric, cutter))
            tools.pause(HOLD_SECONDS)
            while_cut = tools.bond(fabric.ifname)
            flowing = tools.until(lambda: _answered(tools), FLOW_SECONDS) >= 0
        finally:
            cutter.turn("up")
        recovered = tools.until(lambda: whole(tools.bond(fabric.ifname), fabric), NOTICE_SECONDS)
        tools.pause(WARM_SECONDS)
    finally:
        text = _end(tools)
    sent, received = counts(text)
    return Drill(
        bond=fabric.ifname,
        target=target,
        leg=leg.member,
        how=cutter.how(),
        active=while_cut.active if while_cut else "",
        sent=sent,
        lost=sent - received,
        gap=silence(text),
        noticed=noticed,
        recovered=recovered,
        flowing=flowing,
    )


def _answered(tools: Tools) -> bool:
    """Whether one of the last probes was answered."""
    return "bytes from" in tools.hands.shell(f"tail -n 4 {LOG}.log")


def whole(bond: Bond | None, fabric: Fabric) -> bool:
    """Whether every member carries: for LACP that all have agreed with the partner."""
    if bond is None or len(bond.members) < len(fabric.legs):
        return False
    up = bond.carrier and all(member.mii == "UP" for member in bond.members)
    return up and (bond.mode != LACP or _agreed(bond))


def _agreed(bond: Bond) -> bool:
    """Whether both ends of every member collect and distribute: the last state of LACP."""
    states = [state for one in bond.members for state in (one.actor, one.partner)]
    return bond.ports == len(bond.members) and all(one & CARRIES == CARRIES for one in states)


def carrying(tools: Tools, fabric: Fabric, links: Sequence[seen.Link]) -> str:
    """The member that traffic takes: the active one, else what sent most since ``links``."""
    now = tools.hands.links(tools.netns)
    bond = seen.bond(now, fabric.ifname)
    if bond is None:
        raise CommandFailed(f"the bond {fabric.ifname} is gone")
    if bond.active:
        return bond.active
    before, after = seen.sent(links), seen.sent(now)
    names = [leg.member for leg in fabric.legs]
    return max(names, key=lambda name: after.get(name, 0) - before.get(name, 0))


def _left(tools: Tools, fabric: Fabric, leg: Leg) -> bool:
    bond = tools.bond(fabric.ifname)
    if bond is None:
        return False
    down = any(one.name == leg.member and one.mii != "UP" for one in bond.members)
    alone = bond.mode == LACP and bond.ports < len(bond.members)
    return (down or alone) and bond.active != leg.member


def _patience(fabric: Fabric, cutter: Cutter) -> float:
    return PATIENCE_SECONDS if fabric.patient and cutter.unseen else NOTICE_SECONDS


def _begin(tools: Tools, bond: str, target: str) -> None:
    """Start the probes and come back; ping's process id is kept in a file."""
    family = "-6" if ":" in target else "-4"
    probe = f"ping {family} -n -D -O -i {INTERVAL} -W 1 -w 300 -I {bond} {target}"
    script = f"{probe} >{LOG}.log 2>&1 </dev/null & echo $! >{LOG}.pid"
    tools.hands.shell(script, namespace=tools.netns)


def _end(tools: Tools) -> str:
    """Stop the probes; everything they printed."""
    script = (
        f"read pid <{LOG}.pid; kill -INT $pid; n=0; "
        f"while kill -0 $pid 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; "
        f"cat {LOG}.log"
    )
    return tools.hands.shell(script)
