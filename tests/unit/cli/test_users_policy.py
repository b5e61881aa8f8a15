"""Issue items 10 and 11: warnings of `install` about a policy; names of a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bondcni.core.links import LinkRef, link_ref_of
from bondcni.install.installer import InstallOptions, Target, install

SHIM = b"\x7fELF the bond daemon does not answer: is `bondctl serve` running?"
NOBODY = "65534"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Another machine's file system, in a directory that is closed to others, as pytest's is."""
    for directory in ("opt/cni/bin", "etc/cni", "var/lib"):
        (tmp_path / "node" / directory).mkdir(parents=True)
    return tmp_path / "node"


@pytest.fixture
def options(tmp_path: Path, root: Path) -> InstallOptions:
    shim = tmp_path / "shim"
    shim.write_bytes(SHIM)
    shim.chmod(0o755)
    return InstallOptions(Target(str(root)), shim=str(shim), systemd=False, user=NOBODY)


def warned(options: InstallOptions) -> list[str]:
    return [line for line in install(options) if line.startswith("warning: ")]


@as_root
def test_10_install_looks_as_the_daemon_will(options: InstallOptions, root: Path) -> None:
    (root / "etc/cni").chmod(0o700)
    (said,) = warned(options)
    assert said == (
        "warning: policy /etc/cni/bond/policy.yaml cannot be read, so host links are refused: "
        "Permission denied for user 65534: directory /etc/cni has owner 0 and mode 0700; "
        "allow it: chmod o+x /etc/cni"
    )
    (root / "etc/cni").chmod(0o711)
    assert warned(options) == []
    policy = root / "etc/cni/bond/policy.yaml"
    policy.chmod(0o640)
    assert "policy.yaml has owner 0 and mode 0640; allow it: chmod o+r" in warned(options)[0]
    os.chown(policy, 0, int(NOBODY))
    assert warned(options) == []


@as_root
@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_10_the_daemon_can_read_what_install_creates(
    options: InstallOptions, root: Path, mask: int
) -> None:
    (root / "etc/cni").rmdir()
    before = os.umask(mask)
    try:
        assert warned(options) == []
    finally:
        os.umask(before)
    assert [(root / path).stat().st_mode & 0o777 for path in ("etc/cni", "etc/cni/bond")] == [
        0o755,
        0o755,
    ]


@as_root
def test_10_install_reports_mistakes(options: InstallOptions, root: Path) -> None:
    (root / "etc/cni/bond").mkdir(mode=0o755)
    (root / "etc/cni/bond/policy.yaml").write_text("links:\n  - {nmae: eth1}\n")
    (said,) = warned(options)
    assert "line 2: unknown key 'nmae'" in said


@pytest.mark.parametrize(
    ("text", "by", "value"),
    [
        ("eth1", "name", "eth1"),
        ("52-54-00-12-34-5F", "mac", "52:54:00:12:34:5f"),
        ("3b:00.1", "pci", "0000:3b:00.1"),
        ("0000:3B:00.0", "pci", "0000:3b:00.0"),
        ("ff:ff:ff:ff:ff:ff", "name", "ff:ff:ff:ff:ff:ff"),  # nothing has it: then ADD says that
    ],
)
def test_11_a_link_by_any_of_its_names(text: str, by: str, value: str) -> None:
    assert link_ref_of(text) == LinkRef(by, value)


@pytest.mark.parametrize("text", ["", "a" * 1000, "\udcff"])
def test_11_what_can_be_no_link(text: str) -> None:
    assert link_ref_of(text) is None
