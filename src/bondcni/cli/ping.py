"""``bondctl ping``: does the daemon answer? For probes. Exit code 1: it does not."""

from __future__ import annotations

import errno
import socket
import time

import click

from bondcni.cli import messages
from bondcni.daemon.connection import Connection
from bondcni.daemon.protocol import ProtocolError, Tag, Type
from bondcni.service.paths import SOCKET

SECONDS = 3.0

PODS = "kubectl -n kube-system get pods -o wide -l app.kubernetes.io/name=bond-cni"


@click.command()
@click.option(
    "--socket",
    "path",
    envvar="BONDCNI_SOCKET",
    default=SOCKET,
    show_default=True,
    help="Where the daemon listens.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.001),
    default=SECONDS,
    show_default=True,
    help="Seconds to wait for its answer.",
)
def ping(path: str, timeout: float) -> None:
    """Ask the daemon whether it is ready; root and the daemon's own user may."""
    try:
        spent = _asked(path, timeout)
    except (OSError, ProtocolError) as error:
        why = getattr(error, "strerror", None) or error
        messages.fail(f"the daemon does not answer at {path}: {why}", 1, _next(error))
    click.echo(f"the daemon answers at {path} in {spent * 1000:.1f} ms")


def _next(error: Exception) -> list[str]:
    """What to do about it. The names are those of ``deploy/``."""
    if isinstance(error, PermissionError):
        return ["root and the daemon's own user may ask: run this as one of them"]
    lines = [
        "with systemd: systemctl status bond-cni, and journalctl -u bond-cni",
        f"with Kubernetes: {PODS}, and kubectl -n kube-system logs POD",
    ]
    if getattr(error, "errno", 0) in (errno.ENOENT, errno.ECONNREFUSED):
        lines.append("no daemon is needed where bond was installed with --mode direct")
    return lines


def _asked(path: str, timeout: float) -> float:
    """The seconds it took. Raises ``OSError`` (``TimeoutError``) and ``ProtocolError``."""
    since = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        connection = Connection(sock)
        connection.send(Type.PING, ())
        frame = connection.receive(since + timeout)
    if frame.type != Type.ANSWER or frame.number(Tag.STATUS, 1):
        raise ProtocolError(f"it answered with a frame of type {frame.type}")
    return time.monotonic() - since
