"""Pods made of configs, without YAML."""

from __future__ import annotations

from typing import Any

from bondlab.manifests.manifests import Attachment, Network, Pod


def make_pod(*networks: tuple[str, dict[str, Any]]) -> Pod:
    """A pod with one network for each (interface name, config); sriov gets a resource."""
    attachments = tuple(
        Attachment(
            Network(
                "default",
                f"net-{ifname}",
                {"cniVersion": "1.0.0"} | config,
                "x/y" * (config.get("type") == "sriov"),
            ),
            ifname,
        )
        for ifname, config in networks
    )
    return Pod("Pod", "default", "pod", attachments, (), "f.yaml")


def bond(mode: str, *links: str, inside: bool = False, **more: Any) -> dict[str, Any]:
    """A bond's config."""
    made = {"type": "bond", "mode": mode, "links": [{"name": name} for name in links]}
    monitor = {} if "arpInterval" in more else {"miimon": 100}
    return made | monitor | {"linksInContainer": inside} | more
