"""Issue 10, items 5, 7 and 21: answers and errors of IPAM plugins and of earlier plugins."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kernel.conftest import THICK, Answer, Document, Node, Space, config


@pytest.fixture
def members(node: Node) -> None:
    """Two NICs of the host."""
    node.veth("eth1")
    node.veth("eth2")


def asked_for(kind: Any = "ours", **extra: Any) -> Document:
    return config(["eth1", "eth2"], ipam={"type": kind}, **extra)


def delegate(node: Node, answer: Document | str, name: str = "ours", script: str = "") -> None:
    """An IPAM plugin that logs its verbs, does ``script``, and answers ADD."""
    said = answer if isinstance(answer, str) else json.dumps(answer)
    log = node.folder / "verbs"
    node.delegate(
        name, f"echo $CNI_COMMAND >> {log}\n{script}\n[ $CNI_COMMAND != ADD ] || echo '{said}'"
    )


def verbs(node: Node) -> list[str]:
    """The verbs with which the delegate was called, in order."""
    log = node.folder / "verbs"
    return log.read_text().split() if log.exists() else []


GOOD = {"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]}


@pytest.mark.parametrize(
    ("answer", "place", "value"),
    [
        ({"ips": [{"address": "10.9.0.2"}]}, "/ips/0/address", "10.9.0.2"),
        (
            {"ips": [{"address": "10.9.0.2/255.255.255.0"}]},
            "/ips/0/address",
            "10.9.0.2/255.255.255.0",
        ),
        ({"ips": [{"address": "fe80::1%eth0/64"}]}, "/ips/0/address", "fe80::1%eth0/64"),
        ({"ips": [{"address": "10.9.0.2/24", "gateway": "gw"}]}, "/ips/0/gateway", "gw"),
        ({**GOOD, "routes": [{"dst": "10.50.0.0"}]}, "/routes/0/dst", "10.50.0.0"),
        ({**GOOD, "routes": [{"dst": "0.0.0.0/0", "gw": "gw"}]}, "/routes/0/gw", "gw"),
        ({**GOOD, "routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}, "/routes/0/mtu", "-1"),
    ],
)
@pytest.mark.usefixtures("members")
def test_10_7_a_bad_answer_is_refused_and_undone(
    node: Node, pod: Space, answer: Document, place: str, value: str
) -> None:
    delegate(node, answer)
    before = node.everything(pod)
    said = node.cni("ADD", asked_for(), pod).failed(104)
    assert f"IPAM plugin ours returned an invalid CNI result: {place}: " in said
    assert value in said
    assert verbs(node) == ["ADD", "DEL"]
    assert node.everything(pod) == before


@pytest.mark.usefixtures("members")
def test_10_7_a_bad_prevresult_is_refused_before_anything(node: Node, pod: Space) -> None:
    delegate(node, GOOD)
    before = node.everything(pod)
    previous = {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.77.0.5", "gateway": "gw"}],
        "routes": [{"dst": "default"}],
    }
    said = node.cni("ADD", asked_for(prevResult=previous), pod).failed(7)
    for place in ("ips/0/address", "ips/0/gateway", "routes/0/dst"):
        assert f"/prevResult/{place}: " in said
    assert verbs(node) == []
    assert node.everything(pod) == before
    node.cni("DEL", asked_for(prevResult=previous), pod).ok()


# Item 5: DEL can always succeed.


@pytest.mark.parametrize("kind", ["../x", 5, "not-installed", "/bin/true", "..", "a\0b"])
@pytest.mark.usefixtures("members")
def test_10_5_an_ipam_that_cannot_be_run_hinders_no_del(
    node: Node, pod: Space, kind: object
) -> None:
    before = node.everything(pod)
    assert node.cni("ADD", asked_for(kind), pod).status == 1
    answer = node.cni("DEL", asked_for(kind), pod)
    answer.ok()
    assert "bond: warning: IPAM plugin " in answer.stderr
    assert node.everything(pod) == before
    node.cni("DEL", asked_for(kind)).ok()


@pytest.mark.usefixtures("members")
def test_10_5_where_a_record_says_that_something_is_reserved_the_ipam_is_waited_for(
    node: Node, pod: Space
) -> None:
    delegate(node, GOOD)
    node.cni("ADD", asked_for(), pod).ok()
    (node.folder / "ours").rename(node.folder / "away")
    assert "IPAM plugin ours is not in CNI_PATH" in node.cni("DEL", asked_for(), pod).failed(106)
    (node.folder / "away").rename(node.folder / "ours")
    node.cni("DEL", asked_for(), pod).ok()
    assert verbs(node) == ["ADD", "DEL"]
    assert node.records() == set()


def libcni(node: Node, versions: str, verbs_: str = "ADD|CHECK|DEL") -> None:
    """An IPAM plugin that checks CNI_COMMAND and cniVersion like plugins that use libcni, and logs
    verb and version.
    """
    log = node.folder / "verbs"
    known = json.dumps(versions.split())
    answer = {"ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]}
    fail = 'echo "{\\"code\\": $1, \\"msg\\": \\"$2\\"}"; exit 1'
    node.delegate(
        "ours",
        f"""
