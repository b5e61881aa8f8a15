"""The annotation ``k8s.v1.cni.cncf.io/networks``: which networks a pod asks for, in order.

Two forms, told apart as Multus does (k8sclient.go, parsePodNetworkAnnotation): a list of
``[namespace/]name[@interface]`` with commas, or JSON when any of ``[{"`` occurs. Both become
`NetworkSelection` values; everything that is wrong is a `ManifestFinding` at its line of the file.
Whether the networks exist is the business of ``manifests``.
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
    """One network that a pod asks for; "" and empty where the pod leaves it open."""

    name: str
    namespace: str = ""
    interface: str = ""
    mac: str = ""
    ips: tuple[str, ...] = ()
    cni_args: Mapping[str, Any] = {}
    line: int = 0


def selections(holder: YamlNode) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    """The annotation's networks, and all that is wrong with it."""
    found = _no_text(holder)
    if found:
        return [], [found]
    text = str(holder.value)
    if not any(sign in text for sign in '[{"'):
        return _from_list(holder, text)
    try:
        data, tree = embedded(holder)
    except ParseError as broken:
        return [], [broken.finding]
    if not isinstance(data, list):
        advice = 'Write a list: [ { "name": "..." } ].'
        return [], [holder.finding("the networks annotation is JSON, but not a list", advice)]
    made = [_from_entry(entry, tree, place) for place, entry in enumerate(data)]
    return _split(made)


def _no_text(holder: YamlNode) -> ManifestFinding | None:
    """Why the annotation is no text that names networks; None if it is."""
    if isinstance(holder.value, dict | list):
        kind = "list" if isinstance(holder.value, list) else "mapping"
        message = f"the networks annotation is a YAML {kind}; Kubernetes takes a string only"
        advice = "Write `k8s.v1.cni.cncf.io/networks: |` and the same as JSON, indented, below it."
        return holder.finding(message, advice)
    if not (holder.value or "").strip():
        advice = "Name the networks: [namespace/]name[@interface], with commas between."
        return holder.finding("the networks annotation is empty", advice)
    action = template(holder.value or "")
    return unrendered(holder.file, holder.line, action) if action else None


def _split(
    made: list[NetworkSelection | ManifestFinding],
) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    """Requests and findings apart; a selection also has to have usable names."""
    found = [part for part in made if isinstance(part, ManifestFinding)]
    return [part for part in made if isinstance(part, NetworkSelection)], found


def _from_list(holder: YamlNode, text: str) -> tuple[list[NetworkSelection], list[ManifestFinding]]:
    made: list[NetworkSelection | ManifestFinding] = []
    offset = 0
    for element in text.split(","):
        blanks = len(element) - len(element.lstrip())
        line = holder.line_at(offset + blanks)
        offset += len(element) + 1
        parts = ELEMENT.fullmatch(element.strip())
        if parts:
            namespace, name, interface = (part or "" for part in parts.groups())
            selection = NetworkSelection(name, namespace, interface, line=line)
            made.append(_checked(selection, holder.file))
        else:
            message = f"`{element.strip()}` in the networks annotation names no network"
            advice = "Write [namespace/]name[@interface], with commas between."
            made.append(ManifestFinding(holder.file, line, message, advice))
    return _split(made)


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
    """The selection, or what is wrong with its names."""
    for name in filter(None, (selection.namespace, selection.name)):
        if not NAME.fullmatch(name):
            advice = "Use small letters, digits and hyphens."
            return ManifestFinding(
                file, selection.line, f"`{name}` is no name of Kubernetes", advice
            )
    bad = len(selection.interface) > LONGEST_IFNAME or re.search(r"[\s/:]", selection.interface)
    if bad:
        message = f"`{selection.interface}` can not name an interface"
        advice = "At most 15 characters, without blanks, colons and slashes."
        return ManifestFinding(file, selection.line, message, advice)
    return selection
