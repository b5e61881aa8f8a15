"""Where kernels come from: apt's sources as people write them, the cache, the patched binary."""

import struct
from pathlib import Path

import pytest

from bondcni.lab import kernels

DEB822 = """\
# the mirror
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
SECURITY = DEB822.replace("bookworm bookworm-updates", "bookworm-security").replace(
    "mirror", "security"
)
OTHER = DEB822.replace("debian-archive", "vendor").replace("mirror", "vendor")


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [DEB822, SECURITY + "\n" + DEB822, OTHER + "\n" + DEB822, DEB822.replace("URIs", "uris")],
)
def test_the_mirror_of_deb822_sources(apt: Path, text: str) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(text)
    assert kernels.mirror(apt) == "http://mirror.example/debian"


@pytest.mark.parametrize(
    "line",
    [
        "deb http://mirror.example/debian bookworm main",
        (
            "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
            "http://mirror.example/debian bookworm main # ours"
        ),
        "deb  [ arch=amd64 ]  http://mirror.example/debian  bookworm  main",
        (
            "#deb http://off.example/debian bookworm main\n"
            "deb-src http://src.example/debian bookworm main\n"
            "deb http://security.example/debian-security bookworm-security main\n"
            "deb [signed-by=/etc/vendor.gpg] http://vendor.example stable main\n"
            "deb http://mirror.example/debian bookworm main"
        ),
    ],
)
def test_the_mirror_of_one_line_sources(apt: Path, line: str) -> None:
    (apt / "sources.list").write_text(line + "\n")
    assert kernels.mirror(apt) == "http://mirror.example/debian"


@pytest.mark.parametrize("text", ["", SECURITY, OTHER, "Enabled: no\n" + DEB822])
def test_no_mirror_is_said_and_where_it_was_looked_for(apt: Path, text: str) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(text)
    with pytest.raises(kernels.Unavailable, match=str(apt)):
        kernels.mirror(apt)


@pytest.mark.parametrize("name", kernels.SUITES)
def test_only_an_unreleased_suite_may_be_past_its_date(name: str, tmp_path: Path) -> None:
    suite = kernels.SUITES[name]
    text = kernels.apt_configuration(tmp_path, expires=suite.expires)
    checked = 'Check-Valid-Until "true"' in text
    assert checked == (suite.name != "forky")
    assert 'AllowInsecureRepositories "false"' in text


def test_an_unknown_kernel_is_answered_with_the_known_ones() -> None:
    with pytest.raises(kernels.Unavailable, match=r"5\.10.*6\.1, 6\.12, 7\.2, host"):
        kernels.fetch("5.10", print)


def cached(cache: Path, name: str) -> Path:
    folder = cache / "bondcni" / "lab" / name
    (folder / "usr/lib/uml/modules/6.12.113").mkdir(parents=True)
    (folder / "packages").write_text("user-mode-linux 6.12um1\nlibc6 2.41-12\n")
    return folder


def test_what_is_cached_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no apt
    folder = cached(tmp_path, "trixie-user-mode-linux-6.12um1")
    said: list[str] = []
    kernel = kernels.fetch("6.12", said.append)
    assert kernel.version == "6.12.113"
    assert kernel.package == "user-mode-linux 6.12um1"
    assert kernel.binary == folder / "usr/bin/linux.uml"
    assert kernel.libraries == folder / kernels.LIBRARIES
    assert said == []


def test_a_download_that_was_cut_off_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    cached(tmp_path, "part-abc/root")
    with pytest.raises(kernels.Unavailable):
        kernels.fetch("6.12", lambda _: None)


def elf(interpreter: bytes) -> bytes:
    """An x86-64 ELF header with a PT_LOAD and a PT_INTERP after it, then the interpreter."""
    header = bytearray(64)
    struct.pack_into("<4s28xQ14xHH", header, 0, b"\x7fELF", 64, 56, 2)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 4096)
    interp = struct.pack("<IIQQQQQQ", 3, 4, 176, 176, 176, len(interpreter), len(interpreter), 1)
    return bytes(header) + load + interp + interpreter


def test_the_interpreter_is_named_anew_and_nothing_else_changes() -> None:
    image = elf(b"/lib64/ld.so\0")
    patched = kernels.with_interpreter(image, "/somewhere/else/ld.so")
    offset, size = struct.unpack_from("<8xQ16xQ", patched, 120)
    assert patched[offset : offset + size] == b"/somewhere/else/ld.so\0"
    assert patched[:128] == image[:128]
    assert patched[160 : len(image)] == image[160:]


def test_a_binary_without_interpreter_is_refused() -> None:
    image = bytearray(elf(b"/lib64/ld.so\0"))
    struct.pack_into("<I", image, 120, 4)  # PT_NOTE
    with pytest.raises(kernels.Unavailable):
        kernels.with_interpreter(bytes(image), "/ld.so")
