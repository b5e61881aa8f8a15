"""SIGKILL at every step of ADD, DEL, GC and recover: afterwards everything is home.

The places are enumerated by letting each verb run once through the seam of ``killing``. At
each place the process is killed, and then comes what a node sees next: the runtime asks
again, or asks for DEL (twice, as runtimes do), or ``bondctl recover`` runs, or the pod's
namespace dies and recover runs. Then links, addresses, routes, leases, records and files
must equal what was there before, read by ``ip -j -d`` and from the file system.

Three kinds of NICs: veths of the host, veths inside the pod, and hardware (user-mode Linux's
vector NICs) of the guest's first namespace, the only kind that outlives a pod's namespace.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import Document, Node, config, setns, wait_for
from tests.kernel.iron import NICS, IronNode, hardware, have_iron
from tests.kernel.killing import Event, Point, points, run
from tests.kernel.thick import idle, recovered

from bondcni.service.journal import Journal, Record

VERBS = ("ADD", "DEL", "GC", "recover")
WHOLE = bool(os.environ.get("BONDCNI_CRASH_WHOLE"))
"""Whether everything that may come next is tried at each place: four times as long."""

PATIENCE = 20.0
"""Seconds for what a killed process left running (a delegate, a dying namespace) to end."""

TRIED: list[tuple[str, bool]] = []
"""Each kill point that was tried, by verb and kind, and whether everything came home."""


class Scene:
    """A node with a pod and two NICs to bond, which can be killed again and again."""

    kind = ""
    ahead = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = self.make_node()
        setns(self.node.space.path)
        self.node.delegate("agrees", "exit 0")
        self.populate()
        self.pod = self.node.pod()
        self.fill_pod()
        self.before = self.state()

    def make_node(self) -> Node:
        return Node(self.folder)

    def populate(self) -> None:
        """The NICs of the host, each with something about it that must come back."""

    def fill_pod(self) -> None:
        self.pod.batch("link add eth0 type veth peer name far0", "link set far0 up")

    def asked(self) -> Document:
        raise NotImplementedError

    def close(self) -> None:
        self.node.delete()

    # What is there

    def state(self) -> Document:
        """All that must be as it was."""
        pods = [self.pod] if self.pod in self.node.spaces else []
        return {**self.node.everything(*pods), "files": self.files()}

    def files(self) -> list[str]:
        """Of state folder and delegate; the lock file, which is always there, aside."""
        found = [p for p in self.folder.rglob("*") if p.is_file() and p.name != "lock"]
        return sorted(p.name for p in found if not p.name.startswith("last_reserved_ip"))

    def record(self) -> Record | None:
        return Journal(str(self.node.state)).read("c1", "bond0", print)

    # What is done

    def cni(self, verb: str) -> Document:
        """One request that must go well."""
        return self.node.cni(verb, self.configured(verb), self.pod).ok()

    def configured(self, verb: str) -> Document:
        if verb == "GC":
            document = {**self.asked(), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
            return {**document, "ipam": {"type": "agrees"}}
        record = self.record()
        return {**self.asked(), **({"prevResult": record.result} if record else {})}

    def recover(self) -> list[Document]:
        """One run of recover; its findings."""
        return [finding._asdict() for finding in recovered(self.node.state)]

    def recover_all(self) -> None:
        """Recover until nothing is left that a killed process's delegate still holds."""
        until = time.monotonic() + PATIENCE
        while left := [
            one for one in self.recover() if one["state"] != "active" and not one["done"]
        ]:
            assert time.monotonic() < until, left
            time.sleep(0.05)

    def work(self, verb: str) -> object:
        """What is killed. A DEL or GC that failed must not look like one that did its work."""
        return self.recover() if verb == "recover" else self.cni(verb)

    def prepare(self, verb: str) -> None:
        """What the verb finds: a complete attachment, or one that was cut off at the end."""
        if verb == "ADD":
            return
        self.cni("ADD")
        if verb != "DEL":
            self.cut_off()

    def cut_off(self) -> None:
        record = self.record()
        assert record
        Journal(str(self.node.state)).complete(record._replace(result=None))

    def check(self) -> None:
        """A complete attachment is one that CHECK finds in order. Of the delegate's own CHECK
        the lease tells as much, in a tenth of the time.
        """
        asked = {k: v for k, v in self.configured("CHECK").items() if k != "ipam"}
        self.node.cni("CHECK", asked, self.pod).ok()
        assert len(self.node.leases()) == 1

    # What comes next

    def again(self, verb: str) -> None:
        """The runtime, or the operator, asks the same again; recover's next is an ADD."""
        if verb in ("DEL", "GC"):
            self.cni(verb)
            self.finish_live()
            return
        record = self.record()
        if record and record.result:
            assert "already" in self.node.cni("ADD", self.asked(), self.pod).failed(101)
            self.check()
            self.cni("DEL")
        self.cni("ADD")
        self.check()
        self.cni("DEL")

    def delete(self, _verb: str) -> None:
        self.cni("DEL")
        self.cni("DEL")

    def recovery(self, _verb: str) -> None:
        self.recover_all()
        self.finish_live()

    def finish_live(self) -> None:
        """What recovery and GC let be is whole, and none of their business."""
        if self.record():
            self.check()
            self.cni("DEL")

    def death(self, _verb: str) -> None:
        """The pod's namespace dies; a new pod stands in its place for the next try."""
        self.pod.delete()
        self.node.spaces.remove(self.pod)
        self.recover_all()
        self.home()
        self.pod = self.node.pod()
        self.fill_pod()
        self.before = self.state()

    def home(self) -> None:
        """Everything is as it was; of the pod only while it lives."""
        before, now = self.before, self.state()
        if self.pod not in self.node.spaces:
            before = {k: v for k, v in before.items() if not k.startswith(self.pod.name + ".")}
        names = sorted({*before, *now})
        differ = [
            f"{n}: {before.get(n)} -> {now.get(n)}" for n in names if before.get(n) != now.get(n)
        ]
        assert not differ, "; ".join(differ)

    def through(self, verb: str) -> list[Event]:
        """The events of one that nobody kills."""
        self.prepare(verb)
        ended = run(lambda: self.work(verb))
        assert not ended.killed
        AFTER[type(self)][0](self, verb)
        self.home()
        return ended.events


