"""SIGKILL at every step of ADD, DEL, GC and recover: afterwards everything is restored.

The places are enumerated by running each verb once through ``killing``. At each place the process
is killed, and then one of these follows: the runtime repeats the request, or calls DEL (twice, as
runtimes do), or ``bondctl recover`` runs, or the pod's namespace is deleted and recover runs. Then
links, addresses, routes, leases, records and files must be what they were, read with ``ip -j -d``
and from the file system.

There are three kinds of NICs: veths of the host, veths in the pod, and hardware (vector NICs of
user-mode Linux) of the guest's first namespace, the only kind that survives its namespace.
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
"""Whether every continuation is tried at each place: this takes four times as long."""

PATIENCE = 20.0
"""Seconds until what a killed process left (a delegate, a namespace that is being deleted) has
ended.
"""

TRIED: list[tuple[str, bool]] = []
"""Each point that was tried, by verb and kind, and whether everything was restored."""


class Scene:
    """A node with a pod and two NICs to bond, in which requests can be killed again and again."""

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
        """The NICs of the host, each with some attribute that must be restored."""

    def fill_pod(self) -> None:
        self.pod.batch("link add eth0 type veth peer name far0", "link set far0 up")

    def asked(self) -> Document:
        raise NotImplementedError

    def close(self) -> None:
        self.node.delete()

    # State

    def state(self) -> Document:
        """What must be as it was."""
        pods = [self.pod] if self.pod in self.node.spaces else []
        return {**self.node.everything(*pods), "files": self.files()}

    def files(self) -> list[str]:
        """The files of state directory and delegate, without the lock file, which always exists."""
        found = [p for p in self.folder.rglob("*") if p.is_file() and p.name != "lock"]
        return sorted(p.name for p in found if not p.name.startswith("last_reserved_ip"))

    def record(self) -> Record | None:
        return Journal(str(self.node.state)).read("c1", "bond0", print)

    # Requests

    def cni(self, verb: str) -> Document:
        """One request that must succeed."""
        return self.node.cni(verb, self.configured(verb), self.pod).ok()

    def configured(self, verb: str) -> Document:
        if verb == "GC":
            document = {**self.asked(), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
            return {**document, "ipam": {"type": "agrees"}}
        record = self.record()
        return {**self.asked(), **({"prevResult": record.result} if record else {})}

    def recover(self) -> list[Document]:
        """One run of recover; what it reports."""
        return [finding._asdict() for finding in recovered(self.node.state)]

    def recover_all(self) -> None:
        """Run recover until the delegate of a killed process holds nothing."""
        until = time.monotonic() + PATIENCE
        while left := [
            one for one in self.recover() if one["state"] != "active" and not one["done"]
        ]:
            assert time.monotonic() < until, left
            time.sleep(0.05)

    def work(self, verb: str) -> object:
        """The request to kill. A DEL or GC that failed must not look like one that succeeded."""
        return self.recover() if verb == "recover" else self.cni(verb)

    def prepare(self, verb: str) -> None:
        """What the verb finds: a complete attachment, or one that was interrupted at the end."""
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
        """CHECK of a complete attachment must succeed. The lease replaces the delegate's CHECK, in
        a tenth of the time.
        """
        asked = {k: v for k, v in self.configured("CHECK").items() if k != "ipam"}
        self.node.cni("CHECK", asked, self.pod).ok()
        assert len(self.node.leases()) == 1

    # Continuations

    def again(self, verb: str) -> None:
        """The runtime or the operator repeats the request; after recover comes an ADD."""
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
        """An attachment that recovery and GC left unchanged is complete, and taken down by DEL."""
        if self.record():
            self.check()
            self.cni("DEL")

    def death(self, _verb: str) -> None:
        """The pod's namespace is deleted; a new pod is made for the next attempt."""
        self.pod.delete()
        self.node.spaces.remove(self.pod)
        self.recover_all()
        self.home()
        self.pod = self.node.pod()
        self.fill_pod()
        self.before = self.state()

    def home(self) -> None:
        """Everything is as it was; the pod's part only while the pod exists."""
        before, now = self.before, self.state()
        if self.pod not in self.node.spaces:
            before = {k: v for k, v in before.items() if not k.startswith(self.pod.name + ".")}
        names = sorted({*before, *now})
        differ = [
            f"{n}: {before.get(n)} -> {now.get(n)}" for n in names if before.get(n) != now.get(n)
        ]
        assert not differ, "; ".join(differ)

    def through(self, verb: str) -> list[Event]:
        """The events of a request that is not killed."""
        self.prepare(verb)
        ended = run(lambda: self.work(verb))
        assert not ended.killed
        AFTER[type(self)][0](self, verb)
        self.home()
        return ended.events


class HostScene(Scene):
    """Veths of the host. They are destroyed with their namespace, so hardware shows what happens
    then.
    """

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
    """Veths in the pod."""

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
    """Hardware, in the namespace to which the kernel returns it."""

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
        """Without the ifindex: the kernel assigns a new one if the old one was used in the pod, and
        it cannot be changed.
        """
        return {key: value for key, value in super().state().items() if "ifindex" not in key}

    def prepare(self, verb: str) -> None:
        """The case for GC and recover: the namespace is gone, the NICs are on the host in some
        state.
        """
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
    """Scenes of one kind: a new one is made after a failure."""

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
        """Each place with one continuation, or with all of them; the failures."""
        places = points(self.scene.through(verb))
        print(f"{verb}, {self.kind.kind}: {len(places)} places to die")
        chosen = list(self.chosen(places))
        return [failure for point, then in chosen if (failure := self.attempt(verb, point, then))]

    def chosen(self, places: list[Point]) -> Iterator[tuple[Point, Next]]:
        """The continuation: they take turns within each kind of event, and for the pod's links
        start two later.

        So the two kinds of links together try all four continuations at each kind of event, and two
        at each step.
        """
        nexts = AFTER[self.kind]
        turns = Counter[str]()
        for point in places:
            first = turns[point.event.kind] + self.kind.ahead
            turns[point.event.kind] += 1
            for turn in range(first, first + (len(nexts) if WHOLE else 1)):
                yield point, nexts[turn % len(nexts)]

    def attempt(self, verb: str, point: Point, then: Next) -> str:
        """Kill at one place and check the result; the failure as text, or ""."""
        failure = ""
        try:
            self.scene.prepare(verb)
            ended = run(lambda: self.scene.work(verb), point.number, point.when)
            assert ended.killed, "it never came there"
            wait_for(idle)  # the executable completes its part after its daemon was killed
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
    """How many were killed, and after how many everything was restored."""

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
