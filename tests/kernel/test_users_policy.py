"""Issue 10, items 10 and 11: the policy is absent, readable or unreadable; one verdict on a link."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.kernel.conftest import Document, Node, Space, config, thick_only
from tests.kernel.thick import Thick

from bondcni.cli.main import main

REFUSED, BROKEN, UNAVAILABLE = 101, 107, 50
LINKS = ["eth1", "eth2"]
RULES = "links:\n  - {name: eth1}\n  - {name: eth2}\n"


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    for name in LINKS:
        node.veth(name)


@pytest.fixture
def policy(node: Node) -> Path:
    """A policy that allows both links, in a directory of its own."""
    path = node.folder / "cni" / "bond" / "policy.yaml"
    path.parent.mkdir(parents=True)
    path.parent.parent.chmod(0o755)
    path.parent.chmod(0o755)
    path.write_text(RULES)
    path.chmod(0o644)
    return path


def asked(**extra: object) -> Document:
    return {**config(LINKS), "cniVersion": "1.1.0", **extra}


def refused(node: Node, pod: Space, policy: Path) -> str:
    """The message of ADD, which must change nothing; that of STATUS is the same."""
    env = {"BONDCNI_POLICY": str(policy)}
    before = node.everything(pod)
    said = node.cni("ADD", asked(), pod, env=env).failed(BROKEN)
    assert node.everything(pod) == before
    told = node.cni("STATUS", asked(), container="", ifname="", env=env).failed(UNAVAILABLE)
    assert said.strip() in told
    return said


def allowed(node: Node, pod: Space, policy: Path) -> None:
    env = {"BONDCNI_POLICY": str(policy)}
    node.cni("STATUS", asked(), container="", ifname="", env=env).ok()
    node.cni("ADD", asked(), pod, env=env).ok()
    node.cni("DEL", asked(), pod, env=env).ok()


# 10: absent, readable, not readable; checked again each time.

CLOSED = "cannot be read, so host links are refused: Permission denied for user 65534: "


@thick_only("root may read everything")
def test_10_a_closed_directory(node: Node, pod: Space, policy: Path) -> None:
    """As /etc/cni after podman or buildah ran there first, as root."""
    above = policy.parent.parent
    allowed(node, pod, policy)
    above.chmod(0o700)
    for _ in range(2):
        said = refused(node, pod, policy)
        assert f"policy {policy} {CLOSED}directory {above} has owner 0 and mode 0700" in said
        assert f"allow it: chmod o+x {above}" in said
    policy.unlink()  # only root can know
    refused(node, pod, policy)
    above.chmod(0o755)
    allowed(node, pod, policy)
    policy.write_text("links: []\n")
    policy.chmod(0o644)
    env = {"BONDCNI_POLICY": str(policy)}
    assert "no rule in" in node.cni("ADD", asked(), pod, env=env).failed(REFUSED)


@thick_only("root may read everything")
def test_10_a_closed_file_that_is_removed(node: Node, pod: Space, policy: Path) -> None:
    """It blocks nothing any more, without a signal to the daemon."""
    policy.chmod(0o600)
    said = refused(node, pod, policy)
    assert f"{CLOSED}{policy} has owner 0 and mode 0600; allow it: chmod o+r {policy}" in said
    policy.unlink()
    allowed(node, pod, policy)


@thick_only("direct mode keeps nothing")
def test_10_rules_that_were_read_once_do_not_outlive_the_right_to_read(
    node: Node, pod: Space, policy: Path
) -> None:
    allowed(node, pod, policy)
    policy.chmod(0o600)
    refused(node, pod, policy)
    policy.chmod(0o644)
    allowed(node, pod, policy)


@thick_only("the daemon's log")
def test_10_the_daemon_says_it_when_it_starts(node: Node, policy: Path) -> None:
    policy.parent.chmod(0o700)
    daemon = node.daemon(str(policy))
    assert isinstance(daemon, Thick)
    (said,) = [one["error"] for one in daemon.log if one["event"] == "policy_error"]
    assert f"{CLOSED}directory {policy.parent} has owner 0 and mode 0700" in said


def test_10_a_link_to_nothing_is_not_absent(node: Node, pod: Space, policy: Path) -> None:
    policy.unlink()
    policy.symlink_to("elsewhere.yaml")
    said = refused(node, pod, policy)
    assert "it is a symbolic link to a file that does not exist" in said
    policy.unlink()
    allowed(node, pod, policy)


def test_10_links_of_the_pod_and_del_need_none(node: Node, pod: Space, policy: Path) -> None:
    policy.write_bytes(b"\xff")
    policy.chmod(0o000)
    for name in LINKS:
        node.space.ip("link", "set", name, "netns", pod.name)
    env = {"BONDCNI_POLICY": str(policy)}
    node.cni("ADD", asked(linksInContainer=True), pod, env=env).ok()
    node.cni("DEL", asked(linksInContainer=True), pod, env=env).ok()


# 11: `bondctl policy explain` and ADD give one verdict.


def explain(node: Node, link: str, *words: str) -> Result:
    env = {"BONDCNI_STATE": str(node.state), "BONDCNI_POLICY": str(node.folder / "none.yaml")}
    return CliRunner().invoke(main, ["policy", "explain", link, *words], env=env)


def same(node: Node, pod: Space, link: str, *, by: str = "name", told: str = "") -> str:
    """Both refuse it, and every line of explain is in ADD's answer; the lines."""
    result = explain(node, link)
    assert result.exit_code == 1, result.output
    first, *reasons = result.stdout.splitlines()
    assert first == f"{told or link}: refused"
    assert reasons
    links = [{by: link}, {"name": "eth2"}]
    said = node.cni("ADD", config(links), pod, container="other").failed(REFUSED)
    for reason in reasons:
        assert reason.strip() in said
    return "\n".join(reasons)


