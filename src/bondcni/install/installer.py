"""The product on a node: files, folders, owners. Nothing is started or stopped.

All that stands against it is found before anything is touched, and told at once. What is there
and right is let be, so that the same command may be given again at any time. The executable
comes last: from then on the container runtime finds the rest in place.

A ``bond`` of another origin is never lost: ``install`` keeps it under another name,
``uninstall.py`` lets it be. Whose it is, its content says. It is not asked by running it: what an
unknown program does when root runs it nobody knows, and the one for another machine (``root``)
may not run here.
"""

from __future__ import annotations

import os
import pwd
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

from bondcni.core.errors import PolicyError
from bondcni.service import executable
from bondcni.service.files import NotAFile, put, read_file
from bondcni.service.journal import Journal
from bondcni.service.paths import POLICY_FILE, SOCKET, STATE_DIRECTORY
from bondcni.service.policy import content, load

BIN_DIR = "/opt/cni/bin"
USER = "bond-cni"
UNITS = "/etc/systemd/system"
UNIT = f"{UNITS}/bond-cni.service"

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  named, not used
"""What the unit's sandbox hides from the daemon (ProtectHome, PrivateTmp)."""

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 64 << 20
"""Bytes of an executable that is looked into: the Go plugin has some 4 MiB."""

SHIM = b"bondctl serve"
OURS = (SHIM, b"bondcni.direct", b"bondcni.frontends.plugin")
"""What a ``bond`` of ours has in it: the shim, the launcher, the launcher of version 0.1.0."""

MODE = 0o755


class Wrong(Exception):
    """Why nothing was touched: every reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class Place(NamedTuple):
    """A node's file system, and where its container runtime looks for plugins."""

    root: str = ""  # "": this machine's own
    bin_dir: str = BIN_DIR

    def at(self, path: str) -> str:
        """Where a path of the node's is found from here."""
        return f"{self.root}{path}"

    @property
    def bond(self) -> str:
        """The executable."""
        return self.at(f"{self.bin_dir}/bond")

    @property
    def replaced(self) -> str:
        """Where one of another origin is kept."""
        return f"{self.bond}.replaced"


class Wish(NamedTuple):
    """What is to be installed."""

    place: Place = Place()
    mode: str = "thick"  # or "direct"
    shim: str = ""  # "": where it was built
    systemd: bool = True
    user: str = USER
    bondctl: str = ""  # "": beside this interpreter
    launcher: str = ""  # the executable of the direct mode

    def command(self) -> str:
        """The command that the unit starts."""
        return self.bondctl or f"{sysconfig.get_path('scripts')}/bondctl"


# What stands against it.


def problems(wish: Wish) -> Iterator[str]:
    """Every reason why it cannot be installed."""
    place = wish.place
    yield from rights(place)
    folder = place.at(place.bin_dir)
    if not os.path.isdir(folder):
        yield f"{folder} is no folder: --bin-dir names where the container runtime has its plugins"
    if os.path.isdir(place.bond):
        yield f"{place.bond} is a folder"
    elif (
        os.path.lexists(place.bond) and not is_ours(place.bond) and os.path.lexists(place.replaced)
    ):
        yield f"{place.bond} is not ours, and {place.replaced}, where it would be kept, is there"
    yield from _against_thick(wish) if wish.mode == "thick" else _against_direct(wish)


def rights(place: Place) -> Iterator[str]:
    """Why this process may not."""
    if not place.root and os.geteuid():
        yield "this needs root"


def _against_thick(wish: Wish) -> Iterator[str]:
    yield from _against_shim(wish.shim)
    try:
        owner_of(wish.user, wish.place.root)
    except (KeyError, OSError):
        yield (
            f"there is no user {wish.user}: make one that can do nothing else "
            f"(useradd --system --no-create-home --shell /usr/sbin/nologin {wish.user})"
        )
    if wish.systemd:
        yield from _against_unit(wish)


def _against_shim(given: str) -> Iterator[str]:
    try:
        shim = Path(given) if given else executable.shim()
        content = read_file(str(shim), LARGEST)
    except executable.NoExecutable as error:
        yield f"{error}; or name one by --shim, or install --mode direct"
    except OSError as error:
        yield f"--shim {given}: {error.strerror}"
    except NotAFile as error:
        yield f"--shim {given}: {error}"
    else:
        if not os.access(shim, os.X_OK):
            yield f"{shim} is not executable"
        if SHIM not in content:
            yield f"{shim} is not the executable bond of the thick mode"


def _against_unit(wish: Wish) -> Iterator[str]:
    units = wish.place.at(UNITS)
    if not os.path.isdir(units):
        yield f"{units} is no folder: without systemd say --no-systemd"
    command = wish.command()
    if not os.access(command, os.X_OK):
        yield f"{command}, which the unit would start, is no command"
    own = () if wish.bondctl else (os.path.realpath(sys.executable),)
    for path in (command, *own):
        if path.startswith(tuple(f"{hidden}/" for hidden in HIDDEN)):
            yield f"{path} is where the unit's sandbox hides it from the daemon: install elsewhere"


def _against_direct(wish: Wish) -> Iterator[str]:
    if wish.systemd:
        yield "--systemd is for --mode thick: in direct mode there is no daemon"
    yield from queued(wish.place)


def queued(place: Place) -> Iterator[str]:
    """What the daemon was to do and has not done."""
    journal = Journal(place.at(STATE_DIRECTORY))
    if names := journal.queued():
        what = "DELs are" if len(names) > 1 else "DEL is"
        yield f"{len(names)} {what} queued in {journal.folder}: run bondctl recover first"


