"""The seven CNI versions: the answer of each verb, and that the next plugin accepts it.

The shapes are those of the specification (tests/unit/core/cni_schemas.py); the next plugin is the
reference implementation's. The installed executable is started as the runtime starts it: a process
with environment, standard input and output.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import jsonschema
import pytest
from tests.kernel.conftest import DELEGATES, Answer, Document, Node, Space, config
from tests.unit.core.cni_schemas import SCHEMAS

from bondcni.core.result import SUPPORTED
from bondcni.direct.launcher import launcher

VERSIONS = pytest.mark.parametrize("version", SUPPORTED)
REFERENCE = [version for version in SUPPORTED if version != "1.1.0"]
"""Versions that the reference plugins of Debian 12 know."""
FOUR, SIX = "10.1.0.0/24", "2001:db8::/64"
DNS = {"nameservers": ["10.1.0.53"], "search": ["example.org"]}


def since(version: str, least: str) -> bool:
    return SUPPORTED.index(version) >= SUPPORTED.index(least)


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")


def speaking(node: Node, version: str, *, six: bool = True, **extra: Any) -> Document:
    """A configuration of that version, with a route and addresses of both families.

    Duplicate address detection takes more than a second, so most tests use it without ``six``.
    """
    if version == "1.1.0":
        ips = [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"address": "2001:db8::2/64"}]
        routes = [{"dst": "192.0.2.0/24", "mtu": 1400, "priority": 50}]
        result = {"cniVersion": version, "ips": ips, "routes": routes, "dns": {"domain": "a.b"}}
        node.delegate("ours", f"echo '{json.dumps(result)}'")
        ipam: Document = {"type": "ours"}
    else:
        ranges = [[{"subnet": subnet}] for subnet in (FOUR, SIX) if six or subnet == FOUR]
        ipam = {
            "type": "host-local",
            "dataDir": str(node.folder / "leases"),
            "ranges": ranges,
            "routes": [{"dst": "192.0.2.0/24"}],
        }
    return config(["eth1", "eth2"], cniVersion=version, ipam=ipam, dns=DNS, **extra)


@VERSIONS
def test_add_check_delete(node: Node, pod: Space, version: str) -> None:
    before = node.everything(pod)
    asked = speaking(node, version)
    result = node.cni("ADD", asked, pod).ok()
    jsonschema.validate(result, SCHEMAS[version])
    assert result["cniVersion"] == version
    assert result["dns"]["nameservers"] == ["10.1.0.53"]
    assert pod.addresses("bond0") == {"10.1.0.2/24", "2001:db8::2/64"}
    assert [r["dst"] for r in pod.routes() if "gateway" in r] == ["192.0.2.0/24"]
    if since(version, "0.3.0"):
        bond = pod.link("bond0")
        assert result["interfaces"][0]["name"] == "bond0"
        assert result["interfaces"][0]["mac"] == bond["address"]
        assert result["interfaces"][0]["sandbox"] == pod.path
        assert [ip["interface"] for ip in result["ips"]] == [0, 0]
    else:
        assert result["ip4"]["ip"] == "10.1.0.2/24"
        assert result["ip6"]["ip"] == "2001:db8::2/64"
    checked = node.cni("CHECK", {**asked, "prevResult": result}, pod)
    if since(version, "0.4.0"):
        checked.ok()
    else:
        assert version in checked.failed(1)
    node.cni("DEL", {**asked, "prevResult": result}, pod).ok()
    assert node.everything(pod) == before


@pytest.mark.parametrize("version", [v for v in SUPPORTED if since(v, "0.3.0")])
def test_without_addresses(node: Node, pod: Space, version: str) -> None:
    asked = config(["eth1", "eth2"], cniVersion=version)
    result = node.cni("ADD", asked, pod).ok()
    jsonschema.validate(result, SCHEMAS[version])
    assert "ips" not in result or result["ips"] == []
    assert pod.addresses("bond0") == set()


@VERSIONS
def test_status(node: Node, version: str) -> None:
    answer = node.cni("STATUS", config(["eth1", "eth2"], cniVersion=version))
    if since(version, "1.1.0"):
        answer.ok()
        assert answer.document == {}
    else:
        assert version in answer.failed(1)


@VERSIONS
def test_version(node: Node, version: str) -> None:
    answer = node.cni("VERSION", {"cniVersion": version}).ok()
    assert answer == {"cniVersion": version, "supportedVersions": list(SUPPORTED)}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"cniVersion": "7.0"}', b"\xff"])
def test_version_never_fails(node: Node, text: bytes) -> None:
    answer = node.cni("VERSION", text).ok()
    assert answer == {"cniVersion": "1.1.0", "supportedVersions": list(SUPPORTED)}


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "STATUS"])
def test_unknown_version(node: Node, pod: Space, verb: str) -> None:
    before = node.everything(pod)
    said = node.cni(verb, config(["eth1", "eth2"], cniVersion="2.0.0"), pod).failed(1)
    assert "2.0.0" in said
    for version in SUPPORTED:
        assert version in said
    assert node.everything(pod) == before


# In a chain


def reference(node: Node, plugin: str, pod: Space, asked: Document, verb: str = "ADD") -> Document:
    """Run a plugin of the reference implementation; its answer."""
    done = run(node, f"{DELEGATES}/{plugin}", verb, asked, pod)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: Document = json.loads(done.stdout) if done.stdout else {}
    return answer


def run(
    node: Node, program: str, verb: str, asked: Document, pod: Space, **env: str
) -> subprocess.CompletedProcess[str]:
    """One request as a process, in the node's namespace."""
    whole = {
        "PATH": os.environ["PATH"],
        "BONDCNI_STATE": str(node.state),
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "bond0",
        "CNI_NETNS": pod.path,
        "CNI_PATH": f"{node.folder}:{DELEGATES}",
        **env,
    }
    return subprocess.run(
        [program],
        input=json.dumps(asked),
        env=whole,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("version", REFERENCE)
def test_the_next_plugin_takes_our_result(node: Node, pod: Space, version: str) -> None:
    """tuning passes the result on, which shows what it understood."""
    asked = speaking(node, version, six=False)
    result = node.cni("ADD", asked, pod).ok()
    tuning = {"cniVersion": version, "name": "net", "type": "tuning", "mtu": 1400}
    passed = reference(node, "tuning", pod, {**tuning, "prevResult": result})
    assert pod.link("bond0")["mtu"] == 1400
    assert pod.members("bond0") == {"eth1", "eth2"}
    if not since(version, "0.3.0"):
        assert passed["ip4"]["ip"] == result["ip4"]["ip"]
        return
    for part in ("interfaces", "ips", "dns"):
        assert passed.get(part) == result.get(part), part
    if since(version, "0.4.0"):  # the configuration of the bond has no mtu (issue 10, item 4)
        node.cni("CHECK", {**asked, "prevResult": passed}, pod).ok()


def test_we_take_an_earlier_plugins_result(node: Node, pod: Space) -> None:
    """After the reference ptp: its interfaces stay first, ours and its address follow."""
    ptp = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "ptp",
        "ipam": {
            "type": "static",
            "addresses": [{"address": "198.51.100.2/24", "gateway": "198.51.100.1"}],
        },
    }
    done = run(node, f"{DELEGATES}/ptp", "ADD", ptp, pod, CNI_IFNAME="eth0")
    assert done.returncode == 0, done.stdout + done.stderr
    earlier = json.loads(done.stdout)
    asked = speaking(node, "1.0.0", six=False, prevResult=earlier)
    result = node.cni("ADD", asked, pod).ok()
    jsonschema.validate(result, SCHEMAS["1.0.0"])
    count = len(earlier["interfaces"])
    assert result["interfaces"][:count] == earlier["interfaces"]
    assert result["interfaces"][count]["name"] == "bond0"
    assert result["ips"][0] == earlier["ips"][0]
    assert [ip["interface"] for ip in result["ips"][1:]] == [count]
    node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
    node.cni("DEL", {**asked, "prevResult": result}, pod).ok()
    assert pod.links().keys() == {"lo", "eth0"}
    assert pod.addresses("eth0") == {"198.51.100.2/24"}