class HostScene(Scene):
    """Veths of the host. They die with a namespace, so of its death the hardware tells."""

    kind = "host"

    def populate(self) -> None:
        self.node.veth("eth1")
        self.node.veth("eth2")
        self.node.space.batch(
            "link set eth1 up txqueuelen 500 alias uplink mtu 1700",
            "link property add dev eth1 altname enp9s0 altname wan",
            "link set eth2 mtu 4000 address 02:00:00:00:00:22 promisc on",
            "address add 169.254.7.7/16 dev eth1 scope link",
            "route add 198.51.100.0/24 via 169.254.7.1 dev eth1",
        )

    def asked(self) -> Document:
        links: list[str | Document] = [{"name": "eth1", "queueId": 1}, {"name": "eth2"}]
        ipam = self.node.host_local(routes=[{"dst": "0.0.0.0/0"}])
        return config(links, ifname="fast0", primary="eth2", ipam=ipam)


class PodScene(Scene):
    """Veths inside the pod."""

    kind = "pod"
    ahead = 2

    def fill_pod(self) -> None:
        self.pod.batch(
            "link add eth1 type veth peer name far1",
            "link add eth2 address 02:00:00:00:00:22 mtu 4000 type veth peer name far2",
            "link set far1 up",
            "link set far2 up",
            "link set eth1 up alias uplink mtu 1700",
            "link set eth2 txqueuelen 7 allmulticast on",
            "link property add dev eth2 altname enp9s0",
        )

    def asked(self) -> Document:
        ipam = self.node.host_local(routes=[{"dst": "192.0.2.0/24"}])
        return config(["eth1", "eth2"], linksInContainer=True, ipam=ipam)


