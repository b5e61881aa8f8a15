"""Reads Kubernetes manifests into pods and their networks.

NetworkAttachmentDefinitions, Calico's IPPools, Pods and all objects with a pod template are read;
other documents are skipped. Networks are resolved in order, as by Multus: in the pod's namespace
unless the annotation names another, with interfaces ``net1`` to ``netN`` by position unless named.
Several files are read together: a pod's networks are looked up in its own file first, then in the
others, so that files that use the same names can be run together. All errors are reported at once,
each as a `ManifestFinding` with file, line and advice.

Pure except `load`. Sources: multi-net-spec v1.3, sections 3 and 4; Multus k8sclient.go.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bondcni.core import config as bond_config
from bondlab.manifests import annotation, calico, config_check, manifest_check
from bondlab.manifests.yaml_nodes import (
    ManifestFinding,
    ParseError,
    YamlNode,
    documents,
    embedded,
    template,
    unrendered,
)

NETWORKS = manifest_check.NETWORKS
RESOURCE = manifest_check.RESOURCE
STDIN = Path("-")
TEMPLATES = ("DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "Job")
POOL_GROUPS = ("crd.projectcalico.org/", "projectcalico.org/")

Config = dict[str, Any]


class Network(NamedTuple):
    """A NetworkAttachmentDefinition; ``plugins`` in order, one unless it is a chain."""

    namespace: str
    name: str
    config: Config
    resource: str = ""

    @property
    def plugins(self) -> list[Config]:
        """The configurations of the plugins, without the keys of the chain."""
        chain = self.config.get("plugins")
        return list(chain) if isinstance(chain, list) else [self.config]

    @property
    def bonds(self) -> bool:
        """Whether this network creates a bond."""
        return any(plugin.get("type") == "bond" for plugin in self.plugins)


class Attachment(NamedTuple):
    """One network of a pod, and the name of its interface."""

    network: Network
    ifname: str
    mac: str = ""
    ips: tuple[str, ...] = ()
    cni_args: Mapping[str, Any] = {}


class Pool(NamedTuple):
    """An IPPool; ``block`` is the prefix length of its blocks, 0 for Calico's default."""

    name: str
    cidr: str
    file: str = ""
    block: int = 0


class Pod(NamedTuple):
    """A pod, or the pod that a workload makes on one node."""

    kind: str
    namespace: str
    name: str
    attachments: tuple[Attachment, ...]
    pools: tuple[Pool, ...] = ()  # in lookup order
    file: str = ""
    notes: tuple[str, ...] = ()  # what works in the lab and may fail elsewhere

    @property
    def bonds(self) -> tuple[Attachment, ...]:
        """The attachments that create bonds."""
        return tuple(one for one in self.attachments if one.network.bonds)


class Manifests(NamedTuple):
    """The content of the files; ``findings`` is empty if there are no errors."""

    pods: tuple[Pod, ...]  # those with a bond
    findings: tuple[ManifestFinding, ...]


def load(paths: Iterable[Path]) -> Manifests:
    """Read files; ``-`` is standard input. A file that cannot be read is a finding too."""
    texts, findings = [], []
    for path in dict.fromkeys(paths):
        try:
            data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
            texts.append((str(path), data.decode()))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            findings.append(
                ManifestFinding(str(path), 1, f"cannot be read: {reason}", "Check the path.")
            )
    return read(texts, findings)


def read(texts: Iterable[tuple[str, str]], findings: Iterable[ManifestFinding] = ()) -> Manifests:
    """Parse (file name, text) pairs together; they may refer to each other."""
    return _Reader(list(findings)).read(list(texts))


