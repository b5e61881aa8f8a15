"""Faults of thick mode only: of the caller, of the daemon, and of the connection between them.

The executable is killed by its process ID, the daemon is ended or killed, pods are deleted.
Afterwards every link is restored, every lease released, and no record, queued DEL or process is
left. The state of kernel and files is read with ``ip -j -d`` and from the file system.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import (
    DELEGATES,
    LIBC,
    MNT_DETACH,
    Answer,
    Document,
    Node,
    Space,
    answer,
    config,
    here,
    thick_only,
    wait_for,
)
from tests.kernel.iron import NICS, IronNode, hardware, have_iron
from tests.kernel.thick import USER, Server, Thick, Way, ended, idle, recovered

from bondcni.daemon.connection import SEND_SECONDS, Connection
from bondcni.daemon.protocol import Field, Type
from bondcni.service.attachment import attachment_key
from bondcni.service.delegate import LIMIT
from bondcni.service.locks import hold
from bondcni.service.timeouts import Timeouts

pytestmark = thick_only("caller and daemon are two processes")

TRY_AGAIN, REFUSED, DELEGATE = 11, 101, 104
LINKS = ("eth1", "eth2")
ADDRESS = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.3/24"}]}'
SOON = 2.0
"""Seconds within which an idle or killed daemon must not delay a request."""

Shim = subprocess.Popen[bytes]


@pytest.fixture
def before(node: Node, pod: Space) -> Iterator[Document]:
    """What must be the same at the end, read by the test; processes and queue are checked by this
    fixture.
    """
    for link in LINKS:
        node.veth(link)
    node.space.batch(
        "link set eth1 up txqueuelen 500 alias uplink mtu 1700 allmulticast on",
        "link property add dev eth1 altname wan",
        "link set eth2 mtu 4000 address 02:00:00:00:00:22 promisc on",
    )
    yield node.everything(pod)
    wait_for(idle)
    assert not left(node)


def left(node: Node) -> set[str]:
    """Every file of the state directory but the lock file and the note of a failed ADD."""
    files = (path for path in node.state.rglob("*") if path.is_file() or path.is_symlink())
    kept = (path for path in files if path.suffix != ".refused")
    return {str(path.relative_to(node.state)) for path in kept} - {"lock"}


def only(state: Document, *starts: str, without: str = "\0") -> Document:
    """The part of ``everything`` whose keys begin with this."""
    return {k: v for k, v in state.items() if k.startswith(starts) and without not in k}


def ask(node: Node, command: str, asked: Document, pod: Space | None, **named: Any) -> Shim:
    """A request that runs while the test does something else."""
    return node.daemon().start(*node.request(command, asked, pod, **named))


def told(shim: Shim, seconds: float = 30.0) -> Answer:
    return answer(*ended(shim, seconds))


def kill(shim: Shim) -> None:
    shim.kill()
    ended(shim)


def somebody_else(node: Node) -> Answer:
    """The next request, of another container."""
    asked = config(LINKS, cniVersion="1.1.0")
    said = node.cni("STATUS", asked, container="c2")
    said.ok()
    return said


def resting(node: Node) -> bool:
    """Whether the daemon in this process has no request left."""
    daemon = node.daemon()
    assert isinstance(daemon, Thick)
    return not daemon.at_work()


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Slow:
    """host-local behind a script that waits at one verb, after the address was reserved or
    released.
    """

    def __init__(self, node: Node, at: str = "ADD") -> None:
        self.folder = node.folder
        self.ipam = {**node.host_local(), "type": "slow"}
        real = shutil.which("host-local", path=DELEGATES)
        wait = "echo $$ > $0.tmp; mv $0.tmp $0.pid; while [ ! -e $0.go ]; do sleep 0.05; done"
        node.delegate(
            "slow",
            f'{real} > "$0.$$" || exit 9\n[ $CNI_COMMAND = {at} ] && {{ {wait}; }}\n'
            'cat "$0.$$"; rm -f "$0.$$"',
        )

    def asked(self, **extra: Any) -> Document:
        return config(LINKS, ipam=self.ipam, **extra)

    def pid(self) -> int:
        """Its process, once it waits."""
        wait_for((self.folder / "slow.pid").exists)
        return int((self.folder / "slow.pid").read_text())

    def go(self) -> None:
        (self.folder / "slow.go").touch()


# The caller goes away


def test_caller_killed_while_its_delegate_runs(node: Node, pod: Space, before: Document) -> None:
    """Links are restored at once; the lease, which needs an executable, is released at the next
    request.
    """
    slow = Slow(node)
    shim = ask(node, "ADD", slow.asked(), pod)
    pid = slow.pid()
    assert node.leases()
    kill(shim)
    wait_for(lambda: gone(pid), SOON)
    wait_for(lambda: resting(node), SOON)
    assert only(node.everything(pod), node.space.name, pod.name) == only(
        before, node.space.name, pod.name
    )
    somebody_else(node)
    assert node.everything(pod) == before


def test_caller_of_del_killed_while_its_delegate_runs(
    node: Node, pod: Space, before: Document
) -> None:
    slow = Slow(node, "DEL")
    node.cni("ADD", slow.asked(), pod).ok()
    shim = ask(node, "DEL", slow.asked(), pod)
    pid = slow.pid()
    kill(shim)
    wait_for(lambda: gone(pid), SOON)
    wait_for(lambda: resting(node), SOON)
    slow.go()
    somebody_else(node)
    assert node.everything(pod) == before


@pytest.mark.parametrize("leased", [False, True], ids=["no ipam", "ipam"])
def test_caller_killed_while_the_daemon_waits_for_a_lock(
    node: Node, pod: Space, before: Document, *, leased: bool
) -> None:
    asked = config(LINKS, ipam=node.host_local() if leased else None)
    node.daemon()
    with hold(str(node.state), [attachment_key("c1", "bond0")], 30):
        shim = ask(node, "ADD", asked, pod)
        time.sleep(0.3)
        assert not resting(node)
        kill(shim)
    wait_for(lambda: resting(node), SOON)
    assert only(node.everything(pod), node.space.name, pod.name) == only(
        before, node.space.name, pod.name
    )
    somebody_else(node)
    assert node.everything(pod) == before


@contextmanager
def before_answer(patch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The daemon delays its answers until the context ends."""
    real, reached, go = Connection.send, threading.Event(), threading.Event()

    def send(
        self: Connection, kind: int, fields: list[Field], seconds: float = SEND_SECONDS
    ) -> None:
        if kind == Type.ANSWER:
            reached.set()
            assert go.wait(20)
        real(self, kind, fields, seconds)

    patch.setattr(Connection, "send", send)
    try:
        yield reached
    finally:
        go.set()


