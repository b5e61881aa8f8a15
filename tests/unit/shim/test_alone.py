"""The shim without a daemon: VERSION, the error documents, the queue."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.shim.bench import CONFIG, HERE, Answer, Bond, ended, golden, identity

from bondcni.core.result import SUPPORTED
from bondcni.daemon.protocol import HEADER, Tag, unpack
from bondcni.service.paths import SOCKET, STATE_DIRECTORY
from bondcni.service.request import Request
from bondcni.service.version import version

NOBODY = 65534
ABSENT = (
    "the bond daemon does not answer at bond.sock (No such file or directory): "
    "is `bondctl serve` running?"
)
ALLOWED = "must be one of ADD, DEL, CHECK, GC, STATUS, VERSION"


def version_document(stdin: bytes) -> bytes:
    """What the rest of the product would answer."""
    request = Request("VERSION", "", "", "", {}, stdin)
    return json.dumps(version(request), indent=4).encode() + b"\n"


NASTY = [
    *(f'{{"cniVersion": "{each}"}}' for each in SUPPORTED),
    '{"cniVersion": "0.4.1"}',
    '{"cniVersion": ""}',
    '{"cniVersion": 0.4}',
    '{"cniVersion": null}',
    '{"cniVersion": ["0.4.0"]}',
    '{"cniVersion": {"cniVersion": "0.4.0"}}',
    '{"x": {"cniVersion": "0.3.0"}, "y": ["cniVersion", "0.3.1"]}',
    '{"x": {"cniVersion": "0.3.0"}, "cniVersion": "0.4.0", "y": {"cniVersion": "0.3.0"}}',
    '{"x": "\\"cniVersion\\": \\"0.3.0\\"", "cniVersion": "0.4.0"}',
    '{"x": "\\\\", "cniVersion": "0.4.0"}',
    '{"x": "cniVersion", "cniVersion\\u0000": "0.3.0", "y": "0.4.0"}',
    '{"cni\\u0056ersion": "0\\u002e4\\u002E0"}',
    '{"cniVersion": "0.4.0", "cniVersion": "0.3.1"}',
    '{"cniVersion": "0.4.0", "cniVersion": []}',
    '{"cniVersion": "0.4.0\\u0000"}',
    '{"cniVersion": "0.4.0' + "0" * 100 + '"}',
    '{"cniVersion": "' + "0" * 11 + '0.4.0"}',
    '\ufeff{"cniVersion": "0.4.0"}',
    ' \t\r\n{"cniVersion"\n:\t"0.4.0"\r} ',
    '["cniVersion", "0.4.0"]',
    '[{"cniVersion": "0.4.0"}]',
    '"cniVersion"',
    '{"cniVersion": "0.4.0"',
    '{"cniVersion": "0.4.0"}}',
    '{"cniVersion": "0.4.0"} x',
    '{"cniVersion": "0.4.0",}',
    '{"cniVersion": "0.4.0", "x": [1,]}',
    '{"cniVersion": "0.4.0", "x": 01}',
    '{"cniVersion": "0.4.0", "x": tru}',
    '{"cniVersion": "0.4.0", "x": "\\x"}',
    '{"cniVersion": "0.4.0", "x": "\\u12g4"}',
    '{"cniVersion": "0.4.0", "x": "\t"}',
    '{"cniVersion": "0.4.0", "x" 1}',
    "{\"cniVersion\": '0.4.0'}",
    '{"cniVersion": "0.4.0", "x": [-1.5e+3, 0, -0.0, 1E-2, NaN, Infinity, -Infinity, {}, []]}',
    '{"cniVersion": "0.4.0", "x": -}',
    '{"cniVersion": "0.4.0", "x": 1.}',
    '{"cniVersion": "0.4.0", "x": 1e}',
    '{"cniVersion": "0.4.0", "ü": "\u00fc\U0001f600"}',
    "",
    "no JSON",
    "{",
    "[" * 500 + "]" * 500,
    "[" * 100_000,
    '{"cniVersion": "0.4.0", "x": ' + "[" * 900 + "]" * 900 + "}",
    '{"cniVersion": "0.4.0", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
]


def right_version(printed: bytes, stdin: bytes) -> bool:
    """Of what is no JSON the shim says any version that is supported: it does not parse it."""
    try:
        json.loads(stdin)
    except (ValueError, RecursionError):
        document = json.loads(printed)
        return document.pop("cniVersion") in SUPPORTED and document == {
            "supportedVersions": list(SUPPORTED)
        }
    return printed == version_document(stdin)


@pytest.mark.parametrize("number", range(len(NASTY)))
def test_version(bond: Bond, number: int) -> None:
    text = NASTY[number].encode()
    answer = bond.run("VERSION", text)
    assert (answer.status, answer.stderr) == (0, "")
    assert right_version(answer.stdout, text)


def test_version_of_4_mib(any_bond: Bond) -> None:
    text = b'{"x": "%s", "cniVersion": "0.4.0"}' % (b"\\n" * ((2 << 20) - 20))
    assert any_bond.run("VERSION", text).stdout == version_document(text)


keys = st.sampled_from(["cniVersion", "cniversion", "x", "\\", '"', "ü"])
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
versions = st.sampled_from([*SUPPORTED, "9", None, 1])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=json_values, asked=versions, cut=st.none() | st.integers(0, 40), plain=st.booleans())
def test_version_is_read_as_the_rest_reads_it(
    bond: Bond, value: object, asked: object, cut: int | None, *, plain: bool
) -> None:
    document = {"v": value, "cniVersion": asked, "w": value}
    text = json.dumps(document, ensure_ascii=plain)[:cut].encode("utf-8", "replace")
    assert right_version(bond.run("VERSION", text).stdout, text)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("ADD", (11, ABSENT)),
        ("CHECK", (11, ABSENT)),
        ("GC", (11, ABSENT)),
        ("STATUS", (50, ABSENT)),
        (None, (4, f"CNI_COMMAND is not set: {ALLOWED}")),
        ("", (4, f"CNI_COMMAND is not set: {ALLOWED}")),
        ('x"\n\\ü\udcff', (4, f"CNI_COMMAND is 'x\"\n\\ü\ufffd': {ALLOWED}")),
    ],
    ids=repr,
)
def test_each_verb(any_bond: Bond, command: str | None, error: tuple[int, str]) -> None:
    answer = any_bond.run(command)
    assert answer.error == error
    assert json.loads(answer.stdout)["cniVersion"] == "1.0.0"
    assert answer.stderr == ""


def test_both_sides_have_the_same_places(bond: Bond) -> None:
    program = bond.program.read_bytes()
    for place in (SOCKET, STATE_DIRECTORY):
        assert b"\0%s\0" % place.encode() in program


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file", "Connection refused"),
        ("file/below", "Not a directory"),
        ("x" * 108, "Filename too long"),
    ],
)
def test_each_reason(bond: Bond, tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").touch()
    assert f"({why})" in bond.run("ADD", BONDCNI_SOCKET=path).error[1]


# ---- the queue ----


def queued(answer: Answer) -> None:
    """DEL succeeded, printed nothing and gave one line of warning."""
    assert (answer.status, answer.stdout) == (0, b"")
    assert answer.stderr.startswith("bond: warning: the bond daemon does not answer at bond.sock (")
    assert answer.stderr.endswith(
        "DEL is queued in state/queue and will be done when `bondctl serve` runs\n"
    )
    assert answer.stderr.count("\n") == 1


def test_del_is_stored(any_bond: Bond, tmp_path: Path) -> None:
    queued(any_bond.run("DEL", CNI_NETNS=HERE))
    own = identity(HERE)
    file = tmp_path / "state" / "queue" / "abc:net1.del"
    assert file.read_bytes() == golden("request-queued", own, own)
    assert [*file.parent.iterdir()] == [file]
    modes = [path.stat().st_mode & 0o777 for path in (file.parents[1], file.parent, file)]
    assert modes == [0o700, 0o700, 0o600]


def test_it_replaces_that_of_the_same_attachment(bond: Bond, tmp_path: Path) -> None:
    queued(bond.run("DEL"))
    queued(bond.run("DEL", b"{}"))
    (file,) = (tmp_path / "state" / "queue").iterdir()
    assert unpack(1, file.read_bytes()[HEADER:]).get(Tag.STDIN) == b"{}"


def test_the_folders_above_are_made(bond: Bond, tmp_path: Path) -> None:
    answer = bond.run("DEL", BONDCNI_STATE=f"{tmp_path}/a//b/c/")
    assert answer.status == 0
    assert (tmp_path / "a" / "b" / "c" / "queue" / "abc:net1.del").is_file()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("there", [False, True])
def test_it_belongs_to_who_owns_the_state_folder(
    bond: Bond, tmp_path: Path, *, there: bool
) -> None:
    queue = tmp_path / "state" / "queue"
    (queue if there else queue.parent).mkdir(parents=True)
    os.chown(queue.parent, NOBODY, NOBODY - 1)
    queued(bond.run("DEL"))
    for path in (queue, queue / "abc:net1.del"):
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY - 1)


def test_no_link_is_followed(bond: Bond, tmp_path: Path) -> None:
    """The owner of the state folder must not have root write elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "queue").symlink_to(elsewhere)
    code, message = bond.run("DEL").error
    assert (code, "open the directory: " in message) == (11, True)
    assert [*elsewhere.iterdir()] == []


