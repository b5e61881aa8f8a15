"""The initramfs of a stock kernel: the files that mount the real root.

A distribution's kernel has its file system and bus drivers as modules, so it boots from an
initramfs with busybox, these modules and a script. The script mounts this machine's files over 9p,
read-only, and executes the agent there as process 1. The initramfs is built for each boot, so that
it matches the agent. If the script fails, the kernel panics with a message on the console.
"""

from __future__ import annotations

import lzma
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_IFDIR, S_IFREG

# A driver that is built into the kernel has no file and is skipped; in 6.1 virtio is modular.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")
# msize: the maximum of the transport (maxsize in net/9p/trans_virtio.c, 125 pages). The root adds
# cache=loose, which never revalidates cached files: the guest does not write there.
NINE_P = "trans=virtio,version=9p2000.L,msize=512000"
SCRIPT = """\
#!/busybox sh
for module in /modules/*; do /busybox insmod $module; done
/busybox mount -t devtmpfs none /dev
/busybox mount -t 9p -o {options},cache=loose,ro root /new
/busybox mount -t devtmpfs none /new/dev
until [ -c /dev/vport*p1 ]; do /busybox usleep 10000; done
export {variable}
exec /busybox switch_root /new {command} /dev/vport*p1
"""


def initramfs(busybox: Path, modules: Path, variable: str, command: Sequence[str]) -> bytes:
    """The archive for the kernel whose modules are in the directory ``modules``.

    ``command`` is executed as process 1, with ``variable`` (``NAME=value``) in its environment and
    the path of its channel as the last argument.
    """
    words = {"variable": shlex.quote(variable), "command": shlex.join(command)}
    files = {
        "busybox": busybox.read_bytes(),
        "init": SCRIPT.format(options=NINE_P, **words).encode(),
    }
    for place, path in enumerate(load_order(modules)):
        files[f"modules/{place:02}"] = module(path)
    return archive(["dev", "new", "modules"], files)


def load_order(directory: Path) -> list[Path]:
    """The files of `MODULES`, each after its dependencies (modules.dep(5))."""
    lines = (directory / "modules.dep").read_text().splitlines()
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in lines)}
    paths = {Path(path).name.partition(".")[0]: path for path in needs}
    order: dict[str, None] = {}
    for name in MODULES:
        if name in paths:
            order |= dict.fromkeys([*reversed(needs[paths[name]]), paths[name]])
    return [directory / path for path in order]


def module(path: Path) -> bytes:
    """The content of a module, decompressed: busybox's insmod loads no compressed module."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def archive(directories: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """A cpio archive; all files belong to root and are executable."""
    entries = [(name, S_IFDIR | 0o755, b"") for name in directories]
    entries += [(name, S_IFREG | 0o755, data) for name, data in files.items()]
    records = [record(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*records, record(0, "TRAILER!!!", 0, b"")])


def record(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One file in cpio format "newc" (Documentation/driver-api/early-userspace)."""
    word = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(word), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + word
    return b"".join(padded((header, data)))


def padded(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Each piece, padded to a multiple of four bytes."""
    for piece in pieces:
        yield piece + bytes(-len(piece) % 4)
