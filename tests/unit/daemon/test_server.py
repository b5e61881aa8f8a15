"""The daemon in a thread: what peers send, leave out and take away; what it answers and tells.

The shim is played in Python. Verbs that must take long, fail or succeed without a kernel are a
function at the daemon's seam. As a process it is tested in ``test_serve.py``.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.daemon.shim import (
    CONFIG,
    NETNS,
    PATIENCE,
    Answer,
    Shim,
    descriptors,
    fields,
    open_descriptors,
    own,
    wait_until,
)

from bondcni.core.errors import Incomplete
from bondcni.daemon.log import Event
from bondcni.daemon.policy_cache import PolicyCache
from bondcni.daemon.protocol import Field, Tag, Type, encoded, number, pack
from bondcni.daemon.server import MAX_INCOMPLETE, Daemon, Settings
from bondcni.daemon.start_up import listening
from bondcni.daemon.worker import Verb
from bondcni.service import verbs
from bondcni.service.attachment import Service
from bondcni.service.request import Request

IPAM = {**CONFIG, "ipam": {"type": "delegate"}}
DONE = (Tag.STATUS, number(0))


class Served:
    """A daemon in a thread, and what it told."""

    def __init__(self, folder: Path, verb: Verb, **limits: Any) -> None:
        self.path = str(folder / "run" / "bond.sock")
        self.state = folder / "state"
        self.policy = folder / "policy.yaml"
        self.told: list[dict[str, Any]] = []
        self._listening = listening(self.path)
        said = Settings(self.path, str(self.state), str(self.policy))._replace(**limits)
        self.daemon = Daemon(said, self._listening.__enter__(), self._log, verb)
        self.held: Callable[[dict[str, Any]], None] = lambda _: None
        self.daemon.prepare()
        self.thread = threading.Thread(target=self.daemon.run)
        self.thread.start()

    def _log(self, event: Event, **fields: Any) -> None:
        assert set(event.fields) <= fields.keys() <= {*event.fields, *event.optional}
        said = {"event": event.value, **fields}
        self.told.append(said)
        self.held(said)

    def shim(self) -> Shim:
        return Shim.to(self.path)

    def ask(self, command: str, config: Any = None, letters: str = "hH", **env: str) -> Answer:
        """One request from beginning to end."""
        with self.shim() as shim:
            shim.request(command, config, letters, **env)
            return shim.answer()

    def ping(self) -> float:
        """It must be answered; seconds."""
        started = time.monotonic()
        with self.shim() as shim:
            shim.send(Type.PING)
            assert shim.answer() == (0, None, "")
        return time.monotonic() - started

    def lines(self, **said: Any) -> list[dict[str, Any]]:
        return [one for one in list(self.told) if said.items() <= one.items()]

    def wait(self, **said: Any) -> dict[str, Any]:
        """What was told with these fields, when it is there."""
        wait_until(lambda: self.lines(**said))
        return self.lines(**said)[0]

    def end(self) -> None:
        self.daemon.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self._listening.__exit__(None, None, None)


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first request of a process: what that opens for all that follow is not counted."""
    served = Served(tmp_path_factory.mktemp("first"), verbs.serve)
    served.ask("ADD", None, "hHpP")
    served.end()


@pytest.fixture
def serve(first: None, tmp_path: Path) -> Iterator[Serve]:  # noqa: ARG001  it comes before
    """Start a daemon; nothing of it or of its peers is left open at the end."""
    served: list[Served] = []
    before = open_descriptors()

    def start(verb: Verb = verbs.serve, **limits: Any) -> Served:
        served.append(Served(tmp_path, verb, **limits))
        return served[-1]

    yield start
    for one in served:
        one.end()
    wait_until(lambda: open_descriptors() == before)


