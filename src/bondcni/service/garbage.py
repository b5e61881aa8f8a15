"""GC: takes down the attachments of a network that the runtime does not list as valid.

An attachment that is not listed is kept all the same while it is active (the runtime may list only
the pod's first interface), busy or unknown (``core/lifecycle.py``). Without the key nothing is
removed; null or an empty list means that no attachment is valid.

Source: CNI SPEC 1.1.0, section "GC".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bondcni.core.config import BondConfig
from bondcni.core.document import pointer_token
from bondcni.core.errors import ConfigError, ErrorList, Problem
from bondcni.core.lifecycle import Action, AttachmentState, Operation, action_of
from bondcni.core.values import show
from bondcni.service.attachment import Service
from bondcni.service.reconcile import reclaim, records

VALID = "cni.dev/valid-attachments"

KEYS = ("containerID", "ifname")


def collect(service: Service, config: BondConfig, errors: ErrorList) -> Mapping[str, Any]:
    """Take down what is not valid; return the configuration for the delegate.

    The list of valid attachments in it has those that are kept, too: otherwise the delegate would
    release the addresses of a running pod. Raises ``ConfigError`` for an invalid list.
    """
    valid = _valid(config)
    if valid is None:
        service.warn(f"no {VALID} in the configuration: nothing is removed")
        return config.raw
    kept = list(_clear(service, config.name, valid, errors))
    return {**config.raw, VALID: [*(config.raw[VALID] or ()), *kept]} if kept else config.raw


def _clear(
    service: Service, network: str, valid: set[tuple[str, str]], errors: ErrorList
) -> Iterator[dict[str, str]]:
    """The attachments that are kept although not listed, in the form of the list."""
    for record in records(service):
        name = (record.container_id, record.ifname)
        if record.config.get("name") != network or name in valid:
            continue
        found = reclaim(service, record, Operation.GC)
        if action_of(Operation.GC, found.state) is Action.KEEP:
            unknown = found.state is AttachmentState.UNKNOWN
            why = f" ({'; '.join(found.messages)})" if unknown else ""
            service.warn(f"{' '.join(name)} is {found.state}{why}: kept, although not in {VALID}")
            yield dict(zip(KEYS, name, strict=True))
        else:
            errors += found.messages


def _valid(config: BondConfig) -> set[tuple[str, str]] | None:
    """Container ID and interface name of each; None when the key is absent."""
    if VALID not in config.raw:
        return None
    entries = [] if config.raw[VALID] is None else config.raw[VALID]
    if isinstance(entries, list) and all(map(_is_attachment, entries)):
        return {(entry["containerID"], entry["ifname"]) for entry in entries}
    advice = 'write a list of objects, [{"containerID": "...", "ifname": "..."}, ...]'
    raise ConfigError((Problem(pointer_token(VALID), f"{show(entries)} is not allowed", advice),))


def _is_attachment(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in KEYS)
