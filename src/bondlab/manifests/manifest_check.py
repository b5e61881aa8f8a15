"""Common mistakes in manifests, each reported with its line and its remedy.

Examples: an annotation on the workload instead of its pod template, a misspelled key or kind, YAML
where Kubernetes requires a string. The API server accepts most of them, and the pod starts without
its bond. What works with this plugin but not with others, or not for all replicas, becomes a note.

Pure. The bond's configuration is checked by the plugin's parser (``config_check``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bondlab.manifests.yaml_nodes import ManifestFinding, YamlNode

NETWORKS = "k8s.v1.cni.cncf.io/networks"
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
STATUS_ANNOTATIONS = ("k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status")
"""Annotations of Multus that resemble `NETWORKS`; the second is the older spelling."""

KEY_SIMILARITY, KIND_SIMILARITY = 0.92, 0.88
UNQUOTED_IN_GO = {
    "linksInContainer": ("true", "false"),
    **dict.fromkeys(("failOverMac", "mtu", "allSlavesActive", "tlbDynamicLb"), ()),
}
"""Keys that the Go bond-cni declares as bool or int (bond.go, bondingConfig)."""


def misspelled_kind(document: YamlNode, known: Iterable[str]) -> Iterator[ManifestFinding]:
    """An unknown kind that resembles one of ``known``."""
    written = document.text("kind")
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(written.lower(), lower, 1, KIND_SIMILARITY)
    if near:
        line = document.line_of("/kind")
        advice = f"Did you mean {lower[near[0]]}?"
        yield ManifestFinding(document.file, line, f"unknown kind `{written}`", advice)


def misspelled_annotations(pod: YamlNode) -> Iterator[ManifestFinding]:
    """Unknown annotations whose key resembles a known one."""
    annotations = pod.at("metadata", "annotations")
    if not annotations or not isinstance(annotations.value, dict):
        return
    for key, node in annotations.value.items():
        near = difflib.get_close_matches(key, (NETWORKS, RESOURCE), 1, KEY_SIMILARITY)
        if near and key not in (NETWORKS, RESOURCE, *STATUS_ANNOTATIONS):
            yield node.finding(f"unknown annotation {key}", f"Did you mean {near[0]}?")


def workload_annotation(document: YamlNode, pod: YamlNode) -> Iterator[ManifestFinding]:
    """The networks annotation on a workload, where it has no effect."""
    found = document.at("metadata", "annotations", NETWORKS)
    if found:
        workload = document.text("kind")
        path = "spec.jobTemplate.spec.template" if workload == "CronJob" else "spec.template"
        message = f"the annotation {NETWORKS} is on the {workload}, where it has no effect"
        remedy = "Remove it" if pod.at("metadata", "annotations", NETWORKS) else "Move it"
        yield found.finding(message, f"{remedy}: a pod gets the annotations of {path}.metadata.")


def config_missing(document: YamlNode, name: str) -> Iterator[ManifestFinding]:
    """A network whose spec.config is missing or is not a string."""
    node = document.at("spec", "config")
    if node is None:
        spec = document.at("spec")
        keys = list(spec.value) if spec and isinstance(spec.value, dict) else []
        near = difflib.get_close_matches("config", keys, 1)
        message = f"network {name} has no spec.config"
        advice = "The lab does not read CNI files of nodes: write the config in spec.config."
        yield document.finding(
            message, f"Did you mean config instead of {near[0]}?" if near else advice
        )
    elif isinstance(node.value, dict | list):
        made = "list" if isinstance(node.value, list) else "mapping"
        message = f"spec.config of network {name} is a YAML {made}; Kubernetes requires a string"
        yield node.finding(message, "Write `config: |` and the value as JSON, indented, below it.")


def quoted_values(plugins: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Numbers and booleans in quotes, which only this plugin accepts."""
    for plugin in plugins:
        for key, words in UNQUOTED_IN_GO.items() if plugin.get("type") == "bond" else ():
            value = plugin.get(key)
            if isinstance(value, str) and (value in words or re.fullmatch("[0-9]+", value)):
                yield (
                    f'{key} is the string "{value}": this plugin reads it as {value}, the Go '
                    "bond-cni rejects it; without quotes both accept it"
                )


def vlan_on_host_link(
    networks: Iterable[tuple[str, Mapping[str, Any]]], bonds: Collection[str]
) -> Iterator[str]:
    """VLANs whose master has the name of a bond of the pod, but is a link of the host.

    ``networks`` are the name and first plugin of each network, ``bonds`` interface names.
    """
    for name, plugin in networks:
        master = plugin.get("master")
        on_host = plugin.get("type") == "vlan" and plugin.get("linkInContainer") is not True
        if on_host and master in bonds:
            yield (
                f"network {name}: master {master} is looked up on the host; for the bond {master} "
                'of the pod add "linkInContainer": true'
            )


def too_many_replicas(document: YamlNode, pod: YamlNode, links: Sequence[str]) -> Iterator[str]:
    """More replicas than a node can run: a link can be in one pod at a time."""
    count = _replica_count(document)
    if count < 2 or not links or _one_pod_per_node(pod):
        return
    names = " and ".join((", ".join(links[:-1]), links[-1]) if links[1:] else links)
    yield (
        f"{count} replicas, and each pod takes {names} of its node: a node can run only one of "
        "them, and a second one stays in ContainerCreating. The lab runs one pod. Use a DaemonSet, "
        "or a required podAntiAffinity with topologyKey kubernetes.io/hostname and as many nodes as "
        "replicas"
    )


def _replica_count(document: YamlNode) -> int:
    """The number of pods that a workload runs at the same time, 1 if not given."""
    spec = ("spec", "jobTemplate", "spec") if document.text("kind") == "CronJob" else ("spec",)
    key = "parallelism" if document.text("kind") in ("Job", "CronJob") else "replicas"
    text = document.text(*spec, key)
    return int(text) if re.fullmatch("[0-9]+", text) else 1


def _one_pod_per_node(pod: YamlNode) -> bool:
    """Whether an anti-affinity allows only one of these pods per node."""
    rules = pod.items(
        *("spec", "affinity", "podAntiAffinity"), "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return any(rule.text("topologyKey") == "kubernetes.io/hostname" for rule in rules)
