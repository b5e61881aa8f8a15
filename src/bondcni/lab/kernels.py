"""Which kernels a guest can have, and how each is had.

Three are Debian's packages of user-mode Linux, one a suite, unpacked into a cache folder of
the user and never installed: an apt configuration of our own leaves the machine's sources,
lists and packages alone, and only reads from them where the mirror is. Signatures are checked
against Debian's keyring. ``host`` is the machine's own kernel.

A package is fetched once, the suite's newest at that time; afterwards nothing is asked of the
network. A folder in the cache is whole or absent: it is filled under another name and renamed,
under a lock. What runs in a kernel is the business of `guest`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[str], None]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_FOLDER = Path("/etc/apt")
HOST = "host"
DEFAULT = "6.1"
GUEST_TOOLS = ("iproute2", "iputils-ping", "kmod", "procps")
LIBRARIES = "usr/lib/x86_64-linux-gnu"


class Unavailable(Exception):
    """A kernel or tool can not be had here; the text says why and what would help."""


class Kernel(NamedTuple):
    """A kernel that is there and can be booted."""

    name: str  # what a user types: 6.1, 6.12, 7.2, host
    version: str  # what uname says
    package: str  # "user-mode-linux 6.12um1+b22"; empty for host
    binary: Path | None  # None: the machine's own kernel
    root: Path  # holds lib/modules/<version>
    libraries: Path | None  # where the binary's own C library is; None: the machine's
    options: tuple[str, ...]  # words for its command line


class Suite(NamedTuple):
    """Where a kernel comes from and what it needs."""

    name: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    expires: bool = True


BOOKWORM = Suite("bookworm", ("user-mode-linux",))
# 6.12 and 7.2 want glibc 2.38, bookworm has 2.36. A mirror's copy of a suite that is not
# released yet may be past its Valid-Until; its signature is checked all the same.
SUITES = {
    "6.1": BOOKWORM,
    "6.12": Suite("trixie", ("user-mode-linux", "libc6")),
    "7.2": Suite(
        "forky", ("user-mode-linux", "libc6", "libgcc-s1"), ("seccomp=on",), expires=False
    ),
}
NAMES = (*SUITES, HOST)


def fetch(name: str, progress: Progress) -> Kernel:
    """The kernel a user calls ``name``, from the cache or from Debian's mirror.

    Raises Unavailable: no such name, no mirror, no network.
    """
    if name == HOST:
        return Kernel(HOST, platform.release(), "", None, Path("/"), None, ())
    if name not in SUITES:
        raise Unavailable(f"no kernel is called {name}; there are {', '.join(NAMES)}")
    if platform.machine() != "x86_64":
        raise Unavailable(f"user-mode Linux needs x86_64, this machine is {platform.machine()}")
    suite = SUITES[name]
    folder = unpacked(suite, suite.packages, progress)
    modules = folder / "usr/lib/uml/modules"
    version = next(modules.iterdir()).name
    package = (folder / "packages").read_text().splitlines()[0]
    libraries = folder / LIBRARIES if "libc6" in suite.packages else None
    binary = folder / "usr/bin/linux.uml"
    return Kernel(name, version, package, binary, folder, libraries, suite.options)


def delegates(progress: Progress) -> Path:
    """The folder of the standard CNI plugins (static, host-local, dhcp and others).

    Raises Unavailable: no mirror, no network.
    """
    return unpacked(BOOKWORM, ("containernetworking-plugins",), progress) / "usr/lib/cni"


def missing_packages() -> list[str]:
    """The Debian packages a guest needs of the machine and that are not installed."""
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *GUEST_TOOLS],
        capture_output=True,
        check=False,
        text=True,
    )
    installed = {line.split()[1] for line in found.stdout.splitlines() if line[:10] == "installed "}
    return [name for name in GUEST_TOOLS if name not in installed]


def usable_host_kernel() -> str | None:
    """Why the machine's own kernel can not be the guest's; None if it can."""
    if os.geteuid():
        return "not root"
    if not shutil.which("modprobe"):
        return "modprobe is not installed (package kmod)"
    if not Path("/sys/class/net/bonding_masters").exists() and not succeeds(
        "modprobe", "--dry-run", "--quiet", "bonding"
    ):
        return f"kernel {platform.release()} has no bonding module"
    if not succeeds("unshare", "--net", "--mount", "--pid", "--fork", "true"):
        return "new namespaces are not allowed here"
    return None


def succeeds(*argv: str) -> bool:
    """Whether a command ends with status 0."""
    return not subprocess.run(argv, capture_output=True, check=False).returncode


def cache_folder() -> Path:
    """Where what was fetched is kept, for this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bondcni" / "lab"


