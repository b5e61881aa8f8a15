"""Issue item 9: a namespace is present, gone, or not known; what is not known is never acted on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bondcni.core.config import LinkRef, parse
from bondcni.core.errors import ErrorList, TryAgain
from bondcni.core.lifecycle import NamespaceState
from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import Link, Location
from bondcni.daemon.delete_queue import DeleteQueue
from bondcni.daemon.pending_cleanup import PendingCleanup
from bondcni.service import reach
from bondcni.service.attachment import Service, boot_id
from bondcni.service.garbage import collect
from bondcni.service.journal import Journal, Record
from bondcni.service.reach import GONE, Direct, Presence, Unaided
from bondcni.service.reconcile import before_add, condition, recover
from bondcni.service.request import Request
from bondcni.service.verbs import _finish_old

WHY = "its directory is closed"
UNKNOWN = Presence(NamespaceState.UNKNOWN, why=WHY)
OWN = "/proc/self/ns/net"


def own() -> str:
    found = os.stat(OWN)
    return f"{found.st_dev}:{found.st_ino}"


class Seen(Direct):
    """Where nothing can be done, only looked; what is seen is ``found``."""

    def __init__(self, found: Presence) -> None:
        self.found = found

    def presence(self, netns: str) -> Presence:
        del netns
        return self.found


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def blind(tmp_path: Path, warnings: list[str]) -> Service:
    """One that has a record, complete, and cannot see its namespace."""
    wanted = Wanted(900, "net1", "", {}, 1500, "", (Member(7, "eth1", {}),))
    claimed = (Claimed(Location.HOST, Link(7, "eth1")),)
    result = {"cniVersion": "1.1.0"}
    config = {"cniVersion": "1.1.0", "name": "net", "type": "bond", "ipam": {"type": "none"}}
    journal = Journal(str(tmp_path))
    journal.write(
        Record("c1", "net1", "/x", config, wanted, claimed, "4:1", boot_id(), result=result)
    )
    return Service(journal, warnings.append, reach=Seen(UNKNOWN))


# What is known of a path.


def test_9_present(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(OWN)
    for look in (Direct(), Unaided()):
        assert look.presence(OWN) == Presence(NamespaceState.PRESENT, own())
        assert look.presence(str(tmp_path / "here")) == Presence(NamespaceState.PRESENT, own())


def plain(path: Path) -> None:
    """As where a mount has ended, or is not seen in this mount namespace."""
    path.touch()


def test_9_gone(tmp_path: Path) -> None:
    """The directory of the namespaces is there, and it is not in it."""
    path = tmp_path / "pod"
    assert Direct().presence(str(path)) == GONE
    plain(path)
    assert Direct().presence(str(path)) == GONE


def test_9_gone_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/proc/{2**22 + 1}/ns/net"  # above the largest process ID
    monkeypatch.setattr(reach, "INITIAL_PID_NAMESPACE", os.stat("/proc/self/ns/pid").st_ino)
    assert Direct().presence(path) == GONE
    monkeypatch.setattr(reach, "INITIAL_PID_NAMESPACE", 1)
    found = Direct().presence(path)
    assert (found.state, found.why) == (
        "unknown",
        f"{path} names a process, and this process is not in the node's PID namespace",
    )


def test_9_unknown_where_its_directory_is_not_visible(tmp_path: Path) -> None:
    found = Direct().presence(str(tmp_path / "netns" / "pod"))
    assert found == Presence(
        NamespaceState.UNKNOWN, why=f"the directory {tmp_path}/netns is not visible"
    )


def test_9_unknown_where_the_kernel_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    found = Direct().presence(str(tmp_path / "loop"))
    assert (found.state, found.why) == (
        "unknown",
        f"{tmp_path}/loop: Too many levels of symbolic links",
    )


@pytest.mark.parametrize("make", [plain, lambda _: None])
def test_9_the_daemon_by_itself_knows_of_no_end(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """In a container with an empty directory of the same name, or without the mounts in it."""
    make(tmp_path / "pod")
    found = Unaided().presence(str(tmp_path / "pod"))
    assert (found.state, found.identity) == ("unknown", "")
    assert "is not visible in the mount namespace of this process" in found.why


# What follows from it.


def test_9_recover_leaves_it(blind: Service) -> None:
    (found,) = recover(blind)
    assert (found.state, found.done) == ("unknown", False)
    assert found.messages == (f"cannot tell whether its namespace exists: {WHY}",)
    assert blind.journal.read("c1", "net1", print) is not None


def test_9_another_namespace_at_the_path_is_not_its_own(blind: Service) -> None:
    record = blind.journal.read("c1", "net1", print)
    assert record is not None
    for found, state in (("4:1", "active"), ("4:2", "namespace gone")):
        seeing = blind._replace(reach=Seen(Presence(NamespaceState.PRESENT, found)))
        assert condition(seeing, record).state == state


def test_9_gc_keeps_it(blind: Service, warnings: list[str]) -> None:
    """And has the delegate keep its address."""
    text = b'{"cniVersion": "1.1.0", "name": "net", "type": "bond", "mode": 1, "miimon": 100,'
    text += b'"links": [{"name": "a"}, {"name": "b"}], "cni.dev/valid-attachments": []}'
    forwarded = collect(blind, parse(text), ErrorList())
    assert forwarded["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "net1"}]
    (warning,) = warnings
    assert warning == (
        f"c1 net1 is unknown (cannot tell whether its namespace exists: {WHY}): kept, although not "
        "in cni.dev/valid-attachments"
    )
    assert blind.journal.read("c1", "net1", print) is not None


def test_9_add_of_its_links_leaves_it(blind: Service, warnings: list[str]) -> None:
    before_add(blind, (LinkRef("name", "eth1", {}),))
    assert warnings == [
        f"links of c1 net1 (unknown): not restored: cannot tell whether its namespace exists: {WHY}"
    ]
    assert blind.journal.read("c1", "net1", print) is not None


def test_9_add_of_the_same_attachment_waits(blind: Service) -> None:
    request = Request("ADD", "c1", "/x", "net1", {}, b"")
    with pytest.raises(TryAgain, match=f"record of c1 net1, and the plugin cannot tell .*: {WHY}"):
        _finish_old(blind, request)


def test_9_it_is_counted_apart_until_it_is_known(blind: Service) -> None:
    told: list[dict[str, object]] = []
    due = PendingCleanup(
        DeleteQueue(blind.journal.directory),
        lambda event, **said: told.append({"event": event, **said}),
    )
    due.scan(blind)
    assert due.counts() == (0, 0, 1)
    due.drain(blind, ("", ""))
    assert due.counts() == (0, 0, 1)
    assert [(one["event"], WHY in str(one["detail"])) for one in told] == [
        ("cleanup_pending", True)
    ]
    due._tried.clear()
    due.drain(blind._replace(reach=Seen(Presence(NamespaceState.PRESENT, "4:1"))), ("", ""))
    assert due.counts() == (0, 0, 0)
    assert len(told) == 1
