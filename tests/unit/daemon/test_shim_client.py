"""The shim as what a request can reach: what it brought, what it is asked, what it may say."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.daemon.shim import (
    NETNS,
    POD,
    Shim,
    descriptors,
    fields,
    open_descriptors,
    own,
    wait_until,
)

from bondcni.core.errors import (
    BondError,
    DelegateError,
    KernelError,
    NamespaceGone,
    NotANamespace,
    TryAgain,
)
from bondcni.core.lifecycle import NamespaceState
from bondcni.daemon.connection import Connection
from bondcni.daemon.log import LONGEST, Event, Log, log
from bondcni.daemon.protocol import Field, Frame, ProtocolError, Tag, Type, number
from bondcni.daemon.shim_client import ShimClient, environment
from bondcni.kernel.reading import all_links
from bondcni.service.attachment import Service
from bondcni.service.delegate import LIMIT, Ended
from bondcni.service.reach import GONE, Presence

OTHER = "/run/netns/bondcni-other"
DONE = (Tag.STATUS, number(0))

Reply = Callable[[Shim], None]


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@contextmanager
def pair() -> Iterator[tuple[Connection, Shim]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with Connection(ours) as connection, Shim(theirs) as shim:
        yield connection, shim


def taken(connection: Connection, call_seconds: float = 10.0, log_: Log = log) -> ShimClient:
    frame = connection.receive(time.monotonic() + 10)
    return ShimClient(connection, frame, environment(frame), call_seconds, log_)


@contextmanager
def calling(
    letters: str = "hHpP",
    *replies: Reply,
    call_seconds: float = 10.0,
    log_: Log = log,
    **env: str,
) -> Iterator[ShimClient]:
    """A caller whose shim answers so, call by call; then it goes away."""

    def answer() -> None:
        with shim:
            for reply in replies:
                asked.append(shim.receive())
                reply(shim)

    asked: list[Frame] = []
    with pair() as (connection, shim):
        shim.request("ADD", None, letters, **env)
        with taken(connection, call_seconds, log_) as found:
            thread = threading.Thread(target=answer)
            thread.start()
            try:
                yield found
            finally:
                connection.socket.shutdown(socket.SHUT_RDWR)
                thread.join(10)
                assert not thread.is_alive()
    assert len(asked) == len(replies), "it was asked as often as it should be"


def says(*said: Field, kind: int = Type.DONE) -> Reply:
    return lambda shim: shim.send(kind, said)


def hands(letters: str, *said: Field) -> Reply:
    """OPEN's answer with descriptors."""

    def reply(shim: Shim) -> None:
        with descriptors(letters) as given:
            shim.send(Type.DONE, said, given)

    return reply


# What it brought.


def test_what_it_brought_is_used_and_closed() -> None:
    with calling() as found:
        with found.node(NETNS) as node:
            assert node.pod is not None
            assert os.fstat(node.pod.fd).st_ino == os.stat("/proc/self/ns/net").st_ino
            assert 1 in {link.index for link in node.inside().links}, "netlink answers: lo"
            assert 1 in {link.index for link in all_links(node.host.rtnl).links}
        with found.node("") as node:
            assert node.pod is None
        assert found.presence(NETNS) == Presence(NamespaceState.PRESENT, POD)
        assert not found.is_own(NETNS)


def test_the_pod_that_could_not_be_opened() -> None:
    with calling("hH") as found:
        assert found.presence(NETNS) == GONE
        with pytest.raises(NamespaceGone):
            found.is_own(NETNS)
        with pytest.raises(NamespaceGone), found.node(NETNS):
            pass


@pytest.mark.parametrize(
    ("why", "error"),
    [
        (errno.ENOENT, NamespaceGone),
        (errno.ENOTDIR, NamespaceGone),
        (errno.ENOTTY, NotANamespace),
        (errno.EACCES, KernelError),
    ],
)
def test_why_the_pod_could_not_be_opened(why: int, error: type[BondError]) -> None:
    with pair() as (connection, shim), descriptors() as given:
        said = [f for f in fields("ADD") if f[0] != Tag.POD_ERROR]
        shim.send(Type.REQUEST, [*said, (Tag.POD_ERROR, number(why))], given)
        with taken(connection) as found, pytest.raises(error), found.node(NETNS):
            pass


