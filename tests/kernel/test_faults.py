"""Faults around the plugin: disk, hardware, namespaces, delegates, records.

Each fault is injected at every step at which it can occur; the steps are counted in an ADD or DEL
without faults. Afterwards everything that still exists is restored.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import (
    DELEGATES,
    Document,
    Node,
    Space,
    config,
    direct_only,
    sh,
    wait_for,
)
from tests.kernel.faults import faults, none
from tests.kernel.iron import NICS, IronNode, have_iron
from tests.kernel.killing import run

from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.reconcile import Recovered, recover
from bondcni.service.timeouts import DEFAULT, Timeouts

IO, BUSY, REFUSED, KERNEL, DELEGATE, INCOMPLETE = 5, 11, 101, 102, 104, 106
LINKS = ("eth1", "eth2")


def asked(node: Node, links: Sequence[str] = LINKS, **extra: Any) -> Document:
    return config(links, **{"ipam": node.host_local(), **extra})


def recovered(node: Node) -> list[Recovered]:
    """Recover until nobody is at work any more."""

    service = Service(Journal(str(node.state)), print)
    until = time.monotonic() + 15
    while True:
        found = list(recover(service))
        if not any(one.state == "busy" for one in found):
            return found
        assert time.monotonic() < until, found


@pytest.fixture
def before(node: Node, pod: Space) -> Document:
    for link in LINKS:
        node.veth(link)
    node.space.batch(
        "link set eth1 up txqueuelen 500 alias uplink",
        "link property add dev eth1 altname wan",
        "link set eth2 mtu 4000 promisc on",
    )
    return node.everything(pod)


def steps(node: Node, pod: Space) -> tuple[int, int]:
    """The number of changes of an ADD, and of a DEL."""
    with faults(none) as adding:
        node.cni("ADD", asked(node), pod).ok()
    with faults(none) as deleting:
        node.cni("DEL", asked(node), pod).ok()
    return len(adding), len(deleting)


def at(step: int, what: Callable[[], object]) -> Callable[[int, object], None]:
    """A fault just before one step; the step itself is done."""

    def fault(number: int, _request: object) -> None:
        if number == step:
            what()

    return fault


# The state directory


@contextmanager
def small_disk(node: Node, *options: str) -> Iterator[Path]:
    """The state directory on a tmpfs of its own."""
    node.state.mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(node.state))
    try:
        yield node.state
    finally:
        sh("umount", str(node.state))


def fill(folder: Path, pages: int) -> None:
    """Use up the disk but for some pages."""
    stat = os.statvfs(folder)
    (folder / "filler").write_bytes(b"x" * (stat.f_bfree - pages) * stat.f_bsize)


@pytest.mark.parametrize("options", ["size=64k", "size=64k,nr_inodes=2"])
def test_state_folder_full(node: Node, pod: Space, before: Document, options: str) -> None:
    """No page, or no inode: ADD fails before any change."""
    with small_disk(node, options):
        if "inodes" not in options:
            fill(node.state, 0)
        with faults(none) as sent:
            said = node.cni("ADD", asked(node), pod).failed(IO)
        assert "No space left on device" in said
        assert not sent
        assert node.everything(pod) == before
        assert whole(node) <= {"lock", "filler"}
        node.cni("DEL", asked(node), pod).ok()
        sh("mount", "-o", "remount,size=1m,nr_inodes=100", str(node.state))
        node.cni("ADD", asked(node), pod).ok()
        node.cni("DEL", asked(node), pod).ok()
        assert node.everything(pod) == before


def whole(node: Node) -> set[str]:
    """The files of the state directory, without the empty note of an ADD that failed."""
    return {path.name for path in node.state.iterdir() if path.suffix != ".refused"}


def test_state_folder_full_at_any_write(node: Node, pod: Space, before: Document) -> None:
    """Room for the first record and not for the last: rolled back; DEL needs no room."""
    with small_disk(node, "size=256k"):
        ended = []
        for pages in range(12):
            fill(node.state, pages)
            answer = node.cni("ADD", asked(node), pod)
            ended.append(answer.status)
            if answer.status:
                answer.failed(IO)
            else:
                fill(node.state, 0)
                node.cni("DEL", asked(node), pod).ok()
            assert node.everything(pod) == before
            assert whole(node) == {"lock", "filler"}
        assert ended[0] == 1
        assert ended[-1] == 0


def test_state_folder_read_only(node: Node, pod: Space, before: Document) -> None:
    with small_disk(node, "ro"), faults(none) as sent:
        assert "Read-only file system" in node.cni("ADD", asked(node), pod).failed(IO)
        assert not sent
        node.cni("DEL", asked(node), pod).ok()
    assert node.everything(pod) == before


def test_state_folder_read_only_after_add(node: Node, pod: Space, before: Document) -> None:
    """DEL restores everything and reports it; when the disk is writable again, DEL removes the
    record.
    """
    with small_disk(node, "size=1m"):
        node.cni("ADD", asked(node), pod).ok()
        sh("mount", "-o", "remount,ro", str(node.state))
        node.cni("DEL", asked(node), pod).failed(INCOMPLETE)
        now = node.everything(pod)
        assert {**now, "records": set()} == before
        sh("mount", "-o", "remount,rw", str(node.state))
        node.cni("DEL", asked(node), pod).ok()
        assert node.everything(pod) == before


# Hardware


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_unplugged_at_each_step(node: Node, pod: Space, before: Document, verb: str) -> None:
    """The other link is restored, nothing of the attachment is left."""
    count = steps(node, pod)[verb == "DEL"]

    def unplug() -> None:
        for space in (node.space, pod):
            space.ip("link", "del", "eth2", check=False)

    for step in range(count):
        if verb == "DEL":
            node.cni("ADD", asked(node), pod).ok()
        with faults(at(step, unplug)):
            answer = node.cni(verb, asked(node), pod)
        if verb == "ADD" and answer.status == 0:
            checked = {**asked(node), "prevResult": answer.document}
            assert "eth2" in node.cni("CHECK", checked, pod).failed(105)
        node.cni("DEL", asked(node), pod).ok()
        assert survivors(node.everything(pod)) == survivors(before), f"unplugged at {step}"
        node.veth("eth2")
        node.space.ip("link", "set", "eth2", "mtu", "4000", "promisc", "on")


def survivors(state: Document) -> Document:
    return {key: value for key, value in state.items() if ".links.eth2." not in key}


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_name_at_home_taken_at_each_step(
    node: Node, pod: Space, before: Document, verb: str
) -> None:
    """The other link keeps the name; ours is restored under another one, and everything else as it
    was.
    """
    count = steps(node, pod)[verb == "DEL"]
    mac = before[f"{node.space.name}.links.eth1.address"]
    for step in range(count):
        if verb == "DEL":
            node.cni("ADD", asked(node), pod).ok()

        def thief() -> None:
            node.space.ip("link", "add", "eth1", "type", "dummy", check=False)

        with faults(at(step, thief)):
            node.cni(verb, asked(node), pod)
        node.cni("DEL", asked(node), pod).ok()
        links = node.space.links()
        ours = next(link for link in links.values() if link["address"] == mac)
        assert (ours["txqlen"], ours["ifalias"], "UP" in ours["flags"]) == (500, "uplink", True)
        assert ours["altnames"] == ["wan"]
        if ours["ifname"] != "eth1":
            assert links["eth1"]["linkinfo"]["info_kind"] == "dummy"
            node.space.ip("link", "del", "eth1")
            node.space.ip("link", "set", ours["ifname"], "down")
            node.space.ip("link", "set", ours["ifname"], "name", "eth1")
            node.space.ip("link", "set", "eth1", "up")
        assert node.everything(pod) == before, f"taken at {step}"


# Namespaces


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_namespace_gone_at_each_step(node: Node, verb: str) -> None:
    """veths are destroyed with the pod; the lease, the record and the node's files are removed."""
    start = node.everything()
    pod = node.pod()
    for link in LINKS:
        node.veth(link)
    count = steps(node, pod)[verb == "DEL"]
    for step in range(count):
        if verb == "DEL":
            node.cni("ADD", asked(node), pod).ok()
        with faults(at(step, pod.delete)):
            node.cni(verb, asked(node), pod)
        assert all(one.done for one in recovered(node)), f"gone at {step}"
        for link in LINKS:
            node.space.ip("link", "del", link, check=False)
        wait_for(lambda: node.switch.links().keys() == {"lo", "br0"})
        assert node.everything() == start, f"gone at {step}"
        pod = node.pod()
        for link in LINKS:
            node.veth(link)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_namespace_of_hardware_gone_at_each_step(tmp_path: Path, verb: str) -> None:
    """The kernel returns hardware to the node; recover restores its state."""
    if not have_iron():
        pytest.skip(f"the guest has no NICs {' and '.join(NICS)} (open_guest(nics=...))")
    node = IronNode(tmp_path)
    try:
        node.space.batch(
            f"link set {NICS[0]} up txqueuelen 500 alias uplink",
            f"link property add dev {NICS[0]} altname enp9s0",
            f"link set {NICS[1]} mtu 1400 address 02:00:00:00:00:22",
        )
        before = node.everything()
        wanted = asked(node, NICS, mtu=1300)
        pod = node.pod()
        with faults(none) as adding:
            node.cni("ADD", wanted, pod).ok()
        with faults(none) as deleting:
            node.cni("DEL", wanted, pod).ok()
        for step in range(len(adding if verb == "ADD" else deleting)):
            if verb == "DEL":
                node.cni("ADD", wanted, pod).ok()
            with faults(at(step, pod.delete)):
                node.cni(verb, wanted, pod)
            wait_for(lambda: all(one.done for one in recovered(node)))
            assert node.everything() == before, f"gone at {step}"
            pod = node.pod()
    finally:
        node.delete()


