"""The first files of a stock kernel: enough to find its real root, and no more.

A distribution's kernel has file systems and buses as modules, so it starts in a small archive of
files in memory: busybox, the modules, a script. The script mounts the machine's files over 9p,
read-only, and gives way to the agent there, as process 1. It is made anew for each boot, so that
it always fits the agent. If it fails, the kernel panics and says so on the console.
"""

from __future__ import annotations

import lzma
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_IFDIR, S_IFREG

# What is built into a kernel has no file and is left out; 6.1 has the virtio drivers as modules.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")
# msize: all that the transport takes (maxsize in net/9p/trans_virtio.c, 125 pages). The root adds
# cache=loose, which asks for nothing twice: as good as right, for nobody in the guest writes there.
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
    """The archive for the kernel whose modules are in the folder ``modules``.

    ``variable`` goes into the environment of ``command``, which is started as process 1 with the
    path of its channel as the last argument.
    """
    words = {"variable": shlex.quote(variable), "command": shlex.join(command)}
    files = {
        "busybox": busybox.read_bytes(),
        "init": SCRIPT.format(options=NINE_P, **words).encode(),
    }
    for place, path in enumerate(load_order(modules)):
        files[f"modules/{place:02}"] = module(path)
    return archive(["dev", "new", "modules"], files)


def load_order(folder: Path) -> list[Path]:
    """The files of `MODULES`, each after what it needs (modules.dep(5))."""
    lines = (folder / "modules.dep").read_text().splitlines()
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in lines)}
    paths = {Path(path).name.partition(".")[0]: path for path in needs}
    order: dict[str, None] = {}
    for name in MODULES:
        if name in paths:
            order |= dict.fromkeys([*reversed(needs[paths[name]]), paths[name]])
    return [folder / path for path in order]


def module(path: Path) -> bytes:
    """A module's file, unpacked: busybox and a kernel agree on that form only."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def archive(folders: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """A cpio archive; all of it belongs to root and may be run."""
    entries = [(name, S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, S_IFREG | 0o755, data) for name, data in files.items()]
    records = [record(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*records, record(0, "TRAILER!!!", 0, b"")])


def record(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One file in the form the kernel reads: "newc", Documentation/driver-api/early-userspace."""
    word = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(word), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + word
    return b"".join(padded((header, data)))


def padded(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Each piece, filled up to a multiple of four bytes."""
    for piece in pieces:
        yield piece + bytes(-len(piece) % 4)