class Slow:
    """A verb that waits to be let go, by container."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.opened = threading.Event()

    def __call__(self, service: Service, request: Request) -> None:
        del service
        self.entered.append(f"{request.command} {request.container_id}")
        if request.command == "ADD":
            assert self.opened.wait(PATIENCE)


def answers(document: Any) -> Verb:
    return lambda _, __: document


# Requests.


def test_ping(serve: Serve) -> None:
    assert serve().ping() < 5


def test_a_request_is_answered_and_told(serve: Serve) -> None:
    served = serve(answers({"cniVersion": "1.1.0"}))
    assert served.ask("ADD") == (0, {"cniVersion": "1.1.0"}, "")
    line = served.wait(verb="ADD")
    assert line.pop("ms") > 0
    assert line == {
        "event": "request",
        "verb": "ADD",
        "container": "c1",
        "ifname": "net1",
        "network": "net",
        "code": 0,
    }


def test_the_verbs_are_those_of_the_service(serve: Serve) -> None:
    served = serve()
    answer = served.ask("ADD")
    assert (answer.status, answer.code) == (1, 3)
    assert answer.document["msg"] == f"network namespace {NETNS} does not exist"
    assert served.wait(verb="ADD") == {
        **served.told[-1],
        "code": 3,
        "error": answer.document["msg"],
    }
    assert served.ask("DEL") == (0, None, "")
    assert served.ask("FOO").code == 4
    assert served.ask("CHECK", b"{").code == 6


def test_warnings_go_to_standard_error_and_into_the_line(serve: Serve) -> None:
    served = serve()
    answer = served.ask("ADD", {**CONFIG, "colour": "red", "\ud800": 1})
    assert answer.warnings.startswith("bond: warning: ")
    assert "colour" in answer.warnings
    assert "colour" in served.wait(verb="ADD")["warnings"]


def test_a_warning_that_is_no_text_is_told_all_the_same(serve: Serve) -> None:
    def warn(service: Service, request: Request) -> None:
        del request
        service.warn("lone \ud800, bytes \udcff")

    answer = serve(warn).ask("DEL")
    assert answer == (0, None, "bond: warning: lone \\ud800, bytes \\udcff\n")


def test_a_delegate_is_run_by_who_called(serve: Serve) -> None:
    served = serve()
    with served.shim() as shim:
        shim.request("DEL", IPAM)
        call = shim.receive()
        assert (call.type, call.text(Tag.NAME)) == (Type.EXEC, "delegate")
        shim.send(Type.DONE, [DONE, (Tag.EXIT, number(0))])
        assert shim.answer() == (0, None, "")
    served.wait(verb="DEL", code=0)


def test_everything_that_was_brought_is_closed_after_each_request(serve: Serve) -> None:
    served = serve()
    served.ping()
    before = open_descriptors()
    for _ in range(20):
        served.ask("ADD", None, "hHpP", CNI_NETNS_OVERRIDE="1")
    wait_until(lambda: open_descriptors() == before)
    assert len(served.lines(verb="ADD")) == 20


def test_a_defect_is_answered_and_ends_nothing(serve: Serve) -> None:
    def defect(service: Service, request: Request) -> None:
        del service
        if request.command == "ADD":
            raise KeyError("defect")

    served = serve(defect, workers=1)
    answer = served.ask("ADD")
    assert (answer.code, answer.document["msg"]) == (100, "unexpected KeyError: 'defect'")
    assert "in defect" in served.wait(event="internal_error")["traceback"]
    assert served.ask("DEL") == (0, None, "")


def test_an_answer_that_is_too_long_is_an_error_and_undone(serve: Serve) -> None:
    seen: list[str] = []

    def long(service: Service, request: Request) -> Any:
        del service
        seen.append(request.command)
        return {"long": "x" * (9 << 20)} if request.command == "ADD" else None

    served = serve(long)
    answer = served.ask("ADD")
    assert (answer.code, seen[0]) == (11, "ADD")
    assert "too long" in answer.document["msg"]
    served.wait(event="add_rolled_back", container="c1")
    assert seen == ["ADD", "DEL"]


# Rubbish.


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "unknown protocol version 71 (supported: 1)"),
        (struct.pack("<BBHI", 2, 1, 0, 0), "unknown protocol version 2 "),
        (
            struct.pack("<BBHI", 1, 1, 0, 0xFFFFFFFF),
            "4294967295 bytes exceeds the limit of 8388608",
        ),
        (pack(Type.DONE, [DONE]), "unexpected frame of type 4, expected REQUEST"),
        (pack(Type.ANSWER), "unexpected frame of type 2, expected REQUEST"),
        (pack(99), "unexpected frame of type 99, expected REQUEST"),
        (struct.pack("<BBHI", 1, 1, 0, 3) + b"abc", "incomplete field of 3 bytes"),
        (pack(Type.REQUEST, [(0x8000, b"")]), "must not be ignored"),
        (
            pack(Type.REQUEST, [(Tag.ENV, b"A=b")] * 4097),
            "environment of 4097 variables and 12291 bytes exceeds the limit",
        ),
    ],
)
def test_rubbish_is_refused(serve: Serve, data: bytes, said: str) -> None:
    served = serve()
    with served.shim() as shim, descriptors("hHpP") as brought:
        shim.raw(data, brought)
        answer = shim.answer()
    assert answer.code == 11
    assert said in answer.document["msg"]
    assert said in served.wait(event="protocol_error")["error"]
    served.ping()


@pytest.mark.parametrize(
    ("said", "letters", "brought"),
    [
        ("descriptors hH are missing", "", ""),
        ("0 descriptors, but DESCRIPTORS is 'hH'", "hH", ""),
        ("2 descriptors, but DESCRIPTORS is ''", "", "hH"),
        ("2 descriptors, but DESCRIPTORS is 'hX'", "hX", "hH"),
        ("descriptor h is not a route netlink socket", "hH", "Hh"),
        ("descriptors hH are missing", "pP", "pP"),
        ("descriptors pP are missing", "hHp", "hHp"),
    ],
)
def test_descriptors_that_do_not_match(serve: Serve, said: str, letters: str, brought: str) -> None:
    served = serve()
    with served.shim() as shim, descriptors(brought) as given_:
        shim.send(Type.REQUEST, fields("ADD", letters=letters), given_)
        answer = shim.answer()
    assert (answer.code, answer.document["msg"]) == (11, said)
    assert served.wait(verb="ADD", code=11, container="c1")["error"] == said


def test_a_socket_of_another_kind(serve: Serve) -> None:
    """It could not even be looked at, once: the loop ended."""
    served = serve()
    with served.shim() as shim, descriptors() as (_, namespace), ExitStack() as held:
        inet = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        shim.send(Type.REQUEST, fields("ADD"), [inet.fileno(), namespace])
        assert shim.answer().code == 11
    with served.shim() as shim, descriptors() as (_, namespace), open(os.devnull) as file:
        shim.send(Type.REQUEST, fields("ADD"), [file.fileno(), namespace])
        assert shim.answer().code == 11
    served.ping()


def test_too_many_descriptors(serve: Serve) -> None:
    served = serve()
    with served.shim() as shim, descriptors("hHpPhH") as brought:
        shim.send(Type.REQUEST, fields("ADD"), brought)
        answer = shim.answer()
    assert (answer.code, "more than 4 descriptors" in answer.document["msg"]) == (11, True)


def test_a_refusal_of_something_huge_is_short(serve: Serve) -> None:
    served = serve()
    with served.shim() as shim, descriptors() as brought:
        shim.send(Type.REQUEST, fields("ADD", letters="x" * (4 << 20)), brought)
        answer = shim.answer()
    assert (answer.code, len(answer.document["msg"]) < 200) == (11, True)


@pytest.mark.parametrize("sent", [0, 1, 8, 50])
def test_half_a_frame_is_dropped_after_a_while(serve: Serve, sent: int) -> None:
    served = serve(request_timeout=0.2)
    whole = pack(Type.REQUEST, fields("ADD"))
    with served.shim() as shim, descriptors() as brought:
        if sent:
            shim.raw(whole[:sent], brought)
        started = time.monotonic()
        assert shim.is_closed()
        assert 0.1 < time.monotonic() - started < 5
    assert served.wait(event="connection_dropped")["reason"] == ("no complete request within 0.2 s")


def test_trickling_gains_no_time(serve: Serve) -> None:
    served = serve(request_timeout=0.3)
    started = time.monotonic()
    with served.shim() as shim, suppress(BrokenPipeError, ConnectionResetError):
        for byte in pack(Type.REQUEST, fields("ADD")):
            shim.raw(bytes([byte]))
            time.sleep(0.02)
    assert 0.2 < time.monotonic() - started < 2
    served.wait(event="connection_dropped")


def test_a_slow_frame_is_taken(serve: Serve) -> None:
    served = serve(answers(None))
    whole = pack(Type.REQUEST, fields("DEL"))
    with served.shim() as shim, descriptors() as brought:
        for at in range(0, len(whole), 40):
            shim.raw(whole[at : at + 40], brought if not at else ())
            time.sleep(0.005)
        assert shim.answer() == (0, None, "")


def test_those_that_go_away_in_the_middle_leave_nothing(serve: Serve) -> None:
    served = serve()
    served.ping()
    before = open_descriptors()
    whole = pack(Type.REQUEST, fields("ADD"))
    for sent in range(0, len(whole) - 1, 25):
        with served.shim() as shim, descriptors("hHpP") as brought:
            if sent:
                shim.raw(whole[:sent], brought)
    wait_until(lambda: open_descriptors() == before)
    assert not served.lines(event="protocol_error")
    served.ping()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda kind, payload, more: (
                struct.pack("<BBHI", 1, kind, 0, len(payload) + more) + payload
            ),
            st.integers(0, 12),
            st.binary(max_size=100),
            st.integers(0, 1),
        ),
        st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=20)), max_size=8).map(
            lambda said: pack(Type.REQUEST, said)
        ),
    ),
    letters=st.text("hHpP", max_size=4),
)
def test_whatever_comes_first_the_next_good_one_is_answered(
    hardy: Served, data: bytes, letters: str
) -> None:
    with hardy.shim() as shim, descriptors(letters) as brought:
        if data:
            shim.raw(data, brought)
        shim.socket.shutdown(socket.SHUT_WR)
        while True:
            try:
                if not shim.socket.recv(1 << 16):
                    break
            except ConnectionResetError:
                break
    hardy.ping()


@pytest.fixture
def hardy(serve: Serve) -> Served:
    return serve(request_timeout=1.0)


# Who may.


def as_user(user: int, work: Callable[[], int]) -> int:
    """Do it in a child that is ``user``; its exit status."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_others_are_closed_without_an_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    assert os.stat(served.path).st_mode & 0o777 == 0o600
    os.chmod(served.path, 0o666)  # noqa: S103  so that SO_PEERCRED decides, not the file's mode
    monkeypatch.chdir(os.path.dirname(served.path))  # the folders above are closed to others

    def call() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(os.path.basename(served.path))
            try:
                sock.sendall(pack(Type.PING))
                return len(sock.recv(100))
            except (BrokenPipeError, ConnectionResetError):
                return 0

    assert as_user(12345, call) == 0
    assert served.wait(event="connection_refused") == {
        "event": "connection_refused",
        "user": 12345,
    }
    served.ping()


