"""Issue 10, item 6: notes of refused ADDs."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.service.heard import heard

from bondcni.service.journal import REFUSALS, Journal

NAME = ("abc", "net1")


def test_10_6_noted_and_forgotten(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "state"))
    assert not journal.was_refused(*NAME)
    journal.note_refusal(*NAME)
    journal.note_refusal(*NAME)
    assert journal.was_refused(*NAME)
    assert not journal.was_refused("abc", "net2")
    assert heard(journal.all) == ([], [])
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    journal.forget_refusal(*NAME)
    journal.forget_refusal(*NAME)
    assert not journal.was_refused(*NAME)
    assert os.listdir(tmp_path / "state") == []


def test_10_6_the_end_of_an_attachment_forgets(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.note_refusal(*NAME)
    journal.remove(*NAME)
    assert not journal.was_refused(*NAME)


def test_10_6_a_record_that_was_set_aside_says_more(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.note_refusal(*NAME)
    (tmp_path / "abc:net1.json").write_text("{ torn")
    assert "renamed to" in heard(journal.read, *NAME)[1][0]
    assert not journal.was_refused(*NAME)


def test_10_6_nothing_fails_where_it_cannot_be_noted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = Journal(str(tmp_path / "file"))
    journal.note_refusal(*NAME)
    assert not journal.was_refused(*NAME)
    Journal(str(tmp_path)).note_refusal("x" * 300, "net1")


def test_10_6_the_oldest_goes(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    for number in range(REFUSALS):
        path = tmp_path / f"c{number}:net1.refused"
        path.touch()
        os.utime(path, (1000 + number, 1000 + number))
    journal.note_refusal(*NAME)
    assert len(os.listdir(tmp_path)) == REFUSALS
    assert not journal.was_refused("c0", "net1")
    assert journal.was_refused("c1", "net1")
    assert journal.was_refused(*NAME)
