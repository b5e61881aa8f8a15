"""The manifest and the image: what docs/security.md promises of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

import bondcni
from bondcni.cli import main
from bondcni.install.installer import BIN_DIR, TEMPLATES, daemonset
from bondcni.service.paths import POLICY_FILE, SOCKET, STATE_DIRECTORY

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = f"bond-cni:{bondcni.__version__}"


def manifest() -> str:
    """The manifest that ``bondctl install --print-daemonset`` prints without other options."""
    result = CliRunner().invoke(main.main, ["install", "--print-daemonset"])
    assert result.exit_code == 0
    return result.stdout


def documents() -> list[Any]:
    return list(YAML(typ="safe").load_all(manifest()))


@pytest.fixture
def pod() -> Any:
    return documents()[1]["spec"]["template"]["spec"]


@pytest.fixture
def daemon(pod: Any) -> Any:
    (one,) = pod["containers"]
    return one


@pytest.fixture
def installer(pod: Any) -> Any:
    (one,) = pod["initContainers"]
    return one


def mounts(container: Any, pod: Any) -> dict[str, tuple[str, bool]]:
    """Paths in the container: the host's, and whether it may only be read."""
    volumes = {one["name"]: one["hostPath"]["path"] for one in pod["volumes"]}
    return {
        one["mountPath"]: (volumes[one["name"]], one.get("readOnly", False))
        for one in container["volumeMounts"]
    }


def test_the_defaults_of_the_command() -> None:
    assert manifest() == daemonset(IMAGE, BIN_DIR)
    assert "$" not in manifest()


def test_the_template_is_the_only_copy() -> None:
    """Neither deploy/ nor any other directory has one that could differ."""
    skipped = {".git", ".venv", "build", "dist"}
    found = [path.relative_to(ROOT) for path in ROOT.rglob("daemonset.yaml")]
    assert [path for path in found if not skipped & set(path.parts)] == [
        (TEMPLATES / "daemonset.yaml").relative_to(ROOT)
    ]


def test_image_and_plugin_folder_are_parameters() -> None:
    text = daemonset("example/bond:1", "/var/lib/rancher/bin")
    spec = list(YAML(typ="safe").load_all(text))[1]["spec"]["template"]["spec"]
    assert {one["image"] for one in (*spec["containers"], *spec["initContainers"])} == {
        "example/bond:1"
    }
    assert mounts(spec["initContainers"][0], spec)[BIN_DIR][0] == "/var/lib/rancher/bin"


def test_it_has_no_business_with_the_api_server(pod: Any) -> None:
    account, workload = documents()
    assert account["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert [one["kind"] for one in documents()] == ["ServiceAccount", "DaemonSet"]  # no role
    assert workload["metadata"]["namespace"] == account["metadata"]["namespace"]


def test_it_is_on_every_node_and_the_last_to_go(pod: Any) -> None:
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    for container in (*pod["containers"], *pod["initContainers"]):
        wanted = container["resources"]
        assert wanted["requests"] == wanted["limits"]  # class Guaranteed takes all of them
        assert set(wanted["limits"]) == {"cpu", "memory"}


def test_it_sees_the_host_s_links_and_no_more_of_the_host(pod: Any) -> None:
    assert pod["hostNetwork"] is True
    assert not {"hostPID", "hostIPC"} & set(pod)


def test_one_daemon_at_a_time() -> None:
    update = documents()[1]["spec"]["updateStrategy"]
    assert update == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


def test_no_container_can_win_rights(pod: Any) -> None:
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert "privileged" not in context


def test_the_daemon_keeps_one_capability_and_no_root(daemon: Any) -> None:
    added = daemon["securityContext"]["capabilities"]["add"]
    assert added == ["NET_ADMIN", "SETUID", "SETGID"]
    command = daemon["command"]
    assert command[0] == "setpriv"
    assert command[-2:] == ["bondctl", "serve"]
    assert {"--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"} < set(command)
    assert "--clear-groups" in command


def test_the_daemon_s_user_is_one_number(daemon: Any, installer: Any) -> None:
    text = manifest()
    numbers = re.findall(r"--(?:reuid|regid|user)=(\d+)", text)
    assert len(numbers) == 7
    assert set(numbers) == {"47474"}
    assert "--user=47474" in installer["command"]
    assert "--reuid=47474" in daemon["command"]


def test_the_daemon_gets_its_folders_only(daemon: Any, pod: Any) -> None:
    assert mounts(daemon, pod) == {
        str(Path(SOCKET).parent): (str(Path(SOCKET).parent), False),
        STATE_DIRECTORY: (STATE_DIRECTORY, False),
        str(Path(POLICY_FILE).parent): (str(Path(POLICY_FILE).parent), True),
        "/lib/modules": ("/lib/modules", True),
    }


def test_the_installer_puts_the_executable_in_place(installer: Any, pod: Any) -> None:
    assert installer["command"][:3] == ["bondctl", "install", "--no-systemd"]
    assert installer["securityContext"]["capabilities"]["add"] == ["CHOWN"]
    assert mounts(installer, pod)[BIN_DIR] == (BIN_DIR, False)


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_probes_ask_the_daemon(daemon: Any, probe: str) -> None:
    """As its user, for nobody else may; and they wait for longer than what they run."""
    found = daemon[probe]
    assert found["exec"]["command"][-2:] == ["bondctl", "ping"]
    assert "--reuid=47474" in found["exec"]["command"]
    assert found["timeoutSeconds"] > 3


# The image


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_two_stages_of_one_small_base() -> None:
    assert [rest for word, rest in instructions() if word == "FROM"] == [
        "debian:12-slim AS build",
        "debian:12-slim",
    ]


def test_the_image_has_no_tools_of_the_build() -> None:
    last = instructions()[[word for word, _ in instructions()].index("FROM", 1) :]
    assert [rest for word, rest in last if word == "COPY"] == [
        "--from=build /opt/bondcni /opt/bondcni"
    ]
    (run,) = [rest for word, rest in last if word == "RUN"]
    assert re.search(r"--no-install-recommends python3\s", run)
    assert last[-1] == ("CMD", '["bondctl", "serve"]')


def test_what_the_build_copies_is_there() -> None:
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()


def test_no_address_of_a_registry() -> None:
    for path in (*DEPLOY.iterdir(), *TEMPLATES.iterdir()):
        assert not re.search(r"\w+://|index-url|docker\.io|ghcr|quay", path.read_text())


def name(requirement: str) -> str:
    """The normalized name of a requirement."""
    return re.split(r"[^\w.-]", requirement)[0].replace(".", "-")


def test_what_the_image_has_is_what_was_tested() -> None:
    """Its packages are entries of the locked ones of development, to the letter."""
    locked = (ROOT / "requirements/dev.txt").read_text()
    entries = re.findall(
        r"^\S.*(?:\n .*)*", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {name(text) for text in project["dependencies"]}
    assert {name(entry) for entry in entries} == needed == {"click", "ruamel-yaml"}
    assert [entry for entry in entries if f"\n{entry}\n" not in f"\n{locked}\n"] == []


def test_the_image_has_no_lab() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
    assert "lab" not in {source for sources in copied for source in sources}
    assert not any("[lab]" in rest for _, rest in instructions())