fail() {{ {fail}; }}
asked=$(sed 's/.*"cniVersion": "\\([0-9.]*\\)".*/\\1/')
echo "$CNI_COMMAND-$asked" >> {log}
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion": "1.1.0", "supportedVersions": {known}}}'; exit;;
{verbs_}) ;;
*) fail 4 "unknown CNI_COMMAND: $CNI_COMMAND";;
esac
case " {versions} " in *" $asked "*) ;; *) fail 1 "incompatible CNI versions";; esac
[ $CNI_COMMAND != ADD ] || echo '{json.dumps(answer)}'
""",
    )


@pytest.mark.usefixtures("members")
def test_10_5_an_ipam_that_stops_at_an_older_version(node: Node, pod: Space) -> None:
    """calico-ipam knows versions up to 1.0.0; the configuration says 1.1.0."""
    libcni(node, "0.3.1 0.4.0 1.0.0")
    before = node.everything(pod)
    asked = asked_for() | {"cniVersion": "1.1.0"}
    result = node.cni("ADD", asked, pod).ok()
    assert result["cniVersion"] == "1.1.0"
    assert result["interfaces"][0]["mtu"] == 1500
    assert pod.addresses("bond0") == {"10.9.0.2/24"}
    node.cni("CHECK", {**asked, "prevResult": result}, pod).ok()
    for command in ("STATUS", "GC"):
        answer = node.cni(command, {**asked, "cni.dev/valid-attachments": []}, pod)
        answer.ok()
        assert "it supports cniVersion 0.3.1, 0.4.0, 1.0.0" in answer.stderr
    node.cni("DEL", {**asked, "prevResult": result}, pod).ok()
    assert node.everything(pod) == before
    done = [verb for verb in verbs(node) if verb.endswith("-1.0.0")]
    assert done == ["ADD-1.0.0", "CHECK-1.0.0", "DEL-1.0.0"]


@pytest.mark.usefixtures("members")
def test_10_5_an_ipam_that_knows_no_version_of_ours(node: Node, pod: Space) -> None:
    """ADD reserved nothing: no DEL of the plugin is due, no record stays, and the runtime's DEL
    succeeds.
    """
    libcni(node, "7.0.0")
    before = node.everything(pod)
    said = node.cni("ADD", asked_for(), pod).failed(1)
    assert "IPAM plugin ours: ADD failed: incompatible CNI versions" in said
    assert "it supports cniVersion 7.0.0" in said
    assert "DEL-1.0.0" not in verbs(node)
    assert node.everything(pod) == before
    answer = node.cni("DEL", asked_for(), pod)
    answer.ok()
    assert "incompatible CNI versions" in answer.stderr


@pytest.mark.usefixtures("members")
def test_10_5_an_ipam_that_forgot_the_version_hinders_no_del(node: Node, pod: Space) -> None:
    libcni(node, "1.0.0")
    before = node.everything(pod)
    node.cni("ADD", asked_for(), pod).ok()
    libcni(node, "7.0.0")
    answer = node.cni("DEL", asked_for(), pod)
    answer.ok()
    assert "incompatible CNI versions" in answer.stderr
    assert node.everything(pod) == before


# Item 21: the standard error of a delegate is kept.

PANIC = "printf 'panic: no pool\\n\\ngoroutine 1 [running]:\\n' >&2"
TOLD = "standard error: panic: no pool | goroutine 1 [running]:"


def heard(answer_: Answer, capfd: pytest.CaptureFixture[str]) -> str:
    """The standard error that the runtime gets: of this process in direct mode."""
    return answer_.stderr if THICK else capfd.readouterr().err


def logged(node: Node) -> list[Document]:
    """The delegates' lines in the daemon's log."""
    daemon: Any = node.daemon()
    return [line for line in daemon.log if line["event"] == "delegate_stderr"]


@pytest.mark.usefixtures("members")
def test_10_21_a_panic_is_in_the_details_and_in_the_log(
    node: Node, pod: Space, capfd: pytest.CaptureFixture[str]
) -> None:
    delegate(node, GOOD, script=f"[ $CNI_COMMAND != ADD ] || {{ {PANIC}; exit 2; }}")
    answer_ = node.cni("ADD", asked_for(), pod)
    answer_.failed(104)
    assert answer_.document["msg"] == "IPAM plugin ours: ADD failed with exit code 2"
    assert answer_.document["details"] == TOLD
    assert heard(answer_, capfd) == "panic: no pool\n\ngoroutine 1 [running]:\n"
    if THICK:
        (line,) = logged(node)
        assert (line["plugin"], line["verb"], line["container"]) == ("ours", "ADD", "c1")
        assert line["stderr"] == "panic: no pool\n\ngoroutine 1 [running]:"
    node.cni("DEL", asked_for(), pod).ok()


@pytest.mark.usefixtures("members")
def test_10_21_warnings_of_one_that_succeeds_reach_the_runtime(
    node: Node, pod: Space, capfd: pytest.CaptureFixture[str]
) -> None:
    delegate(node, GOOD, script="echo careful >&2")
    answer_ = node.cni("ADD", asked_for(), pod)
    answer_.ok()
    assert heard(answer_, capfd) == "careful\n"
    if THICK:
        assert [line["stderr"] for line in logged(node)] == ["careful"]


@pytest.mark.usefixtures("members")
def test_10_21_a_del_that_fails_tells_why(node: Node, pod: Space) -> None:
    delegate(node, GOOD, script=f"[ $CNI_COMMAND != DEL ] || {{ {PANIC}; exit 2; }}")
    node.cni("ADD", asked_for(), pod).ok()
    assert TOLD in node.cni("DEL", asked_for(), pod).failed(106)
    delegate(node, GOOD)
    node.cni("DEL", asked_for(), pod).ok()
