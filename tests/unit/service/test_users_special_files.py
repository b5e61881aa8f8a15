"""Issue item 8: what is at a path that others chose may be no file; nothing waits for it.

Each test has a deadline: without the look at the file's type most of these would wait for ever.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.daemon.shim import fields
from tests.unit.service.heard import heard

from bondcni.core.errors import DelegateError, JournalError, NotANamespace, PolicyError
from bondcni.daemon.delete_queue import DeleteQueue
from bondcni.daemon.policy_cache import PolicyCache
from bondcni.daemon.protocol import Type, pack
from bondcni.install.installer import is_ours
from bondcni.kernel.namespace import namespace_fd, same_namespace
from bondcni.service.attachment import Service
from bondcni.service.delegate import find
from bondcni.service.files import NotAFile, put, read_file
from bondcni.service.journal import Journal
from bondcni.service.locks import hold
from bondcni.service.policy import load

SECONDS = 5


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        before = Path.cwd()
        os.chdir(path.parent)  # the address has room for some 100 bytes
        try:
            sock.bind(path.name)
        finally:
            os.chdir(before)


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a character device": _device,
    "a directory": Path.mkdir,
    "a socket": _socket,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"not within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path, kind: str) -> Callable[[str], Path]:
    """Puts what is no file at a name in the test's directory."""

    def at(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        KINDS[kind](path)
        return path

    return at


Place = Callable[[str], Path]


def test_8_reading(place: Place, kind: str) -> None:
    path = str(place("it"))
    with pytest.raises(NotAFile, match=f"it is {kind}, not a regular file"):
        read_file(path, 10)
    other = "a symbolic link" if kind == "a character device" else kind
    with pytest.raises(NotAFile, match=f"it is {other}, not a regular file"):
        read_file(path, 10, follow=False)


def test_8_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 200_000)
    assert read_file(str(path), 200_000) == path.read_bytes()
    with pytest.raises(NotAFile, match="larger than 199999 bytes"):
        read_file(str(path), 199_999)


def test_8_a_namespace(place: Place) -> None:
    path = str(place("netns"))
    with pytest.raises(NotANamespace, match="netns is not a network namespace"):
        same_namespace(path)
    with pytest.raises(NotANamespace), namespace_fd(path):
        pass


def test_8_the_policy(place: Place, kind: str) -> None:
    """No host link may be taken: somebody meant to say something."""
    path = place("policy.yaml")
    said = f"cannot be read.*it is {kind}, not a regular file"
    with pytest.raises(PolicyError, match=said):
        load(str(path))
    with pytest.raises(PolicyError, match=said):
        PolicyCache(str(path))()


def test_8_a_record(tmp_path: Path, place: Place) -> None:
    """Set aside and told, as any that cannot be read; the others are not concerned."""
    journal = Journal(str(tmp_path))
    path = place("abc:net1.json")
    for found, words in (heard(journal.naming, ["eth1"]), heard(journal.all)):
        assert found == []
        for word in words:
            assert f"the record {path} is invalid (NotAFile: it is " in word
            assert f"renamed to {path}.unreadable" in word
    assert not os.path.lexists(path)
    assert os.path.lexists(f"{path}.unreadable")


def test_8_a_record_that_the_index_looks_at(tmp_path: Path, place: Place) -> None:
    journal = Journal(str(tmp_path))
    journal.stay()
    path = place("abc:net1.json")
    os.rename(path, tmp_path / "other")  # so that inotify tells of it
    os.rename(tmp_path / "other", path)
    found, words = heard(journal.naming, ["eth1"])
    assert (found, len(words)) == ([], 1)


def test_8_a_deletion_that_is_queued(tmp_path: Path, place: Place) -> None:
    path = place("queue/c1:net1.del")
    service = Service(Journal(str(tmp_path)), print)
    word = DeleteQueue(str(tmp_path)).execute(service, ("c1", "net1"))
    assert "is not a valid queued DEL: it is " in word
    assert f"renamed to {path}.unreadable" in word
    assert not os.path.lexists(path)


def test_8_a_deletion_behind_a_link(tmp_path: Path) -> None:
    """No link in the state directory is followed, be it to what would be a deletion."""
    (tmp_path / "queue").mkdir()
    (tmp_path / "frame").write_bytes(pack(Type.REQUEST, fields("DEL", {}, "")))
    (tmp_path / "queue" / "c1:net1.del").symlink_to(tmp_path / "frame")
    service = Service(Journal(str(tmp_path)), print)
    word = DeleteQueue(str(tmp_path)).execute(service, ("c1", "net1"))
    assert "it is a symbolic link" in word


def test_8_the_locks(tmp_path: Path, place: Place) -> None:
    place("lock")
    with (
        pytest.raises(JournalError, match="cannot open the lock file"),
        hold(str(tmp_path), ["a"], 30),
    ):
        pass


def test_8_the_state_directory(place: Place, kind: str) -> None:
    path = place("state")
    if kind == "a directory":
        return
    journal = Journal(str(path))
    assert journal.unusable()
    assert heard(journal.all) == ([], [])
    assert DeleteQueue(str(path)).names() == []
    with pytest.raises(JournalError), hold(str(path), ["a"], 30):
        pass


def test_8_a_delegate(tmp_path: Path, place: Place) -> None:
    place("ipam")
    with pytest.raises(DelegateError, match="is not in CNI_PATH"):
        find("ipam", str(tmp_path))


def test_8_the_executable_in_its_place(place: Place, kind: str) -> None:
    path = place("bond")
    assert not is_ours(str(path))
    if kind != "a directory":
        assert put(str(path), b"new", 0o755)
        assert path.read_bytes() == b"new"