# Delegates


RESERVED = """
if [ $CNI_COMMAND != ADD ]; then exec {real}; fi
{begin}
{real} > $0.answer || exit 9
{end}
"""


def fickle(node: Node, end: str, begin: str = "") -> Document:
    """host-local behind a script that does something else before and after the reservation."""
    real = shutil.which("host-local", path=DELEGATES)
    node.delegate("fickle", RESERVED.format(real=real, begin=begin, end=end))
    return asked(node, ipam={**node.host_local(), "type": "fickle"})


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("exit 1", DELEGATE),
        ("echo rubbish", DELEGATE),
        ("cat $0.answer; exit 1", DELEGATE),
        ("head -c 40 $0.answer", DELEGATE),
        ("echo '{}'", DELEGATE),
        ("kill -9 $$", DELEGATE),
        ("yes", DELEGATE),
        ('echo \'{"code": 77, "msg": "no"}\'; exit 1', 77),
        ("exec sleep 1000", BUSY),
    ],
)
def test_reserved_and_then_failed(
    node: Node, pod: Space, before: Document, end: str, code: int
) -> None:
    """An address was reserved, and the answer says otherwise: it is released again."""
    node.timeouts = Timeouts(delegate=3.0)
    node.cni("ADD", fickle(node, end), pod).failed(code)
    assert (node.folder / "fickle.answer").exists()
    assert node.everything(pod) == before


