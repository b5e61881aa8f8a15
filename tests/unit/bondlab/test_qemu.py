"""The stock kernel's guest without a kernel: command lines, its first files, its shares."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from bondlab.guest import guest, guest_process, initramfs, qemu
from bondlab.guest.guest_init import MS_BIND
from bondlab.kernels import catalog

SHARES = {"/a": "/a", "/b": "/b, c"}
STOCK = guest_process.GuestSettings(
    kernel="smp",
    binary="/q/qemu",
    image="/k/boot/vmlinuz-6.12",
    busybox="/q/busybox",
    modules="/k",
    libraries="/q/lib",
    options=["-L", "/q/share"],
    nics=[],
    memory_mb=700,
    shares=SHARES,
    boot_seconds=60.0,
)
USER_MODE = STOCK._replace(kernel="6.1", binary="/u/linux.uml", image=None, busybox=None)
HOST = USER_MODE._replace(kernel="host", binary=None)


def values(words: list[str], option: str) -> list[str]:
    """What follows ``option`` wherever it stands."""
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def test_the_machine_has_two_processors_and_the_memory_asked_for() -> None:
    words = guest_process.command(STOCK, 7, Path("/tmp/x"), [])  # noqa: S108 nothing is written
    assert words[:2] == ["setpriv", "--pdeathsig"]
    assert words[words.index("/q/qemu") - 1] == "LD_LIBRARY_PATH=/q/lib"
    assert values(words, "-smp") == ["2"]
    assert values(words, "-m") == ["700M"]
    assert values(words, "-kernel") == ["/k/boot/vmlinuz-6.12"]
    assert values(words, "-initrd") == ["/tmp/x/initramfs"]  # noqa: S108
    assert values(words, "-chardev") == ["socket,id=agent,fd=7"]


def test_the_root_is_read_only_and_the_shares_are_not() -> None:
    root, one, two = values(guest_process.command(STOCK, 7, Path("/x"), []), "-virtfs")
    assert "path=/,mount_tag=root," in root
    assert root.endswith(",readonly=on")
    assert "path=/a,mount_tag=share0," in one
    assert "path=/b,, c,mount_tag=share1," in two
    assert "readonly" not in one + two


def test_each_kind_of_guest_mounts_its_shares_its_own_way() -> None:
    assert guest_process.share_mounts(HOST)[1] == ("/b, c", "/b", "", MS_BIND, "")
    assert guest_process.share_mounts(USER_MODE)[1] == ("none", "/b", "hostfs", 0, "/b, c")
    source, target, kind, flags, data = guest_process.share_mounts(STOCK)[1]
    assert (source, target, kind, flags) == (qemu.tag(1), "/b", "9p", 0)
    assert "version=9p2000.L" in data


def test_nics_on_cables_are_refused_before_anything_is_started() -> None:
    kernel = catalog.Kernel("smp", "6.12", "", Path("/q"), Path("/k"), None, ())
    with pytest.raises(catalog.KernelUnavailable, match="smp guest has no NICs on cables"):
        guest.boot(kernel, nics=[("a", "b")], progress=print)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A module folder in which the virtio drivers are built in."""
    (tmp_path / "modules.dep").write_text(
        "net/9pnet.ko.xz: fs/netfs.ko.xz\n"
        "fs/9p.ko.xz: net/9pnet.ko.xz fs/netfs.ko.xz\n"
        "fs/netfs.ko.xz:\n"
        "net/9pnet_virtio.ko: net/9pnet.ko.xz fs/netfs.ko.xz\n"
        "net/other.ko:\n"
    )
    for name in ("net/9pnet", "fs/9p", "fs/netfs"):
        path = tmp_path / f"{name}.ko.xz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lzma.compress(name.encode()))
    (tmp_path / "net/9pnet_virtio.ko").write_bytes(b"plain")
    return tmp_path


def test_modules_come_after_what_they_need_and_each_once(modules: Path) -> None:
    names = [path.name.partition(".")[0] for path in initramfs.load_order(modules)]
    assert names == ["netfs", "9pnet", "9pnet_virtio", "9p"]


def test_the_first_files_hold_unpacked_modules_and_start_the_agent(modules: Path) -> None:
    busybox = modules / "busybox"
    busybox.write_bytes(b"shell")
    data = initramfs.initramfs(busybox, modules, "P=/a b", ["/py thon", "-S"])
    for part in (b"shell", b"fs/netfs", b"plain", b"export 'P=/a b'", b"/new '/py thon' -S /dev/"):
        assert part in data
    assert b"\xfd7zXZ" not in data


def test_an_archive_is_what_the_kernel_documents() -> None:
    one, *_ = initramfs.archive([], {"name": b"12345"}).split(b"070701")[1:]
    fields = [int(one[place : place + 8], 16) for place in range(0, 104, 8)]
    assert fields == [1, 0o100755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0]
    assert one[104:] == b"name\0" + b"\0" + b"12345\0\0\0"