def test_11_the_loopback_interface(node: Node, pod: Space) -> None:
    assert "link lo is the loopback interface" in same(node, pod, "lo")


def test_11_what_a_pod_holds(node: Node, pod: Space) -> None:
    mac = node.space.link("eth1")["address"]
    node.cni("ADD", asked(), pod).ok()
    other = node.pod()
    assert "link eth1 is claimed by c1 bond0" in same(node, other, "eth1")
    assert "link eth1 is claimed by c1 bond0" in same(node, other, mac, by="mac")
    node.cni("DEL", asked(), pod).ok()
    assert explain(node, "eth1").exit_code == 0


def test_11_what_nobody_has(node: Node, pod: Space) -> None:
    assert "link name eth9: not found on the host" in same(node, pod, "eth9")


def test_11_what_the_host_uses(node: Node, pod: Space) -> None:
    node.space.batch(
        "link property add dev eth1 altname uplink",
        "addr add 10.9.0.1/24 dev eth1",
        "link set eth1 up",
        "route add default dev eth1",
        "link add link eth1 name vlan9 type vlan id 9",
    )
    mac = node.space.link("eth1")["address"]
    for link, by in (("eth1", "name"), ("uplink", "name"), (mac.upper(), "mac")):
        said = same(node, pod, link, by=by, told="eth1")
        for what in ("the address 10.9.0.1/24", "a default route", "vlan vlan9 is on top of it"):
            assert what in said


def test_11_what_has_a_master_or_a_macvlan(node: Node, pod: Space) -> None:
    node.space.batch(
        "link add br9 type bridge",
        "link set eth1 master br9",
    )
    assert "already has a master: bridge br9" in same(node, pod, "eth1")
    node.space.batch("link set eth1 nomaster", "link add link eth1 name mv9 type macvlan")
    assert "has the macvlan mv9 on top of it" in same(node, pod, "eth1")


def test_11_a_mac_that_two_have(node: Node, pod: Space) -> None:
    mac = "02:00:00:00:09:09"
    node.space.batch(*(f"link set {name} address {mac}" for name in LINKS))
    assert "is ambiguous on the host (eth1, eth2)" in same(node, pod, mac, by="mac")


def test_11_what_may_be_taken(node: Node, pod: Space) -> None:
    result = explain(node, node.space.link("eth1")["address"])
    assert (result.exit_code, result.stdout) == (
        0,
        "eth1: may be taken\n    no policy file: a pod may take any host link that is not in use\n",
    )
    node.cni("ADD", asked(), pod).ok()


def test_11_a_link_of_a_dead_pod(node: Node) -> None:
    """ADD restores it first, and so does recover: explain says so."""
    pod = node.pod()
    node.cni("ADD", asked(), pod).ok()
    pod.delete()
    result = explain(node, "eth1")
    assert result.exit_code == 1
    assert "link eth1 is claimed by c1 bond0 (namespace gone)" in result.stdout
    assert "restored by bondctl recover, or before the next ADD" in result.stdout
    node.cni("DEL", asked()).ok()