@contextmanager
def any_descriptors(kinds: str) -> Iterator[list[int]]:
    """By letters: as ``descriptors``, and f file, d folder, i and u sockets, n another netlink,
    m another namespace, r read end of a pipe.
    """
    with ExitStack() as held:
        found: list[int] = []
        for kind in kinds:
            if kind in "hHpP":
                found += held.enter_context(descriptors(kind))
            elif kind in "iun":
                family = {"i": socket.AF_INET, "u": socket.AF_UNIX, "n": socket.AF_NETLINK}[kind]
                sock = (
                    socket.socket(family, socket.SOCK_RAW, 9)  # NETLINK_AUDIT
                    if kind == "n"
                    else socket.socket(family, socket.SOCK_STREAM)
                )
                found.append(held.enter_context(sock).fileno())
            elif kind == "r":
                ends = os.pipe()
                for end in ends:
                    held.callback(os.close, end)
                found.append(ends[0])
            else:
                path = {"f": "/etc/passwd", "d": "/", "m": "/proc/self/ns/uts"}[kind]
                found.append(os.open(path, os.O_RDONLY))
                held.callback(os.close, found[-1])
        yield found


@pytest.mark.parametrize(
    ("letters", "kinds"),
    [
        ("", ""),
        ("", "hH"),
        ("hH", ""),
        ("h", "h"),
        ("H", "H"),
        ("hHp", "hHp"),
        ("hHP", "hHP"),
        ("pP", "pP"),
        ("hH", "Hh"),
        ("hh", "hh"),
        ("hHhH", "hHhH"),
        ("hHx", "hHh"),
        ("hHpPhH", "hHpP"),
        ("x" * 10_000, "hH"),
        ("\0\0", "hH"),
        *((f"hH{other}", f"hH{kind}") for other in "pP" for kind in "fdiunmr"),
        *(("hH", f"{kind}H") for kind in "fdiunmr"),
        *(("hH", f"h{kind}") for kind in "fdiunmr"),
        ("hHpP", "hHpf"),
        ("hHpP", "hHip"),
    ],
)
def test_descriptors_that_are_not_what_their_letters_say(letters: str, kinds: str) -> None:
    with pair() as (connection, shim), any_descriptors(kinds) as given:
        shim.send(Type.REQUEST, fields("ADD", letters=letters), given)
        with pytest.raises(ProtocolError) as error:
            taken(connection)
        assert len(str(error.value)) < 200
        assert connection.descriptors == [], "closed at once"


@pytest.mark.parametrize("tag", [Tag.HOST, Tag.POD])
def test_a_namespace_without_identity(tag: Tag) -> None:
    """Else "" would be equal to "": the pod taken for the node itself."""
    with pair() as (connection, shim), descriptors("hHpP") as given:
        said = [field for field in fields("ADD", letters="hHpP") if field[0] != tag]
        shim.send(Type.REQUEST, said, given)
        with pytest.raises(ProtocolError, match="identity"):
            taken(connection)


@pytest.mark.parametrize(
    "said",
    [
        (Tag.POD_ERROR, b""),
        (Tag.POD_ERROR, b"12345"),
        (Tag.POD_ERROR, b"\xff\xff\xff\xff"),
        (Tag.STDIN, bytes((4 << 20) + 1)),
    ],
)
def test_fields_beyond_what_they_may_be(said: Field) -> None:
    with pair() as (connection, shim), descriptors() as given:
        sending = threading.Thread(
            target=lambda: shim.send(Type.REQUEST, [*fields("ADD"), said], given)
        )
        sending.start()
        frame = connection.receive(time.monotonic() + 10)
        sending.join(10)
        with pytest.raises(ProtocolError):
            ShimClient(connection, frame, environment(frame))


