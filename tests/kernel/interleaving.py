"""Random requests on one node, one or two at a time, some of them killed, and a model of the
result.

The node has four NICs, and three pods that want some of them. The result of a killed request is
read from the disk: a record with a result is a complete attachment and must pass CHECK. A record
without a result is interrupted and must be removed on demand, as must one whose DEL is queued.
After each act every NIC is on the host as it was, or claimed by exactly one record; each lease has
a record; a complete attachment has its bond with its links in it. At the end of a course everything
is taken down: all links are restored, and no lease and no file is left.

A seed determines the course, as far as the timing of the machine allows.
"""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.kernel.conftest import Answer, Document, Node, Space, config, wait_for
from tests.kernel.killing import Child, Seam
from tests.kernel.thick import idle, recovered

NICS = ("eth1", "eth2", "eth3", "eth4")
PODS = (0, 1, 2)
PATIENCE = 15.0
"""Seconds until everything that a killed request started, such as a delegate, has ended."""

VERBS = {"ADD": 8, "DEL": 6, "CHECK": 2, "GC": 2, "recover": 2, "death": 1}
"""The acts, and how often each is drawn."""

CHANGES = (8, 24)
"""Number of changes of a short and of a long request, in events. The place of a kill is drawn from
one of them, and may not be reached.
"""


class Order(NamedTuple):
    """One request of the course, and where it is killed (-1: not killed)."""

    verb: str
    pod: int
    links: tuple[str, ...]
    number: int = -1
    when: str = ""

    def __str__(self) -> str:
        links = f" {','.join(self.links)}" if self.verb == "ADD" else ""
        killed = f" killed {self.when} change {self.number}" if self.number >= 0 else ""
        return f"{self.verb} pod {self.pod}{links}{killed}"


class Held(NamedTuple):
    """What a record says: its links, and whether the attachment is complete."""

    links: frozenset[str]
    result: Document | None
    alive: bool


class Counts:
    """What was done, and what was lost."""

    def __init__(self) -> None:
        self.cycles = self.acts = self.kills = 0
        self.nics = self.leases = self.files = 0

    @property
    def leaks(self) -> int:
        """The number of lost things."""
        return self.nics + self.leases + self.files

    def __str__(self) -> str:
        return (
            f"{self.cycles} cycles, {self.acts} acts, {self.kills} kills, "
            f"leaked NICs: {self.nics}, leaked leases: {self.leases}, leaked files: {self.files}"
        )


