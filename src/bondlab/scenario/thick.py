"""The thick mode in a guest: the executable ``bond`` and its daemon, as on a node.

The daemon runs as a user without any right but CAP_NET_ADMIN, from an archive, because that user
may not be allowed to read the tree. Its log, its process ID and the socket are under ``/run``.
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
from bondlab.scenario.guest_commands import Hands

USER = "65534"
FOLDER = "/run/bondlab"
PACKAGE = f"{FOLDER}/bondcni.zip"
LOG = f"{FOLDER}/daemon.log"
PID = f"{FOLDER}/daemon.pid"
"""The lab's IPAM plugin ``fatal`` knows this path, too."""

SOCKET = "/run/bond-cni/bond.sock"
RIGHTS = "-all,+net_admin"

_START = """
for folder in /run/bond-cni {state}; do
    mkdir -p $folder && chmod 700 $folder && chown {user}:{user} $folder || exit 1
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


def install(hands: Hands, path: str) -> None:
    """Put the executable at ``path``, and start the daemon. Raises ``NoExecutable``."""
    hands.write(path, shim().read_bytes(), "755")
    hands.write(PACKAGE, _archive())
    start(hands)


def start(hands: Hands) -> None:
    """Start the daemon and wait until it listens. Raises ``CommandFailed`` with its log."""
    hands.shell(
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
    """``bondctl`` as a file that Python runs: this package, click and ruamel.yaml.

    ``ruamel`` is a namespace package, a directory without __init__.py; the import from an
    archive wants one.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("ruamel/__init__.py", "")
        archive.write(str(Path(bondcni.__file__).with_name("__main__.py")), "__main__.py")
        for package, above in ((bondcni, 1), (click, 1), (ruamel.yaml, 2)):
            folder = Path(str(package.__file__)).resolve().parent
            for path in sorted(folder.rglob("*.py")):
                archive.write(path, path.relative_to(folder.parents[above - 1]))
    return made.getvalue()
