"""Prepares a guest for calling the plugin by hand: ``bondctl lab shell``.

The shell's home directory holds a bond's configuration, and its profile sets all CNI variables but
CNI_COMMAND, so that ``CNI_COMMAND=ADD bond <~/bond.conf`` calls the plugin. A new guest has a
namespace ``pod``, two spare NICs ``eth1000`` and ``eth1001`` on cables to a switch that answers
pings, and, if manifests are given, what their first pod needs. A kept guest has the last pod of
its run, up, and the result of the bond's ADD.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from bondlab.manifests.manifests import Attachment, Config, Network, Pod
from bondlab.manifests.multus import Sandbox, configs, environment
from bondlab.scenario import build, planning
from bondlab.scenario.guest_commands import GuestCommands
from bondlab.scenario.session import BIN, STANDARD_PATH
from bondlab.scenario.topology import LAN, NicKind

HOME = "/run/bondlab/home"
NICS = ("eth1000", "eth1001")
SAMPLE: Config = {
    "cniVersion": "1.0.0",
    "name": "by-hand",
    "type": "bond",
    "mode": "active-backup",
    "miimon": 100,
    "links": [{"name": name} for name in NICS],
    "ipam": {"type": "static", "addresses": [{"address": "10.40.0.5/24"}]},
}
PEER = "10.40.0.1/24"
MOTD = """\
This is a guest: all changes are discarded when it ends. The pod is the namespace {netns}.
To call the plugin:
  CNI_COMMAND=VERSION bond </dev/null
  CNI_COMMAND=ADD bond <~/bond.conf | tee ~/result
  with-result ~/bond.conf ~/result | CNI_COMMAND=CHECK bond && echo OK
  CNI_COMMAND=DEL bond <~/bond.conf
To see the links of the node and of the pod: ip -d link, ip -n {netns} -d link
"""
WITH_RESULT = """\
#!/usr/bin/python3 -IS
import json, sys
config, result = (json.load(open(path)) for path in sys.argv[1:])
json.dump(config | {"prevResult": result}, sys.stdout)
"""
SHELL_SCRIPT = f". {HOME}/profile; cat {HOME}/motd >&2; exec bash"


def example_pod(pods: Sequence[Pod]) -> Pod:
    """The first pod of the manifests, if any, with the sample bond added."""
    sample = Attachment(Network("default", "by-hand", SAMPLE), "net1")
    if not pods:
        return Pod("Pod", "default", "by-hand", (sample,))
    first = pods[0]
    if {nic.name for nic in planning.plan(first, hardware=True).nics} & set(NICS):
        return first
    return first._replace(attachments=(*first.attachments, sample))


def hardware_nics(pod: Pod) -> list[str]:
    """The NICs that the guest must be booted with."""
    topology = planning.plan(pod, hardware=True)
    return [nic.name for nic in topology.nics if nic.kind is NicKind.CABLE]


def set_up_pod(commands: GuestCommands, pod: Pod, *, cables: bool) -> None:
    """Create the topology, the namespace ``pod``, and a file for the config of each network."""
    topology = planning.plan(pod, hardware=cables)
    commands.batch([*build.create(topology), build.Batch("", ("netns add pod",))])
    commands.write(build.FUNCTIONS_FILE, build.functions_file(topology))
    for planned in topology.bonds:
        if {member.nic for member in planned.members} == set(NICS):
            commands.batch([build.Batch(planned.switch, (f"addr add {PEER} dev {LAN}",))])
    for place, attachment in enumerate(pod.attachments):
        for config in configs(attachment, topology.device(place)):
            _save(commands, f"{attachment.network.name}-{config['type']}.conf", config)


def write_home(
    commands: GuestCommands,
    sandbox: Sandbox,
    ifname: str,
    cni_path: str,
    config: Config,
    result: Any = None,
) -> None:
    """Write the home directory: configuration, result of its ADD if any, profile, instructions."""
    _save(commands, "bond.conf", config)
    if result is not None:
        _save(commands, "result", result)
    variables = environment("", sandbox, ifname, cni_path) | {
        "HOME": HOME,
        "PATH": f"{BIN}:{STANDARD_PATH}",
    }
    del variables["CNI_COMMAND"]
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    commands.write(f"{HOME}/profile", "".join(lines).encode())
    commands.write(f"{HOME}/motd", MOTD.format(netns=sandbox.netns).encode())
    commands.write(f"{BIN}/with-result", WITH_RESULT.encode(), "755")


def _save(commands: GuestCommands, name: str, document: Any) -> None:
    commands.write(f"{HOME}/{name}", json.dumps(document, indent=2).encode() + b"\n")
