"""Errors that are collected: all of them are raised at the end."""

from __future__ import annotations

import pytest

from bondcni.core.errors import DelegateError, ErrorList, Incomplete, TryAgain


def test_no_error_raises_nothing() -> None:
    errors = ErrorList()
    with errors.collect():
        pass
    errors += ()
    assert not errors
    errors.raise_all()


def test_all_errors_are_raised_together() -> None:
    errors = ErrorList()
    for error in (DelegateError("no answer", "panic"), TryAgain("busy")):
        with errors.collect():
            raise error
    inner = ErrorList()
    inner.append("link eth1 is missing")
    inner.append(TryAgain("again"))
    with errors.collect():
        inner.raise_all()
    errors += ["last"]
    assert list(errors) == ["no answer; panic", "busy", "link eth1 is missing; again", "last"]
    with pytest.raises(Incomplete) as caught:
        errors.raise_all()
    assert caught.value.message == str(errors)
    assert str(errors) == "no answer; panic; busy; link eth1 is missing; again; last"


def test_a_defect_is_not_collected() -> None:
    errors = ErrorList()
    with pytest.raises(KeyError), errors.collect():
        raise KeyError
    assert not errors