def test_no_descriptors_left_is_told_and_leaks_none() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pair() as (connection, shim):
        shim.request("ADD", letters="hHpP")
        frame = connection.receive(time.monotonic() + 10)
        for more in (0, 1):  # for the host's socket or the pod's there is no room
            kept = list(map(os.dup, connection.descriptors))
            os.close(free := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            try:
                with pytest.raises(TryAgain, match="Too many open files"):
                    ShimClient(connection, frame, environment(frame))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert connection.descriptors == []
            connection.descriptors = kept


def test_a_large_environment() -> None:
    assert len(environment(Frame(1, ((Tag.ENV, b"A=" + bytes(1 << 20)),)))) == 1
    for entries in ([b"A=b"] * 4097, [bytes(1 << 20)] * 3):
        with pytest.raises(ProtocolError, match="exceeds the limit of 4096 variables"):
            environment(Frame(1, tuple((Tag.ENV, entry) for entry in entries)))


def test_an_environment_is_taken_as_it_is() -> None:
    said = [b"A=b=c", b"EMPTY=", b"X=\xff", b"A=later", b"=odd", b""]
    found = environment(Frame(1, tuple((Tag.ENV, entry) for entry in said)))
    assert found == {"A": "later", "EMPTY": "", "X": "\udcff", "": ""}


# What it is asked.


def asked(
    connection: Connection, shim: Shim, work: Callable[[ShimClient], Any], reply: Reply
) -> Frame:
    """The call that ``work`` makes."""
    found = taken(connection)
    thread = threading.Thread(target=lambda: work(found))
    thread.start()
    frame = shim.receive()
    reply(shim)
    thread.join(10)
    found.close()
    return frame


def test_exec_says_what_differs_from_the_environment() -> None:
    with pair() as (connection, shim):
        shim.request("ADD", CNI_IFNAME="old", PATH="runtime's", CNI_PATH="runtime's")
        env = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "new\udcfe", "CNI_ARGS": "", "PATH": "other"}
        frame = asked(
            connection,
            shim,
            lambda one: one.run("ipam", b"{}", env, 1.5),
            says(DONE, (Tag.EXIT, bytes(4))),
        )
    assert frame.type == Type.EXEC
    assert (frame.text(Tag.NAME), frame.get(Tag.STDIN)) == ("ipam", b"{}")
    assert frame.number(Tag.DEADLINE) == 1500
    assert set(frame.all(Tag.ENV)) == {
        *(b"CNI_IFNAME=new\xfe", b"CNI_ARGS="),
        *(b"CNI_CONTAINERID", b"CNI_NETNS"),
    }


def test_how_a_delegate_ended() -> None:
    signalled = struct.pack("<i", -9)
    replies = (
        says(DONE, (Tag.EXIT, number(3)), (Tag.OUTPUT, b"text")),
        says(DONE, (Tag.EXIT, signalled)),
        says((Tag.STATUS, number(errno.ETIMEDOUT))),
        says((Tag.STATUS, number(errno.EFBIG))),
    )
    with calling("hH", *replies) as found:
        ends = [found.run("ipam", b"", {}, 1) for _ in replies]
    assert ends[:3] == [Ended(3, b"text"), Ended(-9, b""), Ended(None, b"")]
    assert len(ends[3].output) > LIMIT


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (errno.ENOENT, "IPAM plugin ipam is not in CNI_PATH (/opt/cni/bin)"),
        (errno.EACCES, "IPAM plugin ipam cannot be started: Permission denied"),
        (errno.ENOSYS, "IPAM plugin ipam cannot be started: Function not implemented"),
    ],
)
def test_why_there_is_no_delegate(status: int, said: str) -> None:
    env = {"CNI_PATH": "/opt/cni/bin"}
    reply = says((Tag.STATUS, number(status)))
    with calling("hH", reply, reply) as found:
        with pytest.raises(DelegateError) as error:
            found.find("ipam", env)
        assert error.value.message == said
        with pytest.raises(DelegateError) as error:
            found.run("ipam", b"", env, 1)
        assert error.value.message == said


@pytest.mark.parametrize("name", ["../evil", "/bin/sh", "\ud800"])
def test_a_name_that_no_delegate_can_have_is_not_asked_for(name: str) -> None:
    with calling("hH") as found:
        with pytest.raises(DelegateError):
            found.find(name, {})
        with pytest.raises(DelegateError):
            found.run(name, b"", {}, 1)


