"""Deletions that were queued: done once, kept while they fail, set aside when they are none."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.daemon.shim import NETNS, fields
from tests.unit.service.heard import heard

from bondcni.core.errors import DelegateError, TryAgain
from bondcni.core.lifecycle import NamespaceState
from bondcni.core.plan import Wanted
from bondcni.daemon import pending_cleanup
from bondcni.daemon.delete_queue import DeleteQueue, recover_all
from bondcni.daemon.log import Event
from bondcni.daemon.pending_cleanup import PendingCleanup
from bondcni.daemon.protocol import Tag, Type, pack
from bondcni.service.attachment import Service, boot_id
from bondcni.service.delegate import Ended
from bondcni.service.journal import Journal, Record
from bondcni.service.reach import GONE, Direct, Presence, Unaided
from bondcni.service.timeouts import Timeouts

CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "bond", "ipam": {"type": "delegate"}}
NAME = ("c1", "net1")


class Delegates(Direct):
    """What a request can reach; a delegate is ``answer``."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.answer: Callable[[str], Ended] = lambda _: Ended(0, b"")

    def presence(self, netns: str) -> Presence:
        del netns
        return GONE

    def run(self, name: str, stdin: bytes, env: Mapping[str, str], deadline: float) -> Ended:
        del name, stdin, deadline
        assert env["CNI_COMMAND"] == "DEL"
        self.seen.append(env["CNI_CONTAINERID"])
        return self.answer(env["CNI_CONTAINERID"])