# As a process


def answered(done: subprocess.CompletedProcess[str]) -> Answer:
    """Standard output is empty, or exactly one JSON document and a newline."""
    document = json.loads(done.stdout) if done.stdout else {}
    return Answer(done.returncode, document, done.stderr)


@pytest.fixture
def installed(node: Node) -> str:
    folder = node.folder / "bin"
    folder.mkdir()
    program = folder / "bond"
    program.write_text(launcher())
    program.chmod(0o755)
    return str(program)


def test_as_installed(node: Node, pod: Space, installed: str) -> None:
    before = node.everything(pod)
    asked = speaking(node, "1.0.0", six=False, mtuu=1400)
    added = answered(run(node, installed, "ADD", asked, pod))
    result = added.ok()
    jsonschema.validate(result, SCHEMAS["1.0.0"])
    assert "mtuu" in added.stderr
    assert pod.members("bond0") == {"eth1", "eth2"}
    assert pod.addresses("bond0") == {"10.1.0.2/24"}
    again = answered(run(node, installed, "ADD", asked, pod))
    assert "bond0 is already taken" in again.failed(101)
    checked = answered(run(node, installed, "CHECK", {**asked, "prevResult": result}, pod))
    checked.ok()
    assert checked.document == {}
    deleted = answered(run(node, installed, "DEL", asked, pod))
    deleted.ok()
    assert deleted.document == {}
    assert node.everything(pod) == before


def test_as_installed_without_a_network(node: Node, pod: Space, installed: str) -> None:
    """VERSION, a missing variable, and a delegate whose output must not reach standard output."""
    version = answered(run(node, installed, "VERSION", {"cniVersion": "0.4.0"}, pod)).ok()
    assert version["supportedVersions"] == list(SUPPORTED)
    bare = answered(run(node, installed, "ADD", config(["eth1", "eth2"]), pod, CNI_IFNAME=""))
    assert "CNI_IFNAME" in bare.failed(4)
    node.delegate("noisy", 'echo to stderr >&2; echo "rubbish on stdout"; exit 7')
    asked = config(["eth1", "eth2"], ipam={"type": "noisy"})
    failed = answered(run(node, installed, "ADD", asked, pod))
    assert "rubbish on stdout" in failed.failed(104)
    assert "to stderr" in failed.stderr
    assert node.space.links().keys() == {"lo", "eth1", "eth2"}
