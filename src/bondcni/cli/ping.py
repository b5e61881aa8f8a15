"""``bondctl ping``: check that the daemon answers, for probes. Exit code 1: it does not."""

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
    help="Socket of the daemon.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.001),
    default=SECONDS,
    show_default=True,
    help="Seconds to wait for the answer.",
)
def ping(path: str, timeout: float) -> None:
    """Check that the daemon answers; run it as root or as the daemon's user."""
    try:
        spent = _asked(path, timeout)
    except (OSError, ProtocolError) as error:
        why = getattr(error, "strerror", None) or error
        messages.fail(f"the daemon does not answer at {path}: {why}", 1, _next(error))
    click.echo(f"the daemon answers at {path} in {spent * 1000:.1f} ms")


def _next(error: Exception) -> list[str]:
    """What to do about an error. The names are those of ``deploy/``."""
    if isinstance(error, PermissionError):
        return ["run bondctl ping as root or as the daemon's user"]
    lines = [
        "with systemd: systemctl status bond-cni, and journalctl -u bond-cni",
        f"with Kubernetes: {PODS}, and kubectl -n kube-system logs POD",
    ]
    if getattr(error, "errno", 0) in (errno.ENOENT, errno.ECONNREFUSED):
        lines.append("after bondctl install --mode direct there is no daemon")
    return lines


def _asked(path: str, timeout: float) -> float:
    """The seconds until the answer. Raises ``OSError`` (``TimeoutError``) and ``ProtocolError``."""
    since = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        connection = Connection(sock)
        connection.send(Type.PING, ())
        frame = connection.receive(since + timeout)
    if frame.type != Type.ANSWER or frame.number(Tag.STATUS, 1):
        raise ProtocolError(f"unexpected frame of type {frame.type}, expected ANSWER")
    return time.monotonic() - since
