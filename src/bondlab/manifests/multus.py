"""The plugin configurations and environments that Multus and libcni derive from a pod's networks.

A plugin does not get its network's config unchanged. Multus adds a missing ``name``, the device
that the kubelet allocated and the pod's ``cni-args``; libcni adds ``runtimeConfig`` for the
capabilities that a plugin declares, and ``prevResult``. Sources: multus-cni pkg/types/conf.go,
libcni/api.go (buildOneConfig, injectRuntimeConfig, DelNetwork), multi-net-spec v1.3.

Pure. ``calls`` runs the plugins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bondlab.manifests.manifests import Attachment, Config, Pod

DEFAULT_VERSION = "0.1.0"  # CNI SPEC: a config without cniVersion
CHECK_SINCE = (0, 4, 0)


class Sandbox(NamedTuple):
    """A pod's sandbox: its network namespace and IDs, as a runtime passes them to plugins."""

    pod: Pod
    container_id: str
    uid: str
    netns: str  # its name in /run/netns

    @property
    def path(self) -> str:
        """The value of CNI_NETNS."""
        return f"/run/netns/{self.netns}"


def configs(attachment: Attachment, device: str = "") -> list[Config]:
    """The configuration of each plugin of the network, in order, without prevResult.

    ``device`` is the device ID that the kubelet would have allocated, "" for none.
    """
    network = attachment.network
    chain = network.config.get("plugins")
    shared: Config = {"name": network.config.get("name") or network.name}
    if isinstance(chain, list) and "cniVersion" in network.config:
        shared["cniVersion"] = network.config["cniVersion"]
    return [_one(attachment, plugin | shared, device) for plugin in network.plugins]


def _one(attachment: Attachment, plugin: Config, device: str) -> Config:
    config = dict(plugin)
    if device:
        config |= {"deviceID": device, "pciBusID": device}
    if attachment.cni_args:
        config["args"] = _merged(config.get("args"), dict(attachment.cni_args))
    runtime = _runtime_config(attachment, config.get("capabilities"))
    if runtime:
        config["runtimeConfig"] = runtime
    return config


def _merged(args: Any, given: Config) -> Config:
    """``args`` with the pod's values merged into ``args.cni``; the pod's take precedence."""
    outer: Config = dict(args) if isinstance(args, dict) else {}
    inner = outer.get("cni")
    return outer | {"cni": (inner if isinstance(inner, dict) else {}) | given}


def _runtime_config(attachment: Attachment, capabilities: Any) -> Config:
    offered = capabilities if isinstance(capabilities, dict) else {}
    wanted = {"mac": attachment.mac, "ips": list(attachment.ips)}
    return {name: value for name, value in wanted.items() if value and offered.get(name)}


def version(config: Config) -> tuple[int, ...]:
    """The config's cniVersion as numbers."""
    text = str(config.get("cniVersion") or DEFAULT_VERSION)
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def with_result(config: Config, result: Any) -> Config:
    """The config for DEL and CHECK: with prevResult, if any, from version 0.4.0 on."""
    if result is None or version(config) < CHECK_SINCE:
        return config
    return config | {"prevResult": result}


def environment(verb: str, sandbox: Sandbox, ifname: str, cni_path: str) -> dict[str, str]:
    """The environment variables of one call, with CNI_ARGS as set by Multus."""
    pod = sandbox.pod
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox.container_id,
        "K8S_POD_UID": sandbox.uid,
    }
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": sandbox.path,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
        "CNI_PATH": cni_path,
    }
