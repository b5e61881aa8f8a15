"""Packages of Debian, unpacked into a cache folder of the user and never installed.

An apt configuration of our own leaves the machine's sources, lists and packages alone, and only
reads from them where the mirror is. Signatures are checked against Debian's keyring. A package
is fetched once, the suite's newest at that time; afterwards nothing is asked of the network.

A folder in the cache is whole or absent: it is filled and adapted under another name and
renamed, under a lock. What is fetched, and what becomes of it, is the business of `kernels`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[str], None]
Adapt = Callable[[Path, Path], None]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_FOLDER = Path("/etc/apt")


class KernelUnavailable(Exception):
    """A kernel or tool can not be had here; the text says why and what would help."""


class Suite(NamedTuple):
    """Packages of a suite, the one that gives the folder its name and version first."""

    name: str
    packages: tuple[str, ...]
    expires: bool = True
    base: str = ""  # the suite that backports stand on; with it, what the packages need comes too
    wanted: str = ".*"  # of all that, the names to fetch: a regular expression


def cache_folder() -> Path:
    """Where what was fetched is kept, for this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bondcni" / "lab"


def as_it_is(root: Path, final: Path) -> None:
    """Adapt nothing."""


def unpacked(suite: Suite, progress: Progress, adapt: Adapt = as_it_is) -> Path:
    """The folder that holds the suite's packages, fetched if there is none.

    ``adapt`` is given the folder as unpacked, and where it will be. Raises KernelUnavailable.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    stem = f"{suite.name}-{suite.packages[0]}-"
    with locked(cache / f"{stem}lock"):
        folders = sorted(path for path in cache.glob(f"{stem}*") if path.is_dir())
        if folders:
            return folders[-1]
        for leftover in cache.glob(f"part-{stem}*"):  # of a fetch that was killed
            shutil.rmtree(leftover)
        progress(f"fetching {', '.join(suite.packages)} from Debian {suite.name}")
        with tempfile.TemporaryDirectory(prefix=f"part-{stem}", dir=cache) as temporary:
            archives = download(suite, Path(temporary))
            root = Path(temporary) / "root"
            final = cache / (stem + unpack(archives, root))
            adapt(root, final)
            return root.rename(final)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it however we end."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(archives: Sequence[Path], root: Path) -> str:
    """Unpack ``archives`` and list them; the first one's version, as a file's name has it."""
    root.mkdir()
    for archive in archives:
        run("dpkg", "-x", str(archive), str(root))
    facts = [archive.name.removesuffix(".deb").split("_")[:2] for archive in archives]
    lines = [f"{name} {version.replace('%3a', ':')}" for name, version in facts]
    (root / "packages").write_text("\n".join(lines) + "\n")
    return facts[0][1].replace("%3a", "~")


def download(suite: Suite, folder: Path) -> list[Path]:
    """Bring the suite's newest packages into ``folder``, in their order."""
    if not KEYRING.exists():
        raise KernelUnavailable(f"{KEYRING} is missing (package debian-archive-keyring)")
    for path in ("lists/partial", "cache/archives/partial", "empty", "archives"):
        (folder / path).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(sources(suite, mirror()))
    (folder / "apt.conf").write_text(apt_configuration(folder, expires=suite.expires))
    release = ("-t", suite.name) if suite.base else ()
    apt = ("apt-get", "-c", str(folder / "apt.conf"), "-q", *release)
    run(*apt, "update")
    names = suite.packages
    if suite.base:
        plan = run(*apt, "install", "-s", "--no-install-recommends", *suite.packages)
        names = chosen(suite, plan)
    run(*apt, "download", *names, cwd=folder / "archives")
    return [next((folder / "archives").glob(f"{name}_*.deb")) for name in names]


def sources(suite: Suite, address: str) -> str:
    """sources.list(5) for ``suite`` and what is below it."""
    names = filter(None, (suite.name, suite.base))
    return "".join(f"deb [signed-by={KEYRING}] {address} {name} main\n" for name in names)


def chosen(suite: Suite, plan: str) -> tuple[str, ...]:
    """The names to fetch of what ``apt-get -s install`` would install, the suite's own first."""
    names = re.findall(r"^Inst (\S+) ", plan, re.MULTILINE)
    wanted = [name for name in names if re.fullmatch(suite.wanted, name)]
    if not wanted:
        raise KernelUnavailable(f"Debian {suite.name} has no {suite.packages[0]}")
    own = [name for name in suite.packages if name in wanted]
    return (*own, *(name for name in wanted if name not in own))


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


def run(*argv: str, cwd: Path | None = None) -> str:
    """Run a command; its output. KernelUnavailable with what it said if it fails or is not there."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, check=False, text=True, errors="replace"
        )
    except OSError as error:
        raise KernelUnavailable(f"{argv[0]}: {error.strerror}; this needs Debian's apt") from error
    if done.returncode:
        words = " ".join(argv)
        raise KernelUnavailable(f"{words} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def mirror(folder: Path = APT_FOLDER) -> str:
    """The address of the Debian mirror in the machine's own apt sources. Raises KernelUnavailable."""
    parts = folder / "sources.list.d"
    lists = [folder / "sources.list", *sorted(parts.glob("*.list"))]
    entries = [
        *(entry for path in sorted(parts.glob("*.sources")) for entry in stanzas(path.read_text())),
        *(entry for path in lists if path.exists() for entry in one_liners(path.read_text())),
    ]
    for entry in entries:
        if is_main_archive(entry):
            return entry["uris"].split()[0]
    raise KernelUnavailable(f"no Debian mirror in {folder}/sources.list or {parts}")


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
