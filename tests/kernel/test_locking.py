"""Two requests at once: one succeeds, the other waits or gives the reason, and nothing is lost.

Each request is a child process. A delegate that waits for a file keeps one in its ADD, with its
links claimed, for as long as the test wants.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config, sh, wait_for

from bondcni.service.locks import hold
from bondcni.service.timeouts import Timeouts

VALID = "cni.dev/valid-attachments"


class Running:
    """A request in a child process."""

    def __init__(self, node: Node, command: str, *args: Any, **how: Any) -> None:
        reading, writing = os.pipe()
        self.child = os.fork()
        if not self.child:
            try:
                with open(writing, "wb") as pipe:
                    pipe.write(pickle.dumps(tuple(node.cni(command, *args, **how))))
            finally:
                os._exit(0)
        os.close(writing)
        self.reading = reading

    def answer(self) -> Answer:
        with open(self.reading, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.child, 0)
        return Answer(*pickle.loads(text))  # noqa: S301  our own child's

    def is_at_work(self) -> bool:
        return os.waitpid(self.child, os.WNOHANG) == (0, 0)


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")
    go, log = node.folder / "go", node.folder / "calls"
    answer = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.3/24"}]}'
    node.delegate(
        "slow",
        f"echo $CNI_COMMAND $CNI_CONTAINERID >> {log}\n[ $CNI_COMMAND = ADD ] || exit 0\n"
        f"while [ ! -e {go} ]; do sleep 0.05; done\necho '{answer}'",
    )


def asked(**extra: Any) -> Document:
    return config(["eth1", "eth2"], cniVersion="1.1.0", ipam={"type": "slow"}, **extra)


def calls(node: Node) -> list[str]:
    log = node.folder / "calls"
    return log.read_text().splitlines() if log.exists() else []


def inside(node: Node, pod: Space) -> Running:
    """An ADD that has its links and waits for its address."""
    first = Running(node, "ADD", asked(), pod)
    wait_for(lambda: calls(node) == ["ADD c1"])
    return first


def go(node: Node) -> None:
    (node.folder / "go").touch()


def test_two_adds_for_the_same_links(node: Node, pod: Space) -> None:
    """The answer to the second names the attachment that has them; the first is not affected."""
    before, other = node.everything(), node.pod()
    first = inside(node, pod)
    second = Running(node, "ADD", asked(), other, container="c2")
    said = second.answer().failed(101)
    assert "link eth1 is claimed by c1 bond0" in said
    go(node)
    first.answer().ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    assert other.links().keys() == {"lo"}
    node.cni("DEL", asked(), other, container="c2").ok()
    node.cni("DEL", asked(), pod).ok()
    assert node.everything() == before


def test_many_adds_at_once(node: Node) -> None:
    """In any order: one has both links, the others have none, and their answers say so."""
    before = node.everything()
    go(node)
    pods = [node.pod() for _ in range(4)]
    running = [
        Running(node, "ADD", asked(), pod, container=f"c{number}")
        for number, pod in enumerate(pods)
    ]
    answers = [one.answer() for one in running]
    assert sorted(answer.status for answer in answers) == [0, 1, 1, 1]
    for answer, pod in zip(answers, pods, strict=True):
        if answer.status:
            answer.failed(101)
            assert pod.links().keys() == {"lo"}
        else:
            assert pod.members("bond0") == {"eth1", "eth2"}
    for number, pod in enumerate(pods):
        node.cni("DEL", asked(), pod, container=f"c{number}").ok()
    assert node.everything() == before


def test_adds_for_one_link_in_common(node: Node, pod: Space) -> None:
    """The loser restores nothing, because it moved nothing: its other link stayed in place."""
    node.veth("eth3")
    other = node.pod()
    first = inside(node, pod)
    index = node.space.link("eth3")["ifindex"]
    wanted = config(["eth3", "eth2"])
    Running(node, "ADD", wanted, other, container="c2").answer().failed(101)
    assert node.space.link("eth3")["ifindex"] == index
    go(node)
    first.answer().ok()
    assert pod.members("bond0") == {"eth1", "eth2"}


def holding(node: Node, *keys: str) -> int:
    """A process that holds these locks until the test ends it."""
    child = os.fork()
    if not child:
        with hold(str(node.state), keys, 30):
            (node.folder / "held").touch()
            while not (node.folder / "free").exists():
                time.sleep(0.02)
        os._exit(0)
    wait_for((node.folder / "held").exists)
    return child


def test_waits_for_a_link_that_another_is_at_work_on(node: Node, pod: Space) -> None:
    links = node.space.links()
    holder = holding(node, *(f"link {name} {links[name]['address']}" for name in ("eth1", "eth2")))
    go(node)
    waiting = Running(node, "ADD", asked(), pod)
    time.sleep(0.7)
    assert waiting.is_at_work()
    assert pod.links().keys() == {"lo"}
    (node.folder / "free").touch()
    os.waitpid(holder, 0)
    waiting.answer().ok()
    assert pod.members("bond0") == {"eth1", "eth2"}


def test_waiting_has_a_deadline(node: Node, pod: Space) -> None:
    node.timeouts = Timeouts(lock=0.3)
    first = inside(node, pod)
    now = node.space.everything()
    said = node.cni("ADD", asked(), pod).failed(11)
    assert "another request holds the lock of" in said
    assert node.space.everything() == now
    go(node)
    first.answer().ok()
    assert pod.addresses("bond0") == {"10.1.0.3/24"}


def test_del_ends_at_the_deadline(node: Node, pod: Space) -> None:
    """It takes down what the ADD has made so far, which then fails and leaves nothing."""
    before = node.everything(pod)
    node.timeouts = Timeouts(lock=0.3)
    first = inside(node, pod)
    answer = node.cni("DEL", asked(), pod)
    answer.ok()
    assert "another request holds the lock of" in answer.stderr
    assert pod.links().keys() == {"lo"}
    go(node)
    first.answer().failed(102)
    assert node.everything(pod) == before


def test_del_during_add_of_the_same_attachment(node: Node, pod: Space) -> None:
    """It waits until the attachment is complete; afterwards everything is restored."""
    before = node.everything(pod)
    first = inside(node, pod)
    late = Running(node, "DEL", asked(), pod)
    time.sleep(0.7)
    assert late.is_at_work()
    assert calls(node) == ["ADD c1"]
    go(node)
    first.answer().ok()
    late.answer().ok()
    assert node.everything(pod) == before
    assert calls(node) == ["ADD c1", "DEL c1"]


def test_del_of_another_attachment_need_not_wait(node: Node, pod: Space) -> None:
    first = inside(node, pod)
    Running(node, "DEL", asked(), node.pod(), container="c2").answer().ok()
    assert first.is_at_work()
    go(node)
    first.answer().ok()


def test_two_dels_at_once(node: Node, pod: Space) -> None:
    before = node.everything(pod)
    go(node)
    node.cni("ADD", asked(), pod).ok()
    for one in [Running(node, "DEL", asked(), pod) for _ in range(3)]:
        one.answer().ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize("listed", [False, True], ids=["not listed", "listed"])
def test_gc_during_add(node: Node, pod: Space, *, listed: bool) -> None:
    """An attachment that is being made is not garbage, although it is not listed yet."""
    first = inside(node, pod)
    entries = [{"containerID": "c1", "ifname": "bond0"}] if listed else []
    answer = Running(node, "GC", asked(**{VALID: entries})).answer()
    answer.ok()
    assert ("c1 bond0 is busy" in answer.stderr) is not listed
    assert ("kept, although not in cni.dev/valid-attachments" in answer.stderr) is not listed
    go(node)
    first.answer().ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    assert not [call for call in calls(node) if call.startswith("DEL")]


@pytest.mark.parametrize("again", range(3))
def test_add_and_del_of_one_that_was_cut_off(node: Node, pod: Space, again: int) -> None:
    """Both want to roll it back: no deadlock, in either order."""
    before = node.everything(pod)
    first = inside(node, pod)
    os.kill(first.child, 9)
    os.waitpid(first.child, 0)
    go(node)
    started = time.monotonic()
    order = ("ADD", "DEL") if again else ("DEL", "ADD")
    for one in [Running(node, command, asked(), pod) for command in order]:
        one.answer().ok()
    assert time.monotonic() - started < 10
    node.cni("DEL", asked(), pod).ok()
    assert node.everything(pod) == before


def test_del_where_no_lock_can_be_had(node: Node, pod: Space) -> None:
    """The state is on a read-only disk: ADD changes nothing, DEL does everything but remove the
    record.
    """
    before, state = node.everything(pod), str(node.state)
    go(node)
    node.cni("ADD", asked(), pod).ok()
    sh("mount", "--bind", state, state)
    sh("mount", "-o", "remount,bind,ro", state)
    try:
        said = node.cni("DEL", asked(), pod).failed(106)
        assert "cannot remove the record" in said
        assert "Read-only file system" in said
        after = node.everything(pod)
        assert after.pop("records") == {"c1:bond0.json"}
        assert {**after, "records": set()} == before
        node.cni("ADD", asked(), pod, container="c2").failed(5)
        node.cni("DEL", asked(), pod, container="c2").ok()
    finally:
        sh("umount", state)
    node.cni("DEL", asked(), pod).ok()
    assert node.everything(pod) == before


def test_killed_in_the_middle_holds_nobody_up(node: Node, pod: Space) -> None:
    """The lock is released with its holder: the next ADD for the links does not wait."""
    before, other = node.everything(), node.pod()
    first = inside(node, pod)
    os.kill(first.child, 9)
    os.waitpid(first.child, 0)
    go(node)
    started = time.monotonic()
    node.cni("ADD", asked(), other, container="c2").ok()
    assert time.monotonic() - started < 10
    assert other.members("bond0") == {"eth1", "eth2"}
    assert pod.links().keys() == {"lo"}
    node.cni("DEL", asked(), other, container="c2").ok()
    assert node.everything() == before
