"""Prepares a guest for cases: installs the plugins and moves hardware-like NICs away.

All files are written to ``/run``, which is a tmpfs in each kind of guest, except a policy file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bondcni.direct.launcher import launcher
from bondcni.service.paths import POLICY_FILE
from bondlab.kernels.catalog import Progress, delegates
from bondlab.manifests.manifests import Pod
from bondlab.plugins.stand_ins import stand_ins
from bondlab.scenario import build, node_daemon, planning
from bondlab.scenario.guest_commands import GuestCommands, GuestInterface
from bondlab.scenario.story import Lab

BIN = "/run/bondlab/bin"
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINK_IN_CONTAINER = b"linkInContainer"  # the plugin's binary contains the names of its keys
STANDARD_DIRECTORIES = ("/opt/cni/bin", "/usr/lib/cni")


class FetchPlugins(Protocol):
    """Fetches reference plugins that are not installed: `kernels.catalog.delegates`."""

    def __call__(self, progress: Progress, *, new: bool = False) -> Path:
        """The directory with the plugins."""


def nic_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The NIC names for booting a guest: both ends of each cable."""
    return [(name, build.far_name(name)) for name in names]


def plugin_directories(
    progress: Progress,
    pods: Iterable[Pod] = (),
    standard: Sequence[str] = STANDARD_DIRECTORIES,
    fetch: FetchPlugins = delegates,
) -> list[str]:
    """The directories with the reference plugins.

    They are fetched if they are not installed, or if ``pods`` need a VLAN on a link of the pod
    and the installed plugin does not support it.
    """
    installed = [one for one in standard if Path(one).is_dir()]
    if any(planning.is_pod_vlan(one) for pod in pods for one in pod.attachments):
        vlan = next((path for one in installed if (path := Path(one, "vlan")).exists()), None)
        if vlan is None or LINK_IN_CONTAINER not in vlan.read_bytes():
            installed = [str(fetch(progress, new=True)), *installed]
    if any(Path(one, "host-local").exists() for one in installed):
        return installed
    return [*installed, str(fetch(progress))]


def prepare(
    guest: GuestInterface, nics: Sequence[str], *, direct: bool, policy: bytes | None = None
) -> GuestCommands:
    """Install the lab's plugins and the policy, start the daemon unless ``direct``, and move the
    hardware-like NICs to the namespace for unused NICs.

    A ``policy`` needs a guest with its own file system.
    """
    commands = GuestCommands(guest)
    if policy is not None:
        commands.write(POLICY_FILE, policy)
    if direct:
        commands.write(f"{BIN}/bond", launcher().encode(), "755")
    else:
        node_daemon.install(commands, f"{BIN}/bond")
    for name, text in stand_ins().items():
        commands.write(f"{BIN}/{name}", text.encode(), "755")
    commands.batch(build.move_to_unused(nics))
    return commands


def lab(
    commands: GuestCommands,
    directories: Sequence[str],
    *,
    strict: bool,
    hardware: bool,
    crash: bool = False,
    direct: bool = False,
) -> Lab:
    """The lab in a prepared guest."""
    path = [BIN, *directories]
    return Lab(commands, ":".join(path), _found(commands, path), strict, hardware, crash, direct)


def _found(commands: GuestCommands, directories: Sequence[str]) -> dict[str, str]:
    """The path of each plugin, by type; the first directory takes precedence, as in a runtime."""
    words = " ".join(f"{directory}/*" for directory in reversed(directories))
    text = commands.shell(f'for one in {words}; do [ -x "$one" ] && echo "$one"; done; true')
    return {path.rpartition("/")[2]: path for path in text.split()}