class World:
    """The node, its NICs and pods, and what must hold for them."""

    def __init__(self, node: Node, counts: Counts) -> None:
        self.node = node
        self.counts = counts
        self.told: list[str] = []
        self.macs = {nic: f"02:00:00:00:01:0{number}" for number, nic in enumerate(NICS)}
        for nic in NICS:
            self._stock(nic)
        self.pods: list[Space] = [self._pod() for _ in PODS]
        self.start = node.home()

    # The node

    def _stock(self, nic: str) -> None:
        self.node.veth(nic)
        number = NICS.index(nic)
        self.node.space.batch(
            f"link set {nic} address {self.macs[nic]} mtu {1500 + 100 * number} alias nic{number}",
            f"link property add dev {nic} altname alt{number}",
            f"link set {nic} {'up' if number % 2 else 'promisc on'}",
        )

    def _pod(self) -> Space:
        pod = self.node.pod()
        pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "far0")
        return pod

    def held(self) -> dict[int, Held]:
        """The records by pod, as read from the files."""
        found = {}
        for path in self.node.state.glob("*.json"):
            record = json.loads(path.read_text())
            links = frozenset(one["link"]["name"] for one in record["claimed"])
            pod = int(record["container_id"].removeprefix("c"))
            alive = record["netns"] == self.pods[pod].path
            queued = (self.node.state / "queue" / f"c{pod}:bond0.del").exists()
            found[pod] = Held(links, None if queued else record["result"], alive)
        return found

    def whole(self) -> dict[int, Held]:
        """The attachments that only a DEL may take down."""
        return {pod: one for pod, one in self.held().items() if one.result and one.alive}

    # Requests

    def asked(self, order: Order) -> Document:
        """The configuration of a request."""
        whole = config(order.links or NICS, ipam=self.node.host_local())
        if order.verb == "GC":
            del whole["ipam"]
            valid = [{"containerID": f"c{order.pod}", "ifname": "bond0"}]
            return {**whole, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
        if order.verb == "CHECK":
            held = self.held().get(order.pod)
            return {**whole, "prevResult": (held and held.result) or {"cniVersion": "1.0.0"}}
        return whole

    def serve(self, order: Order) -> object:
        """Do one request in this process; the answer as JSON."""
        if order.verb == "recover":
            return [finding._asdict() for finding in recovered(self.node.state)]
        pod, container = self.pods[order.pod], f"c{order.pod}"
        return self.node.cni(order.verb, self.asked(order), pod, container=container)

    def answer(self, order: Order) -> Answer:
        """The answer to a request that is not killed, repeated while the delegate of a killed one
        runs.
        """
        until = time.monotonic() + PATIENCE
        while True:
            answer = self.serve(order)
            assert isinstance(answer, Answer)
            if self.is_due(order, answer) or time.monotonic() > until:
                return answer
            time.sleep(0.1)

    def is_due(self, order: Order, answer: Answer) -> bool:
        """Whether the model expects this answer."""
        whole, code = self.before, answer.document.get("code", 0)
        if order.verb == "ADD":
            taken = set().union(*(one.links for one in whole.values())) & set(order.links)
            return bool(code == 101 if taken or order.pod in whole else code == 0)
        if order.verb == "CHECK":
            return bool(code == 0 if order.pod in whole else code == 105)
        return bool(code == 0)

    # Acts

    def draw(self, dice: random.Random) -> list[Order]:
        """The next act: one request or two at once, some of them killed."""
        orders = [self._order(dice) for _ in range(dice.choice((1, 1, 2)))]
        dead = [order for order in orders if order.verb == "death"]
        return dead[:1] or orders

    def _order(self, dice: random.Random) -> Order:
        """Usually a request with an effect: ADD of free links, DEL of an attachment."""
        verb = dice.choices(list(VERBS), list(VERBS.values()))[0]
        held = self.held()
        free = sorted(set(NICS).difference(*(one.links for one in held.values())))
        pods, nics = sorted(held), list(NICS)
        if verb == "ADD" and len(free) > 1:
            pods, nics = sorted(set(PODS) - set(held)), free
        if dice.random() < 0.25 or not pods:
            pods, nics = list(PODS), list(NICS)
        links = tuple(dice.sample(nics, min(len(nics), dice.choice((2, 2, 3)))))
        order = Order(verb, dice.choice(pods), links)
        if verb in ("CHECK", "death") or dice.random() < 0.4:
            return order
        when = dice.choice(("before", "before", "half", "after", "after"))
        return order._replace(number=dice.randrange(dice.choice(CHANGES)), when=when)

    def act(self, orders: list[Order]) -> None:
        """Do an act and check everything. Raises ``AssertionError`` with the course so far."""
        self.told.append(" | ".join(map(str, orders)))
        self.counts.acts += 1
        self.before = self.whole()
        try:
            if orders[0].verb == "death":
                self.death(orders[0].pod)
            elif len(orders) == 1 and orders[0].number < 0:
                self.alone(orders[0])
            else:
                self.at_once(orders)
            self.look()
        except AssertionError as error:
            course = "\n  ".join(self.told)
            raise AssertionError(f"{error}\nafter:\n  {course}") from error

    def alone(self, order: Order) -> None:
        """One request that is not killed: its answer is known beforehand."""
        if order.verb == "recover":
            self.recover_all()
            assert self.held().keys() == self.before.keys()
            return
        answer = self.answer(order)
        assert self.is_due(order, answer), (order, answer, self.before)
        if order.verb == "ADD" and answer.status == 0:
            assert self.whole()[order.pod].links == set(order.links)
        if order.verb == "DEL":
            assert order.pod not in self.held()

    def at_once(self, orders: list[Order]) -> None:
        """Two requests at once, or one that is killed: the answers vary, the invariants hold."""
        children = [
            Child(partial(self.serve, one), Seam(one.number, one.when, lasting=True))
            for one in orders
        ]
        for child in children:
            self.counts.kills += child.end().killed
        wait_for(idle)  # the executable completes its part after its daemon was killed
        untouched = set(self.before) - {o.pod for o in orders if o.verb == "DEL"}
        assert untouched <= set(self.whole()), "a whole attachment was touched"

    def death(self, pod: int) -> None:
        """The namespace of a pod is deleted, its veths with it; the node gets new ones."""
        self.pods[pod].delete()
        self.pods[pod] = self._pod()
        inside = {name for space in self.pods for name in space.links()}
        for nic in set(NICS) - inside - set(self.node.space.links()):
            far = f"s{self.node.number}{nic}"[:15]
            wait_for(partial(self._no_link, far))
            self._stock(nic)

    def _no_link(self, far: str) -> bool:
        return far not in self.node.switch.links()

    def recover_all(self) -> None:
        """Run recover until no delegate of a killed request holds a lock."""
        until = time.monotonic() + PATIENCE
        while left := [
            one for one in recovered(self.node.state) if one.state != "active" and not one.done
        ]:
            assert time.monotonic() < until, left
            time.sleep(0.1)

    # Invariants

    def look(self) -> None:
        """Check that every NIC, lease and file is accounted for."""
        held, home = self.held(), self.node.home()
        for nic in home.keys() - set(NICS):
            raise AssertionError(f"the node has {nic}")
        pods = [space.links() for space in self.pods]
        for nic in NICS:
            self._look_at(nic, held, home, pods)
        for pod, one in self.whole().items():
            bond = pods[pod].get("bond0")
            assert bond, f"pod {pod} is whole and has no bond"
            inside = {name for name, link in pods[pod].items() if link.get("master") == "bond0"}
            assert inside == one.links, f"pod {pod}: {inside} are in the bond, not {set(one.links)}"
        owners = [path.read_text().split()[0] for path in self.lease_files()]
        assert {f"c{pod}" for pod in self.whole()} <= set(owners), f"leases of {owners}"
        assert set(owners) <= {f"c{pod}" for pod in held}, f"a lease without a record: {owners}"
        assert len(owners) == len(set(owners)), f"two leases: {owners}"

    def _look_at(
        self, nic: str, held: dict[int, Held], home: Document, pods: list[dict[str, Document]]
    ) -> None:
        inside = [pod for pod, links in enumerate(pods) if nic in links]
        claims = [pod for pod, one in held.items() if nic in one.links]
        if nic in home:
            assert not inside
            if not claims:
                assert home[nic] == self.start[nic], f"{nic} is home, and not as it was"
            return
        assert len(inside) == 1, f"{nic} is nowhere"
        assert inside[0] in claims, f"{nic} is in pod {inside[0]}, which has no record of it"

    def lease_files(self) -> list[Path]:
        """The files of host-local, one for each reserved address."""
        files = (self.node.folder / "leases").glob("*/*")
        return [file for file in files if file.name[0].isdigit()]

    def finish(self) -> None:
        """DEL for all, then recover; counts links that are not restored, leases and files that are
        left.
        """
        self.told.append("the end")
        for pod in PODS:
            answer = self.answer(Order("DEL", pod, ()))
            assert answer.status == 0, answer
        self.recover_all()
        home = self.node.home()
        self.counts.cycles += 1
        self.counts.nics += sum(home.get(nic) != self.start[nic] for nic in NICS)
        self.counts.leases += len(self.lease_files())
        files = [path for path in self.node.state.rglob("*") if path.is_file()]
        left = [path.name for path in files if path.name != "lock"]
        self.counts.files += len(left)
        pods = [space.links().keys() - {"lo", "eth0", "far0"} for space in self.pods]
        assert not any(pods), f"the pods have {pods}"
        assert not self.counts.leaks, f"{self.counts}: {home}, {left}\n" + "\n  ".join(self.told)
        self.told.clear()


def course(node: Node, seed: int, acts: int, counts: Counts) -> None:
    """One course from beginning to end. Raises ``AssertionError`` if an invariant is broken."""
    dice = random.Random(seed)  # noqa: S311  not a secret: a course that can be repeated
    world = World(node, counts)
    for _ in range(acts):
        world.act(world.draw(dice))
    world.finish()
