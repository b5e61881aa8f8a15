"""Thick mode in a guest: the executable ``bond`` and its daemon, as on a node.

The daemon runs as an unprivileged user with CAP_NET_ADMIN alone. It is started from a zip archive,
because this user may not be able to read the source tree. Log, process ID and socket are in
``/run``.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

import click
import ruamel.yaml

import bondcni
from bondcni.service.executable import shim
from bondcni.service.paths import STATE_DIRECTORY
from bondlab.scenario.guest_commands import GuestCommands

USER = "65534"
DIRECTORY = "/run/bondlab"
PACKAGE = f"{DIRECTORY}/bondcni.zip"
LOG = f"{DIRECTORY}/daemon.log"
PID = f"{DIRECTORY}/daemon.pid"
"""The lab's IPAM plugin ``fatal`` has this path too."""

SOCKET = "/run/bond-cni/bond.sock"
RIGHTS = "-all,+net_admin"

_START = """
for directory in /run/bond-cni {state}; do
    mkdir -p $directory && chmod 700 $directory && chown {user}:{user} $directory || exit 1
done
rm -f {socket}
setsid setpriv --reuid={user} --regid={user} --clear-groups --inh-caps={rights} \\
    --ambient-caps={rights} --bounding-set={rights} \\
    {python} -IS {package} serve </dev/null >>{log} 2>&1 &
echo $! >{pid}
for try in $(seq 100); do
    [ -S {socket} ] && exit 0
    sleep 0.1
done
cat {log} >&2
exit 1
"""


def install(commands: GuestCommands, path: str) -> None:
    """Install the executable at ``path`` and start the daemon. Raises ``NoExecutable``."""
    commands.write(path, shim().read_bytes(), "755")
    commands.write(PACKAGE, _archive())
    start(commands)


def start(commands: GuestCommands) -> None:
    """Start the daemon and wait until it listens. Raises ``CommandFailed`` with its log."""
    commands.shell(
        _START.format(
            state=STATE_DIRECTORY,
            user=USER,
            rights=RIGHTS,
            python=os.path.realpath(sys.executable),
            package=PACKAGE,
            log=LOG,
            pid=PID,
            socket=SOCKET,
        )
    )


def _archive() -> bytes:
    """``bondctl`` as a zip archive that Python runs: this package, click and ruamel.yaml.

    ``ruamel`` is a namespace package without __init__.py; importing it from an archive needs one.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("ruamel/__init__.py", "")
        archive.write(str(Path(bondcni.__file__).with_name("__main__.py")), "__main__.py")
        for package, above in ((bondcni, 1), (click, 1), (ruamel.yaml, 2)):
            directory = Path(str(package.__file__)).resolve().parent
            for path in sorted(directory.rglob("*.py")):
                archive.write(path, path.relative_to(directory.parents[above - 1]))
    return made.getvalue()
