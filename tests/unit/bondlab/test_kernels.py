"""Which kernels there are, what is where in the cache, the patched binary."""

import struct
from pathlib import Path

import pytest

from bondlab.kernels import catalog


def test_an_unknown_kernel_is_answered_with_the_known_ones() -> None:
    with pytest.raises(catalog.KernelUnavailable, match=r"5\.10.*6\.1, 6\.12, 7\.2, smp, host"):
        catalog.fetch("5.10", print)


def cached(cache: Path, name: str) -> Path:
    folder = cache / "bondcni" / "lab" / name
    (folder / "lib/modules/6.12.113").mkdir(parents=True)
    (folder / "packages").write_text("user-mode-linux 6.12um1\nlibc6 2.41-12\n")
    return folder


def test_what_is_cached_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no apt
    folder = cached(tmp_path, "trixie-user-mode-linux-6.12um1")
    said: list[str] = []
    kernel = catalog.fetch("6.12", said.append)
    assert kernel.version == "6.12.113"
    assert kernel.package == "user-mode-linux 6.12um1"
    assert kernel.binary == folder / "usr/bin/linux.uml"
    assert kernel.libraries == folder / catalog.LIBRARIES
    assert said == []


def test_a_stock_kernel_brings_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    cache = tmp_path / "bondcni/lab"
    qemu = cache / "bookworm-backports-qemu-system-x86-10.0"
    qemu.mkdir(parents=True)
    image = cache / "bookworm-backports-linux-image-amd64-6.12.95-1"
    (image / "lib/modules/6.12.95+deb12-amd64").mkdir(parents=True)
    (image / "packages").write_text("linux-image-6.12.95+deb12-amd64 6.12.95-1\n")
    kernel = catalog.fetch("smp", print)
    assert kernel.version == "6.12.95+deb12-amd64"
    assert kernel.package == "linux-image-6.12.95+deb12-amd64 6.12.95-1"
    assert kernel.image == image / "boot/vmlinuz-6.12.95+deb12-amd64"
    assert kernel.binary == qemu / "usr/bin/qemu-system-x86_64"
    assert kernel.libraries == qemu / catalog.LIBRARIES


@pytest.mark.parametrize(
    ("name", "cables"),
    [(None, True), ("6.1", True), ("7.2", True), ("smp", False), ("host", False)],
)
def test_only_user_mode_linux_has_cables(name: str | None, *, cables: bool) -> None:
    assert catalog.has_cables(name) is cables


def processor(folder: Path, flags: str) -> str:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n")
    return str(path)


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_amx_is_more_than_ptrace_only_kernels_can_set(tmp_path: Path, name: str) -> None:
    why = catalog.bootable(name, processor(tmp_path, "amx_bf16 amx_tile amx_int8"))
    assert why is not None
    assert name in why
    assert "--kernel 7.2" in why
    assert catalog.bootable(name, processor(tmp_path, "avx512f")) is None


@pytest.mark.parametrize("name", ["7.2", "smp", "host"])
def test_amx_is_no_matter_to_the_others(tmp_path: Path, name: str) -> None:
    assert catalog.bootable(name, processor(tmp_path, "amx_tile")) is None


def elf(interpreter: bytes) -> bytes:
    """An x86-64 ELF header with a PT_LOAD and a PT_INTERP after it, then the interpreter."""
    header = bytearray(64)
    struct.pack_into("<4s28xQ14xHH", header, 0, b"\x7fELF", 64, 56, 2)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 4096)
    interp = struct.pack("<IIQQQQQQ", 3, 4, 176, 176, 176, len(interpreter), len(interpreter), 1)
    return bytes(header) + load + interp + interpreter


def test_the_interpreter_is_named_anew_and_nothing_else_changes() -> None:
    image = elf(b"/lib64/ld.so\0")
    patched = catalog.with_interpreter(image, "/somewhere/else/ld.so")
    offset, size = struct.unpack_from("<8xQ16xQ", patched, 120)
    assert patched[offset : offset + size] == b"/somewhere/else/ld.so\0"
    assert patched[:128] == image[:128]
    assert patched[160 : len(image)] == image[160:]


def test_a_binary_without_interpreter_is_refused() -> None:
    image = bytearray(elf(b"/lib64/ld.so\0"))
    struct.pack_into("<I", image, 120, 4)  # PT_NOTE
    with pytest.raises(catalog.KernelUnavailable):
        catalog.with_interpreter(bytes(image), "/ld.so")