class IronScene(Scene):
    """Hardware in the namespace it returns to, where the kernel lets it."""

    kind = "iron"

    def make_node(self) -> Node:
        return IronNode(self.folder)

    def populate(self) -> None:
        first, second = NICS
        self.node.space.batch(
            f"link set {first} up txqueuelen 500 alias uplink",
            f"link property add dev {first} altname enp9s0",
            f"route add 198.51.100.0/24 dev {first} metric 7",
            f"link set {second} mtu 1400 address 02:00:00:00:00:22 promisc on",
        )

    def asked(self) -> Document:
        return config(list(NICS), mtu=1300, ipam=self.node.host_local())

    def state(self) -> Document:
        """But for the ifindex, which the kernel gives anew where it was taken in the pod, and
        which nobody can change.
        """
        return {key: value for key, value in super().state().items() if "ifindex" not in key}

    def prepare(self, verb: str) -> None:
        """What GC and recover are for: the namespace is gone, the NICs are anyhow."""
        super().prepare(verb)
        if verb in ("GC", "recover"):
            self.pod.delete()
            wait_for(lambda: len(hardware()) == len(NICS))

    def death(self, verb: str) -> None:
        if verb == "GC":
            self.cni("GC")
        super().death(verb)


Next = Callable[[Any, str], None]
AFTER: dict[type[Scene], tuple[Next, ...]] = {
    HostScene: (Scene.again, Scene.delete, Scene.recovery),
    PodScene: (Scene.again, Scene.delete, Scene.recovery, Scene.death),
    IronScene: (IronScene.death,),
}


class Stage:
    """Scenes of one kind: a new one is set up where a failure left the last in ruins."""

    def __init__(self, kind: type[Scene], folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.numbers = itertools.count()
        self.scene = self.fresh()

    def fresh(self) -> Scene:
        folder = self.folder / str(next(self.numbers))
        folder.mkdir()
        return self.kind(folder)

    def close(self) -> None:
        setns("/proc/1/ns/net")
        self.scene.close()

    def try_all(self, verb: str) -> list[str]:
        """Each place with one of what may come next, or with all; the failures."""
        places = points(self.scene.through(verb))
        print(f"{verb}, {self.kind.kind}: {len(places)} places to die")
        chosen = list(self.chosen(places))
        return [failure for point, then in chosen if (failure := self.attempt(verb, point, then))]

    def chosen(self, places: list[Point]) -> Iterator[tuple[Point, Next]]:
        """By turns within each kind of event, and at the pod's links two turns ahead.

        So between the two kinds of links each verb meets all four at each kind of event, and
        each step two of them.
        """
        nexts = AFTER[self.kind]
        turns = Counter[str]()
        for point in places:
            first = turns[point.event.kind] + self.kind.ahead
            turns[point.event.kind] += 1
            for turn in range(first, first + (len(nexts) if WHOLE else 1)):
                yield point, nexts[turn % len(nexts)]

    def attempt(self, verb: str, point: Point, then: Next) -> str:
        """Kill at one place and look at what comes of it; the failure in words, or ""."""
        failure = ""
        try:
            self.scene.prepare(verb)
            ended = run(lambda: self.scene.work(verb), point.number, point.when)
            assert ended.killed, "it never came there"
            wait_for(idle)  # the executable of a daemon that was killed does what is left to do
            then(self.scene, verb)
            self.scene.home()
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failure = f"{verb} {self.kind.kind} killed {point}, then {then.__name__}: {error}"
            print(failure)
            self.close()
            self.scene = self.fresh()
        TRIED.append((f"{self.kind.kind} {verb}", not failure))
        return failure


@pytest.fixture(scope="module", autouse=True)
def summary(request: pytest.FixtureRequest) -> Iterator[None]:
    """One line at the end of the run."""
    yield
    request.config.pluginmanager.register(Summary())


class Summary:
    """How many were killed, and how many came home."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        home = sum(ok for _, ok in TRIED)
        terminalreporter.write_line(
            f"kill points: {len(TRIED)} tried, {home} ended with everything home"
        )


@pytest.fixture(params=AFTER, ids=lambda kind: str(kind.kind))
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param is IronScene and not have_iron():
        pytest.skip(f"the guest has no NICs {' and '.join(NICS)} (open_guest(nics=...))")
    made = Stage(request.param, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_every_step(stage: Stage, verb: str) -> None:
    failures = stage.try_all(verb)
    assert not failures, f"{len(failures)} failed\n" + "\n".join(failures)
