"""Install the plugin on a node: its files, directories and their owners.

Nothing is started or stopped. Every problem is found and reported before anything is changed.
What is correct already stays unchanged, so the command can be run again at any time. The
executable is written last, so that everything else is in place when the container runtime first
runs it.

A file ``bond`` of another product is never lost: ``install`` keeps it as ``bond.replaced``, and
``uninstaller.py`` does not remove it. The file's content decides whose it is. It is not run to
find out: an unknown program run by root may do anything, and one for another machine (``root``)
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
"""Directories that the unit hides from the daemon (ProtectHome, PrivateTmp)."""

TEMPLATES = Path(__file__).parent / "templates"
MAX_EXECUTABLE = 64 << 20
"""Size limit, in bytes, of an executable that is read: the Go plugin has some 4 MiB."""

SHIM = b"bondctl serve"
OURS = (SHIM, b"bondcni.direct", b"bondcni.frontends.plugin")
"""Bytes that identify our ``bond``: the shim, the launcher, and the launcher of 0.1.0."""

MODE = 0o755


class InstallRefused(Exception):
    """Nothing was changed; ``problems`` has every reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class Target(NamedTuple):
    """A node's file system, and the plugin directory of its container runtime."""

    root: str = ""  # "": this machine
    bin_dir: str = BIN_DIR

    def at(self, path: str) -> str:
        """The path, below ``root``, of a path on the node."""
        return f"{self.root}{path}"

    @property
    def bond(self) -> str:
        """The path of the executable."""
        return self.at(f"{self.bin_dir}/bond")

    @property
    def replaced(self) -> str:
        """The path where a ``bond`` of another product is kept."""
        return f"{self.bond}.replaced"


class InstallOptions(NamedTuple):
    """What to install, and where."""

    target: Target = Target()
    mode: str = "thick"  # or "direct"
    shim: str = ""  # "": as built
    systemd: bool = True
    user: str = USER
    bondctl: str = ""  # "": in the scripts directory of this interpreter
    launcher: str = ""  # the text of the executable of direct mode

    def command(self) -> str:
        """The path of the program that the unit starts."""
        return self.bondctl or f"{sysconfig.get_path('scripts')}/bondctl"


# Checks.


def problems(options: InstallOptions) -> Iterator[str]:
    """Yield every reason why the installation is refused."""
    target = options.target
    yield from rights(target)
    directory = target.at(target.bin_dir)
    if not os.path.isdir(directory):
        yield f"{directory}: not a directory; --bin-dir sets the runtime's plugin directory"
    if os.path.isdir(target.bond):
        yield f"{target.bond}: is a directory"
    elif (
        os.path.lexists(target.bond)
        and not is_ours(target.bond)
        and os.path.lexists(target.replaced)
    ):
        yield (
            f"{target.bond}: belongs to another product and cannot be kept as {target.replaced}, "
            "which exists already; move one of them elsewhere"
        )
    yield from _thick_problems(options) if options.mode == "thick" else _direct_problems(options)


def rights(target: Target) -> Iterator[str]:
    """Yield a problem if this process lacks the privileges."""
    if not target.root and os.geteuid():
        yield "must be run as root"


def _thick_problems(options: InstallOptions) -> Iterator[str]:
    yield from _shim_problems(options.shim)
    try:
        owner_of(options.user, options.target.root)
    except (KeyError, OSError):
        yield (
            f"user {options.user} does not exist; create it: "
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {options.user}"
        )
    if options.systemd:
        yield from _unit_problems(options)


def _shim_problems(given: str) -> Iterator[str]:
    try:
        shim = Path(given) if given else executable.shim()
        content = read_file(str(shim), MAX_EXECUTABLE)
    except executable.NoExecutable as error:
        yield f"{error}; or name it with --shim, or install with --mode direct"
    except OSError as error:
        yield f"--shim {given}: {error.strerror}"
    except NotAFile as error:
        yield f"--shim {given}: {error}"
    else:
        if not os.access(shim, os.X_OK):
            yield f"{shim}: not executable"
        if SHIM not in content:
            yield f"{shim}: not the executable bond of thick mode"


def _unit_problems(options: InstallOptions) -> Iterator[str]:
    units = options.target.at(UNITS)
    if not os.path.isdir(units):
        yield f"{units}: not a directory; use --no-systemd on a node without systemd"
    command = options.command()
    if not os.access(command, os.X_OK):
        yield f"{command}: not an executable file; the unit starts it"
    own = () if options.bondctl else (os.path.realpath(sys.executable),)
    for path in (command, *own):
        if path.startswith(tuple(f"{hidden}/" for hidden in HIDDEN)):
            yield (
                f"{path}: the unit hides this directory from the daemon; "
                "install the package below /opt or /usr"
            )


def _direct_problems(options: InstallOptions) -> Iterator[str]:
    if options.systemd:
        yield "--systemd requires --mode thick: direct mode has no daemon"
    yield from queued(options.target)


def queued(target: Target) -> Iterator[str]:
    """Yield a problem if DELs are queued: direct mode does not process them."""
    journal = Journal(target.at(STATE_DIRECTORY))
    if names := journal.queued():
        what = "DELs are" if len(names) > 1 else "DEL is"
        yield f"{len(names)} {what} queued in {journal.directory}; run bondctl recover first"


def is_ours(bond: str) -> bool:
    """Whether a file ``bond`` belongs to this product. Raises ``OSError``."""
    try:
        content = read_file(bond, MAX_EXECUTABLE)
    except (FileNotFoundError, NotAFile):
        content = b""
    return any(mark in content for mark in OURS)