def test_the_own_user_may(serve: Serve) -> None:
    """Root here as a rule; CI runs this as somebody else, too."""
    assert serve().ping() < 5


# Many, and silent ones.


def test_those_who_say_nothing_hold_nobody_up(serve: Serve) -> None:
    served = serve(answers(None), request_timeout=1.0)
    with ExitStack() as held:
        silent = [held.enter_context(served.shim()) for _ in range(200)]
        assert served.ping() < 0.9
        assert served.ask("DEL") == (0, None, "")
        assert len(served.lines(event="connection_dropped")) >= 200 - MAX_INCOMPLETE
        assert all(one.is_closed() for one in silent)
        wait_until(lambda: len(served.lines(event="connection_dropped")) == 200)
    assert not served.daemon._incomplete


def test_one_that_is_dropped_while_it_begins_to_speak(serve: Serve) -> None:
    """Both in one turn of the loop: the oldest is ready to be read, and must make room."""
    served = serve()
    busy, go_on = threading.Event(), threading.Event()

    def hold(said: dict[str, Any]) -> None:
        if said["event"] == "protocol_error":
            busy.set()
            assert go_on.wait(PATIENCE)

    served.held = hold
    with ExitStack() as held:
        *silent, rubbish = [held.enter_context(served.shim()) for _ in range(MAX_INCOMPLETE)]
        wait_until(lambda: len(served.daemon._incomplete) == MAX_INCOMPLETE)
        rubbish.send(Type.DONE)
        assert busy.wait(PATIENCE)
        more = [held.enter_context(served.shim()) for _ in range(3)]
        for one in silent[:3]:
            one.raw(b"\1")
        go_on.set()
        served.ping()
        assert all(one.is_closed() for one in silent[:2])
        more[-1].send(Type.PING)
        assert more[-1].answer() == (0, None, "")


