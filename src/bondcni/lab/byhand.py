"""A guest furnished for running the plugin by hand: ``bondctl lab shell``.

The shell finds the plugins in its PATH, the CNI variables but CNI_COMMAND set, a namespace
``pod``, a configuration in its home, two spare NICs ``eth1000`` and ``eth1001`` on cables to a
switch that answers pings, and, if manifests were given, what their first pod needs, with the
configuration of each of its networks in a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bondcni.lab import build, topology
from bondcni.lab.hands import Hands
from bondcni.lab.manifests import Attachment, Config, Network, Pod
from bondcni.lab.multus import configs
from bondcni.lab.session import BIN, STANDARD_PATH
from bondcni.lab.topology import LAN, Form

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
This is a guest: what you do here is forgotten. Answers of the plugin by hand, for the pod `pod`:
  CNI_COMMAND=VERSION bond </dev/null
  CNI_COMMAND=ADD bond <~/bond.conf | tee ~/result      ip netns exec pod ping 10.40.0.1
  with-result ~/bond.conf ~/result | CNI_COMMAND=CHECK bond && echo as it should be
  CNI_COMMAND=DEL bond <~/bond.conf                     ip -d link    ip -n pod -d link
"""
WITH_RESULT = """\
#!/usr/bin/python3 -IS
import json, sys
config, result = (json.load(open(path)) for path in sys.argv[1:])
json.dump(config | {"prevResult": result}, sys.stdout)
"""


def pod_by_hand(given: Sequence[Pod]) -> Pod:
    """The first pod of the manifests, if there is one, and the sample bond beside it."""
    sample = Attachment(Network("default", "by-hand", SAMPLE), "net1")
    if not given:
        return Pod("Pod", "default", "by-hand", (sample,))
    first = given[0]
    made = topology.plan(first, hardware=True)
    if {nic.name for nic in made.nics} & set(NICS):
        return first
    return first._replace(attachments=(*first.attachments, sample))


def furnish(hands: Hands, pod: Pod, cni_path: str, *, hardware: bool) -> dict[str, str]:
    """Make the surroundings of ``pod`` and the home; the shell's environment."""
    made = topology.plan(pod, hardware=hardware)
    hands.batch(build.make(made))
    hands.batch([build.Batch("", ("netns add pod",))])
    hands.write(build.FUNCTIONS, build.functions(made))
    for fabric in made.fabrics:
        line = f"addr add {PEER} dev {LAN}"
        if {leg.nic for leg in fabric.legs} == set(NICS):
            hands.batch([build.Batch(fabric.switch, (line,))])
    for place, attachment in enumerate(pod.attachments):
        for config in configs(attachment, made.device(place)):
            name = f"{config['name']}-{config['type']}.conf"
            hands.write(f"{HOME}/{name}", json.dumps(config, indent=2).encode() + b"\n")
    hands.write(f"{HOME}/bond.conf", json.dumps(SAMPLE, indent=2).encode() + b"\n")
    hands.write(f"{HOME}/motd", MOTD.encode())
    hands.write(f"{BIN}/with-result", WITH_RESULT.encode(), "755")
    return environment(cni_path)


def environment(cni_path: str) -> dict[str, str]:
    """The variables of a shell in which ``CNI_COMMAND=ADD bond`` is all that is to be typed."""
    return {
        "HOME": HOME,
        "PATH": f"{BIN}:{STANDARD_PATH}",
        "CNI_PATH": cni_path,
        "CNI_CONTAINERID": "by-hand",
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "IgnoreUnknown=1",
    }


def hardware(pod: Pod) -> list[str]:
    """The NICs the guest is to be booted with."""
    made = topology.plan(pod, hardware=True)
    return [nic.name for nic in made.nics if nic.form is Form.CABLE]
