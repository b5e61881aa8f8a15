"""The node's policy file: each key, and every mistake with its line, all at once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import ruamel.yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bondcni.core.errors import PolicyError
from bondcni.core.policy import Policy, Rule
from bondcni.core.state import Link
from bondcni.direct.launcher import launcher
from bondcni.service.policy import driver_of, load, namespace_of

EXAMPLE = """\
links:
  - name: "eth1*"
    namespaces: ["telco-*", web]
  - driver: mlx5_core
  - mac: 52:54:00:12:34:5F
  - pci: 0000:3B:00.0
  - name: eno2
    force: true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def mistakes(file: Path, text: str | bytes) -> list[str]:
    """What is said of a file, mistake by mistake, without the file's name."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PolicyError) as error:
        load(str(file))
    assert error.value.code == 107
    return error.value.message.replace(f"policy {file}", "").split("; : ")


def test_no_file_is_the_default(file: Path) -> None:
    assert load(str(file)) == Policy()


def test_every_key(file: Path) -> None:
    file.write_text(EXAMPLE)
    rules = (
        Rule(name="eth1*", namespaces=("telco-*", "web")),
        Rule(driver="mlx5_core"),
        Rule(mac="52:54:00:12:34:5f"),
        Rule(pci="0000:3b:00.0"),
        Rule(name="eno2", force=True),
    )
    assert load(str(file)) == Policy(rules, str(file))


def test_no_rules_is_no_default(file: Path) -> None:
    file.write_text("links: []\n")
    assert load(str(file)) == Policy((), str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: must be a mapping with the key links"),
        ("- name: eth1\n", "line 1: must be a mapping with the key links"),
        ("# nothing\n\nlinks:\n", "line 3: links must be a list of rules"),
        ("links: eth1\n", "line 1: links must be a list of rules"),
        ("links:\n  - eth1\n", "line 2: a rule must be a mapping"),
        ("links:\n  - name: a\n  - {}\n", "line 3: a rule needs name, mac, pci or driver"),
        ("links:\n  - force: true\n    driver: x\n", "line 2: force: True needs an exact name"),
        ("links:\n  - name: eth*\n    force: true\n", "line 3: force: True needs an exact name"),
        ("links:\n  - name: a\n    force: yes\n", "line 3: force: 'yes' must be true or false"),
        ("links:\n  - name: 5\n", "line 2: name: 5 must be a name or a glob"),
        ("links:\n  - name: ''\n", "line 2: name: '' must be a name or a glob"),
        ("links:\n  - driver: [x]\n", "line 2: driver: ['x'] must be a name or a glob"),
        ("links:\n  - mac: 52:54\n", "line 2: mac: '52:54' must be a MAC"),
        ("links:\n  - mac: 5\n", "line 2: mac: 5 must be a MAC"),
        ("links:\n  - pci: eth1\n", "line 2: pci: 'eth1' must be a PCI address"),
        ("links:\n  - name: a\n    namespaces: web\n", "line 3: namespaces: 'web' must be a list"),
        ("links:\n  - name: a\n    namespaces: [5]\n", "line 3: namespaces: [5] must be a list"),
        ("links:\n  - name: a\n    namespaces: ['']\n", "line 3: namespaces: [''] must be a list"),
        ("links: []\nlink: []\n", "line 2: unknown key 'link'; known: links"),
        (
            "links:\n  - name: a\n    forced: true\n",
            "line 3: unknown key 'forced'; known: name, mac, pci, driver, namespaces, force",
        ),
        ("links:\n  - name: a\n   mac: b\n", "line 3: "),
        ("links:\n\t- name: a\n", "line 2: "),
        ("links: [\n", "line 2: "),
        ("links: []\nlinks: []\n", "line 2: "),
        ("links: []\n---\nlinks: []\n", "line 2: "),
        ("links:\n  - name: !!int x\n", "invalid literal"),
        ("links: " + "[" * 1500, "recursion"),
        (b"links: [\xff]\n", "cannot be read"),
        (b"links: [\x00]\n", "unacceptable character"),
    ],
)
def test_a_mistake(file: Path, text: str | bytes, said: str) -> None:
    found = mistakes(file, text)
    assert len(found) == 1
    assert said in found[0]


def test_every_mistake_at_once(file: Path) -> None:
    text = "link: 1\nlinks:\n  - name: 5\n    force: maybe\n  - 7\n  - mac: x\n    nmae: y\n"
    lines = [found.removeprefix(": ").partition(":")[0] for found in mistakes(file, text)]
    assert lines == ["line 1", "line 3", "line 4", "line 5", "line 7", "line 6"]


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load(str(tmp_path))


YAML = st.text(st.sampled_from("links:- nameforctu[]{}\"'*&!|>#\n\t,?%@`\x00é0x"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(YAML)
def test_any_text_is_a_policy_or_mistakes(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text)
    said = ""
    try:
        load(str(file))
    except PolicyError as error:
        said = error.message
    assert not said or str(file) in said


@pytest.mark.parametrize(
    ("args", "namespace"),
    [
        ("", ""),
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=telco-a;K8S_POD_NAME=p", "telco-a"),
        ("K8S_POD_NAMESPACE=a=b", "a=b"),
        ("XK8S_POD_NAMESPACE=a", ""),
        ("K8S_POD_NAMESPACE", ""),
    ],
)
def test_namespace_of_cni_args(args: str, namespace: str) -> None:
    assert namespace_of(args) == namespace


def test_driver_of_what_has_none_is_its_kind() -> None:
    assert driver_of(Link(9, "no-such-link", kind="veth")) == "veth"


# The plugin as it is installed: isolated, without site-packages


def status(folder: Path, policy: str | None) -> str:
    """STATUS by the launcher in a folder; what speaks against an ADD."""
    file = folder / "policy.yaml"
    if policy is not None:
        file.write_text(policy)
    config = {"cniVersion": "1.1.0", "name": "n", "type": "bond", "mode": 1, "miimon": 100}
    done = subprocess.run(
        [str(folder / "bond")],
        input=json.dumps({**config, "links": [{"name": "a"}, {"name": "b"}]}),
        env={
            "CNI_COMMAND": "STATUS",
            "BONDCNI_STATE": str(folder / "state"),
            "BONDCNI_POLICY": str(file),
        },
        cwd=os.path.sep,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    for line in done.stderr.splitlines():
        assert "the bonding driver is not loaded" in line, "which this machine may not have"
    answer = json.loads(done.stdout or "{}")
    assert answer.get("code", 50) == 50
    return str(answer.get("msg", ""))


def write_launcher(folder: Path) -> Path:
    program = folder / "bond"
    program.write_text(launcher())
    program.chmod(0o755)
    return program


def test_the_installed_plugin_reads_a_policy(tmp_path: Path) -> None:
    write_launcher(tmp_path)
    assert "policy" not in status(tmp_path, None)
    assert "policy" not in status(tmp_path, EXAMPLE)
    said = status(tmp_path, "links:\n  - name: 5\n")
    assert f"policy {tmp_path}/policy.yaml: line 2: name: 5" in said


def test_a_plugin_without_yaml_says_so(tmp_path: Path) -> None:
    """Where ruamel.yaml is missing, a policy is a reason to refuse, not a crash."""
    program = write_launcher(tmp_path)
    text = program.read_text()
    folder = str(Path(ruamel.yaml.__file__).parents[2])
    assert folder in text
    program.write_text(text.replace(folder, "/nowhere"))
    assert "No module named 'ruamel'" in status(tmp_path, EXAMPLE)