def test_peers_that_do_not_read_hold_nobody_up(serve: Serve) -> None:
    """Refusals, PING: nothing in the loop waits for a peer."""
    served = serve()
    with ExitStack() as held:
        for said in (pack(Type.PING), pack(99), b"rubbish!"):
            for _ in range(30):
                held.enter_context(served.shim()).raw(said)
        assert served.ping() < 3


def test_no_descriptors_left_is_no_busy_loop(serve: Serve) -> None:
    """The silent make room; where there are none it rests, and says so now and then only."""
    served = serve()
    served.ping()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        for one in waiting:
            held.enter_context(one)
            one.settimeout(PATIENCE)
        os.close(free := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            for one in waiting:
                one.connect(served.path)
            before = time.process_time()
            time.sleep(0.7)
            spent = time.process_time() - before
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        refused = served.lines(event="accept_failed", error=os.strerror(errno.EMFILE))
        assert 1 <= len(refused) <= 3
        assert spent < 0.35
        for one in waiting:
            with Shim(one) as shim:
                shim.send(Type.PING)
                assert shim.answer() == (0, None, "")


# Order, room, end.


def test_of_one_container_in_their_order_of_others_together(serve: Serve) -> None:
    slow = Slow()
    served = serve(slow)
    mine, others = ("ADD", "CHECK", "DEL"), ("ADD c2", "DEL c3")
    with ExitStack() as held:
        shims = []
        for command in mine:
            shims.append(held.enter_context(served.shim()))
            shims[-1].request(command)
            wait_until(lambda: served.daemon._pool.busy() == len(shims))
        for one in others:
            command, container = one.split()
            shims.append(held.enter_context(served.shim()))
            shims[-1].request(command, CNI_CONTAINERID=container)
        wait_until(lambda: len(slow.entered) == 3)
        assert set(slow.entered) == {"ADD c1", *others}
        slow.opened.set()
        assert [shim.answer().status for shim in shims] == [0] * 5
    assert [one for one in slow.entered if one not in others] == [f"{verb} c1" for verb in mine]


def test_there_is_no_room_without_end(serve: Serve) -> None:
    slow = Slow()
    served = serve(slow, workers=1, max_waiting=2)
    with ExitStack() as held:
        shims = []
        for command in ("ADD", "DEL", "DEL"):
            shims.append(held.enter_context(served.shim()))
            shims[-1].request(command)
            wait_until(lambda: served.daemon._pool.busy() == len(shims) and slow.entered)
        answer = served.ask("STATUS")
        assert (answer.code, answer.document["msg"]) == (11, "too many waiting requests (limit: 2)")
        served.wait(verb="STATUS", code=11)
        served.ping()
        slow.opened.set()
        assert [shim.answer().status for shim in shims] == [0, 0, 0]


def test_the_end_lets_what_runs_finish_and_takes_deletions_only(serve: Serve) -> None:
    slow = Slow()
    served = serve(slow)
    with served.shim() as running:
        running.request("ADD")
        wait_until(lambda: slow.entered)
        served.daemon.stop()
        wait_until(lambda: served.daemon._stopping)
        for command in ("ADD", "CHECK", "STATUS", "GC"):
            answer = served.ask(command, CNI_CONTAINERID="c2")
            assert (answer.code, answer.document["msg"]) == (11, "the bond daemon is shutting down")
            assert answer.document["cniVersion"] == "1.1.0"
        assert served.ask("DEL", CNI_CONTAINERID="c2") == (0, None, "")
        assert served.thread.is_alive()
        slow.opened.set()
        assert running.answer() == (0, None, "")
    served.thread.join(PATIENCE)
    assert not served.thread.is_alive()
    assert slow.entered == ["ADD c1", "DEL c2"]
    assert served.lines(verb="ADD", container="c2", code=11)


# Callers that go away.


def test_an_add_whose_caller_went_away_is_undone(serve: Serve) -> None:
    slow = Slow()
    served = serve(slow)
    with served.shim() as shim:
        shim.request("ADD")
        wait_until(lambda: slow.entered)
    slow.opened.set()
    assert served.wait(event="add_rolled_back") == {
        "event": "add_rolled_back",
        "container": "c1",
        "ifname": "net1",
    }
    assert slow.entered == ["ADD c1", "DEL c1"]
    assert served.lines(verb="ADD", code=0), "that it was made is told, too"


@pytest.mark.parametrize(("command", "code"), [("DEL", 0), ("ADD", 106)])
def test_what_made_nothing_is_not_undone(serve: Serve, command: str, code: int) -> None:
    entered, opened, seen = threading.Event(), threading.Event(), []

    def verb(service: Service, request: Request) -> None:
        del service
        seen.append(request.command)
        entered.set()
        assert opened.wait(PATIENCE)
        if code:
            raise Incomplete("failed")

    served = serve(verb)
    with served.shim() as shim:
        shim.request(command)
        assert entered.wait(PATIENCE)
    opened.set()
    served.wait(verb=command, code=code)
    served.end()
    assert seen == [command]
    assert not served.lines(event="add_rolled_back")


def test_what_cannot_be_undone_waits(serve: Serve) -> None:
    slow = Slow()

    def verb(service: Service, request: Request) -> None:
        slow(service, request)
        if request.command == "DEL":
            raise Incomplete("not now")

    served = serve(verb)
    with served.shim() as shim:
        shim.request("ADD")
        wait_until(lambda: slow.entered)
    slow.opened.set()
    assert served.wait(event="cleanup_pending")["detail"] == "not now"
    assert not served.lines(event="add_rolled_back")


def test_a_caller_that_goes_away_while_its_delegate_runs(serve: Serve) -> None:
    served = serve()
    with served.shim() as shim:
        shim.request("DEL", IPAM)
        assert shim.receive().type == Type.EXEC
    line = served.wait(verb="DEL")
    assert line["code"] == 106
    assert "the call EXEC to the executable bond failed: the peer closed" in line["error"]
    served.ping()


@pytest.mark.parametrize(
    "reply",
    [pack(Type.PING), pack(Type.DONE), pack(Type.REQUEST, fields("ADD")), b"rubbish and more"],
)
def test_replies_that_make_no_sense(serve: Serve, reply: bytes) -> None:
    served = serve()
    with served.shim() as shim:
        shim.request("ADD", IPAM, "hHpP")
        assert shim.receive().type == Type.FIND
        shim.raw(reply)
        answer = shim.answer()
    assert answer.code == 11
    assert "the call FIND to the executable bond failed" in answer.document["msg"]


# What waits.


def queue(served: Served, container: str, said: list[Field] | None = None) -> Path:
    folder = served.state / "queue"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{container}:net1.del"
    env = {"CNI_CONTAINERID": container}
    path.write_bytes(pack(Type.REQUEST, said or fields("DEL", IPAM, "", env)))
    return path


def test_what_is_queued_is_done_by_who_calls_next(serve: Serve) -> None:
    served = serve(answers(None))
    path = queue(served, "c9")
    calls = []
    with served.shim() as shim:
        shim.request("STATUS", CNI_NETNS="")
        while (frame := shim.receive()).type != Type.ANSWER:
            calls.append(frame)
            shim.send(Type.DONE, [DONE, (Tag.EXIT, number(0)), (Tag.POD, encoded(own()))])
    assert [frame.type for frame in calls] == [Type.IDENTIFY, Type.EXEC]
    assert b"CNI_CONTAINERID=c9" in calls[1].all(Tag.ENV)
    assert b"CNI_COMMAND=DEL" in calls[1].all(Tag.ENV)
    assert served.wait(event="cleanup_done")["container"] == "c9"
    assert not path.exists()
    assert not frame.get(Tag.WARNINGS)


def test_status_tells_what_waits(serve: Serve) -> None:
    served = serve(answers(None))
    path = queue(served, "c9")
    with served.shim() as shim:
        shim.request("STATUS", CNI_NETNS="")
        while (frame := shim.receive()).type != Type.ANSWER:
            shim.send(Type.DONE, [(Tag.STATUS, number(errno.EACCES))])
    assert b"bond: warning: queued DELs: 1; " in (frame.get(Tag.WARNINGS) or b"")
    assert frame.number(Tag.STATUS) == 0
    assert path.exists()
    assert served.wait(event="cleanup_pending")["container"] == "c9"


def test_rubbish_in_the_queue_fails_nobody(serve: Serve) -> None:
    served = serve(answers({}))
    path = queue(served, "c9", [(Tag.ENV, b"A=b")])
    odd = queue(
        served,
        "c8",
        fields(
            "DEL",
            {**IPAM, "ipam": {"type": "\ud800"}},
            "",
            {"CNI_CONTAINERID": "c8", "CNI_NETNS": ""},
        ),
    )
    with served.shim() as shim:
        shim.request("ADD")
        while (frame := shim.receive()).type != Type.ANSWER:
            shim.send(Type.DONE, [(Tag.STATUS, number(2))])
        assert json.loads(frame.get(Tag.OUTPUT) or b"") == {}
    assert Path(f"{path}.unreadable").exists()
    assert not path.exists()
    assert not odd.exists(), "nothing was reserved by a delegate that is missing"
    assert "renamed to" in served.wait(event="queued_del_rejected", container="c9")["detail"]
    assert served.wait(event="cleanup_done", container="c8")
    assert "is not in CNI_PATH" in served.wait(event="cleanup_warning")["warning"]


# The policy.


def test_the_policy_is_read_again_when_it_changed_and_when_told_to(serve: Serve) -> None:
    seen: list[Any] = []

    def look(service: Service, request: Request) -> None:
        del request
        seen.append([rule.name for rule in service.policy().rules or ()])

    served = serve(look)
    served.ask("DEL")
    served.policy.write_text("links: [{name: eth1}]\n", encoding="ascii")
    served.ask("DEL")
    stamp = os.stat(served.policy)
    served.policy.write_text("links: [{name: eth2}]\n", encoding="ascii")
    os.utime(served.policy, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    served.ask("DEL")
    served.daemon.reload()
    served.wait(event="policy_reloaded")
    served.ask("DEL")
    assert seen == [[], ["eth1"], ["eth2"], ["eth2"]]
    served.policy.write_text("nonsense\n", encoding="ascii")
    served.daemon.reload()
    assert "policy" in served.wait(event="policy_error")["error"]
    assert len(served.lines(event="policy_reloaded")) == 1
    assert served.ask("DEL").code == 107


def test_rules_are_the_same_for_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("links: [{name: eth1}]\n", encoding="ascii")
    rules, found = PolicyCache(str(path)), []

    def look() -> None:
        for _ in range(10):
            found.append(rules())
            rules.invalidate()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 40
    assert {rule.name for one in found for rule in one.rules or ()} == {"eth1"}
