"""The node's policy file: which host links a pod may take.

    # /etc/cni/bond/policy.yaml
    links:
      - name: "eth1*"             # a name or a glob
        namespaces: ["telco-*"]   # of Kubernetes; default: all
      - driver: mlx5_core
      - mac: 52:54:00:12:34:56
      - pci: 0000:3b:00.0
      - name: eno2                # an exact name with force: even while the host uses it
        force: true

Without the file the default policy applies (``core/policy.py``). An invalid file is an error that
lists every mistake with its line and key, and ADD refuses host links until it is corrected. So is
a file that exists and cannot be read: the error names the part of the path that denies access, its
owner and its mode.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bondcni.core.errors import PolicyError
from bondcni.core.links import pci_address
from bondcni.core.policy import GLOB, Policy, Rule, Verdict
from bondcni.core.state import Link
from bondcni.core.values import mac_text
from bondcni.service.files import NotAFile, read_file
from bondcni.service.paths import POLICY_FILE

LARGEST = 1 << 20
"""Bytes of a policy file that are read."""

KEYS = ("name", "mac", "pci", "driver", "namespaces", "force")


def load(path: str = POLICY_FILE) -> Policy:
    """The policy of the node. Raises ``PolicyError`` with every mistake in the file."""
    text = content(path)
    if text is None:
        return Policy()
    document = _yaml(text, path)
    mistakes: list[str] = []
    rules = tuple(_rules(document, mistakes))
    if mistakes:
        raise PolicyError("; ".join(f"policy {path}: {mistake}" for mistake in mistakes))
    return Policy(rules, path)


def content(path: str) -> str | None:
    """The text of the file, or None if it does not exist. Raises ``PolicyError``."""
    try:
        return read_file(path, LARGEST).decode("utf-8")
    except FileNotFoundError:
        if not os.path.islink(path):
            return None
        why = "it is a symbolic link to a file that does not exist"
    except PermissionError as error:
        why = f"{error.strerror} for user {os.geteuid()}{_closed(path)}"
    except OSError as error:
        why = str(error.strerror)
    except (NotAFile, UnicodeDecodeError) as error:
        why = str(error)
    raise PolicyError(f"policy {path} cannot be read, so host links are refused: {why}")


def _closed(path: str) -> str:
    """The part of a path that denies access, its owner and mode, and the remedy; "" if unknown."""
    while path:
        try:
            found = os.stat(path)
        except OSError:  # a directory above denies access
            path = os.path.dirname(path)
            continue
        what, right = ("directory ", "x") if stat.S_ISDIR(found.st_mode) else ("", "r")
        mode = stat.S_IMODE(found.st_mode)
        return (
            f": {what}{path} has owner {found.st_uid} and mode {mode:04o}; "
            f"allow it: chmod o+{right} {path}"
        )
    return ""


def _yaml(text: str, path: str) -> Any:
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415  60 ms, which only nodes with a policy file pay
        from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415
    except ImportError as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyError(f"policy {path}: line {line}: {error.problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:  # "!!int x", "[[[[..."
        raise PolicyError(f"policy {path}: {error}") from error


def _line(node: Any, key: Any = None) -> int:
    """The line of a node of the document, or of one of its keys."""
    place = node.lc.data.get(key) if key is not None and node.lc.data else None
    return int(place[0] if place else node.lc.line) + 1


def _rules(document: Any, mistakes: list[str]) -> Iterator[Rule]:
    if not isinstance(document, Mapping):
        mistakes.append("line 1: must be a mapping with the key links")
        return
    mistakes += _unknown(document, ("links",))
    entries = document.get("links")
    if not isinstance(entries, list):
        mistakes.append(f"line {_line(document, 'links')}: links must be a list of rules")
        return
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            mistakes.append(f"line {_line(entries, number)}: a rule must be a mapping")
            continue
        yield _rule(entry, mistakes)


def _rule(entry: Any, mistakes: list[str]) -> Rule:
    mistakes += _unknown(entry, KEYS)
    found = dict(_signs(entry, mistakes))
    if not found:
        mistakes.append(f"line {_line(entry)}: a rule needs name, mac, pci or driver")
    namespaces = _namespaces(entry, mistakes)
    return Rule(**found, namespaces=namespaces, force=_force(entry, mistakes))


def _unknown(entry: Any, keys: tuple[str, ...]) -> Iterator[str]:
    for key in entry:
        if key not in keys:
            yield f"line {_line(entry, key)}: unknown key {key!r}; known: {', '.join(keys)}"


def _wrong(entry: Any, key: str, what: str) -> str:
    return f"line {_line(entry, key)}: {key}: {entry[key]!r} {what}"


def _signs(entry: Any, mistakes: list[str]) -> Iterator[tuple[str, str]]:
    """The keys by which a rule matches links, with their values; "" for an invalid value."""
    for key, read, what in _SIGNS:
        if key in entry:
            value = read(entry[key]) or ""
            if not value:
                mistakes.append(_wrong(entry, key, f"must be {what}"))
            yield key, value


def _name(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""


_SIGNS: tuple[tuple[str, Callable[[Any], str | None], str], ...] = (
    ("name", _name, "a name or a glob"),
    ("mac", mac_text, "a MAC"),
    ("pci", pci_address, "a PCI address"),
    ("driver", _name, "a name or a glob"),
)


def _namespaces(entry: Any, mistakes: list[str]) -> tuple[str, ...]:
    found = entry.get("namespaces", ["*"])
    if isinstance(found, list) and all(_name(one) for one in found):
        return tuple(map(str, found))
    mistakes.append(_wrong(entry, "namespaces", "must be a list of names or globs"))
    return ()


def _force(entry: Any, mistakes: list[str]) -> bool:
    force = entry.get("force", False)
    name = _name(entry.get("name"))
    if not isinstance(force, bool):
        mistakes.append(_wrong(entry, "force", "must be true or false"))
    elif force and (not name or set(GLOB) & set(name)):
        mistakes.append(_wrong(entry, "force", "needs an exact name (not a glob) in the same rule"))
    return force is True


def verdicts(policy: Policy, namespace: str, links: Iterable[Link]) -> dict[int, Verdict]:
    """The verdicts of the policy on links, by ifindex, for pods of one Kubernetes namespace."""
    return {
        link.index: policy.verdict(link, driver_of(link) if policy.rules else "", namespace)
        for link in links
    }


def driver_of(link: Link) -> str:
    """The driver of a hardware device, from sysfs; the kind of a virtual link."""
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{link.name}/device/driver"))
    except OSError:
        return link.kind


def namespace_of(cni_args: str) -> str:
    """The Kubernetes namespace in CNI_ARGS; "" without one."""
    pairs = (part.partition("=") for part in cni_args.split(";"))
    return next((value for key, _, value in pairs if key == "K8S_POD_NAMESPACE"), "")
