"""``links``: the links that become members of the bond, and the options of each.

A link is identified by ``name`` (also an alternative name), ``mac`` or ``pci``. The same
identifier twice is an error here; two identifiers of one link are found on the node
(``core.resolve``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bondcni.core.document import Diagnostics, Object, did_you_mean, pointer_token
from bondcni.core.option_reader import OptionReader
from bondcni.core.options import MEMBER_OPTIONS, member_option
from bondcni.core.state import OptionValue
from bondcni.core.values import link_name, show, unicast_mac


@dataclass(frozen=True, slots=True)
class LinkRef:
    """A link as the configuration identifies it, and the options of that member.

    ``value`` is a name or alternative name, a MAC in lower-case colon text, or a PCI
    address such as ``0000:3b:02.1``.
    """

    by: str  # "name", "mac" or "pci"
    value: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)  # by kernel name


def read_links(document: Object, diagnostics: Diagnostics) -> tuple[dict[int, LinkRef], bool]:
    """The valid links by index, and whether all links are valid.

    A link that is listed twice is a problem.
    """
    raw = document.get("links")
    if raw is None:
        diagnostics.problem("/links", "is required", 'write at least 2 entries {"name": "..."}')
        return {}, False
    if not isinstance(raw, list):
        message = f"{show(raw)} is not allowed"
        diagnostics.problem("/links", message, 'write a list of objects, [{"name": "..."}, ...]')
        return {}, False
    if len(raw) < 2:
        message = f"a bond needs at least 2 links, this one has {len(raw)}"
        diagnostics.problem("/links", message, 'write each link as {"name": "..."}')
    found: dict[int, LinkRef] = {}
    all_valid = True
    for index, entry in enumerate(raw):
        pointer = f"/links/{index}"
        ref = _link(entry, pointer, diagnostics)
        all_valid &= ref is not None
        if ref is not None and any(
            (ref.by, ref.value) == (other.by, other.value) for other in found.values()
        ):
            message = f"link {ref.value} is listed twice"
            diagnostics.problem(f"{pointer}/{ref.by}", message, "list each link once")
        elif ref is not None:
            found[index] = ref
    return found, all_valid


def _link(entry: Any, pointer: str, diagnostics: Diagnostics) -> LinkRef | None:
    if not isinstance(entry, dict):
        example = f'{{"name": {show(entry)}}}' if isinstance(entry, str) else 'of {"name": "..."}'
        diagnostics.problem(pointer, f"{show(entry)} is not allowed", f"write an object {example}")
        return None
    names: dict[str, Any] = {}
    options = OptionReader(diagnostics)
    for key, raw in entry.items():
        row = member_option(key)
        if key.casefold() in _REFERENCES:
            names |= {} if raw is None else {key.casefold(): raw}
        elif row is not None and not row.read_only:
            options.read(row, raw, pointer + pointer_token(key))
        else:
            near = did_you_mean(key, (*_REFERENCES, *_KEYS))
            diagnostics.warn(pointer + pointer_token(key), "unknown key, ignored", near)
    return _reference(names, options.values, pointer, diagnostics)


def _reference(
    names: dict[str, Any], options: dict[str, OptionValue], pointer: str, diagnostics: Diagnostics
) -> LinkRef | None:
    if not names or (len(names) > 1 and "name" not in names):
        message = "must have exactly one of name, mac and pci"
        diagnostics.problem(
            pointer, message, 'write {"name": "..."}, {"mac": "..."} or {"pci": "..."}'
        )
        return None
    by = next(key for key in _REFERENCES if key in names)
    if len(names) > 1:  # the Go bond-cni reads only the name
        diagnostics.warn(pointer, f"has {' and '.join(names)}: the name is used")
    reader, what = _REFERENCES[by]
    value = reader(names[by])
    if value is None:
        diagnostics.problem(f"{pointer}/{by}", f"{show(names[by])} is not allowed", f"write {what}")
        return None
    return LinkRef(by, value, options)


def link_ref_of(text: str) -> LinkRef | None:
    """The link that a name, MAC or PCI address given alone identifies; None if it is neither."""
    for by in ("pci", "mac", "name"):
        value = _REFERENCES[by][0](text)
        if value is not None:
            return LinkRef(by, value)
    return None


def pci_address(raw: Any) -> str | None:
    """``0000:3b:02.1`` for a PCI address with or without its domain, else None."""
    import re  # noqa: PLC0415  # json has loaded it already

    if not isinstance(raw, str):
        return None
    text = raw.strip().lower()
    match = re.fullmatch(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", text)
    return f"{match[1] or '0000'}:{match[2]}" if match else None


_REFERENCES = {
    "name": (link_name, "the name of a link"),
    "mac": (unicast_mac, "a unicast MAC address such as 02:00:00:00:00:01"),
    "pci": (pci_address, "a PCI address such as 0000:3b:02.1"),
}
"""The keys that identify a link, in order of preference: parser, and what is allowed."""

_KEYS = tuple(row.key for row in MEMBER_OPTIONS if not row.read_only)
