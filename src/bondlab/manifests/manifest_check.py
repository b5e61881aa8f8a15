"""The mistakes that manifests are known for, each told with its place and its remedy.

An annotation on the workload instead of its pod template, a key or kind that is a letter off,
YAML where Kubernetes takes a string: the API server accepts most of them, and the pod starts
without its bond. What works here and not elsewhere, or not for all replicas, becomes a note.

Pure. The bond's own configuration is judged by the plugin's parser (``confcheck``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bondlab.manifests.yaml_nodes import ManifestFinding, YamlNode

NETWORKS = "k8s.v1.cni.cncf.io/networks"
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
STATUS_ANNOTATIONS = ("k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status")
"""Annotations of Multus that only look like `NETWORKS`; the second is the older spelling."""

KEY_SIMILARITY, KIND_SIMILARITY = 0.92, 0.88
UNQUOTED_IN_GO = {
    "linksInContainer": ("true", "false"),
    **dict.fromkeys(("failOverMac", "mtu", "allSlavesActive", "tlbDynamicLb"), ()),
}
"""Keys of the bond that the Go bond-cni declares as bool and int (bond.go, bondingConfig)."""


def misspelled_kind(document: YamlNode, known: Iterable[str]) -> Iterator[ManifestFinding]:
    """A kind that nobody knows and that is nearly one of ``known``."""
    written = document.text("kind")
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(written.lower(), lower, 1, KIND_SIMILARITY)
    if near:
        line = document.line_of("/kind")
        advice = f"Did you mean {lower[near[0]]}?"
        yield ManifestFinding(
            document.file, line, f"`{written}` is not a kind that the lab reads", advice
        )


def misspelled_annotations(holder: YamlNode) -> Iterator[ManifestFinding]:
    """Annotations whose key is nearly one that is read."""
    annotations = holder.at("metadata", "annotations")
    if not annotations or not isinstance(annotations.value, dict):
        return
    for key, node in annotations.value.items():
        near = difflib.get_close_matches(key, (NETWORKS, RESOURCE), 1, KEY_SIMILARITY)
        if near and key not in (NETWORKS, RESOURCE, *STATUS_ANNOTATIONS):
            yield node.finding(f"nobody reads the annotation {key}", f"Did you mean {near[0]}?")


def workload_annotation(document: YamlNode, pod: YamlNode) -> Iterator[ManifestFinding]:
    """The networks annotation on a workload: no pod ever gets it."""
    found = document.at("metadata", "annotations", NETWORKS)
    if found:
        workload = document.text("kind")
        path = "spec.jobTemplate.spec.template" if workload == "CronJob" else "spec.template"
        message = f"{NETWORKS} is an annotation of the {workload}, not of its pods"
        remedy = "Remove it" if pod.at("metadata", "annotations", NETWORKS) else "Move it"
        yield found.finding(message, f"{remedy}: pods have the annotations of {path}.metadata.")


def config_missing(document: YamlNode, name: str) -> Iterator[ManifestFinding]:
    """A network whose spec.config is missing or is no string."""
    holder = document.at("spec", "config")
    if holder is None:
        spec = document.at("spec")
        keys = list(spec.value) if spec and isinstance(spec.value, dict) else []
        near = difflib.get_close_matches("config", keys, 1)
        message = f"network {name} has no spec.config"
        advice = "The lab does not read config files of nodes: write the config here."
        yield document.finding(
            message, f"Did you mean config instead of {near[0]}?" if near else advice
        )
    elif isinstance(holder.value, dict | list):
        made = "list" if isinstance(holder.value, list) else "mapping"
        message = f"spec.config of network {name} is a YAML {made}; Kubernetes takes a string only"
        yield holder.finding(message, "Write `config: |` and the same as JSON, indented, below it.")


def quoted_values(plugins: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Numbers and booleans in quotes, which only this plugin takes."""
    for plugin in plugins:
        for key, words in UNQUOTED_IN_GO.items() if plugin.get("type") == "bond" else ():
            value = plugin.get(key)
            if isinstance(value, str) and (value in words or re.fullmatch("[0-9]+", value)):
                yield (
                    f'{key} is the string "{value}": this plugin takes it as {value}, the Go '
                    f"bond-cni refuses it; without quotes both take it"
                )


def too_many_replicas(document: YamlNode, pod: YamlNode, links: Sequence[str]) -> Iterator[str]:
    """More pods than a node has links for: each link can be in one pod at a time."""
    count = _replica_count(document)
    if count < 2 or not links or _one_pod_per_node(pod):
        return
    names = " and ".join((", ".join(links[:-1]), links[-1]) if links[1:] else links)
    yield (
        f"{count} pods are asked for, and each takes {names} of its node for itself: a node can "
        "run one of them, a second one there stays in ContainerCreating. The lab runs one. Use a "
        "DaemonSet, or a required podAntiAffinity with topologyKey kubernetes.io/hostname and as "
        "many nodes"
    )


def _replica_count(document: YamlNode) -> int:
    """How many pods a workload runs at the same time, as far as the manifest says."""
    spec = ("spec", "jobTemplate", "spec") if document.text("kind") == "CronJob" else ("spec",)
    key = "parallelism" if document.text("kind") in ("Job", "CronJob") else "replicas"
    text = document.text(*spec, key)
    return int(text) if re.fullmatch("[0-9]+", text) else 1


def _one_pod_per_node(pod: YamlNode) -> bool:
    """Whether the scheduler may put only one of these pods on a node."""
    rules = pod.items(
        *("spec", "affinity", "podAntiAffinity"), "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return any(rule.text("topologyKey") == "kubernetes.io/hostname" for rule in rules)