@pytest.mark.parametrize("leased", [False, True], ids=["no ipam", "ipam"])
@pytest.mark.parametrize("dead", [False, True], ids=["pod lives", "pod dies"])
def test_caller_killed_before_the_answer(
    node: Node, before: Document, monkeypatch: pytest.MonkeyPatch, *, leased: bool, dead: bool
) -> None:
    """Everything is done, but the runtime gets no answer: for the runtime this ADD failed."""
    pod = node.pod()
    now = node.everything(pod)
    asked = config(LINKS, ipam=node.host_local() if leased else None)
    with before_answer(monkeypatch) as reached:
        shim = ask(node, "ADD", asked, pod)
        assert reached.wait(10)
        assert pod.members("bond0") == set(LINKS)
        kill(shim)
        if dead:
            pod.delete()
    wait_for(lambda: resting(node), SOON)
    pods = () if dead else (pod,)
    wanted = only(now, *(space.name for space in (node.space, *pods)))
    assert only(node.everything(*pods), *(s.name for s in (node.space, *pods))) == wanted
    somebody_else(node)
    assert node.everything(*pods) == {**wanted, "leases": set(), "records": set()}
    assert node.everything().items() <= before.items()


def test_caller_killed_before_it_hears_a_refusal(
    node: Node, pod: Space, before: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second ADD whose caller goes away: the active attachment is not changed."""
    asked = config(LINKS, ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    now = node.everything(pod)
    with before_answer(monkeypatch) as reached:
        shim = ask(node, "ADD", asked, pod)
        assert reached.wait(10)
        kill(shim)
    wait_for(lambda: resting(node), SOON)
    somebody_else(node)
    assert node.everything(pod) == now
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def test_caller_killed_while_it_helps_another(node: Node, pod: Space, before: Document) -> None:
    """It runs the delegate of a deletion that was queued: that one is tried again."""
    node.timeouts = Timeouts(cleanup_retry=0.0)
    slow = Slow(node, "DEL")
    node.cni("ADD", slow.asked(), pod).ok()
    node.daemon().end()
    node.cni("DEL", slow.asked(), pod).ok()
    node.end_daemon()
    other = node.pod()
    for link in ("eth3", "eth4"):
        node.veth(link)
    now = node.space.everything()
    shim = ask(node, "ADD", config(["eth3", "eth4"]), other, container="c2")
    pid = slow.pid()
    kill(shim)
    wait_for(lambda: gone(pid), SOON)
    wait_for(lambda: resting(node), SOON)
    assert node.records() == {"c1:bond0.json"}
    slow.go()
    somebody_else(node)
    assert not node.records()
    assert other.links().keys() == {"lo"}
    assert {"eth3", "eth4", *LINKS} <= node.space.links().keys()
    assert only(node.everything(pod), node.space.name + ".links.eth1", pod.name) == only(
        before, node.space.name + ".links.eth1", pod.name
    )
    assert now["links"]["eth3"] == node.space.everything()["links"]["eth3"]
    assert not node.leases()


# The daemon goes away


def test_daemon_killed_while_a_delegate_runs(node: Node, pod: Space, before: Document) -> None:
    slow = Slow(node)
    node.way = Server
    server = node.daemon()
    assert isinstance(server, Server)
    shim = ask(node, "ADD", slow.asked(), pod)
    pid = slow.pid()
    server.kill()
    said = told(shim, SOON).failed(TRY_AGAIN)
    assert "connection closed before the answer" in said
    wait_for(lambda: gone(pid), SOON)
    assert left(node) == {"c1:bond0.json"}
    node.end_daemon()
    node.way = Thick
    slow.go()
    node.cni("ADD", slow.asked(), pod).ok()
    assert pod.members("bond0") == set(LINKS)
    assert len(node.leases()) == 1
    node.cni("DEL", slow.asked(), pod).ok()
    assert node.everything(pod) == before


def test_daemon_killed_while_a_delegate_of_del_runs(
    node: Node, pod: Space, before: Document
) -> None:
    """DEL is queued and succeeds; its links are on the host, although no daemon runs."""
    slow = Slow(node, "DEL")
    node.way = Server
    node.cni("ADD", slow.asked(), pod).ok()
    server = node.daemon()
    assert isinstance(server, Server)
    shim = ask(node, "DEL", slow.asked(), pod)
    pid = slow.pid()
    server.kill()
    said = told(shim, SOON)
    said.ok()
    assert "DEL is queued" in said.stderr
    wait_for(lambda: gone(pid), SOON)
    assert set(LINKS) <= node.space.links().keys()
    node.end_daemon()
    node.way = Thick
    slow.go()
    somebody_else(node)
    assert node.everything(pod) == before


# Emergency return


def thief_of_name(node: Node, _before: Document) -> None:
    node.space.ip("link", "add", "eth1", "type", "dummy")


def no_thief(_node: Node, _before: Document) -> None:
    """No other process interferes."""


def thief_of_altname(node: Node, _before: Document) -> None:
    node.space.batch("link add stranger type dummy", "link property add dev stranger altname wan")


def thief_of_ifindex(node: Node, before: Document) -> None:
    index = before[f"{node.space.name}.links.eth1.ifindex"]
    node.space.ip("link", "add", "stranger", "index", str(index), "type", "dummy")


THEFTS: dict[str, tuple[Callable[[Node, Document], None], str]] = {
    "nobody": (no_thief, ""),
    "ifindex": (thief_of_ifindex, "stranger"),
    "name": (thief_of_name, "eth1"),
    "altname": (thief_of_altname, "stranger"),
}


def alone(node: Node, mac: str) -> str:
    """Name of the one NIC with this MAC."""
    (found,) = (name for name, link in node.space.links().items() if link["address"] == mac)
    return found


def alike(node: Node, mac: str) -> Document:
    """The NIC with this MAC, without attributes that another link can take from it."""
    found = node.space.link(alone(node, mac))
    taken = ("ifindex", "ifname", "altnames", "operstate", "qdisc", "flags")
    return {
        **{key: value for key, value in found.items() if key not in taken},
        "flags": sorted(set(found["flags"]) - {"NO-CARRIER", "LOWER_UP"}),
    }


@pytest.mark.parametrize("who", THEFTS)
def test_emergency_return(node: Node, before: Document, who: str) -> None:
    """DEL while no daemon runs, then the end of the pod, which would destroy virtual links."""
    steal, name = THEFTS[who]
    pod, asked = node.pod(), config(LINKS, ipam=node.host_local())
    links = node.space.links()
    macs = [links[link]["address"] for link in LINKS]
    were = [alike(node, mac) for mac in macs]
    node.cni("ADD", asked, pod).ok()
    node.daemon().end()
    steal(node, before)
    said = node.cni("DEL", asked, pod)
    said.ok()
    assert "DEL is queued" in said.stderr
    assert left(node) == {"c1:bond0.json", "queue/c1:bond0.del"}
    assert (node.state / "queue" / "c1:bond0.del").stat().st_uid == USER
    assert set(macs) <= {link["address"] for link in node.space.links().values()}
    pod.delete()
    node.end_daemon()
    somebody_else(node)
    assert [alike(node, mac) for mac in macs] == were
    if who == "nobody":
        assert node.everything() == only(before, node.space.name, "leases", "records")
    else:
        owner = name if who == "altname" else alone(node, macs[0])
        assert node.space.link(name)["linkinfo"]["info_kind"] == "dummy"
        assert node.space.link(owner)["altnames"] == ["wan"]
        assert not node.leases()


def test_emergency_return_for_links_of_the_pod(node: Node, pod: Space, before: Document) -> None:
    """They stay in the pod, and leave the bond as soon as a daemon runs."""
    for number in (1, 2):
        pod.batch(
            f"link add eth{number} mtu 190{number} type veth peer name far{number}",
            f"link set eth{number} alias nic{number} {'up' if number == 1 else 'promisc on'}",
        )
    now = node.everything(pod)
    asked = config(LINKS, linksInContainer=True, ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    node.daemon().end()
    node.cni("DEL", asked, pod).ok()
    assert left(node) == {"c1:bond0.json", "queue/c1:bond0.del"}
    node.end_daemon()
    somebody_else(node)
    assert node.everything(pod) == now
    assert node.everything() == only(before, node.space.name, "leases", "records")


def test_next_add_of_the_same_comes_after_its_queued_del(
    node: Node, pod: Space, before: Document
) -> None:
    """A queued DEL must not take down what was added after it."""
    asked = config(LINKS, ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    node.daemon().end()
    node.cni("DEL", asked, pod).ok()
    node.end_daemon()
    node.cni("ADD", asked, pod).ok()
    assert pod.members("bond0") == set(LINKS)
    assert len(node.leases()) == 1
    assert left(node) == {"c1:bond0.json"}
    somebody_else(node)
    assert pod.members("bond0") == set(LINKS)
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def test_queued_deletion_comes_before_an_add_of_its_links(
    node: Node, pod: Space, before: Document
) -> None:
    """The emergency return sends links home as they are. Who takes them next takes them as they were."""
    node.timeouts = Timeouts(cleanup=0.0)  # as where many others are queued
    other = node.pod()
    asked = config(LINKS, mtu=1400, ipam=node.host_local())
    node.cni("ADD", asked, pod).ok()
    node.daemon().end()
    node.cni("DEL", asked, pod).ok()
    node.end_daemon()
    node.cni("ADD", asked, other, container="c2").ok()
    assert other.members("bond0") == set(LINKS)
    node.cni("DEL", asked, other, container="c2").ok()
    assert node.everything(pod) == before


def test_queued_deletion_that_fails_holds_up_the_next_add(
    node: Node, pod: Space, before: Document
) -> None:
    """Done later it would take down what that ADD has made."""
    node.timeouts = Timeouts(cleanup_retry=0.0)
    node.delegate("moody", f"[ $CNI_COMMAND = DEL ] && exit 1; echo '{ADDRESS}'")
    asked = config(LINKS, ipam={"type": "moody"})
    node.daemon().end()
    node.cni("DEL", asked, pod).ok()
    node.end_daemon()
    assert "queued" in node.cni("ADD", asked, pod).failed(TRY_AGAIN)
    assert node.everything(pod) == before
    node.delegate("moody", f"[ $CNI_COMMAND = DEL ] || echo '{ADDRESS}'")
    node.cni("ADD", asked, pod).ok()
    somebody_else(node)
    assert pod.addresses("bond0") == {"10.1.0.3/24"}
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


# Restarts


class Storm:
    """Pods start and end while the daemon does, two of them for each pair of NICs."""

    pairs = 12

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pods = [node.pod() for _ in range(2 * self.pairs)]
        for number in range(2 * self.pairs):
            node.veth(f"nic{number}")
            node.space.batch(
                f"link set nic{number} mtu {1500 + number} {'up' if number % 3 else 'promisc on'}",
                f"link property add dev nic{number} altname alt{number}",
            )
        self.start = node.everything(*self.pods)
        self.policy = str(node.folder / "no-policy.yaml")
        self.way = Way(node.folder, node.state, self.policy)
        self.codes: list[int] = []

    def ask(self, verb: str, number: int) -> Answer:
        pair = number % self.pairs
        asked = config([f"nic{pair}", f"nic{pair + self.pairs}"], ipam=self.node.host_local())
        request = self.node.request(verb, asked, self.pods[number], container=f"c{number}")
        return answer(*self.way.call(*request))

    def come_and_go(self, share: list[int]) -> None:
        for number in share:
            for _ in range(1 + number % 8):
                added = self.ask("ADD", number)
                self.codes.append(added.document.get("code", 0))
                assert self.codes[-1] in (0, TRY_AGAIN, REFUSED), added
                if self.codes[-1] == 0:
                    break
                time.sleep(0.1)
            for _ in range(1 + number % 2):  # as runtimes do
                deleted = self.ask("DEL", number)
                assert deleted.status == 0, deleted
            time.sleep(0.05)

    def rage(self) -> None:
        """Four threads of pods; the daemon is ended repeatedly, and killed every third time."""
        with ThreadPoolExecutor(max_workers=4) as threads:
            work = [
                threads.submit(self.come_and_go, list(range(first, 2 * self.pairs, 4)))
                for first in range(4)
            ]
            for kind in itertools.cycle((Thick, Server, Thick)):
                daemon = kind(self.node.folder, self.node.state, self.policy)
                time.sleep(0.5)
                if isinstance(daemon, Server):
                    daemon.kill()
                daemon.end()
                if all(one.done() for one in work):
                    break
            for one in work:
                one.result(1)


def test_storm_of_requests_under_restarts(node: Node) -> None:
    """Every DEL succeeds, and after one more request nothing of them is left."""
    storm = Storm(node)
    storm.rage()
    assert storm.codes.count(0), storm.codes
    wait_for(idle)
    somebody_else(node)
    assert all(one.done for one in recovered(node.state))
    assert node.everything(*storm.pods) == storm.start
    assert not left(node)


# Two executables for one container


@pytest.mark.parametrize(
    ("first", "second"), [("ADD", "ADD"), ("ADD", "DEL"), ("DEL", "DEL"), ("DEL", "ADD")]
)
def test_two_at_once_for_one_container(
    node: Node, pod: Space, before: Document, first: str, second: str
) -> None:
    """They are done one after the other, never mixed."""
    asked = config(LINKS, ipam=node.host_local())
    for _ in range(3):
        if first == "DEL":
            node.cni("ADD", asked, pod).ok()
        shims = [ask(node, verb, asked, pod) for verb in (first, second)]
        answers = [told(shim) for shim in shims]
        whole = "bond0" in pod.links()
        statuses = [one.status for one in answers]
        if (first, second) == ("ADD", "ADD"):
            assert sorted(statuses) == [0, 1]
            assert "already" in answers[statuses.index(1)].failed(REFUSED)
            assert whole
        elif "ADD" in (first, second):
            verbs = dict(zip((first, second), answers, strict=True))
            verbs["DEL"].ok()
            if verbs["ADD"].status:  # it came first, while the attachment existed
                verbs["ADD"].failed(REFUSED)
                assert not whole
        else:
            assert statuses == [0, 0]
            assert not whole
        if whole:
            assert pod.members("bond0") == set(LINKS)
            assert len(node.leases()) == 1
        node.cni("DEL", asked, pod).ok()
        assert node.everything(pod) == before


# Both modes give the same answer


def both(node: Node, command: str, asked: Document, pod: Space | None, **named: Any) -> Answer:
    """A request that must fail, through the daemon and without it."""
    request = node.request(command, asked, pod, **named)
    direct = answer(*here(*request, node.timeouts))
    thick = node.cni(command, asked, pod, **named)
    assert (thick.status, thick.document) == (direct.status, direct.document)
    return thick


BAD_DELEGATES: dict[str, tuple[str, int, str]] = {
    "hangs": ("exec sleep 60", TRY_AGAIN, "did not complete ADD within 0.5 s and was killed"),
    "hangs with its output closed": (
        "exec >&-; exec sleep 60",
        TRY_AGAIN,
        "did not complete ADD within 0.5 s and was killed",
    ),
    "a megabyte and a byte": (
        f"head -c {LIMIT + 1} /dev/zero",
        DELEGATE,
        f"ADD returned more than {LIMIT} bytes",
    ),
    "a megabyte of rubbish": (
        f"head -c {LIMIT} /dev/zero",
        DELEGATE,
        "returned an invalid CNI result",
    ),
    "endless": ("exec yes", DELEGATE, f"ADD returned more than {LIMIT} bytes"),
    "a child that holds the output, and a failure": (
        'sleep 60 & echo \'{"code": 77, "msg": "no"}\'; exit 1',
        77,
        "ADD failed: no",
    ),
    "killed by a signal": ("kill -SEGV $$", DELEGATE, "ADD failed with signal 11"),
}


@pytest.fixture
def hasty(node: Node) -> None:
    """Delegates have half a second."""
    node.timeouts = Timeouts(delegate=0.5)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", BAD_DELEGATES)
def test_delegate_that_misbehaves(node: Node, pod: Space, before: Document, how: str) -> None:
    script, code, words = BAD_DELEGATES[how]
    node.delegate("bad", f"[ $CNI_COMMAND = ADD ] || exit 0\n{script}")
    asked = config(LINKS, ipam={"type": "bad"})
    assert words in both(node, "ADD", asked, pod).failed(code)
    assert node.everything(pod) == before


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", ["exactly a megabyte", "a child in the background"])
def test_delegate_that_is_odd_and_good(node: Node, pod: Space, before: Document, how: str) -> None:
    scripts = {
        "exactly a megabyte": f"echo '{ADDRESS}'; yes '' | head -c {LIMIT - len(ADDRESS) - 1}",
        "a child in the background": f"sleep 60 & echo $! > $0.pid; echo '{ADDRESS}'",
    }
    node.delegate("odd", f"[ $CNI_COMMAND = ADD ] || exit 0\n{scripts[how]}")
    asked = config(LINKS, ipam={"type": "odd"})
    started = time.monotonic()
    node.cni("ADD", asked, pod).ok()
    assert time.monotonic() - started < 5
    assert pod.addresses("bond0") == {"10.1.0.3/24"}
    if how == "a child in the background":
        wait_for(lambda: gone(int((node.folder / "odd.pid").read_text())), SOON)
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == before


def no_path(node: Node, _pod: Space) -> str:
    return str(node.folder / "nowhere")


def below_a_file(node: Node, _pod: Space) -> str:
    (node.folder / "file").touch()
    return str(node.folder / "file" / "ns")


def empty_file(node: Node, _pod: Space) -> str:
    (node.folder / "file").touch()
    return str(node.folder / "file")


def folder(node: Node, _pod: Space) -> str:
    return str(node.folder)


def other_kind(_node: Node, _pod: Space) -> str:
    return "/proc/self/ns/mnt"


def vanished(_node: Node, pod: Space) -> str:
    pod.delete()
    return pod.path


def unmounted(_node: Node, pod: Space) -> str:
    """What is left of a namespace whose file is not removed."""
    LIBC.umount2(pod.path.encode(), MNT_DETACH)
    return pod.path


def the_host(node: Node, _pod: Space) -> str:
    return node.space.path


PLACES = (no_path, below_a_file, empty_file, folder, other_kind, vanished, unmounted, the_host)


@pytest.mark.parametrize("place", PLACES)
def test_namespace_that_is_none(
    node: Node, before: Document, place: Callable[[Node, Space], str]
) -> None:
    pod = node.pod()
    env = {"CNI_NETNS": place(node, pod)}
    asked = config(LINKS, ipam=node.host_local())
    both(node, "ADD", asked, pod, env=env)
    checked = {**asked, "prevResult": {"cniVersion": "1.0.0"}}
    both(node, "CHECK", checked, pod, env=env)
    node.cni("DEL", asked, pod, env=env).ok()
    assert node.everything() == only(before, node.space.name, "leases", "records")


# Both modes on one node


def done_here(node: Node, command: str, asked: Document, pod: Space) -> Answer:
    """A request in direct mode, by root."""
    return answer(*here(*node.request(command, asked, pod)))


def owners(node: Node) -> set[int]:
    """The owners of the files in the state directory."""
    return {path.stat().st_uid for path in node.state.rglob("*")}


@pytest.mark.parametrize("first", ["direct", "thick"])
def test_the_ways_meet(node: Node, pod: Space, before: Document, first: str) -> None:
    """Each mode checks and takes down what the other made; the daemon can read all files."""
    asked = config(LINKS, ipam=node.host_local())
    node.daemon()
    here_, there = (done_here, Node.cni) if first == "direct" else (Node.cni, done_here)
    result = here_(node, "ADD", asked, pod).ok()
    assert owners(node) == {USER}
    assert pod.members("bond0") == set(LINKS)
    there(node, "CHECK", {**asked, "prevResult": result}, pod).ok()
    assert "already" in there(node, "ADD", asked, pod).failed(REFUSED)
    there(node, "DEL", asked, pod).ok()
    assert node.everything(pod) == before
    assert owners(node) == {USER}


def test_recover_by_root_on_what_the_daemon_recorded(
    node: Node, pod: Space, before: Document
) -> None:
    """An active attachment is unchanged, one whose caller was killed is taken down; the daemon
    notices.
    """
    asked = config(LINKS, ipam=node.host_local())
    result = node.cni("ADD", asked, pod).ok()
    assert [one.state for one in recovered(node.state)] == ["active"]
    node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
    node.cni("DEL", asked, pod).ok()
    slow = Slow(node)
    shim = ask(node, "ADD", slow.asked(), pod)
    slow.pid()
    kill(shim)
    wait_for(lambda: resting(node), SOON)
    assert [(one.state, one.done) for one in recovered(node.state)] == [("interrupted", True)]
    assert node.everything(pod) == before
    slow.go()
    node.cni("ADD", slow.asked(), pod).ok()
    node.cni("DEL", slow.asked(), pod).ok()
    assert node.everything(pod) == before


def test_links_of_a_dead_pod_of_the_other_way(node: Node, before: Document) -> None:
    """An interrupted ADD in direct mode has the links; an ADD through the daemon restores them."""
    first, second = node.pod(), node.pod()
    asked = config(LINKS, ipam=node.host_local())
    node.daemon()
    done_here(node, "ADD", asked, first).ok()
    path = node.state / "c1:bond0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "result": None}))
    node.cni("ADD", asked, second, container="c2").ok()
    assert second.members("bond0") == set(LINKS)
    assert first.links().keys() == {"lo"}
    assert node.records() == {"c2:bond0.json"}
    assert len(node.leases()) == 1
    node.cni("DEL", asked, second, container="c2").ok()
    assert node.everything() == only(before, node.space.name, "leases", "records")


# The daemon keeps nothing


def descriptors() -> int:
    """Open files of this process, and so of its daemon."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("how", ["ADD", "ADD that failed", "ADD and CHECK", "killed caller"])
def test_nothing_of_a_pod_is_kept(node: Node, how: str) -> None:
    """The pod's namespace ends with the pod, although the daemon that worked in it still runs."""

    def far_ends() -> set[str]:
        return node.switch.links().keys() - {"lo", "br0"}

    def attach() -> None:
        pod = node.pod()
        for link in LINKS:
            node.veth(link)
        node.delegate("fails", f"[ {how[-6:]} = failed -a $CNI_COMMAND = ADD ] && exit 1; exit 0")
        slow = Slow(node)
        asked = slow.asked() if how == "killed caller" else config(LINKS)
        if how == "killed caller":
            shim = ask(node, "ADD", asked, pod)
            slow.pid()
            kill(shim)
            wait_for(lambda: resting(node), SOON)
            (node.folder / "slow.pid").unlink()
        elif how == "ADD that failed":
            node.cni("ADD", config(LINKS, ipam={"type": "fails"}), pod).failed(DELEGATE)
            for link in LINKS:  # they are the pod's own links
                node.space.ip("link", "set", link, "netns", pod.name)
        else:
            result = node.cni("ADD", asked, pod).ok()
            if how == "ADD and CHECK":
                node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
        if how == "killed caller":
            for link in LINKS:
                node.space.ip("link", "set", link, "netns", pod.name)
        assert far_ends()
        pod.delete()
        wait_for(lambda: not far_ends(), SOON)
        node.cni("DEL", asked, pod).ok()
        somebody_else(node)

    attach()
    wait_for(lambda: resting(node))
    before = descriptors()
    attach()
    wait_for(lambda: resting(node))
    assert descriptors() == before
    assert not node.leases()
    assert not left(node)


# Hardware


@pytest.fixture
def iron(tmp_path: Path) -> Iterator[IronNode]:
    """The guest with its NICs, in a state that something else has set."""
    if not have_iron():
        pytest.skip(f"the guest has no NICs {' and '.join(NICS)} (open_guest(nics=...))")
    node = IronNode(tmp_path)
    try:
        node.space.batch(
            f"link set {NICS[0]} up txqueuelen 500 alias uplink",
            f"link property add dev {NICS[0]} altname enp9s0",
            f"link set {NICS[1]} mtu 1400 address 02:00:00:00:00:22",
        )
        yield node
        assert not left(node)
    finally:
        node.delete()


def as_it_was(node: IronNode) -> Document:
    """Without the ifindex, which cannot be restored if it was used in the pod."""
    return only(node.everything(), node.space.name, without="ifindex")


def test_hardware_comes_back_while_the_daemon_lives(iron: IronNode) -> None:
    """The pod ends without DEL: its NICs are on the node, and the next request restores them."""
    before, pod = as_it_was(iron), iron.pod()
    asked = config(list(NICS), mtu=1300, ipam=iron.host_local())
    iron.cni("ADD", asked, pod).ok()
    assert not hardware()
    pod.delete()
    wait_for(lambda: len(hardware()) == len(NICS), SOON)
    iron.cni("DEL", asked, pod).ok()
    assert as_it_was(iron) == before
    assert not iron.leases()


def test_a_new_daemon_mends_hardware_and_owes_the_lease(iron: IronNode) -> None:
    """Killed with record and lease on disk; then the pod dies, too."""
    iron.timeouts = Timeouts(cleanup_retry=0.0)
    before, pod, slow = as_it_was(iron), iron.pod(), Slow(iron)
    asked = {**slow.asked(mtu=1300), "links": [{"name": nic} for nic in NICS]}
    iron.way = Server
    server = iron.daemon()
    assert isinstance(server, Server)
    shim = ask(iron, "ADD", asked, pod)
    slow.pid()
    server.kill()
    told(shim, SOON).failed(TRY_AGAIN)
    pod.delete()
    wait_for(lambda: len(hardware()) == len(NICS), SOON)
    assert as_it_was(iron) != before
    assert len(iron.leases()) == 1
    iron.end_daemon()
    iron.way = Thick
    daemon = iron.daemon()
    assert isinstance(daemon, Thick)
    assert as_it_was(iron) == before  # before the first request
    assert iron.records() == {"c1:bond0.json"}
    assert daemon.log[-1] == {"event": "ready", "queued": 0, "stale": 0, "unexamined": 1}

    slow.go()
    iron.delegate("slow", "exit 1")
    said = somebody_else(iron)
    assert "stale attachments: 1; the next requests" in said.stderr
    assert iron.records() == {"c1:bond0.json"}

    Slow(iron)
    assert "the next requests" not in somebody_else(iron).stderr
    assert not iron.leases()
    assert as_it_was(iron) == before


def test_emergency_return_for_hardware(iron: IronNode) -> None:
    """It is on the node while the pod still runs; a new daemon restores it before the first
    request.
    """
    before, pod = as_it_was(iron), iron.pod()
    asked = config(list(NICS), mtu=1300, ipam=iron.host_local())
    iron.cni("ADD", asked, pod).ok()
    iron.daemon().end()
    iron.cni("DEL", asked, pod).ok()
    assert len(hardware()) == len(NICS)
    assert as_it_was(iron) != before
    iron.end_daemon()
    iron.daemon()
    assert as_it_was(iron) == before
    assert pod.links().keys() == {"lo"}
    somebody_else(iron)
    assert not iron.leases()


# The credentials of a separate process


def test_rights_and_signals_of_a_real_daemon(node: Node, pod: Space, before: Document) -> None:
    policy = node.folder / "policy.yaml"
    policy.write_text("links: [{name: 'eth[34]'}]\n")
    env = {"BONDCNI_POLICY": str(policy)}
    asked = config(LINKS, ipam=node.host_local())
    node.way = Server
    server = node.daemon(str(policy))
    assert isinstance(server, Server)
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = {k: v.split() for k, _, v in (line.partition(":") for line in status.splitlines())}
    assert found["Uid"] == found["Gid"] == [str(USER)] * 4
    assert found["Groups"] == []
    for caps in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"):
        assert int(found[caps][0], 16) == 1 << 12, caps
    assert found["NoNewPrivs"] == ["1"]

    node.cni("ADD", asked, pod, env=env).failed(REFUSED)
    assert node.everything(pod) == before
    changed = policy.stat()
    policy.write_text("links: [{name: 'eth[12]'}]\n")  # same size and time: detected
    os.utime(policy, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    os.kill(server.pid, signal.SIGHUP)
    wait_for(lambda: "event=policy_reloaded" in server.log.read_text())

    result = node.cni("ADD", asked, pod, env=env).ok()
    assert pod.members("bond0") == set(LINKS)
    assert len(node.leases()) == 1
    node.cni("CHECK", {**asked, "prevResult": result}, pod, env=env).ok()
    node.cni("DEL", asked, pod, env=env).ok()
    assert node.everything(pod) == before
    server.end()
    assert not server.socket.exists()
    assert "event=stopped" in server.log.read_text()


def test_sigterm_finishes_what_runs(node: Node, pod: Space, before: Document) -> None:
    """A running ADD is completed; DEL is still accepted, another ADD answers "try again"."""
    slow = Slow(node)
    node.way = Server
    server = node.daemon()
    assert isinstance(server, Server)
    shim = ask(node, "ADD", slow.asked(), pod)
    slow.pid()
    server.tell_to_end()
    time.sleep(0.2)
    other = node.pod()
    said = node.cni("ADD", config(["eth2"]), other, container="c2").failed(TRY_AGAIN)
    assert "the bond daemon is shutting down" in said
    deleting = ask(node, "DEL", slow.asked(), pod)
    time.sleep(0.2)
    slow.go()
    told(shim).ok()
    told(deleting).ok()
    server.end()
    assert node.everything(pod) == before


# IPv6


def sysctl(pod: Space, link: str, key: str) -> str:
    return pod.exec("cat", f"/proc/sys/net/ipv6/conf/{link}/{key}").strip()


def test_ipv6_where_the_pod_has_it_off(node: Node, pod: Space, before: Document) -> None:
    """The executable sets the sysctls of the bond, and no others."""
    for link in ("all", "default", "lo"):
        pod.exec("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    host = node.space.exec("cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6")
    now = node.everything(pod)
    asked = config(LINKS, ipam=node.host_local("fd00:9::/64"))
    result = node.cni("ADD", asked, pod).ok()
    (ip,) = result["ips"]
    assert pod.addresses("bond0") == {ip["address"]}
    assert sysctl(pod, "bond0", "disable_ipv6") == "0"
    assert sysctl(pod, "bond0", "keep_addr_on_down") == "1"
    for link in ("all", "default", "lo", *LINKS):
        assert sysctl(pod, link, "disable_ipv6") == "1", link
    assert node.space.exec("cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6") == host
    node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
    node.cni("DEL", asked, pod).ok()
    assert node.everything(pod) == now
    assert only(now, node.space.name) == only(before, node.space.name)