def owner_of(user: str, root: str = "") -> tuple[int, int]:
    """The user and group ID of ``user``.

    Raises ``KeyError`` and, where ``root`` is given and its /etc/passwd cannot be read, ``OSError``.
    """
    if user.isdecimal():
        return int(user), int(user)
    if not root:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, entry.pw_gid
    lines = Path(f"{root}/etc/passwd").read_text(encoding="utf-8").splitlines()
    rows = {name: rest for name, *rest in (line.split(":") for line in lines)}
    return int(rows[user][1]), int(rows[user][2])


# Installing.


def install(options: InstallOptions) -> Iterator[str]:
    """Install; yield a line for each file and directory.

    Raises ``InstallRefused`` before anything is changed, and ``OSError``.
    """
    if found := list(problems(options)):
        raise InstallRefused(found)
    target = options.target
    owner = owner_of(options.user, target.root) if options.mode == "thick" else None
    yield _directory(target.at(STATE_DIRECTORY), 0o700, owner, options.user)
    if owner:
        yield _policy(target.at(POLICY_FILE))
    yield from _unusable(options, owner)
    if owner and not options.systemd:  # systemd creates it for the unit
        yield _directory(target.at(os.path.dirname(SOCKET)), 0o755, owner, options.user)
    changed = False
    if options.systemd:
        changed = put(target.at(UNIT), unit(options).encode(), 0o644)
        yield f"{target.at(UNIT)}: {'written' if changed else 'unchanged'}"
    yield from _executable(options)
    if changed:
        yield (
            "next: systemctl daemon-reload && systemctl enable bond-cni && "
            "systemctl restart bond-cni"
        )


def _directory(path: str, mode: int, owner: tuple[int, int] | None, user: str) -> str:
    """Create a directory if it is missing, and set its owner if one is given."""
    created = not os.path.isdir(path)
    if created:
        os.makedirs(path, mode)
        os.chmod(path, mode)  # whatever the umask is
    if owner and _change_owner(os.path.realpath(path), owner):
        return f"{path}: {'created' if created else 'owner changed'}, owned by {user}"
    return f"{path}: {'created' if created else 'unchanged'}"


def _change_owner(path: str, owner: tuple[int, int]) -> bool:
    """Change the owner of a directory and all in it; False if the directory has that owner.

    The directory itself is changed last, so that the next run completes an interrupted one. No
    symbolic link is followed: the previous owner could have put one there.
    """
    found = os.stat(path)
    if (found.st_uid, found.st_gid) == owner:
        return False
    for _, directories, files, descriptor in os.fwalk(path, topdown=False):
        for name in (*directories, *files):
            os.chown(name, *owner, dir_fd=descriptor, follow_symlinks=False)
    os.chown(path, *owner)
    return True


def _policy(path: str) -> str:
    if os.path.lexists(path):
        return f"{path}: unchanged"
    _open_directories(os.path.dirname(path))
    put(path, (TEMPLATES / "policy.yaml").read_bytes(), 0o644)
    return f"{path}: written; same effect as no policy file"


def _open_directories(path: str) -> None:
    """Create a directory and its missing parents with mode 0755, whatever the umask is.

    The mode of an existing directory is its administrator's decision and stays.
    """
    if os.path.isdir(path):
        return
    _open_directories(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103  it holds nothing secret


def _unusable(options: InstallOptions, owner: tuple[int, int] | None) -> Iterator[str]:
    """Yield a warning if the policy file makes the daemon refuse every host link."""
    try:
        why = _policy_error(options, owner) if owner else ""
        if not why:
            load(options.target.at(POLICY_FILE))
    except PolicyError as error:
        why = error.message
    if why:
        yield f"warning: {why}"


def _policy_error(options: InstallOptions, owner: tuple[int, int]) -> str:
    """Why the daemon's user cannot read the policy file; "" if it can, or if it cannot be tried.

    A process of that user tries it: only this respects all that the file system has, as ACLs.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, _policy_error_as(options, owner).encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def _policy_error_as(options: InstallOptions, owner: tuple[int, int]) -> str:
    """In the child: become the daemon's user irrevocably, and read the policy file."""
    user, group = owner
    try:
        if options.target.root:
            os.chroot(options.target.root)
        known = not options.target.root and not options.user.isdecimal()
        os.setgroups(os.getgrouplist(options.user, group) if known else [group])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError:  # no CAP_SETUID, as in the DaemonSet's init container: the daemon reports it
        return ""
    try:
        content(POLICY_FILE)
    except PolicyError as error:
        return error.message
    return ""


def _executable(options: InstallOptions) -> Iterator[str]:
    target = options.target
    if os.path.lexists(target.bond) and not is_ours(target.bond):
        os.link(target.bond, target.replaced, follow_symlinks=False)
        yield f"{target.replaced}: the previous bond, of another product"
    existed = os.path.lexists(target.bond)
    changed = put(target.bond, _program(options), MODE)
    yield f"{target.bond}: {'unchanged' if not changed else 'replaced' if existed else 'written'}"


def _program(options: InstallOptions) -> bytes:
    if options.mode == "direct":
        return options.launcher.encode()
    return Path(options.shim or executable.shim()).read_bytes()


# Texts.


def unit(options: InstallOptions) -> str:
    """The text of the systemd unit."""
    return _filled("bond-cni.service", bondctl=options.command(), user=options.user)


def daemonset(image: str, bin_dir: str) -> str:
    """The text of the Kubernetes manifest."""
    return _filled("daemonset.yaml", image=image, bin_dir=bin_dir)


def _filled(name: str, **values: str) -> str:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)
