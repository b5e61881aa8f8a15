"""Issue 10, item 21: what a delegate writes to standard error is kept."""

from __future__ import annotations

import time

import pytest
from tests.unit.service.test_ipam import CONFIG, DIRECT, Plugin, answering, failure, plugin

from bondcni.core.errors import TryAgain
from bondcni.service import ipam
from bondcni.service.delegate import ERRORS_LIMIT
from bondcni.service.timeouts import DEFAULT, Timeouts

__all__ = ["plugin"]  # the fixture

PANIC = "printf 'panic: no pool\\n\\n\\tgoroutine 1 \\033[31m[running]:\\n' >&2"
TOLD = "standard error: panic: no pool | goroutine 1  [31m[running]:"


@pytest.mark.parametrize(
    ("script", "code", "message", "details"),
    [
        (f"{PANIC}; exit 2", 104, "ADD failed with exit code 2", TOLD),
        (f"{PANIC}; kill -ABRT $$", 104, "ADD failed with signal 6", TOLD),
        (
            f'{PANIC}; echo \'{{"code": 9, "msg": "no", "details": "pool a"}}\'; exit 1',
            9,
            "ADD failed: no",
            f"pool a; {TOLD}",
        ),
        (f"{PANIC}; echo rubbish", 104, "returned an invalid CNI result: Expecting value", TOLD),
        (f"{PANIC}; echo '{{}}'", 104, "returned no address", TOLD),
        (f"{PANIC}; exec cat /dev/zero", 104, "ADD returned more than", TOLD),
        (
            "printf '\\377\\0 \\n\\r\\n' >&2; exit 2",
            104,
            "with exit code 2",
            "standard error: \ufffd",
        ),
        ("exit 2", 104, "with exit code 2", ""),
    ],
)
def test_10_21_its_last_words_are_in_the_details(
    plugin: Plugin, script: str, code: int, message: str, details: str
) -> None:
    error = failure(plugin(script))
    assert error.code == code
    assert message in error.message
    assert error.details == details


def test_10_21_one_that_hangs_is_told_with_its_last_words(plugin: Plugin) -> None:
    with pytest.raises(TryAgain) as caught:
        ipam.add(DIRECT, CONFIG, plugin(f"{PANIC}; exec sleep 60"), Timeouts(delegate=0.4))
    assert caught.value.details == TOLD


def test_10_21_of_much_the_beginning_and_the_end_are_told(plugin: Plugin) -> None:
    env = plugin("echo panic: first >&2; head -c 9000 /dev/zero | tr '\\0' x >&2; exit 2")
    details = failure(env).details
    assert details.startswith("standard error: panic: first | xxx")
    assert " [...] xxx" in details
    assert len(details) < ipam.DETAILS + 40


def test_10_21_all_of_it_goes_to_ours_as_it_is(
    plugin: Plugin, capfd: pytest.CaptureFixture[str]
) -> None:
    failure(plugin(f"{PANIC}; exit 2"))
    assert capfd.readouterr().err == "panic: no pool\n\n\tgoroutine 1 \033[31m[running]:\n"
    script = f"head -c {ERRORS_LIMIT} /dev/zero >&2; echo last >&2; "
    ipam.add(DIRECT, CONFIG, plugin(script + answering({"ips": [{"address": "::1/128"}]})), DEFAULT)
    assert capfd.readouterr().err == "\0" * (ERRORS_LIMIT - 5) + "last\n"


@pytest.mark.parametrize("left", ["", "& exit 2"])
def test_10_21_endless_standard_error_ends(plugin: Plugin, left: str) -> None:
    before = time.monotonic()
    with pytest.raises(Exception, match=r"did not complete|exit code 2"):
        ipam.add(DIRECT, CONFIG, plugin(f"yes >&2 {left}"), Timeouts(delegate=0.4))
    assert time.monotonic() - before < 3