class State:
    """A state folder, and what is told about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = folder / "queue"
        self.queue.mkdir(parents=True)
        self.queued = DeleteQueue(str(folder))
        self.delegates = Delegates()
        self.warnings: list[str] = []
        self.told: list[dict[str, object]] = []
        self.service = Service(Journal(str(folder)), self.warnings.append, reach=self.delegates)
        self.cleanup = PendingCleanup(self.queued, self._log)

    def _log(self, event: Event, **fields: object) -> None:
        self.told.append({"event": event.value, **fields})

    def store(self, container: str = "c1", ifname: str = "net1", config: Any = CONFIG) -> Path:
        """As the shim does."""
        said = fields("DEL", config, "", {"CNI_CONTAINERID": container, "CNI_IFNAME": ifname})
        path = self.queue / f"{container}:{ifname}.del"
        path.write_bytes(pack(Type.REQUEST, said))
        return path

    def record(self, container: str = "c1") -> None:
        """An attachment of a pod that is gone, without links."""
        wanted = Wanted(900, "net1", "", {}, 1500, "", ())
        self.service.journal.write(
            Record(container, "net1", NETNS, dict(CONFIG), wanted, (), "4:1", boot_id())
        )

    def files(self) -> list[str]:
        return sorted(os.listdir(self.queue))


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def fail(container: str) -> Ended:
    raise DelegateError(f"no answer for {container}")


def test_nothing_was_ever_queued(tmp_path: Path) -> None:
    assert DeleteQueue(str(tmp_path / "none")).names() == []


def test_the_names(state: State) -> None:
    for name in ("b:net1.del", "a:net2.del", "a:odd:one.del"):
        (state.queue / name).touch()
    for name in ("x:y.tmp", "x:y.del.tmp", "x:y.del.unreadable", "nocolon.del", "x:.del", ".del"):
        (state.queue / name).touch()
    assert state.queued.names() == [("a", "net2"), ("a", "odd:one"), ("b", "net1")]


def test_one_is_done_and_removed(state: State) -> None:
    state.store()
    assert state.queued.execute(state.service, NAME) == ""
    assert (state.files(), state.delegates.seen) == ([], ["c1"])
    assert state.queued.execute(state.service, NAME) == "", "somebody else did it"
    assert state.delegates.seen == ["c1"]


def test_one_that_was_recorded_takes_its_record_with_it(state: State) -> None:
    state.store()
    state.record()
    assert state.queued.execute(state.service, NAME) == ""
    assert state.files() == []
    assert heard(state.service.journal.read, *NAME) == (None, [])


def test_a_frame_is_a_deletion_whatever_verb_it_says(state: State) -> None:
    path = state.store()
    path.write_bytes(pack(Type.REQUEST, fields("ADD", CONFIG, "")))
    assert state.queued.execute(state.service, NAME) == ""
    assert (state.files(), state.delegates.seen) == ([], ["c1"])


def test_what_fails_stays(state: State) -> None:
    state.store()
    state.delegates.answer = fail
    assert "no answer for c1" in state.queued.execute(state.service, NAME)
    assert state.files() == ["c1:net1.del"]
    state.delegates.answer = lambda _: Ended(0, b"")
    assert state.queued.execute(state.service, NAME) == ""
    assert state.files() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\1\1\0\0", "4 bytes"),
        (b"rubbish, and more of it", "version 114"),
        (pack(Type.PING), "not one complete REQUEST"),
        (pack(Type.REQUEST, fields("DEL"))[:-1], "not one complete REQUEST"),
        (pack(Type.REQUEST, fields("DEL")) + b"x", "not one complete REQUEST"),
        (pack(Type.REQUEST, [(Tag.ENV, b"A=b")] * 4097), "exceeds the limit"),
        (pack(Type.REQUEST, []), "needs these environment variables"),
        (pack(Type.REQUEST, fields("DEL", env={"CNI_IFNAME": "a/b"})), "CNI_IFNAME"),
        (
            pack(Type.REQUEST, fields("DEL", env={"CNI_CONTAINERID": "c2"})),
            "for attachment c2 net1",
        ),
        (pack(Type.REQUEST, [*fields("DEL"), (0x9000, b"")]), "must not be ignored"),
        (pack(Type.REQUEST, fields("DEL", b"{")), "no record of this attachment"),
    ],
)
def test_what_is_no_deletion_is_set_aside(state: State, content: bytes, said: str) -> None:
    path = state.queue / "c1:net1.del"
    path.write_bytes(content)
    word = state.queued.execute(state.service, NAME)
    assert said in word
    assert f"renamed to {path}.unreadable" in word
    assert state.files() == ["c1:net1.del.unreadable"]
    assert Path(f"{path}.unreadable").read_bytes() == content
    assert state.queued.names() == []
    assert state.delegates.seen == []


def test_one_that_cannot_be_read_for_now_stays(state: State) -> None:
    state.store()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        word = state.queued.execute(state.service, NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert "Too many open files" in word
    assert state.files() == ["c1:net1.del"]


def test_one_that_cannot_be_set_aside_is_told(state: State) -> None:
    (state.queue / "c1:net1.del").write_bytes(b"")
    (state.queue / "c1:net1.del.unreadable").mkdir()
    assert "cannot rename it to" in state.queued.execute(state.service, NAME)
    assert state.files() == ["c1:net1.del", "c1:net1.del.unreadable"]


def test_recover_does_what_is_queued_first(state: State) -> None:
    state.store("c2")
    state.record("c1")
    dry = list(recover_all(state.service, state.queued, dry_run=True))
    assert [(one.container_id, one.state, one.done) for one in dry] == [
        ("c2", "queued", False),
        ("c1", "namespace gone", False),
    ]
    assert (state.files(), state.delegates.seen) == (["c2:net1.del"], [])
    found = list(recover_all(state.service, state.queued))
    assert [(one.container_id, one.done) for one in found] == [("c2", True), ("c1", True)]
    assert (state.files(), state.delegates.seen) == ([], ["c2", "c1"])


# What is due, before a request.


def test_the_own_attachment_comes_first_then_a_bounded_part(state: State) -> None:
    for number in range(10):
        state.store(f"b{number}")
    state.store("z9")
    state.cleanup.drain(state.service, ("z9", "net1"))
    assert state.delegates.seen == [
        "z9",
        *(f"b{number}" for number in range(pending_cleanup.BATCH)),
    ]
    assert state.cleanup.counts() == (2, 0, 0)
    assert {one["event"] for one in state.told} == {"cleanup_done"}
    state.cleanup.drain(state.service, ("", ""))
    assert state.files() == []


def test_those_that_fail_do_not_keep_the_others_from_their_turn(state: State) -> None:
    """Eight that always fail come first by name; they are not tried again at once, either."""
    for number in range(pending_cleanup.BATCH):
        state.store(f"a{number}")
    state.store("b0")
    state.delegates.answer = lambda one: fail(one) if one.startswith("a") else Ended(0, b"")
    for _ in range(3):
        state.cleanup.drain(state.service, ("", ""))
    assert state.delegates.seen == [
        *(f"a{number}" for number in range(pending_cleanup.BATCH)),
        "b0",
    ]
    assert [one["event"] for one in state.told] == ["cleanup_pending"] * 8 + ["cleanup_done"]
    assert "no answer for a0" in str(state.told[0]["detail"])


def test_the_own_is_tried_each_time(state: State) -> None:
    state.store()
    state.delegates.answer = fail
    for _ in range(3):
        state.cleanup.drain(state.service, NAME)
    assert state.delegates.seen == ["c1"] * 3


def test_a_defect_at_one_fails_nobody_elses_request(state: State) -> None:
    state.store("a0")
    state.store("b0")

    def answer(container: str) -> Ended:
        if container == "a0":
            raise KeyError("defect")
        return Ended(0, b"")

    state.delegates.answer = answer
    state.cleanup.drain(state.service, ("", ""))
    assert state.files() == ["a0:net1.del"]
    assert state.told[0] == {
        "event": "cleanup_pending",
        "container": "a0",
        "ifname": "net1",
        "detail": "KeyError: 'defect'",
    }


def test_what_is_dead_is_taken_down_and_what_is_alive_let_be(state: State) -> None:
    state.record("dead")
    state.record("alive")
    state.cleanup.scan(state.service._replace(reach=Unaided()))
    assert state.cleanup.counts() == (0, 0, 2), "who looks at first may not be able to see them"

    class Seeing(Delegates):
        def presence(self, netns: str) -> Presence:
            return Presence(NamespaceState.PRESENT, "4:1") if netns == "alive" else GONE

    alive = heard(state.service.journal.read, "alive", "net1")[0]
    assert alive is not None
    state.service.journal.write(alive._replace(netns="alive", result={"cniVersion": "1.1.0"}))
    seeing = Seeing()
    state.cleanup.drain(state.service._replace(reach=seeing), ("", ""))
    assert seeing.seen == ["dead"]
    assert state.cleanup.counts() == (0, 0, 0)
    assert [one["container"] for one in state.told] == ["dead"]
    assert heard(state.service.journal.read, "alive", "net1")[0] is not None


def test_one_that_a_caller_left_is_noted(state: State) -> None:
    state.record()
    state.cleanup.add(NAME)
    assert state.cleanup.counts() == (0, 1, 0)
    state.cleanup.drain(state.service, ("", ""))
    assert state.cleanup.counts() == (0, 0, 0)
    assert heard(state.service.journal.read, *NAME) == (None, [])


def test_the_deletion_of_an_attachment_is_never_done_late(state: State) -> None:
    """Another request is at work on it: its own request waits, or a new ADD would be undone."""
    state.store()
    entered, opened = threading.Event(), threading.Event()

    def slow(_: str) -> Ended:
        entered.set()
        assert opened.wait(10)
        return Ended(0, b"")

    state.delegates.answer = slow
    drainer = threading.Thread(target=state.cleanup.drain, args=(state.service, ("", "")))
    drainer.start()
    assert entered.wait(10)
    owner = threading.Thread(target=state.cleanup.drain, args=(state.service, NAME))
    owner.start()
    other = time.monotonic()
    state.cleanup.drain(state.service, ("c2", "net1"))
    assert time.monotonic() - other < 5, "who is not concerned does not wait"
    owner.join(0.1)
    assert owner.is_alive()
    opened.set()
    for thread in (drainer, owner):
        thread.join(10)
        assert not thread.is_alive()
    assert (state.delegates.seen, state.files()) == (["c1"], [])


def test_it_is_told_where_the_own_deletion_does_not_end(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.store()
    hurried = state.service._replace(timeouts=Timeouts(queued_delete=0.05))
    with state.cleanup._exclusive(NAME, 0), pytest.raises(TryAgain, match="still in progress"):
        state.cleanup.drain(hurried, NAME)


def test_one_that_its_own_request_is_at_work_on_is_not_waited_for(state: State) -> None:
    """Else a slow delegate of one pod would hold up, and fail, the requests of the others."""
    state.store()
    entered, opened = threading.Event(), threading.Event()

    def slow(_: str) -> Ended:
        entered.set()
        assert opened.wait(10)
        return Ended(0, b"")

    state.delegates.answer = slow
    owner = threading.Thread(target=state.cleanup.drain, args=(state.service, NAME))
    owner.start()
    assert entered.wait(10)
    started = time.monotonic()
    state.cleanup.drain(state.service, ("c2", "net1"))
    assert time.monotonic() - started < 5
    opened.set()
    owner.join(10)
    assert (state.delegates.seen, state.files()) == (["c1"], [])