def is_ours(bond: str) -> bool:
    """Whether a ``bond`` is of this product. Raises ``OSError``."""
    try:
        content = read_file(bond, LARGEST)
    except (FileNotFoundError, NotAFile):
        content = b""
    return any(mark in content for mark in OURS)


def owner_of(user: str, root: str = "") -> tuple[int, int]:
    """User and group ID. Raises ``KeyError`` and, for the users of another root, ``OSError``."""
    if user.isdecimal():
        return int(user), int(user)
    if not root:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, entry.pw_gid
    lines = Path(f"{root}/etc/passwd").read_text(encoding="utf-8").splitlines()
    rows = {name: rest for name, *rest in (line.split(":") for line in lines)}
    return int(rows[user][1]), int(rows[user][2])


# Doing it.


def install(wish: Wish) -> Iterator[str]:
    """Do it; a line for each thing. Raises ``Wrong`` before anything is touched, ``OSError``."""
    if found := list(problems(wish)):
        raise Wrong(found)
    place = wish.place
    owner = owner_of(wish.user, place.root) if wish.mode == "thick" else None
    yield _folder(place.at(STATE_DIRECTORY), 0o700, owner, wish.user)
    if owner:
        yield _policy(place.at(POLICY_FILE))
    yield from _unusable(wish, owner)
    if owner and not wish.systemd:  # the unit has it made
        yield _folder(place.at(os.path.dirname(SOCKET)), 0o755, owner, wish.user)
    changed = False
    if wish.systemd:
        changed = put(place.at(UNIT), unit(wish).encode(), 0o644)
        yield f"{place.at(UNIT)}: {'written' if changed else 'unchanged'}"
    yield from _executable(wish)
    if changed:
        yield (
            "next: systemctl daemon-reload && systemctl enable bond-cni && "
            "systemctl restart bond-cni"
        )


def _folder(path: str, mode: int, owner: tuple[int, int] | None, user: str) -> str:
    """A folder, made where there is none; without ``owner`` the owner is left as it is."""
    made = not os.path.isdir(path)
    if made:
        os.makedirs(path, mode)
        os.chmod(path, mode)  # whatever the umask is
    if owner and _given(os.path.realpath(path), owner):
        return f"{path}: {'made' if made else 'given'}, for {user}"
    return f"{path}: {'made' if made else 'unchanged'}"


def _given(path: str, owner: tuple[int, int]) -> bool:
    """Give a folder with all in it to its owner; False where it is the owner's.

    The folder itself comes last: cut off, the next run does the rest. No link is followed, for
    who owns it until then could put one there.
    """
    found = os.stat(path)
    if (found.st_uid, found.st_gid) == owner:
        return False
    for _, folders, files, descriptor in os.fwalk(path, topdown=False):
        for name in (*folders, *files):
            os.chown(name, *owner, dir_fd=descriptor, follow_symlinks=False)
    os.chown(path, *owner)
    return True


def _policy(path: str) -> str:
    if os.path.lexists(path):
        return f"{path}: unchanged"
    _open_directories(os.path.dirname(path))
    put(path, (TEMPLATES / "policy.yaml").read_bytes(), 0o644)
    return f"{path}: written; it says what holds without it"


def _open_directories(path: str) -> None:
    """Make a directory, and what is missing above it, so that everybody may pass, whatever the
    umask is. Those that are there are not ours to open.
    """
    if os.path.isdir(path):
        return
    _open_directories(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103  there is nothing secret in it


def _unusable(wish: Wish, owner: tuple[int, int] | None) -> Iterator[str]:
    """Why the policy that is there would keep every host link from pods, as who reads it finds."""
    try:
        why = _refused_to(wish, owner) if owner else ""
        if not why:
            load(wish.place.at(POLICY_FILE))
    except PolicyError as error:
        why = error.message
    if why:
        yield f"warning: {why}"


def _refused_to(wish: Wish, owner: tuple[int, int]) -> str:
    """Why the daemon's user cannot read the policy; "" where it can, or where we cannot try.

    A process of that user tries it: it alone heeds whatever the file system has, such as ACLs.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, _found_as(wish, owner).encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def _found_as(wish: Wish, owner: tuple[int, int]) -> str:
    """In the child: become the daemon's user for good, and read the policy."""
    user, group = owner
    try:
        if wish.place.root:
            os.chroot(wish.place.root)
        known = not wish.place.root and not wish.user.isdecimal()
        os.setgroups(os.getgrouplist(wish.user, group) if known else [group])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError:  # in the DaemonSet's init container: then the daemon says it when it starts
        return ""
    try:
        content(POLICY_FILE)
    except PolicyError as error:
        return error.message
    return ""


def _executable(wish: Wish) -> Iterator[str]:
    place = wish.place
    if os.path.lexists(place.bond) and not is_ours(place.bond):
        os.link(place.bond, place.replaced, follow_symlinks=False)
        yield f"{place.replaced}: the bond that was there, which is not ours"
    there = os.path.lexists(place.bond)
    changed = put(place.bond, _program(wish), MODE)
    yield f"{place.bond}: {'unchanged' if not changed else 'replaced' if there else 'written'}"


def _program(wish: Wish) -> bytes:
    if wish.mode == "direct":
        return wish.launcher.encode()
    return Path(wish.shim or executable.shim()).read_bytes()


# Texts.


def unit(wish: Wish) -> str:
    """The systemd unit."""
    return _filled("bond-cni.service", bondctl=wish.command(), user=wish.user)


def daemonset(image: str, bin_dir: str) -> str:
    """The Kubernetes manifest."""
    return _filled("daemonset.yaml", image=image, bin_dir=bin_dir)


def _filled(name: str, **values: str) -> str:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)
