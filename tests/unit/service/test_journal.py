"""The record on disk: whole or not at all, and nothing stops for a bad one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.service.heard import heard

from bondcni.core.errors import JournalError
from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import Kept, Link, Location
from bondcni.service.journal import Journal, Record
from bondcni.service.locks import hold

NUMBERS = st.integers(0, 2**31 - 1)
TEXT = st.text(max_size=12)
VALUES = st.one_of(st.integers(-(2**31), 2**32), TEXT, st.lists(TEXT, max_size=3).map(tuple))
OPTIONS = st.dictionaries(TEXT, VALUES, max_size=4)
LINKS = st.builds(
    Link,
    index=NUMBERS,
    name=TEXT,
    mac=TEXT,
    permanent_mac=TEXT,
    mtu=NUMBERS,
    min_mtu=NUMBERS,
    max_mtu=NUMBERS,
    flags=NUMBERS,
    type=NUMBERS,
    kind=TEXT,
    master=NUMBERS,
    lower=NUMBERS,
    altnames=st.lists(TEXT, max_size=3).map(tuple),
    alias=TEXT,
    txqlen=NUMBERS,
    parent=TEXT,
    parent_bus=TEXT,
    carrier=st.booleans(),
    operstate=NUMBERS,
    bond=st.none() | OPTIONS,
    member=st.none() | OPTIONS,
)
MEMBERS = st.builds(Member, index=NUMBERS, name=TEXT, options=OPTIONS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.builds(
    Record,
    container_id=st.just("abc"),
    ifname=st.just("net1"),
    netns=TEXT,
    config=st.dictionaries(TEXT, JSON, max_size=4),
    wanted=st.builds(
        Wanted,
        index=NUMBERS,
        name=TEXT,
        altname=TEXT,
        options=OPTIONS,
        mtu=NUMBERS,
        mac=TEXT,
        members=st.lists(MEMBERS, max_size=3).map(tuple),
    ),
    claimed=st.lists(st.builds(Claimed, st.sampled_from(["host", "pod"]), LINKS), max_size=3).map(
        tuple
    ),
    namespace=TEXT,
    boot=TEXT,
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    result=st.none() | st.dictionaries(TEXT, JSON, max_size=4),
)
RECORD = Record("abc", "net1", "/run/netns/pod", {}, Wanted(9, "net1", "", {}, 1500, "", ()), ())


@settings(max_examples=50, deadline=None)  # each is flushed to disk
@given(RECORDS)
def test_a_record_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, record: Record
) -> None:
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    journal = Journal(str(folder))
    journal.write(record)
    assert heard(journal.read, "abc", "net1") == (record, [])
    assert os.listdir(folder) == ["abc:net1.json"]


def test_the_folder_is_made_and_is_for_root_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    Journal(str(folder)).write(RECORD)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_record_is_no_word(tmp_path: Path) -> None:
    assert heard(Journal(str(tmp_path / "none")).read, "abc", "net1") == (None, [])
    assert heard(Journal(str(tmp_path)).read, "abc", "net1") == (None, [])
    assert heard(Journal(str(tmp_path)).read, "a" * 300, "net1") == (None, [])


def test_remove_is_repeatable(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.write(RECORD)
    journal.remove("abc", "net1")
    assert os.listdir(tmp_path) == []
    journal.remove("abc", "net1")
    Journal(str(tmp_path / "none")).remove("abc", "net1")
    assert heard(journal.read, "abc", "net1") == (None, [])


def test_attachments_do_not_collide(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    names = [("a", "b-c"), ("a-b", "c"), ("a.b", "c"), ("a", "b.c"), ("a.json", "b"), ("a", "b")]
    for number, (container_id, ifname) in enumerate(names):
        journal.write(RECORD._replace(container_id=container_id, ifname=ifname, netns=str(number)))
    for number, (container_id, ifname) in enumerate(names):
        record, _ = heard(journal.read, container_id, ifname)
        assert record is not None
        assert record.netns == str(number)
    assert len(os.listdir(tmp_path)) == len(names)


def document(**changes: Any) -> str:
    wanted = {
        "index": 9,
        "name": "net1",
        "altname": "",
        "mtu": 1500,
        "mac": "",
        "options": {},
        "members": [],
    }
    whole = {
        "format": 1,
        "container_id": "abc",
        "ifname": "net1",
        "netns": "",
        "config": {},
        "wanted": wanted,
        "taken": [],
        "namespace": "",
        "boot": "",
        "env": {},
    }
    kept = {key: value for key, value in {**whole, **changes}.items() if value is not None}
    return json.dumps({"result": None, **kept})


def test_the_document_that_the_rubbish_below_is_made_of_is_good(tmp_path: Path) -> None:
    (tmp_path / "abc:net1.json").write_text(document())
    assert heard(Journal(str(tmp_path)).read, "abc", "net1") == (RECORD._replace(netns=""), [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b"[" * 100_000,
        document(format=2).encode(),
        document(format=None).encode(),
        document(wanted=[]).encode(),
        document(wanted={"index": 9}).encode(),
        document(claimed=5).encode(),
        document(claimed=[{"home": "host", "link": []}]).encode(),
        document(claimed=[{"home": "host", "link": {"index": 1, "name": "a", "new": 1}}]).encode(),
    ],
)
def test_a_record_that_cannot_be_read_is_set_aside_and_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "abc:net1.json"
    path.write_bytes(content)
    journal = Journal(str(tmp_path))
    record, (word,) = heard(journal.read, "abc", "net1")
    assert record is None
    assert word.startswith(f"the record {path} is invalid (")
    assert word.endswith(f"renamed to {path}.unreadable")
    assert (tmp_path / "abc:net1.json.unreadable").read_bytes() == content
    assert heard(journal.read, "abc", "net1") == (None, [])
    journal.write(RECORD)
    assert heard(journal.read, "abc", "net1") == (RECORD, [])


def test_a_record_that_cannot_be_opened_for_now_is_kept(tmp_path: Path) -> None:
    """For want of a descriptor no record may be lost."""
    journal = Journal(str(tmp_path))
    journal.write(RECORD)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(JournalError, match=r"cannot read .*: Too many open files") as caught:
            heard(journal.read, "abc", "net1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert caught.value.code == 5
    assert heard(journal.read, "abc", "net1") == (RECORD, [])


def test_a_failing_write_leaves_the_old_record_and_nothing_else(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk: the file can be made and not filled."""
    journal = Journal(str(tmp_path))
    journal.write(RECORD)
    large = RECORD._replace(config={"x": "y" * 10_000})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(JournalError, match=r"cannot write the record .*: File too large"):
            journal.write(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == ["abc:net1.json"]
    assert heard(journal.read, "abc", "net1") == (RECORD, [])


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("mine")
    journal = Journal(str(path))
    with pytest.raises(JournalError) as caught:
        journal.write(RECORD)
    assert caught.value.code == 5
    assert caught.value.message == (
        f"cannot write the record {path}/abc:net1.json: {os.strerror(errno.ENOTDIR)}"
    )
    assert journal.unusable() == f"state directory {path}: {os.strerror(errno.EEXIST)}"
    assert heard(journal.read, "abc", "net1") == (None, [])
    journal.remove("abc", "net1")
    assert path.read_text() == "mine"


def test_a_folder_where_the_record_should_be(tmp_path: Path) -> None:
    (tmp_path / "abc:net1.json").mkdir()
    journal = Journal(str(tmp_path))
    with pytest.raises(JournalError, match=r"cannot write the record .*: Is a directory"):
        journal.write(RECORD)
    assert os.listdir(tmp_path) == ["abc:net1.json"]


def test_a_record_is_completed(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.write(RECORD)
    done = RECORD._replace(result={"cniVersion": "1.1.0"})
    journal.complete(done)
    assert heard(journal.read, "abc", "net1") == (done, [])
    assert os.listdir(tmp_path) == ["abc:net1.json"]


def test_all_records_and_a_word_about_each_bad_one(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    assert heard(journal.all) == ([], [])
    second = RECORD._replace(container_id="abd")
    for record in (second, RECORD):
        journal.write(record)
    (tmp_path / "bad:net1.json").write_text("{")
    (tmp_path / "node.lock").write_text("")
    (tmp_path / "abc:net1.json.77.tmp").write_text("{")
    records, words = heard(journal.all)
    assert records == [RECORD, second]
    assert len(words) == 1
    assert "bad:net1.json" in words[0]
    assert heard(journal.all) == ([RECORD, second], [])
    assert heard(Journal(str(tmp_path / "none")).all) == ([], [])


def test_a_usable_folder_is_no_reason(tmp_path: Path) -> None:
    assert Journal(str(tmp_path / "new")).unusable() == ""


def test_what_a_killed_writer_left_is_found_and_goes_with_the_record(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    assert journal.beginnings() == []
    for name in ("abc:net1", "new:net1"):
        (tmp_path / f"{name}.json.tmp").write_text('{"half')
    assert journal.beginnings() == [("abc", "net1"), ("new", "net1")]
    journal.write(RECORD)
    assert os.listdir(tmp_path).count("abc:net1.json.tmp") == 0
    (tmp_path / "abc:net1.json.tmp").write_text("{")
    assert journal.beginnings() == [("new", "net1")]
    journal.remove("abc", "net1")
    journal.tidy("new", "net1")
    journal.tidy("none", "net1")
    assert os.listdir(tmp_path) == []


def test_a_record_that_is_taken_down_is_not_whole_any_more(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    done = RECORD._replace(result={"cniVersion": "1.1.0"})
    journal.write(done)
    journal.reopen(done)
    assert heard(journal.read, "abc", "net1") == (RECORD, [])
    Journal(str(tmp_path / "none")).reopen(done)  # where nothing can be written: no matter


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_that_root_writes_belong_to_who_owns_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    journal = Journal(str(tmp_path))
    journal.write(RECORD)
    with hold(str(tmp_path), ["key"], 30):
        pass
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert len(owners) == 2
    assert set(owners.values()) == {(65534, 65534)}


def test_what_the_shim_reads_stands_first(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    forged = {"way_home": "00", "namespace": "1:1"}
    journal.write(RECORD._replace(way_home="1400", namespace="4:2", config=forged))
    (path,) = tmp_path.iterdir()
    assert path.read_text().startswith('{\n "way_home": "1400",\n "namespace": "4:2",\n')


NIC = Link(5, "eth1", "02:00:00:00:00:05", altnames=("uplink",), parent="0000:3b:02.1", flags=1)
WORDS = ["eth1", "uplink", "02:00:00:00:00:05", "0000:3b:02.1", "02:00:00:00:00:99"]


def of(*links: Link, container_id: str = "abc", home: Location = Location.HOST) -> Record:
    claimed = tuple(Claimed(home, link) for link in links)
    return RECORD._replace(container_id=container_id, claimed=claimed)


def stranger(number: int) -> Record:
    return of(
        Link(number, f"eth{number}9", f"02:00:00:00:01:{number:02x}"), container_id=f"o{number}"
    )


class Counting(Journal):
    """Counts the records that it opens."""

    opened = 0

    def _content(self, container_id: str, ifname: str) -> bytes | None:
        self.opened += 1
        return super()._content(container_id, ifname)


@pytest.fixture(params=["once", "again and again"])
def searched(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    """A journal that was not asked yet, and one that keeps an index."""
    journal = Counting(str(tmp_path))
    if request.param == "again and again":
        journal.stay()
    return journal


@pytest.mark.parametrize("word", WORDS)
def test_records_are_found_by_what_may_be_written_for_their_links(
    searched: Counting, word: str
) -> None:
    other = Journal(searched.directory)
    nic = replace(NIC, permanent_mac="02:00:00:00:00:99")
    other.write(of(nic))
    other.write(stranger(1))
    other.write(of(nic, container_id="pods", home=Location.POD))
    found, words = heard(searched.naming, [word])
    assert (of(nic) in found, stranger(1) in found, words) == (True, False, [])
    assert heard(searched.naming, ["eth"]) == ([], [])
    assert heard(searched.naming, []) == ([], [])


def test_a_member_is_found_by_the_mac_it_had_before(searched: Counting) -> None:
    searched.write(of(replace(NIC, member={"perm_hwaddr": "02:00:00:00:00:77"})))
    assert heard(searched.naming, ["02:00:00:00:00:77"])[0]


def test_a_name_that_json_escapes_is_found(searched: Counting) -> None:
    record = of(replace(NIC, name='\xfc"\\'))
    searched.write(record)
    assert heard(searched.naming, ['\xfc"\\']) == ([record], [])


def test_what_others_do_to_records_is_seen(searched: Counting) -> None:
    other = Journal(searched.directory)
    other.write(of(NIC))
    assert heard(searched.naming, ["eth1"]) == ([of(NIC)], [])
    done = of(NIC)._replace(result={"cniVersion": "1.0.0"})
    other.complete(done)
    assert heard(searched.naming, ["eth1"]) == ([done], [])
    moved = of(replace(NIC, name="eth2", altnames=()))
    other.write(moved)
    assert heard(searched.naming, ["eth1"])[0] == []
    assert heard(searched.naming, ["eth2"]) == ([moved], [])
    path = Path(searched.directory) / "abc:net1.json"
    path.write_text(path.read_text().replace("eth2", "eth3"))
    assert len(heard(searched.naming, ["eth3"])[0]) == 1
    path.rename(path.with_name("def:net1.json"))
    assert len(heard(searched.naming, ["eth3"])[0]) == 1
    path.with_name("def:net1.json").unlink()
    assert heard(searched.naming, ["eth1", "eth2", "eth3"]) == ([], [])


def test_a_record_that_cannot_be_read_is_set_aside_by_a_search(searched: Counting) -> None:
    path = Path(searched.directory) / "abc:net1.json"
    path.write_text('{"taken": "eth1"}')
    found, (word,) = heard(searched.naming, ["eth1"])
    assert found == []
    assert word.endswith(f"renamed to {path}.unreadable")
    assert heard(searched.naming, ["eth1"]) == ([], [])


def test_who_stays_opens_a_record_once(tmp_path: Path) -> None:
    journal = Counting(str(tmp_path))
    for number in range(20):
        journal.write(stranger(number))
    journal.stay()
    journal.opened = 0
    for _ in range(5):
        assert heard(journal.naming, ["eth1"]) == ([], [])
    journal.write(of(NIC))
    journal.complete(of(NIC)._replace(result={}))
    assert heard(journal.naming, ["nothing"]) == ([], [])
    assert journal.opened == 1


def test_a_folder_that_comes_later_or_anew_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    journal = Journal(str(folder))
    journal.stay()
    assert heard(journal.naming, ["eth1"]) == ([], [])
    for _ in range(2):
        journal.write(of(NIC))
        assert heard(journal.naming, ["eth1"]) == ([of(NIC)], [])
        shutil.rmtree(folder)
        assert heard(journal.naming, ["eth1"]) == ([], [])


def test_events_that_were_lost_are_made_good(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.stay()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit // 2 + 2):
        (tmp_path / f"x{number % 2}").touch()
        (tmp_path / f"x{number % 2}").unlink()
    journal.write(of(NIC))
    assert heard(journal.naming, ["eth1"]) == ([of(NIC)], [])


def test_a_search_that_could_not_open_a_record_misses_nothing_later(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.stay()
    journal.write(of(NIC))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(JournalError, match="Too many open files"):
            heard(journal.naming, ["eth1"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert heard(journal.naming, ["eth1"]) == ([of(NIC)], [])


def test_threads_may_search_and_write_at_once(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.stay()

    def cycle(number: int) -> bool:
        mine = of(replace(NIC, name=f"eth{number}"), container_id=f"c{number}")
        for _ in range(20):
            journal.write(mine)
            if heard(journal.naming, [f"eth{number}"]) != ([mine], []):
                return False
            journal.remove(f"c{number}", "net1")
            if heard(journal.naming, [f"eth{number}"]) != ([], []):
                return False
        return True

    with ThreadPoolExecutor(8) as crew:
        assert all(crew.map(cycle, range(100, 108)))


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Root writes in a folder that the daemon's user owns."""
    target = tmp_path / "target"
    target.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / f"{RECORD.container_id}:{RECORD.ifname}.json.tmp").symlink_to(target)
    (state / "lock").symlink_to(target)
    Journal(str(state)).write(RECORD)
    assert heard(Journal(str(state)).read, RECORD.container_id, RECORD.ifname)[0] == RECORD
    with pytest.raises(JournalError), hold(str(state), ["key"], 30):
        pass
    assert target.read_text() == "precious"


def test_what_links_lost_is_kept_and_older_records_lost_nothing(tmp_path: Path) -> None:
    """Issue item 14."""
    journal = Journal(str(tmp_path))
    lost = (Kept(5, "route 192.0.2.0/24", "1400"), Kept(5, "neighbour 10.0.0.9", "1401"))
    record = RECORD._replace(
        claimed=(Claimed(Location.HOST, NIC, lost), Claimed(Location.HOST, NIC))
    )
    journal.write(record)
    assert heard(journal.read, "abc", "net1") == (record, [])
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    document["taken"] = document.pop("claimed")
    for item in document["taken"]:
        del item["kept"], item["link"]["vfs"]
    path.write_text(json.dumps(document))
    older = record._replace(claimed=(Claimed(Location.HOST, NIC), Claimed(Location.HOST, NIC)))
    assert heard(journal.read, "abc", "net1") == (older, [])