def test_another_namespace_is_asked_for() -> None:
    opened = (DONE, (Tag.DESCRIPTORS, b"pP"), (Tag.POD, b"4:77"))
    identified = says(DONE, (Tag.POD, b"4:77"))
    ours = says(DONE, (Tag.POD, own().encode()))
    with calling("hH", hands("pP", *opened), identified, identified, ours) as found:
        with found.node(OTHER) as node:
            assert node.pod is not None
            assert 1 in {link.index for link in node.inside().links}
            inside = open_descriptors()
        assert open_descriptors() == inside - 3, "two that were given, one of our own"
        assert found.presence(OTHER) == Presence(NamespaceState.PRESENT, "4:77")
        assert not found.is_own(OTHER)
        assert found.is_own(OTHER)


@pytest.mark.parametrize(
    "reply",
    [
        says(DONE),
        says(DONE, (Tag.DESCRIPTORS, b"pP")),
        hands("pP", DONE, (Tag.DESCRIPTORS, b"hH")),
        hands("pP", DONE, (Tag.DESCRIPTORS, b"Pp")),
        hands("p", DONE, (Tag.DESCRIPTORS, b"p")),
        hands("hHpP", DONE, (Tag.DESCRIPTORS, b"hHp")),
        hands("hHpPh", DONE, (Tag.DESCRIPTORS, b"hHpPh")),
        hands("pP", (Tag.STATUS, number(errno.ENOENT))),
    ],
)
def test_a_namespace_that_is_not_handed_over(reply: Reply) -> None:
    """Nothing of it stays open, whatever came."""
    with calling("hH", reply) as found:
        before = open_descriptors("net:")
        with pytest.raises((TryAgain, NamespaceGone)), found.node(OTHER):
            pass
        Connection.close_all(found._connection.descriptors)
        wait_until(lambda: open_descriptors("net:") == before)


def test_only_a_namespace_that_is_gone_is_gone() -> None:
    """A shim that went away or cannot look says nothing of a pod: it must not be taken down."""
    for status in (errno.ENOENT, errno.ENOTDIR, errno.ENOTTY):
        with calling("hH", says((Tag.STATUS, number(status)))) as found:
            assert found.presence(OTHER) == GONE
    for status in (errno.EACCES, errno.EMFILE, errno.ENOSYS):
        reply = says((Tag.STATUS, number(status)))
        with calling("hH", reply) as found:
            said = found.presence(OTHER)
            assert (said.state, os.strerror(status) in said.why) == ("unknown", True)
    for reply in (says(DONE), says(DONE, (Tag.POD, b"")), lambda shim: shim.socket.close()):
        with calling("hH", reply) as found, pytest.raises(TryAgain):
            found.presence(OTHER)


def test_sysctls_are_asked_for() -> None:
    with pair() as (connection, shim):
        shim.request("ADD", None, "hHpP")
        values = {"disable_ipv6": 0, "keep_addr_on_down": 1}
        work = lambda one: one._set_sysctls(NETNS, "net1", values)  # noqa: E731
        frame = asked(connection, shim, work, says(DONE))
    assert (frame.type, frame.text(Tag.PATH), frame.text(Tag.NAME)) == (6, NETNS, "net1")
    assert frame.all(Tag.SETTING) == [b"disable_ipv6=0", b"keep_addr_on_down=1"]


def test_a_sysctl_that_is_refused() -> None:
    reply = says((Tag.STATUS, number(errno.EROFS)), (Tag.NAME, b"disable_ipv6"))
    with calling("hH", reply) as found, pytest.raises(KernelError) as error:
        found._set_sysctls(NETNS, "net1", {"disable_ipv6": 0})
    assert error.value.message.startswith(
        "set net.ipv6.conf.net1.disable_ipv6=0: kernel says EROFS"
    )


# What it may not say.


