"""The numbers and names that shim and daemon must agree on, one by one: those of shim/*.[ch] are
read as text and held against those of Python.
"""

import re
from pathlib import Path

import pytest

from bondcni.core.result import SUPPORTED
from bondcni.daemon import protocol, shim_client
from bondcni.service import answer, delegate

SHIM = Path(__file__).resolve().parents[3] / "shim"
HEADER = (SHIM / "shim.h").read_text()


def enumerators(pattern: str) -> dict[str, int]:
    """Names and values of the enum whose head ``pattern`` matches."""
    found = re.search(rf"enum {pattern}\{{(.*?)\}}", HEADER, re.DOTALL)
    assert found, pattern
    body = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    values: dict[str, int] = {}
    following = 0
    for entry in filter(None, map(str.strip, body.split(","))):
        name, _, value = map(str.strip, entry.partition("="))
        following = shifted(value) if value else following
        values[name] = following
        following += 1
    return values


def shifted(text: str) -> int:
    """A number as C writes it here: decimal, hex, or shifted to the left."""
    number, _, bits = text.partition("<<")
    return int(number, 0) << int(bits or 0)


TYPES = enumerators("type ")
TAGS = enumerators("tag ")
LIMITS = enumerators(r"(?=\{\s*STDIN_LIMIT)")


def test_every_type_of_frame() -> None:
    assert {one.name: one.value for one in protocol.Type} == TYPES


def test_every_tag_of_a_field() -> None:
    own = {name: value for name, value in TAGS.items() if name not in ("TAGS", "CRITICAL")}
    assert {one.name: one.value for one in protocol.Tag} == own
    assert max(own.values()) + 1 == TAGS["TAGS"]
    assert TAGS["CRITICAL"] == protocol.CRITICAL


def test_version_and_header() -> None:
    assert enumerators(r"(?=\{ VERSION)") == {
        "VERSION": protocol.VERSION,
        "HEADER": protocol.HEADER,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAME_LIMIT", protocol.LIMIT),
        ("STDIN_LIMIT", answer.STDIN_LIMIT),
        ("ENV_COUNT", shim_client.VARIABLES),
        ("ENV_LIMIT", shim_client.ENVIRONMENT),
        ("OUTPUT_LIMIT", delegate.LIMIT),
    ],
)
def test_limits(name: str, value: int) -> None:
    assert LIMITS[name] == value


def strings(file: str, name: str) -> tuple[str, ...]:
    """The strings of a C array."""
    found = re.search(rf"{name}\[\] = \{{(.*?)\}};", (SHIM / file).read_text(), re.DOTALL)
    assert found, name
    return tuple(re.findall(r'"([^"]*)"', found[1]))


def test_versions_of_the_specification() -> None:
    assert strings("scan.c", "SUPPORTED") == SUPPORTED


def test_variables_that_the_daemon_may_set() -> None:
    assert strings("delegate.c", "DAEMON_MAY_SET") == shim_client.SETTABLE
