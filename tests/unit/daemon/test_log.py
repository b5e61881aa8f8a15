"""The log: formats, levels, what a request cannot do to it; the events and the page of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.daemon.shim import CONFIG, PATIENCE, wait_until
from tests.unit.daemon.test_server import Served

from bondcni.daemon.log import LEVELS, LONGEST, Event, configure, log
from bondcni.service import verbs

ROOT = Path(__file__).resolve().parents[3]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
EVIL = 'x\nevent=request code=0 "quoted" \\ \x1b[31m \u2028 \udcff é'


@pytest.fixture(autouse=True)
def info_as_logfmt() -> Iterator[None]:
    configure()
    yield
    configure()


def parsed(line: str) -> dict[str, str]:
    """logfmt: keys, and values that are plain or in quotes; without time, level and event."""
    found, at = {}, 0
    decoder = json.JSONDecoder()
    while at < len(line):
        key, _, rest = line[at:].partition("=")
        assert key.isidentifier(), line
        at += len(key) + 1
        if rest.startswith('"'):
            found[key], end = decoder.raw_decode(rest)
        else:
            end = len(rest.split(" ", 1)[0])
            found[key] = rest[:end]
            assert found[key], line
        at += end
        assert line[at : at + 1] in ("", " "), line
        at += 1
    assert [*found][:3] == ["time", "level", "event"]
    assert TIME.fullmatch(found.pop("time"))
    assert found.pop("level") in LEVELS
    assert found.pop("event") in [*Event]
    return found


def test_a_line_of_the_log_is_one_and_says_what_it_was_given(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log(Event.READY, container=EVIL, empty="", ms=1.5, code=0, path="a\\b", text="a b=c")
    out = capfd.readouterr()
    assert out.out == ""
    (line,) = out.err.splitlines()
    assert line.split(" ")[1:3] == ["level=info", "event=ready"]
    assert parsed(line) == {
        "container": EVIL,
        "empty": "",
        "ms": "1.50",
        "code": "0",
        "path": "a\\b",
        "text": "a b=c",
    }


def test_json_is_one_object_a_line_with_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    log(Event.READY, container=EVIL, empty="", ms=1.256, code=0)
    (line,) = capfd.readouterr().err.splitlines()
    found = json.loads(line)
    assert TIME.fullmatch(found.pop("time"))
    assert [*found.items()] == [
        ("level", "info"),
        ("event", "ready"),
        ("container", EVIL),
        ("empty", ""),
        ("ms", 1.26),
        ("code", 0),
    ]


def test_times_are_utc(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    log(Event.STOPPED)
    said = capfd.readouterr().err.split(" ")[0].removeprefix("time=")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(said)) < timedelta(seconds=60)


@pytest.mark.parametrize("form", ["logfmt", "json"])
@given(said=st.dictionaries(st.sampled_from("abc"), st.text(), min_size=1))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_survives_the_log(
    capfd: pytest.CaptureFixture[str], said: dict[str, str], form: str
) -> None:
    configure("info", form)
    log(Event.READY, **said)
    (line,) = capfd.readouterr().err.split("\n")[:-1]
    if form == "logfmt":
        assert parsed(line) == said
    else:
        assert said.items() <= json.loads(line).items()


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_very_long_value_is_shortened(capfd: pytest.CaptureFixture[str], form: str) -> None:
    configure("info", form)
    log(Event.READY, text="a" * 100_000 + "end")
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) < LONGEST + 150
    assert line.rstrip("}").endswith('end"')


def test_lines_of_many_threads_are_not_mixed(capfd: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> None:
        for at in range(50):
            log(Event.READY, thread=number, at=at, text="x y" * 50)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    found = [parsed(line) for line in capfd.readouterr().err.splitlines()]
    assert len(found) == 400
    assert {len(one["text"]) for one in found} == {150}


def write(said: dict[str, Any]) -> None:
    fields = dict(said)
    event = fields.pop("event")
    log(next(one for one in Event if one.value == event), **fields)


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_request_cannot_forge_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    configure("info", form)
    served = Served(tmp_path, verbs.serve)
    served.held = write
    evil = "c1\nevent=request verb=ADD container=c2 code=0"
    config = {**CONFIG, "name": 'net\n{"event": "request", "code": 0}'}
    try:
        assert served.ask("ADD", config, CNI_CONTAINERID=evil).code == 4
        served.wait(verb="ADD")
        wait_until(lambda: served.daemon._pool.busy() == 0)
    finally:
        served.end()
    lines = capfd.readouterr().err.splitlines()
    found: list[dict[str, Any]] = [
        json.loads(line) if form == "json" else parsed(line) for line in lines
    ]
    (line,) = [one for one in found if "verb" in one]
    assert (line["container"], line["network"], int(line["code"])) == (evil, config["name"], 4)


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "info", "warning", "warning", "error", "error"]),
        ("info", ["info", "info", "warning", "warning", "error", "error"]),
        ("warning", ["warning", "warning", "error", "error"]),
        ("error", ["error", "error"]),
    ],
)
def test_levels(capfd: pytest.CaptureFixture[str], level: str, written: list[str]) -> None:
    """Those of the events; a request's goes by its outcome."""
    configure(level)
    log(Event.SHIM_CALL)
    log(Event.READY)
    log(Event.REQUEST, code=0)
    log(Event.REQUEST, code=0, warnings="careful")
    log(Event.PROTOCOL_ERROR)
    log(Event.INTERNAL_ERROR)
    log(Event.REQUEST, code=7, warnings="careful")
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in lines] == [f"level={one}" for one in written]


# The page.


def described(level: int) -> str:
    return next(name for name, number in LEVELS.items() if number == level)


def test_the_page_lists_each_event_with_its_level_and_fields() -> None:
    table = (ROOT / "docs/log.md").read_text().partition("## Events")[2]
    rows = [row.split("|")[1:4] for row in table.splitlines() if row.startswith("| `")]
    listed = [
        (name.strip(" `"), level.partition(";")[0].strip(), " ".join(fields.split()))
        for name, level, fields in rows
    ]
    assert listed == [
        (
            event.value,
            described(event.level),
            " ".join([*map(must, event.fields), *map(may, event.optional)]),
        )
        for event in Event
    ]


def must(field: str) -> str:
    return f"`{field}`"


def may(field: str) -> str:
    return f"[`{field}`]"


def test_each_event_is_used_and_no_other() -> None:
    code = "".join(
        path.read_text()
        for path in (ROOT / "src" / "bondcni" / "daemon").glob("*.py")
        if path.name != "log.py"
    )
    assert set(re.findall(r"\bEvent\.(\w+)", code)) == set(Event.__members__)
    assert re.findall(r"\blog\((?!Event\.)[^)]", code) == []
