"""The crash scene: an ADD dies in the middle, and ``bondctl recover`` puts it right.

The death is real: the lab's IPAM plugin ``fatal`` kills the daemon, or in direct mode its caller,
with SIGKILL when the bond is made and its NICs are in the pod. Nothing runs between that and the
recovery but the daemon's new start, and what is compared is read with ``ip``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from bondlab.manifests.manifests import Config
from bondlab.scenario.calls import Runtime
from bondlab.scenario.events import Crash
from bondlab.scenario.guest_commands import Hands

BONDCTL = (sys.executable, "-m", "bondcni")

Look = Callable[[], Mapping[str, str]]


def scene(
    hands: Hands,
    runtime: Runtime,
    network: str,
    ifname: str,
    config: Config,
    look: Look,
    revive: Callable[[], None],
) -> Crash:
    """ADD of one bond, killed half-way, and the recovery; ``look`` gives the node's NICs and
    ``revive`` starts what was killed.
    """
    before = look()
    killed, _ = runtime.call("ADD", network, ifname, {**config, "ipam": {"type": "fatal"}})
    away = sorted(before.keys() - look().keys())
    revive()
    said = hands.run([*BONDCTL, "recover"]).strip()
    after = look()
    return Crash(
        network=network,
        ifname=ifname,
        exit=killed.exit,
        away=tuple(away),
        said=said,
        back=tuple(name for name in away if before[name] == after.get(name)),
    )
