"""Suggests an allowed value in place of one that is not allowed.

Suggestions appear in messages only. The module is imported when a mistake is found, so that a
valid configuration does not pay for it.
"""

from __future__ import annotations

import re
from typing import Any

from bondcni.core.options import Option
from bondcni.core.values import show, try_parse

OTHER_NAMES = {
    "mode": {
        "lacp": "802.3ad",
        "lag": "802.3ad",
        "ieee8023ad": "802.3ad",
        "8021ax": "802.3ad",
        "failover": "active-backup",
        "activestandby": "active-backup",
        "roundrobin": "balance-rr",
    },
    "lacp_rate": {"30s": "slow", "long": "slow", "1s": "fast", "short": "fast"},
    "fail_over_mac": {"off": "none", "no": "none", "false": "none"},
}
"""Names that other tools have for a value, by the option's kernel name; without punctuation."""

IPAM = ("host-local", "static", "dhcp", "whereabouts", "calico-ipam", "nv-ipam", "kube-ovn")
"""IPAM plugins with which a misspelled name is compared."""

MILLISECONDS = {"ms": 1, "msec": 1, "s": 1000, "sec": 1000, "second": 1000, "min": 60000}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([a-z]*)")
_LAYER = re.compile(r"l(?:ayer)?(?=\d)")


def value(option: Option, raw: Any) -> str:
    """The allowed value that is most similar to ``raw``, as JSON; "" if none is."""
    if option.names:
        found: Any = _name(option, raw)
    elif option.codec.endswith("-list"):
        found = _addresses(raw)
    else:
        found = number(raw, option.unit)
    good = found is not None and try_parse(option, found) is not None
    return show(found) if good else ""


def number(raw: Any, unit: str) -> int | None:
    """The integer in ``unit`` ("ms", "s", "bytes", "") of a value such as "1s", "100ms" or 100.0."""
    match = _NUMBER.fullmatch(str(raw).strip().casefold()) if type(raw) in (str, float) else None
    if match is None:
        return None
    found, written = float(match[1]), match[2]
    if unit in MILLISECONDS and written:
        per = MILLISECONDS.get(written) or MILLISECONDS.get(written.removesuffix("s"), 0)
        found *= per / MILLISECONDS[unit]
        written = "" if per else written
    elif unit == "bytes" and written in ("b", "byte", "bytes"):
        written = ""
    return int(found) if not written and found.is_integer() else None


def ipam(kind: str) -> str:
    """``did you mean "host-local"?`` if a known IPAM plugin is similar, else ""."""
    near = _nearest(_plain(kind), {_plain(name): name for name in IPAM})
    return f'did you mean "{near}"?' if near and near != kind else ""


def _name(option: Option, raw: Any) -> str | None:
    if not isinstance(raw, str) or not raw.strip():
        return None
    text = _plain(raw)
    meant = OTHER_NAMES.get(option.kernel, {}).get(text)
    parts = [name for name in option.names if text in map(_plain, name.split("-"))]
    if meant or parts:  # "balance" is part of four names
        return meant or (parts[0] if len(parts) == 1 else None)
    return _nearest(text, {_plain(name): name for name in option.names})


def _plain(text: str) -> str:
    """Lower case without punctuation and without "layer" or "l" before a digit."""
    return _LAYER.sub("", "".join(letter for letter in text.casefold() if letter.isalnum()))


def _nearest(text: str, names: dict[str, str]) -> str | None:
    import difflib  # noqa: PLC0415  # only for messages about mistakes

    near = difflib.get_close_matches(text, names, n=1, cutoff=0.7)
    return names[near[0]] if near else None


def _addresses(raw: Any) -> list[str] | None:
    """The addresses without prefix length, and without white space between them."""
    parts = re.split(r"[,\s]+", raw.strip()) if isinstance(raw, str) else raw
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    return [part.strip().split("/")[0] for part in parts]