def killed_in_delegate(node: Node, pod: Space, wanted: Document) -> None:
    """ADD, killed as soon as the delegate was started."""
    events = run(lambda: node.cni("ADD", wanted, pod).ok()).events
    node.cni("DEL", wanted, pod).ok()
    spawned = next(n for n, event in enumerate(events) if event.kind == "delegate")
    (node.folder / "now").touch()
    assert run(lambda: node.cni("ADD", wanted, pod).ok(), spawned, "after").killed


ENDS = direct_only("the shim ends the delegate when its daemon is gone (test_thick)")


@ENDS
@pytest.mark.parametrize("then", ["DEL", "ADD", "recover"])
def test_delegate_outlives_its_plugin(node: Node, pod: Space, before: Document, then: str) -> None:
    """It reserves an address after its plugin was killed: the next request waits for its end."""
    wanted = fickle(node, "cat $0.answer", f"rm {node.folder}/now && sleep 0.7")
    killed_in_delegate(node, pod, wanted)
    assert node.leases() == set()
    if then == "recover":
        assert [one.done for one in recovered(node)] == [True]
    else:
        node.cni(then, wanted, pod).ok()
    time.sleep(1.0)
    if then == "ADD":
        assert len(node.leases()) == 1
        node.cni("DEL", wanted, pod).ok()
    assert node.everything(pod) == before


@ENDS
def test_delegate_that_hangs_outlives_its_plugin(node: Node, pod: Space, before: Document) -> None:
    """DEL waits, then ends all the same; the record stays, for it may reserve yet."""
    begin = f"echo $$ > {node.folder}/pid"
    wanted = fickle(node, f"[ -e {node.folder}/now ] && exec sleep 1000; cat $0.answer", begin)
    killed_in_delegate(node, pod, wanted)
    wait_for(node.leases)
    node.timeouts = Timeouts(lock=0.3)
    answer = node.cni("DEL", wanted, pod)
    assert answer.ok() == {}
    assert "attachment c1 bond0" in answer.stderr
    assert pod.links().keys() == {"lo"}
    assert [path.name for path in node.state.glob("*.json")] == ["c1:bond0.json"]
    os.kill(int((node.folder / "pid").read_text()), 9)
    node.timeouts = DEFAULT
    node.cni("DEL", wanted, pod).ok()
    assert node.everything(pod) == before


# Records


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', "\0" * 4096])
def test_unreadable_record(node: Node, pod: Space, before: Document, content: str) -> None:
    """Renamed and reported; another attachment is not affected; DEL follows the configuration."""
    node.cni("ADD", asked(node), pod).ok()
    path = node.state / "c1:bond0.json"
    path.write_text(content)
    told: list[str] = []
    assert list(recover(Service(Journal(str(node.state)), told.append))) == []
    assert len(told) == 1
    assert str(path) in told[0]
    aside = path.with_name(f"{path.name}.unreadable")
    assert aside.read_text() == content
    node.cni("DEL", asked(node), pod).ok()
    assert pod.links().keys() == {"lo"}
    assert node.leases() == set()
    links = node.space.links()
    for name in LINKS:
        was = before[f"{node.space.name}.links.{name}.address"]
        assert links[name]["address"] == was
    aside.unlink()
    assert json.loads(node.space.ip("-j", "link", "show", "eth1"))[0]["altnames"] == ["wan"]