def unpacked(suite: Suite, packages: Sequence[str], progress: Progress) -> Path:
    """The folder that holds ``packages`` of ``suite``, fetched if there is none."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    stem = f"{suite.name}-{packages[0]}-"
    with locked(cache / f"{stem}lock"):
        folders = sorted(path for path in cache.glob(f"{stem}*") if path.is_dir())
        if folders:
            return folders[-1]
        for leftover in cache.glob(f"part-{stem}*"):  # of a fetch that was killed
            shutil.rmtree(leftover)
        progress(f"fetching {', '.join(packages)} from Debian {suite.name}")
        with tempfile.TemporaryDirectory(prefix=f"part-{stem}", dir=cache) as temporary:
            archives = download(suite, packages, Path(temporary))
            return settle(archives, Path(temporary) / "root", cache, stem)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it however we end."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def settle(archives: Sequence[Path], root: Path, cache: Path, stem: str) -> Path:
    """Unpack ``archives``, adapt them to their place in the cache and move them there."""
    root.mkdir()
    for archive in archives:
        run("dpkg", "-x", str(archive), str(root))
    facts = [archive.name.removesuffix(".deb").split("_")[:2] for archive in archives]
    lines = [f"{name} {version.replace('%3a', ':')}" for name, version in facts]
    (root / "packages").write_text("\n".join(lines) + "\n")
    final = cache / (stem + facts[0][1].replace("%3a", "~"))
    if (root / "usr/lib/uml").exists():
        # modprobe -d looks for lib/modules; without usr-merge lib may be there already.
        (root / "lib").mkdir(exist_ok=True)
        (root / "lib/modules").symlink_to("../usr/lib/uml/modules")
    if (loader := root / LIBRARIES / "ld-linux-x86-64.so.2").exists():
        binary = root / "usr/bin/linux.uml"
        place = final / loader.relative_to(root)
        binary.write_bytes(with_interpreter(binary.read_bytes(), str(place)))
    return root.rename(final)


def with_interpreter(image: bytes, path: str) -> bytes:
    """An x86-64 ELF image whose program interpreter is ``path``.

    The new path goes to the end of the file and PT_INTERP points there (offsets of elf(5)):
    the kernel reads it from the file, not from memory. user-mode Linux can not be started
    through ``ld.so``: it needs its own addresses.
    """
    table, size, count = struct.unpack_from("<32xQ14xHH", image)
    for start in range(table, table + size * count, size):
        if struct.unpack_from("<I", image, start)[0] == 3:  # PT_INTERP
            name = os.fsencode(path) + b"\0"
            patched = bytearray(image + name)
            struct.pack_into("<Q", patched, start + 8, len(image))
            struct.pack_into("<Q", patched, start + 32, len(name))
            return bytes(patched)
    raise Unavailable("the kernel's binary names no program interpreter")


def download(suite: Suite, packages: Sequence[str], folder: Path) -> list[Path]:
    """Bring the suite's newest ``packages`` into ``folder``, in their order."""
    if not KEYRING.exists():
        raise Unavailable(f"{KEYRING} is missing (package debian-archive-keyring)")
    for path in ("lists/partial", "cache/archives/partial", "empty", "archives"):
        (folder / path).mkdir(parents=True)
    (folder / "status").touch()
    source = f"deb [signed-by={KEYRING}] {mirror()} {suite.name} main\n"
    (folder / "sources.list").write_text(source)
    (folder / "apt.conf").write_text(apt_configuration(folder, expires=suite.expires))
    apt = ("apt-get", "-c", str(folder / "apt.conf"), "-q")
    run(*apt, "update")
    run(*apt, "download", *packages, cwd=folder / "archives")
    return [next((folder / "archives").glob(f"{name}_*.deb")) for name in packages]


def apt_configuration(folder: Path, *, expires: bool) -> str:
    """apt.conf(5) text under which apt touches nothing outside ``folder``.

    The machine's own proxies and certificates stay in force; its hooks do not.
    """
    return f"""\
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/empty";
Dir::Etc::preferences "{folder}/no-preferences";
Dir::Etc::preferencesparts "{folder}/empty";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "{str(expires).lower()}";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def run(*argv: str, cwd: Path | None = None) -> None:
    """Run a command; Unavailable with what it said if it fails or is not there."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, check=False, text=True, errors="replace"
        )
    except OSError as error:
        raise Unavailable(f"{argv[0]}: {error.strerror}; this needs Debian's apt") from error
    if done.returncode:
        words = " ".join(argv)
        raise Unavailable(f"{words} ended with {done.returncode}: {done.stderr.strip()}")


def mirror(folder: Path = APT_FOLDER) -> str:
    """The address of the Debian mirror in the machine's own apt sources. Raises Unavailable."""
    parts = folder / "sources.list.d"
    lists = [folder / "sources.list", *sorted(parts.glob("*.list"))]
    entries = [
        *(entry for path in sorted(parts.glob("*.sources")) for entry in stanzas(path.read_text())),
        *(entry for path in lists if path.exists() for entry in one_liners(path.read_text())),
    ]
    for entry in entries:
        if is_main_archive(entry):
            return entry["uris"].split()[0]
    raise Unavailable(f"no Debian mirror in {folder}/sources.list or {parts}")


def is_main_archive(entry: dict[str, str]) -> bool:
    """Whether an entry is for Debian's main archive: its keyring, a suite without suffix."""
    signed = entry.get("signed-by", KEYRING.stem)
    plain = [suite for suite in entry.get("suites", "").split() if not {"-", "/"} & set(suite)]
    on = entry.get("enabled", "yes") != "no" and "deb" in entry.get("types", "").split()
    return on and bool(plain) and KEYRING.stem in signed


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The entries of a deb822 ``.sources`` file (sources.list(5)), keys in lower case."""
    entry: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        key, colon, value = line.partition(":")
        if not line.strip():
            if entry:
                yield entry
            entry = {}
        elif colon and line[0] not in "# \t":
            entry[key.lower()] = value.strip()


def one_liners(text: str) -> Iterator[dict[str, str]]:
    """The entries of a ``sources.list`` (sources.list(5)) as `stanzas` gives them."""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        options, closing, after = rest.strip().rpartition("]")
        words = after.split() if closing else rest.split()
        if kind and len(words) > 1:
            pairs = dict(word.split("=", 1) for word in options.strip("[ ").split() if "=" in word)
            yield {"types": kind, "uris": words[0], "suites": words[1]} | pairs
