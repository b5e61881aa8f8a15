"""A guest made ready for pods: plugins in their folders, hardware NICs on the shelf.

This is the one place where the lab's files meet a guest. Everything it writes there is under
``/run``, which is the guest's own memory whatever the guest is, but for a policy file.
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
from bondlab.scenario import build, planning, thick
from bondlab.scenario.guest_commands import Hands, Machine
from bondlab.scenario.story import Lab

BIN = "/run/bondlab/bin"
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINK_IN_CONTAINER = b"linkInContainer"  # the name of a key is in the program that knows it
STANDARD_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni")


class Fetch(Protocol):
    """How plugins are had that are not on this machine: `kernels.delegates`."""

    def __call__(self, progress: Progress, *, new: bool = False) -> Path:
        """The folder they are in."""


def nic_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """What to boot a guest with, so that the node has these NICs: both ends of each cable."""
    return [(name, build.far(name)) for name in names]


def plugin_folders(
    progress: Progress,
    pods: Iterable[Pod] = (),
    standard: Sequence[str] = STANDARD_FOLDERS,
    fetch: Fetch = delegates,
) -> list[str]:
    """Where the reference plugins are on this machine; fetched if they are not found, or if
    ``pods`` want a VLAN on a link of the pod and the plugin here is too old for that.
    """
    there = [one for one in standard if Path(one).is_dir()]
    if any(planning.on_pod_link(one) for pod in pods for one in pod.attachments):
        vlan = next((path for one in there if (path := Path(one, "vlan")).exists()), None)
        if vlan is None or LINK_IN_CONTAINER not in vlan.read_bytes():
            there = [str(fetch(progress, new=True)), *there]
    if any(Path(one, "host-local").exists() for one in there):
        return there
    return [*there, str(fetch(progress))]


def prepare(
    machine: Machine, nics: Sequence[str], *, direct: bool, policy: bytes | None = None
) -> Hands:
    """Write our plugins and the node's policy into the guest, start the daemon unless ``direct``,
    and put the guest's hardware NICs away.

    A ``policy`` wants a guest with a file system of its own.
    """
    hands = Hands(machine)
    if policy is not None:
        hands.write(POLICY_FILE, policy)
    if direct:
        hands.write(f"{BIN}/bond", launcher().encode(), "755")
    else:
        thick.install(hands, f"{BIN}/bond")
    for name, text in stand_ins().items():
        hands.write(f"{BIN}/{name}", text.encode(), "755")
    hands.batch(build.shelve(nics))
    return hands


def lab(
    hands: Hands,
    folders: Sequence[str],
    *,
    strict: bool,
    hardware: bool,
    crash: bool = False,
    direct: bool = False,
) -> Lab:
    """The lab of a prepared guest."""
    path = [BIN, *folders]
    return Lab(hands, ":".join(path), _found(hands, path), strict, hardware, crash, direct)


def _found(hands: Hands, folders: Sequence[str]) -> dict[str, str]:
    """Every plugin by type; the first folder that has it wins, as in a runtime."""
    words = " ".join(f"{folder}/*" for folder in reversed(folders))
    text = hands.shell(f'for one in {words}; do [ -x "$one" ] && echo "$one"; done; true')
    return {path.rpartition("/")[2]: path for path in text.split()}
