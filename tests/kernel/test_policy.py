"""The node's policy file: which links a pod gets, which it does not get, and the reasons."""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Answer, Document, Node, Space, config

BROKEN, REFUSED = 107, 101


@pytest.fixture(autouse=True)
def pair(node: Node) -> None:
    node.veth("eth1")
    node.veth("eth2")


def ask(
    node: Node,
    pod: Space,
    policy: str | None,
    command: str = "ADD",
    namespace: str = "",
    **extra: object,
) -> Answer:
    file = node.folder / "policy.yaml"
    if policy is not None:
        file.write_text(policy)
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace}" if namespace else ""
    asked = {**config(["eth1", "eth2"]), "cniVersion": "1.1.0", **extra}
    return node.cni(command, asked, pod, env={"BONDCNI_POLICY": str(file), "CNI_ARGS": args})


def allowed(node: Node, pod: Space, policy: str | None, namespace: str = "") -> None:
    before = node.everything(pod)
    ask(node, pod, policy, namespace=namespace).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    ask(node, pod, None, "DEL").ok()
    assert node.everything(pod) == before


def refused(node: Node, pod: Space, policy: str, code: int, namespace: str = "") -> str:
    before = node.everything(pod)
    said = ask(node, pod, policy, namespace=namespace).failed(code)
    assert node.everything(pod) == before
    ask(node, pod, None, "DEL").ok()
    assert node.everything(pod) == before
    return said


def test_no_file(node: Node, pod: Space) -> None:
    allowed(node, pod, None)


def rules(*lines: str) -> str:
    return "links:\n" + "".join(f"  - {{{line}}}\n" for line in lines) if lines else "links: []\n"


def test_names_and_globs(node: Node, pod: Space) -> None:
    allowed(node, pod, rules("name: eth1", "name: eth2"))
    allowed(node, pod, rules("name: 'eth[12]'"))
    allowed(node, pod, rules("driver: veth"))
    said = refused(node, pod, rules("name: 'eth2*'", "name: ens*"), REFUSED)
    assert f"no rule in {node.folder}/policy.yaml allows eth1 for a pod without a namespace" in said
    assert "allows eth2" not in said


def test_mac_and_driver(node: Node, pod: Space) -> None:
    macs = [node.space.link(name)["address"].upper() for name in ("eth1", "eth2")]
    allowed(node, pod, rules(*(f"mac: '{mac}'" for mac in macs)))
    refused(node, pod, rules(f"mac: '{macs[0]}'", "driver: mlx5_core"), REFUSED)
    refused(node, pod, rules("pci: '0000:03:00.0'", f"mac: '{macs[0]}', name: eth2"), REFUSED)


def test_no_rules_give_nothing(node: Node, pod: Space) -> None:
    refused(node, pod, rules(), REFUSED)


def test_namespaces(node: Node, pod: Space) -> None:
    policy = rules("name: eth1, namespaces: [telco-*, web]", "name: eth2")
    for namespace in ("telco-a", "web"):
        allowed(node, pod, policy, namespace)
    said = refused(node, pod, policy, REFUSED, "default")
    assert "allows eth1 for pods in namespace default" in said
    refused(node, pod, policy, REFUSED)


@pytest.mark.parametrize("use", ["address", "route"])
def test_force(node: Node, pod: Space, use: str) -> None:
    """A rule with its exact name and force allows a link that the host uses; nothing else does."""
    node.space.batch(
        "link set eth1 up",
        *(
            ["addr add 192.0.2.2/24 dev eth1"]
            if use == "address"
            else ["route add default dev eth1"]
        ),
    )
    assert "eth1 is in use" in refused(node, pod, rules("name: eth1", "name: eth2"), REFUSED)
    said = refused(node, pod, rules("name: eth*, force: true"), BROKEN)
    assert "line 2: force: True needs an exact name" in said
    ask(node, pod, rules("name: eth*", "name: eth1, force: true")).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    ask(node, pod, None, "DEL").ok()
    assert node.space.links().keys() == {"lo", "eth1", "eth2"}


def test_force_takes_no_member_of_another(node: Node, pod: Space) -> None:
    node.space.batch("link add br9 type bridge", "link set eth1 master br9")
    said = refused(node, pod, rules("name: eth1, force: true", "name: eth2"), REFUSED)
    assert "eth1 already has a master: bridge br9" in said


MISTAKES = "links:\n  - name: 5\n  - nmae: x\n    force: maybe\nlink: []\n"


def test_a_broken_file(node: Node, pod: Space) -> None:
    """Host links are refused, with every mistake by line and key; STATUS reports it, too."""
    said = refused(node, pod, MISTAKES, BROKEN)
    file = node.folder / "policy.yaml"
    for mistake in ("2: name: 5", "3: unknown key 'nmae'", "4: force: 'maybe'", "5: unknown key"):
        assert f"policy {file}: line {mistake}" in said
    assert f"policy {file}: line 2: name" in ask(node, pod, None, "STATUS").failed(50)
    file.write_text(rules("name: eth*"))
    ask(node, pod, None, "STATUS").ok()


def test_links_of_the_pod_need_no_policy(node: Node, pod: Space) -> None:
    for name in ("eth1", "eth2"):
        node.space.ip("link", "set", name, "netns", pod.name)
    before: Document = node.everything(pod)
    ask(node, pod, MISTAKES, linksInContainer=True).ok()
    assert pod.members("bond0") == {"eth1", "eth2"}
    ask(node, pod, None, "DEL", linksInContainer=True).ok()
    assert node.everything(pod) == before


def test_del_needs_no_policy(node: Node, pod: Space) -> None:
    """DEL restores the links after the file became invalid, or its rules changed."""
    before = node.everything(pod)
    ask(node, pod, rules("name: eth*")).ok()
    ask(node, pod, MISTAKES, "DEL").ok()
    assert node.everything(pod) == before
