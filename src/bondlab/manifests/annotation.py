"""The annotation ``k8s.v1.cni.cncf.io/networks``: the networks of a pod, in order.

It has two forms, distinguished as by Multus (k8sclient.go, parsePodNetworkAnnotation): a comma
separated list of ``[namespace/]name[@interface]``, or JSON if it contains any of ``[{"``. Both are
parsed into `NetworkSelection` values; each error is a `ManifestFinding` with its line in the file.
``manifests`` checks whether the networks exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bondlab.manifests.yaml_nodes import (
    ManifestFinding,
    ParseError,
    YamlNode,
    embedded,
    template,
    unrendered,
)

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
ELEMENT = re.compile(r"(?:([^/@]+)/)?([^/@]+)(?:@([^/@]+))?")
LONGEST_IFNAME = 15  # IFNAMSIZ - 1


class NetworkSelection(NamedTuple):
    """One network of a pod (Multus: NetworkSelectionElement); "" or empty if not given."""

    name: str
    namespace: str = ""
    interface: str = ""
    mac: str = ""
    ips: tuple[str, ...] = ()
    cni_args: Mapping[str, Any] = {}
    line: int = 0


def selections(node: YamlNode) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    """The networks in the annotation, and the errors in it."""
    found = _not_a_string(node)
    if found:
        return [], [found]
    text = str(node.value)
    if not any(sign in text for sign in '[{"'):
        return _from_list(node, text)
    try:
        data, tree = embedded(node)
    except ParseError as error:
        return [], [error.finding]
    if not isinstance(data, list):
        advice = 'Write a list: [ { "name": "..." } ].'
        return [], [node.finding("the networks annotation is JSON, but not a list", advice)]
    parsed = [_from_entry(entry, tree, place) for place, entry in enumerate(data)]
    return _split(parsed)


def _not_a_string(node: YamlNode) -> ManifestFinding | None:
    """The finding for an annotation that is not a string, or is empty; else None."""
    if isinstance(node.value, dict | list):
        kind = "list" if isinstance(node.value, list) else "mapping"
        message = f"the networks annotation is a YAML {kind}; Kubernetes requires a string"
        advice = "Write `k8s.v1.cni.cncf.io/networks: |` and the value as JSON, indented, below it."
        return node.finding(message, advice)
    if not (node.value or "").strip():
        advice = "List the networks as [namespace/]name[@interface], separated by commas."
        return node.finding("the networks annotation is empty", advice)
    action = template(node.value or "")
    return unrendered(node.file, node.line, action) if action else None


def _split(
    parsed: list[NetworkSelection | ManifestFinding],
) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    """Separate selections and findings."""
    found = [part for part in parsed if isinstance(part, ManifestFinding)]
    return [part for part in parsed if isinstance(part, NetworkSelection)], found


def _from_list(node: YamlNode, text: str) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    parsed: list[NetworkSelection | ManifestFinding] = []
    offset = 0
    for element in text.split(","):
        blanks = len(element) - len(element.lstrip())
        line = node.line_at(offset + blanks)
        offset += len(element) + 1
        parts = ELEMENT.fullmatch(element.strip())
        if parts:
            namespace, name, interface = (part or "" for part in parts.groups())
            selection = NetworkSelection(name, namespace, interface, line=line)
            parsed.append(_checked(selection, node.file))
        else:
            message = f"`{element.strip()}` in the networks annotation is not a network"
            advice = "Write [namespace/]name[@interface], separated by commas."
            parsed.append(ManifestFinding(node.file, line, message, advice))
    return _split(parsed)


def _from_entry(entry: Any, tree: YamlNode, place: int) -> NetworkSelection | ManifestFinding:
    line = tree.line_of(f"/{place}")
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        message = f"entry {place + 1} of the networks annotation has no name"
        return ManifestFinding(tree.file, line, message, 'Write { "name": "..." }.')
    arguments = entry.get("cni-args") or {}
    selection = NetworkSelection(
        name=entry["name"],
        namespace=str(entry.get("namespace") or ""),
        interface=str(entry.get("interface") or ""),
        mac=str(entry.get("mac") or ""),
        ips=tuple(map(str, entry.get("ips") or ())),
        cni_args=arguments if isinstance(arguments, dict) else {},
        line=tree.line_of(f"/{place}/name"),
    )
    return _checked(selection, tree.file)


def _checked(selection: NetworkSelection, file: str) -> NetworkSelection | ManifestFinding:
    """The selection, or the finding for an invalid name in it."""
    for name in filter(None, (selection.namespace, selection.name)):
        if not NAME.fullmatch(name):
            advice = "Use lower case letters, digits and hyphens."
            return ManifestFinding(
                file, selection.line, f"`{name}` is not a valid Kubernetes name", advice
            )
    bad = len(selection.interface) > LONGEST_IFNAME or re.search(r"[\s/:]", selection.interface)
    if bad:
        message = f"`{selection.interface}` is not a valid interface name"
        advice = "Use at most 15 characters, without whitespace, colons and slashes."
        return ManifestFinding(file, selection.line, message, advice)
    return selection
