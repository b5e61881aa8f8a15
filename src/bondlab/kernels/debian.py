"""Fetches Debian packages and unpacks them into the user's cache, without installing them.

apt runs with a configuration of its own: it does not change this machine's sources, lists and
packages; only the mirror's address is read from its sources. Signatures are verified by Debian's
keyring. A package is fetched once, in the version that is newest then; later uses need no network.

A directory in the cache is complete or absent: it is filled under another name and renamed, under
a lock. `catalog` says what is fetched.
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
APT_DIRECTORY = Path("/etc/apt")


class KernelUnavailable(Exception):
    """A kernel, or a package it needs, cannot be obtained or used; the text says why."""


class Suite(NamedTuple):
    """Packages of a suite; the first gives the directory in the cache its name and version."""

    name: str
    packages: tuple[str, ...]
    expires: bool = True
    base: str = ""  # the release below a backports suite; dependencies are fetched too
    wanted: str = ".*"  # names to fetch of the packages and dependencies: a regular expression


def cache_directory() -> Path:
    """The directory of this user's fetched packages."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bondcni" / "lab"


def unchanged(root: Path, final: Path) -> None:
    """Adapt nothing."""


def unpacked(suite: Suite, progress: Progress, adapt: Adapt = unchanged) -> Path:
    """The directory with the suite's packages; they are fetched at the first use.

    ``adapt`` is called with the unpacked directory and its final path. Raises KernelUnavailable.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    stem = f"{suite.name}-{suite.packages[0]}-"
    with locked(cache / f"{stem}lock"):
        directories = sorted(path for path in cache.glob(f"{stem}*") if path.is_dir())
        if directories:
            return directories[-1]
        for leftover in cache.glob(f"part-{stem}*"):  # of an interrupted fetch
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
    """Hold a lock file; the kernel releases it when the process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(archives: Sequence[Path], root: Path) -> str:
    """Unpack ``archives`` and write their list; the version of the first, from its file name."""
    root.mkdir()
    for archive in archives:
        run("dpkg", "-x", str(archive), str(root))
    facts = [archive.name.removesuffix(".deb").split("_")[:2] for archive in archives]
    lines = [f"{name} {version.replace('%3a', ':')}" for name, version in facts]
    (root / "packages").write_text("\n".join(lines) + "\n")
    return facts[0][1].replace("%3a", "~")


def download(suite: Suite, directory: Path) -> list[Path]:
    """Download the suite's newest packages into ``directory``; their paths, in order."""
    if not KEYRING.exists():
        raise KernelUnavailable(f"{KEYRING} not found: install the package debian-archive-keyring")
    for path in ("lists/partial", "cache/archives/partial", "empty", "archives"):
        (directory / path).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(sources(suite, mirror()))
    (directory / "apt.conf").write_text(apt_configuration(directory, expires=suite.expires))
    release = ("-t", suite.name) if suite.base else ()
    apt = ("apt-get", "-c", str(directory / "apt.conf"), "-q", *release)
    run(*apt, "update")
    names = suite.packages
    if suite.base:
        plan = run(*apt, "install", "-s", "--no-install-recommends", *suite.packages)
        names = chosen(suite, plan)
    run(*apt, "download", *names, cwd=directory / "archives")
    return [next((directory / "archives").glob(f"{name}_*.deb")) for name in names]


def sources(suite: Suite, address: str) -> str:
    """sources.list(5) for ``suite`` and its base."""
    names = filter(None, (suite.name, suite.base))
    return "".join(f"deb [signed-by={KEYRING}] {address} {name} main\n" for name in names)


def chosen(suite: Suite, plan: str) -> tuple[str, ...]:
    """The names to fetch of those that ``apt-get -s install`` prints, the suite's own first."""
    names = re.findall(r"^Inst (\S+) ", plan, re.MULTILINE)
    wanted = [name for name in names if re.fullmatch(suite.wanted, name)]
    if not wanted:
        raise KernelUnavailable(f"Debian {suite.name} has no {suite.packages[0]}")
    own = [name for name in suite.packages if name in wanted]
    return (*own, *(name for name in wanted if name not in own))


def apt_configuration(directory: Path, *, expires: bool) -> str:
    """apt.conf(5) that makes apt write to ``directory`` only.

    This machine's proxies and certificates are used; its hooks are not.
    """
    return f"""\
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "{directory}/empty";
Dir::Etc::preferences "{directory}/no-preferences";
Dir::Etc::preferencesparts "{directory}/empty";
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
    """Run a command; its output. Raises KernelUnavailable with its error output."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, check=False, text=True, errors="replace"
        )
    except OSError as error:
        raise KernelUnavailable(
            f"{argv[0]}: {error.strerror} (Debian's apt and dpkg are required)"
        ) from error
    if done.returncode:
        words = " ".join(argv)
        raise KernelUnavailable(f"{words}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def mirror(directory: Path = APT_DIRECTORY) -> str:
    """The address of the Debian mirror in this machine's apt sources. Raises KernelUnavailable."""
    parts = directory / "sources.list.d"
    lists = [directory / "sources.list", *sorted(parts.glob("*.list"))]
    entries = [
        *(entry for path in sorted(parts.glob("*.sources")) for entry in stanzas(path.read_text())),
        *(entry for path in lists if path.exists() for entry in one_liners(path.read_text())),
    ]
    for entry in entries:
        if is_main_archive(entry):
            return entry["uris"].split()[0]
    raise KernelUnavailable(f"no Debian mirror found in {directory}/sources.list or {parts}")


def is_main_archive(entry: dict[str, str]) -> bool:
    """Whether an entry is Debian's main archive: its keyring, and a suite without a suffix."""
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
    """The entries of a ``sources.list`` (sources.list(5)), in the form of `stanzas`."""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        options, closing, after = rest.strip().rpartition("]")
        words = after.split() if closing else rest.split()
        if kind and len(words) > 1:
            pairs = dict(word.split("=", 1) for word in options.strip("[ ").split() if "=" in word)
            yield {"types": kind, "uris": words[0], "suites": words[1]} | pairs
