"""The thick mode in a guest: the executable ``bond`` and its daemon, as on a node.

The daemon runs as a user without any right but CAP_NET_ADMIN, from an archive of this package
and of ruamel.yaml (for a policy file), for the tree may be closed to that user. Its log, its process ID and the socket are under
``/run``.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import zipfile
from pathlib import Path

import ruamel.yaml

import bondcni
from bondcni.lab.hands import Hands
from bondcni.service.executable import shim
from bondcni.service.journal import DEFAULT_FOLDER
from bondcni.service.policy import DEFAULT_FILE

USER = "65534"
FOLDER = "/run/bondlab"
PACKAGE = f"{FOLDER}/bondcni.zip"
LOG = f"{FOLDER}/daemon.log"
PID = f"{FOLDER}/daemon.pid"
"""The lab's IPAM plugin ``fatal`` knows this path, too."""

SOCKET = "/run/bond-cni/bond.sock"
RIGHTS = "-all,+net_admin"

_PROGRAM = f"""
import sys
sys.path.insert(0, {PACKAGE!r})
from bondcni.frontends.daemon import Settings, serve
serve(Settings({SOCKET!r}, {DEFAULT_FOLDER!r}, {DEFAULT_FILE!r}))
"""

_START = """
for folder in /run/bond-cni {state}; do
    mkdir -p $folder && chmod 700 $folder && chown {user}:{user} $folder || exit 1
done
rm -f {socket}
setsid setpriv --reuid={user} --regid={user} --clear-groups --inh-caps={rights} \\
    --ambient-caps={rights} --bounding-set={rights} \\
    {python} -IS -c {program} </dev/null >>{log} 2>&1 &
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
            state=DEFAULT_FOLDER,
            user=USER,
            rights=RIGHTS,
            python=os.path.realpath(sys.executable),
            program=shlex.quote(_PROGRAM),
            log=LOG,
            pid=PID,
            socket=SOCKET,
        )
    )


def _archive() -> bytes:
    """This package and ruamel.yaml as a file that Python imports from.

    ``ruamel`` is a namespace package, a directory without __init__.py; the import from an
    archive wants one.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("ruamel/__init__.py", "")
        for package, above in ((bondcni, 1), (ruamel.yaml, 2)):
            folder = Path(str(package.__file__)).resolve().parent
            for path in sorted(folder.rglob("*.py")):
                archive.write(path, path.relative_to(folder.parents[above - 1]))
    return made.getvalue()
