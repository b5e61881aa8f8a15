"""10.27: common mistakes in manifests, and the warnings of plugins."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.unit.bondlab.labpods import bond, make_pod
from tests.unit.bondlab.test_manifests import BOND, GOOD_BOND, HOST_LINKS, nad, pod, read

from bondcni.cli import main
from bondlab.guest.guest import Completed
from bondlab.manifests.multus import Sandbox
from bondlab.scenario import story
from bondlab.scenario.calls import Runtime
from bondlab.scenario.events import Call, CaseBegin, Note
from bondlab.scenario.guest_commands import GuestCommands
from bondlab.scenario.record import RunRecord
from bondlab.scenario.report import Report

NETWORKS = "k8s.v1.cni.cncf.io/networks"


def workload(kind: str = "Deployment", more: str = "", annotation: str = NETWORKS) -> str:
    return (
        f"---\nkind: {kind}\nmetadata: {{ name: w }}\nspec:\n{more}  template:\n"
        f"    metadata:\n      annotations: {{ {annotation}: bond0 }}\n"
    )


ON_WORKLOAD = (
    f"---\nkind: Deployment\nmetadata:\n  name: w\n  annotations:\n    {NETWORKS}: bond0\n"
    "spec:\n  template: { metadata: { labels: { a: b } } }\n"
)
AS_YAML = (
    "---\nkind: NetworkAttachmentDefinition\nmetadata: { name: bond0 }\nspec:\n"
    "  config:\n    type: bond\n    mode: active-backup\n"
)
AS_LIST = f"---\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {NETWORKS}:\n    - name: b\n"


@pytest.mark.parametrize(
    ("text", "line", "said", "advice"),
    [
        (ON_WORKLOAD, 6, "is on the Deployment, where it has no effect", "Move it: a pod"),
        (
            workload(annotation="k8s.v1.cni.cncf.io/network"),
            7,
            "unknown annotation k8s.v1.cni.cncf.io/network",
            f"Did you mean {NETWORKS}?",
        ),
        (
            workload(annotation="k8s.v1.cni.cnf.io/networks"),
            7,
            "unknown annotation",
            f"Did you mean {NETWORKS}?",
        ),
        (workload("Deamonset"), 2, "unknown kind `Deamonset`", "Did you mean DaemonSet?"),
        (AS_YAML, 6, "spec.config of network bond0 is a YAML mapping", "`config: |`"),
        (AS_LIST, 7, "the networks annotation is a YAML list", f"`{NETWORKS}: |`"),
        (
            f"---\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {NETWORKS}: ''\n",
            6,
            "the networks annotation is empty",
            "List the networks",
        ),
        (
            f"---\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {NETWORKS}:\n    a: b\n",
            6,
            "the networks annotation is empty",
            "List the networks",
        ),
        (
            f"---\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {NETWORKS}:\n\n  a: b\n",
            6,
            "the networks annotation is empty",
            "List the networks",
        ),
        (
            "---\nkind: NetworkAttachmentDefinition\nmetadata: { name: n }\nspec: { confg: x }\n",
            2,
            "network n has no spec.config",
            "Did you mean config instead of confg?",
        ),
        (
            "kind: Pod\nmetadata:\n  name: {{ .Values.x }}\n",
            3,
            "`{{ .Values.x }}`",
            "helm template",
        ),
        (
            "{{- if .Values.on }}\nkind: Pod\n{{- end }}\n",
            1,
            "{{- if .Values.on }}",
            "helm template",
        ),
        ('kind: Pod\nmetadata: { name: "{{ .R }}" }\n', 2, "`{{ .R }}`", "helm template"),
        (nad("b", '{ "mode": {{ .Values.mode }} }'), 6, "`{{ .Values.mode }}`", "helm template"),
        (pod("{{ .Values.net }}"), 7, "`{{ .Values.net }}` is a template action", "helm template"),
    ],
)
def test_10_27_classic_mistakes(text: str, line: int, said: str, advice: str) -> None:
    found = [one for one in read(text).findings if said in one.message]
    assert [one.line for one in found] == [line], read(text).findings
    assert advice in found[0].advice


def test_10_27_the_status_annotations_of_multus_are_no_mistakes() -> None:
    text = pod("bond0") + "    k8s.v1.cni.cncf.io/network-status: '[]'\n"
    text += "    k8s.v1.cni.cncf.io/networks-status: '[]'\n"
    assert not read(GOOD_BOND + text).findings


def test_10_27_other_kinds_are_passed_over_as_before() -> None:
    more = "".join(
        f"---\nkind: {kind}\nmetadata: {{ name: x }}\n"
        for kind in ("ConfigMap", "PodList", "ReplicationController", "PodTemplate", "JobSet")
    )
    assert not read(GOOD_BOND + pod("bond0") + more).findings


def test_10_27_a_template_in_other_documents_is_data() -> None:
    text = (
        '---\nkind: ConfigMap\nmetadata: { name: c }\ndata:\n  t: |\n    {{ .x }}\n  u: "{{ y }}"\n'
    )
    assert not read(GOOD_BOND + pod("bond0") + text).findings


def test_10_27_documents_without_content_are_skipped() -> None:
    text = "---\n# Source: chart/templates/none.yaml\n---\n" + GOOD_BOND + "---\n---\nnull\n"
    found = read(text + pod("bond0") + "---\n")
    assert not found.findings
    assert len(found.pods) == 1


def test_10_27_dash_is_standard_input() -> None:
    result = CliRunner().invoke(main.main, ["lab", "run", "--json", "-"], input=ON_WORKLOAD)
    assert result.exit_code == 2
    (found,) = json.loads(result.stdout)["findings"]
    assert (found["file"], found["line"]) == ("-", 6)


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        (workload(), False),
        (workload(more="  replicas: 3\n"), True),
        (workload("StatefulSet", "  replicas: 2\n"), True),
        (workload("Job", "  parallelism: 2\n"), True),
        (workload("DaemonSet"), False),
        (
            workload(more="  replicas: 3\n")
            + "    spec:\n      affinity:\n        podAntiAffinity:\n"
            "          requiredDuringSchedulingIgnoredDuringExecution:\n"
            "          - { topologyKey: kubernetes.io/hostname }\n",
            False,
        ),
    ],
)
def test_10_27_replicas_that_cannot_all_have_the_links(text: str, *, noted: bool) -> None:
    (case,) = read(GOOD_BOND + text).pods
    assert any("each pod takes eth1000 and eth1001" in one for one in case.notes) is noted, (
        case.notes
    )


def test_10_27_replicas_over_links_of_the_pod_are_fine() -> None:
    inside = nad("bond0", BOND % f'"linksInContainer": true, {HOST_LINKS}')
    (case,) = read(inside + workload(more="  replicas: 3\n")).pods
    assert case.notes == ()


def test_10_27_a_quoted_boolean_works_here_alone() -> None:
    quoted = nad("bond0", BOND % f'"linksInContainer": "true", "mtu": "1400", {HOST_LINKS}')
    (case,) = read(quoted + pod("bond0")).pods
    assert [one.partition(" is ")[0] for one in case.notes] == ["linksInContainer", "mtu"]
    assert "the Go bond-cni rejects it" in case.notes[0]


@pytest.mark.parametrize(
    ("vlan", "noted"),
    [
        ({"master": "bond0"}, True),
        ({"master": "bond0", "linkInContainer": False}, True),
        ({"master": "bond0", "linkInContainer": True}, False),
        ({"master": "eth7"}, False),
    ],
)
def test_a_vlan_whose_master_is_looked_up_on_the_host(
    vlan: dict[str, object], *, noted: bool
) -> None:
    config = json.dumps({"cniVersion": "1.0.0", "type": "vlan", "vlanId": 5} | vlan)
    (case,) = read(GOOD_BOND + nad("v5", config) + pod("bond0@bond0, v5")).pods
    said = [one for one in case.notes if "network v5: master bond0" in one]
    assert bool(said) is noted, case.notes
    assert all('"linkInContainer": true' in one for one in said)


def called(stderr: bytes, status: int = 0, stdout: bytes = b"{}") -> Call:
    class World:
        def run(self, argv: object, **_: object) -> Completed:
            del argv
            return Completed(status, stdout, stderr)

    config = bond("active-backup", "a", "b")
    sandbox = Sandbox(make_pod(("net1", config)), "id", "uid", "netns")
    runtime = Runtime(GuestCommands(World()), sandbox, "/b", {"bond": "/b/bond"})  # type: ignore[arg-type]
    return runtime.call("ADD", "n", "net1", config)[0]


def test_10_27_warnings_of_a_plugin_are_in_the_event() -> None:
    said = b"bond: warning: /linksInContiner: unknown key\nbond: warning: b\n\n"
    assert called(said).warnings == ("/linksInContiner: unknown key", "b")
    failed = called(said, 1, json.dumps({"code": 7, "msg": "no"}).encode())
    assert (failed.message, failed.warnings) == ("no", ("/linksInContiner: unknown key", "b"))
    assert called(b"panic\n", 2, b"")[6:9:2] == ("panic", ())  # told once, as the message


def test_10_27_the_story_tells_a_warning_once_a_case_and_the_document_always(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = called(b"bond: warning: unknown [key]\n")
    teller, record = Report(), RunRecord()
    for event in (CaseBegin("t", "f", ()), call, call, CaseBegin("u", "f", ()), call):
        teller.show(event)
        record.add(event)
    assert capsys.readouterr().out.count("bond: warning: unknown [key]") == 2
    calls = [one for case in record.document()["cases"] for one in case["calls"]]
    assert [one["warnings"] for one in calls] == [["unknown [key]"]] * 3


def test_10_27_notes_of_the_pod_come_first() -> None:
    class Gone:
        def run(self, argv: object, **_: object) -> Completed:
            raise OSError(argv)

    made = make_pod(("net1", bond("active-backup", "x", "y")))._replace(notes=("n",))
    lab = story.Lab(GuestCommands(Gone()), "/b", {}, strict=False, hardware=True)  # type: ignore[arg-type]
    events = [one for one in story.Case(lab, made).run() if isinstance(one, Note)]
    assert events[0] == Note("n")
