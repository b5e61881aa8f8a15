"""A guest furnished for running the plugin by hand: ``bondctl lab shell``.

The shell's home in the guest holds a bond's configuration, its profile all CNI variables but
CNI_COMMAND, so that ``CNI_COMMAND=ADD bond <~/bond.conf`` is all there is to type. A new guest
has a namespace ``pod``, two spare NICs ``eth1000`` and ``eth1001`` on cables to a switch that
answers pings, and, if manifests were given, what their first pod needs. A kept guest has the
last pod of its run, up, and the result of the bond's ADD.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from bondlab.manifests.manifests import Attachment, Config, Network, Pod
from bondlab.manifests.multus import Sandbox, configs, environment
from bondlab.scenario import build, planning
from bondlab.scenario.guest_commands import Hands
from bondlab.scenario.session import BIN, STANDARD_PATH
from bondlab.scenario.topology import LAN, Form

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
This is a guest: what you do here is forgotten. The pod is the namespace {netns}. By hand:
  CNI_COMMAND=VERSION bond </dev/null
  CNI_COMMAND=ADD bond <~/bond.conf | tee ~/result
  with-result ~/bond.conf ~/result | CNI_COMMAND=CHECK bond && echo as it should be
  CNI_COMMAND=DEL bond <~/bond.conf     (look: ip -d link, ip -n {netns} -d link)
"""
WITH_RESULT = """\
#!/usr/bin/python3 -IS
import json, sys
config, result = (json.load(open(path)) for path in sys.argv[1:])
json.dump(config | {"prevResult": result}, sys.stdout)
"""
ENTER = f". {HOME}/profile; cat {HOME}/motd >&2; exec bash"


def pod_by_hand(given: Sequence[Pod]) -> Pod:
    """The first pod of the manifests, if there is one, and the sample bond beside it."""
    sample = Attachment(Network("default", "by-hand", SAMPLE), "net1")
    if not given:
        return Pod("Pod", "default", "by-hand", (sample,))
    first = given[0]
    if {nic.name for nic in planning.plan(first, hardware=True).nics} & set(NICS):
        return first
    return first._replace(attachments=(*first.attachments, sample))


def hardware(pod: Pod) -> list[str]:
    """The NICs the guest is to be booted with."""
    made = planning.plan(pod, hardware=True)
    return [nic.name for nic in made.nics if nic.form is Form.CABLE]


def surround(hands: Hands, pod: Pod, *, cables: bool) -> None:
    """Make what is around a pod, the namespace ``pod``, and a file for each network's config."""
    made = planning.plan(pod, hardware=cables)
    hands.batch([*build.make(made), build.Batch("", ("netns add pod",))])
    hands.write(build.FUNCTIONS, build.functions(made))
    for fabric in made.fabrics:
        if {leg.nic for leg in fabric.legs} == set(NICS):
            hands.batch([build.Batch(fabric.switch, (f"addr add {PEER} dev {LAN}",))])
    for place, attachment in enumerate(pod.attachments):
        for config in configs(attachment, made.device(place)):
            _save(hands, f"{attachment.network.name}-{config['type']}.conf", config)


def furnish(
    hands: Hands, sandbox: Sandbox, ifname: str, cni_path: str, config: Config, result: Any = None
) -> None:
    """Write the home: configuration, perhaps the result of its ADD, variables, instructions."""
    _save(hands, "bond.conf", config)
    if result is not None:
        _save(hands, "result", result)
    variables = environment("", sandbox, ifname, cni_path) | {
        "HOME": HOME,
        "PATH": f"{BIN}:{STANDARD_PATH}",
    }
    del variables["CNI_COMMAND"]
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    hands.write(f"{HOME}/profile", "".join(lines).encode())
    hands.write(f"{HOME}/motd", MOTD.format(netns=sandbox.netns).encode())
    hands.write(f"{BIN}/with-result", WITH_RESULT.encode(), "755")


def _save(hands: Hands, name: str, document: Any) -> None:
    hands.write(f"{HOME}/{name}", json.dumps(document, indent=2).encode() + b"\n")
