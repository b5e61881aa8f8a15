"""Crash test: an ADD is killed before it completes, then ``bondctl recover`` is run.

The lab's IPAM plugin ``fatal`` kills the daemon, or in direct mode the plugin that called it, with
SIGKILL. At that time the bond exists and its NICs are in the pod. Only the daemon's restart happens
between that and the recovery, and the NICs are compared as read by ``ip``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from bondlab.manifests.manifests import Config
from bondlab.scenario.calls import Runtime
from bondlab.scenario.events import Crash
from bondlab.scenario.guest_commands import GuestCommands

BONDCTL = (sys.executable, "-m", "bondcni")

ReadNics = Callable[[], Mapping[str, str]]


def crash_and_recover(
    commands: GuestCommands,
    runtime: Runtime,
    network: str,
    ifname: str,
    config: Config,
    read_nics: ReadNics,
    restart_daemon: Callable[[], None],
) -> Crash:
    """Kill the ADD of one bond, restart the daemon, and recover.

    ``read_nics`` returns the state of the case's NICs, by name.
    """
    before = read_nics()
    killed, _ = runtime.call("ADD", network, ifname, {**config, "ipam": {"type": "fatal"}})
    in_pod = sorted(before.keys() - read_nics().keys())
    restart_daemon()
    output = commands.run([*BONDCTL, "recover"]).strip()
    after = read_nics()
    return Crash(
        network=network,
        ifname=ifname,
        exit=killed.exit,
        in_pod=tuple(in_pod),
        recover_output=output,
        restored=tuple(name for name in in_pod if before[name] == after.get(name)),
    )