class _Reader:
    """Collects the documents, then resolves the networks of the pods."""

    def __init__(self, findings: list[ManifestFinding]) -> None:
        self.findings = findings
        # By file, namespace and name; None: defined, but with errors.
        self.networks: dict[tuple[str, str, str], Network | None] = {}
        self.pools: list[Pool] = []
        self.pods: list[
            tuple[YamlNode, YamlNode]
        ] = []  # the document, and the pod or pod template in it
        self.names: dict[tuple[str, ...], YamlNode] = {}

    def read(self, texts: list[tuple[str, str]]) -> Manifests:
        for file, text in texts:
            try:
                parts = documents(file, text)
            except ParseError as error:
                self.findings.append(error.finding)
                continue
            for document in parts:
                self.document(document)
        pods = [self.pod(document, pod) for document, pod in self.pods]
        bonded = tuple(pod for pod in pods if pod.bonds)
        if not bonded and not self.findings:
            self.findings.append(self._nothing_to_do(texts))
        order = sorted(self.findings, key=lambda one: (one.file, one.line))
        return Manifests(bonded, tuple(order))

    def _nothing_to_do(self, texts: list[tuple[str, str]]) -> ManifestFinding:
        file = texts[0][0] if texts else "-"
        bonds = [one.name for one in self.networks.values() if one and one.bonds]
        if bonds:
            advice = f"Add a Pod with the annotation {NETWORKS}: {bonds[0]}"
            return ManifestFinding(file, 1, f"no Pod uses the network {bonds[0]}", advice)
        advice = 'Add a NetworkAttachmentDefinition whose config has "type": "bond", and a Pod.'
        return ManifestFinding(file, 1, "no network of type bond found", advice)

    # Documents

    def document(self, document: YamlNode) -> None:
        if not isinstance(document.value, dict):
            message = "this document is not a Kubernetes object"
            advice = "Write apiVersion, kind, metadata and spec."
            self.findings.append(document.finding(message, advice))
            return
        kind = document.text("kind")
        readers: dict[str, Callable[[YamlNode], None]] = {
            "NetworkAttachmentDefinition": self.network,
            "IPPool": self.pool,
            "Pod": lambda node: self.pods.append((node, node)),
            "List": self._list,
        }
        if kind in TEMPLATES:
            self._template(document, document.at("spec", "template"))
        elif kind == "CronJob":
            self._template(document, document.at("spec", "jobTemplate", "spec", "template"))
        elif kind in readers:
            readers[kind](document)
        else:
            self.findings += manifest_check.misspelled_kind(
                document, (*TEMPLATES, "CronJob", *readers)
            )
        if kind in (*TEMPLATES, *readers) and kind != "List":
            self._note_name(document, kind)

    def _list(self, document: YamlNode) -> None:
        for one in document.items("items"):
            self.document(one)

    def _template(self, document: YamlNode, pod: YamlNode | None) -> None:
        if pod is None:
            message = f"{document.text('kind')} {document.text('metadata', 'name')} has no template"
            self.findings.append(document.finding(message, "Add spec.template."))
        else:
            self.findings += manifest_check.workload_annotation(document, pod)
            self.pods.append((document, pod))

    def _note_name(self, document: YamlNode, kind: str) -> None:
        metadata = document.at("metadata") or document
        name = metadata.text("name")
        if not name:
            self.findings.append(metadata.finding(f"{kind} without a name", "Add metadata.name."))
            return
        if action := template(name):
            line = metadata.line_of("/name")
            self.findings.append(unrendered(document.file, line, action))
            return
        key = (document.file, kind, _namespace(document), name)
        first = self.names.setdefault(key, metadata)
        if first is not metadata:
            message = f"duplicate {kind} {name}"
            advice = f"The first is in line {first.line}. Rename or remove one of them."
            self.findings.append(metadata.finding(message, advice))

    def pool(self, document: YamlNode) -> None:
        if not document.text("apiVersion").startswith(POOL_GROUPS):
            return
        name = document.text("metadata", "name")
        node = document.at("spec", "cidr") or document.at("spec") or document
        found = config_check.subnet(document.text("spec", "cidr"))
        if found:
            message = f"IPPool {name}: spec.cidr {found}"
            advice = 'Write the subnet of the addresses, such as "10.20.0.0/24".'
            self.findings.append(node.finding(message, advice))
            return
        cidr, size = document.text("spec", "cidr"), document.text("spec", "blockSize")
        wrong = calico.block_size_error(cidr, size)
        if wrong:
            node = document.at("spec", "blockSize") or node
            advice = "Write the prefix length of a block, not shorter than that of the pool."
            self.findings.append(node.finding(f"IPPool {name}: {wrong}", advice))
        else:
            self.pools.append(Pool(name, cidr, document.file, int(size or 0)))

    def network(self, document: YamlNode) -> None:
        names = (_namespace(document), document.text("metadata", "name"))
        key = (document.file, *names)
        self.networks[key] = None
        self.findings += manifest_check.misspelled_annotations(document)
        node = document.at("spec", "config")
        found = list(manifest_check.config_missing(document, names[1]))
        if found or node is None:
            self.findings += found
            return
        try:
            config, tree = embedded(node)
        except ParseError as error:
            self.findings.append(error.finding)
            return
        findings = config_check.config(config, tree if tree.value else node)
        self.findings += findings
        if not findings:
            resource = document.text("metadata", "annotations", RESOURCE)
            self.networks[key] = Network(*names, config, resource)

    # Pods

    def pod(self, document: YamlNode, pod: YamlNode) -> Pod:
        self.findings += manifest_check.misspelled_annotations(pod)
        node = pod.at("metadata", "annotations", NETWORKS)
        wanted, findings = annotation.selections(node) if node else ([], [])
        self.findings += findings
        attachments: list[Attachment] = []
        for place, selection in enumerate(wanted, 1):
            network = self.find(document, selection)
            ifname = selection.interface or f"net{place}"
            if ifname in [one.ifname for one in attachments]:
                message = f"two networks of this pod have the interface name {ifname}"
                advice = 'Set another name for one of them, by @name or "interface".'
                self.findings.append(
                    ManifestFinding(document.file, selection.line, message, advice)
                )
            if network:
                self._check_capabilities(document.file, network, selection)
                attachments.append(
                    Attachment(network, ifname, selection.mac, selection.ips, selection.cni_args)
                )
        names = (document.text("kind"), _namespace(document), document.text("metadata", "name"))
        pools = sorted(self.pools, key=lambda pool: pool.file != document.file)
        result = Pod(*names, tuple(attachments), tuple(pools), document.file)
        plugins = [config for one in result.bonds for config in one.network.plugins]
        firsts = [(one.network.name, one.network.plugins[0]) for one in attachments]
        notes = [
            *manifest_check.quoted_values(plugins),
            *manifest_check.vlan_on_host_link(firsts, {one.ifname for one in result.bonds}),
            *manifest_check.too_many_replicas(document, pod, _claimed_links(result)),
        ]
        return result._replace(notes=tuple(notes))

    def find(self, document: YamlNode, selection: annotation.NetworkSelection) -> Network | None:
        """The selected network; a finding if no file defines it, or several other files do."""
        names = (selection.namespace or _namespace(document), selection.name)
        own = (document.file, *names)
        if own in self.networks:
            return self.networks[own]
        others = [key for key in self.networks if key[1:] == names]
        if len(others) == 1:
            return self.networks[others[0]]
        if others:
            files = " and ".join(key[0] for key in others)
            message = f"network {selection.name} is defined in {files}"
            advice = "Pass only one of these files, or define the network in this file."
            self.findings.append(ManifestFinding(document.file, selection.line, message, advice))
        else:
            self.findings.append(self._unknown(document.file, names, selection.line))
        return None

    def _unknown(self, file: str, names: tuple[str, str], line: int) -> ManifestFinding:
        message = f"network {names[1]} is not defined in namespace {names[0]}"
        known = list(dict.fromkeys(key[1:] for key in self.networks))
        elsewhere = [one for one in known if one[1] == names[1]]
        near = difflib.get_close_matches(names[1], [one[1] for one in known], 1)
        if elsewhere:
            advice = (
                f"It is defined in namespace {elsewhere[0][0]}: write {'/'.join(elsewhere[0])}."
            )
        elif near:
            advice = f"Did you mean {near[0]}?"
        else:
            listed = ", ".join(one[1] for one in known) or "none"
            advice = f"Networks in these files: {listed}. Pass the file that defines it too."
        return ManifestFinding(file, line, message, advice)

    def _check_capabilities(
        self, file: str, network: Network, selection: annotation.NetworkSelection
    ) -> None:
        """multi-net-spec 4.1.2.1: ips and mac must fail if no plugin has the capability."""
        offered: set[str] = set()
        for plugin in network.plugins:
            capabilities = plugin.get("capabilities")
            if isinstance(capabilities, dict):
                offered |= {name for name, on in capabilities.items() if on}
        for name, value in (("ips", selection.ips), ("mac", selection.mac)):
            if value and name not in offered:
                message = (
                    f"the pod sets {name} for network {network.name}, which lacks this capability"
                )
                advice = f'Add "capabilities": {{"{name}": true}} to the network\'s config.'
                self.findings.append(ManifestFinding(file, selection.line, message, advice))


def _claimed_links(pod: Pod) -> list[str]:
    """The links of the node that this pod takes exclusively."""
    names: list[str] = []
    for plugin in (config for one in pod.attachments for config in one.network.plugins):
        if plugin.get("type") == "bond":
            bond = bond_config.parse(json.dumps({"name": "unnamed"} | plugin).encode())
            names += [] if bond.links_in_container else [link.value for link in bond.links]
        elif plugin.get("type") == "host-device":
            names += [str(plugin["device"])] if plugin.get("device") else []
    return list(dict.fromkeys(names))


def _namespace(document: YamlNode) -> str:
    return document.text("metadata", "namespace") or "default"