@pytest.mark.parametrize(
    "reply",
    [
        says(kind=Type.REQUEST),
        says(kind=Type.ANSWER),
        says(kind=Type.PING),
        says(kind=200),
        says(),
        says((Tag.EXIT, number(0))),
        says(DONE),
        says((Tag.STATUS, b"")),
        says((Tag.STATUS, b"\xff\xff\xff\xff")),
        says(DONE, (Tag.EXIT, b"1")),
        says(DONE, (Tag.EXIT, b"12345")),
        says(DONE, (0x8001, b"matters"), (Tag.EXIT, number(0))),
        lambda shim: shim.raw(b"rubbish and more"),
        lambda shim: shim.raw(struct.pack("<BBHI", 1, 4, 0, 0xFFFFFFFF)),
        lambda shim: shim.raw(struct.pack("<BBHI", 1, 4, 0, 100) + b"half"),
        lambda shim: shim.socket.close(),
    ],
)
def test_an_answer_that_makes_no_sense(reply: Reply) -> None:
    """No success is made of it, and nothing is asked any more."""
    with calling("hH", reply) as found:
        for _ in range(2):
            with pytest.raises(
                TryAgain, match="the call EXEC to the executable bond failed"
            ) as error:
                found.run("ipam", b"", {}, 1)
            assert error.value.code == 11
        with pytest.raises(TryAgain, match="the call EXEC to"):
            found.find("ipam", {})


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    """ADD's answer, past the deadline, would say that the DEL after it succeeded."""
    late = threading.Event()

    def reply(shim: Shim) -> None:
        assert late.wait(10)
        shim.send(Type.DONE, [DONE, (Tag.EXIT, number(0))])

    with calling("hH", reply, call_seconds=0.1) as found:
        with pytest.raises(TryAgain, match="timed out waiting for the peer"):
            found.run("ipam", b"", {}, 0.1)
        late.set()
        assert select.select([found._connection.socket], [], [], 10)[0]
        with pytest.raises(TryAgain, match="timed out waiting for the peer"):
            found.run("ipam", b"", {}, 0.1)


def test_it_is_a_reach() -> None:
    with calling("hH", CNI_ARGS="x", PATH="/bin") as found:
        service = Service(None, print, reach=found)  # type: ignore[arg-type]
        assert service.reach.surroundings() == {"PATH": "/bin"}


def test_a_file_that_is_no_namespace_is_not_opened_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        (tmp_path / "file").open() as file,
        pair() as (connection, shim),
        descriptors("h") as given,
    ):
        shim.send(Type.REQUEST, fields("ADD"), [*given, file.fileno()])
        with pytest.raises(ProtocolError, match="descriptor H is not a network namespace"):
            taken(connection)


def test_10_21_what_a_delegate_wrote_to_standard_error_is_logged_whole() -> None:
    """Issue 10, item 21. In lines of the log that are not shortened, cut where its own end."""
    lines = b"".join(b"line %d\n" % number_ for number_ in range(5000))
    said = lines[-(64 << 10) :]
    replies = (
        says(DONE, (Tag.EXIT, number(2)), (Tag.STDERR, said)),
        says(DONE, (Tag.EXIT, number(0)), (Tag.STDERR, b"x" * 20_000)),
        says((Tag.STATUS, number(errno.ETIMEDOUT)), (Tag.STDERR, b"\xff\n")),
        says(DONE, (Tag.EXIT, number(0))),  # a shim before this field
    )
    told: list[dict[str, Any]] = []

    def record(event: Event, **line: Any) -> None:
        if event is not Event.SHIM_CALL:
            told.append({"event": event.value, **line})

    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1"}
    with calling("hH", *replies, log_=record) as found:
        ends = [found.run("ipam", b"", env, 1) for _ in replies]
    assert [end.errors for end in ends] == [said, b"x" * 20_000, b"\xff\n", b""]
    head = {
        "event": "delegate_stderr",
        "plugin": "ipam",
        "verb": "ADD",
        "container": "c1",
        "ifname": "net1",
    }
    assert all({**line, "stderr": ""} == {**head, "stderr": ""} for line in told)
    texts = [line["stderr"] for line in told]
    assert max(map(len, texts)) <= LONGEST
    long = [text for text in texts if set(text) == {"x"}]
    assert "".join(long) == "x" * 20_000
    assert texts[-1] == "\ufffd"
    assert "\n".join(texts[: -1 - len(long)]) == said.decode().rstrip("\n")
