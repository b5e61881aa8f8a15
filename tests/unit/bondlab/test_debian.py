"""Packages from Debian: apt's sources as people write them, what is chosen, the cache."""

from pathlib import Path

import pytest

from bondlab.kernels import catalog, debian

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
    assert debian.mirror(apt) == "http://mirror.example/debian"


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
    assert debian.mirror(apt) == "http://mirror.example/debian"


@pytest.mark.parametrize("text", ["", SECURITY, OTHER, "Enabled: no\n" + DEB822])
def test_a_missing_mirror_is_reported_with_the_files_that_were_read(apt: Path, text: str) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(text)
    with pytest.raises(debian.KernelUnavailable, match=str(apt)):
        debian.mirror(apt)


@pytest.mark.parametrize("name", catalog.SUITES)
def test_only_an_unreleased_suite_may_be_past_its_date(name: str, tmp_path: Path) -> None:
    suite = catalog.SUITES[name]
    text = debian.apt_configuration(tmp_path, expires=suite.expires)
    checked = 'Check-Valid-Until "true"' in text
    assert checked == (suite.name != "forky")
    assert 'AllowInsecureRepositories "false"' in text


PLAN = """\
Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])
Inst qemu-system-data (1:10.0.2 Debian Backports:oldstable-backports [all]) []
Inst busybox-static (1:1.35.0-4 Debian:12.15/oldstable [amd64])
Inst linux-image-6.12.95+deb12-amd64 (6.12.95-1 Debian Backports:oldstable-backports [amd64])
Inst linux-image-amd64 (6.12.95-1 Debian Backports:oldstable-backports [amd64])
Inst qemu-system-x86 (1:10.0.2 Debian Backports:oldstable-backports [amd64])
Conf libc6 (2.36-9 Debian:12.15/oldstable [amd64])
"""


def test_of_a_kernel_only_the_image_is_fetched() -> None:
    names = debian.chosen(catalog.SUITES[catalog.SMP], PLAN)
    assert names == ("linux-image-6.12.95+deb12-amd64",)


def test_of_the_emulator_all_it_needs_is_fetched_and_it_gives_the_version() -> None:
    names = debian.chosen(catalog.QEMU, PLAN)
    assert names[:2] == catalog.QEMU.packages
    assert {"libc6", "qemu-system-data"} < set(names)


def test_a_suite_without_the_package_is_an_error() -> None:
    with pytest.raises(catalog.KernelUnavailable, match="has no linux-image-amd64"):
        debian.chosen(catalog.SUITES[catalog.SMP], "Inst other (1 Debian:12 [amd64])\n")


@pytest.mark.parametrize(
    ("suite", "names"),
    [(catalog.QEMU, ["bookworm-backports", "bookworm"]), (catalog.SUITES["6.12"], ["trixie"])],
)
def test_backports_stand_on_their_suite(suite: debian.Suite, names: list[str]) -> None:
    lines = debian.sources(suite, "http://mirror.example/debian").splitlines()
    assert [line.split()[3] for line in lines] == names
    assert all(f"[signed-by={debian.KEYRING}]" in line for line in lines)


def test_a_package_that_is_cached_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no apt
    suite = debian.Suite("trixie", ("tool",))
    folder = tmp_path / "bondcni/lab/trixie-tool-1.0"
    folder.mkdir(parents=True)
    assert debian.unpacked(suite, print) == folder


def test_an_interrupted_download_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    leftover = tmp_path / "bondcni/lab/part-trixie-tool-abc"
    (leftover / "root").mkdir(parents=True)
    with pytest.raises(debian.KernelUnavailable):
        debian.unpacked(debian.Suite("trixie", ("tool",)), lambda _: None)
    assert not leftover.exists()