@pytest.mark.parametrize("link", [False, True])
def test_what_a_killed_writer_left(bond: Bond, tmp_path: Path, *, link: bool) -> None:
    queue = tmp_path / "state" / "queue"
    queue.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    reading, writing = os.pipe()
    process = bond.start("DEL", reading)
    left = queue / f"{process.pid}.tmp"
    if link:
        left.symlink_to(tmp_path / "precious")
    else:
        left.write_text("left" * 9999)
    os.close(reading)
    os.write(writing, CONFIG)
    os.close(writing)
    queued(ended(process))
    assert [path.name for path in queue.iterdir()] == ["abc:net1.del"]
    assert (tmp_path / "precious").read_text() == "precious"


def test_it_is_full(bond: Bond, tmp_path: Path) -> None:
    queue = tmp_path / "state" / "queue"
    queue.mkdir(parents=True)
    for number in range(4095):
        (queue / f"{number}:net1.del").touch()
    (queue / "1.tmp").touch()
    queued(bond.run("DEL"))
    code, message = bond.run("DEL", CNI_IFNAME="net2").error
    assert code == 11
    assert "cannot be queued in state/queue (limit of 4096: No space left on device)" in message
    queued(bond.run("DEL"))  # takes no more room


@pytest.mark.parametrize("name", ["state", "state/queue"])
def test_it_cannot_be_stored(bond: Bond, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    code, message = bond.run("DEL").error
    assert (code, "(open the directory: Not a directory)" in message) == (11, True)


def test_a_name_that_is_too_long(bond: Bond, tmp_path: Path) -> None:
    code, message = bond.run("DEL", CNI_CONTAINERID="a" * 250).error
    assert (code, "(write the file: Filename too long)" in message) == (11, True)
    assert [*(tmp_path / "state" / "queue").iterdir()] == []


BAD = [
    *({"CNI_CONTAINERID": each} for each in ("", ".", "../x", "a/b", "a b", "a:b", "-a", "ü")),
    *({"CNI_IFNAME": each} for each in ("", ".", "..", "a/b", "a b", "a:b", "a%d", "x" * 16)),
    *({"CNI_IFNAME": each} for each in ("a\n", "\u00a0", "a\udcff", "\u0120")),
]


@pytest.mark.parametrize("env", BAD, ids=str)
def test_names_that_make_no_file(bond: Bond, tmp_path: Path, env: dict[str, str]) -> None:
    code, message = bond.run("DEL", **env).error
    assert code == 4
    assert next(iter(env)) in message
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("env", [{"CNI_IFNAME": "x" * 15}, {"CNI_IFNAME": "€😀ü"}])
def test_names_that_do(bond: Bond, tmp_path: Path, env: dict[str, str]) -> None:
    queued(bond.run("DEL", **env))
    assert (tmp_path / "state" / "queue" / f"abc:{env['CNI_IFNAME']}.del").is_file()


@pytest.mark.parametrize("how", ["gone", "rubbish"])
def test_del_is_stored_when_the_daemon_fails(bond: Bond, tmp_path: Path, how: str) -> None:
    process, peer = bond.asked("DEL")
    if how == "rubbish":
        peer.send(bytes(64))
    peer.close()
    queued(ended(process))
    assert (tmp_path / "state" / "queue" / "abc:net1.del").is_file()


def test_del_is_stored_when_the_daemon_is_slow(hasty: Bond, tmp_path: Path) -> None:
    process, _ = hasty.asked("DEL")
    queued(ended(process))
    assert (tmp_path / "state" / "queue" / "abc:net1.del").is_file()
