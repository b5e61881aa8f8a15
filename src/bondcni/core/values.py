"""Parses the value of a bonding option, or says which values are allowed.

Several spellings are accepted if their meaning is clear: 100 and "100", 1 and "active", true
and "on" for a switch. Floats, true for a number and values out of range are refused. An error
quotes the value and lists the allowed ones with their unit, from the option's row.

A MAC becomes lower-case text with colons, an address its canonical text, a link stays a name.
"""

from __future__ import annotations

from typing import Any

from bondcni.core.options import OFF_ON, Option
from bondcni.core.state import OptionValue

MAX_TARGETS = 16
"""BOND_MAX_ARP_TARGETS and BOND_MAX_NS_TARGETS (include/net/bonding.h)."""

MAX_NAME = 127
"""Largest length of an alternative name in bytes (ALTIFNAMSIZ - 1)."""

SWITCH = {"on": 1, "yes": 1, "true": 1, "y": 1, "off": 0, "no": 0, "false": 0, "n": 0}


class NotAllowed(ValueError):
    """A value is not allowed: ``message`` quotes it, ``advice`` says what to write."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(f"{message}: {advice}")
        self.message = message
        self.advice = advice


def show(raw: Any) -> str:
    """A value as JSON for a message, shortened to 60 characters."""
    import json  # noqa: PLC0415  # only for messages

    text = json.dumps(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def allowed(option: Option) -> str:
    """The values that the option may have, as text."""
    if option.names == OFF_ON:
        return "on or off (1 or 0)"
    if option.names:
        return f"one of {', '.join(option.names)} (or 0 to {option.maximum})"
    if option.codec in _ALLOWED:
        return _ALLOWED[option.codec]
    unit = f" {option.unit}" if option.unit else ""
    but = f", except {', '.join(map(str, option.forbidden))}" if option.forbidden else ""
    return f"an integer from {option.low} to {option.maximum}{unit}{but}"


_ALLOWED = {
    "mac": "a MAC address that is not multicast, such as 02:00:00:00:00:01",
    "ipv4-list": f"1 to {MAX_TARGETS} different IPv4 addresses, except 0.0.0.0 and 255.255.255.255",
    "ipv6-list": f"1 to {MAX_TARGETS} different IPv6 addresses, except ::, ::1 and multicast",
    "ifindex": "the name of one of the links",
}


def parse_value(option: Option, raw: Any) -> OptionValue:
    """The value of ``raw``. Raises NotAllowed."""
    if option.read_only:
        raise NotAllowed("is read-only: the kernel only reports it", "remove it")
    value = try_parse(option, raw)
    if value is None:
        from bondcni.core import suggest  # noqa: PLC0415  # only for messages about mistakes

        meant = suggest.value(option, raw)
        advice = f"write {meant} (allowed: {allowed(option)})" if meant else ""
        raise NotAllowed(f"{show(raw)} is not allowed", advice or f"write {allowed(option)}")
    return value


def try_parse(option: Option, raw: Any) -> OptionValue | None:
    """The value of ``raw``, None if it is not allowed."""
    return _PARSERS.get(option.codec, _number)(option, raw)


def _number(option: Option, raw: Any) -> int | None:
    if isinstance(raw, str):
        number = _named(option, raw.strip().casefold())
    elif isinstance(raw, bool):
        number = int(raw) if option.names == OFF_ON else None
    else:
        number = raw if isinstance(raw, int) else None
    if number is None or number in option.forbidden:
        return None
    return number if option.low <= number <= option.maximum else None


def _named(option: Option, text: str) -> int | None:
    if text in option.names:
        return option.names.index(text)
    if option.names == OFF_ON and text in SWITCH:
        return SWITCH[text]
    return parse_integer(text)


def parse_integer(text: str) -> int | None:
    """The integer in decimal text as Go's Atoi accepts it: an optional sign and ASCII digits."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    digits = digits.lstrip("0") or digits[-1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        return None
    return -int(digits) if text[0] == "-" else int(digits)


def mac_text(raw: Any) -> str | None:
    """A MAC of six bytes, written with ``:`` or ``-``, in lower case with colons; else None."""
    if not isinstance(raw, str):
        return None
    octets = raw.strip().lower().replace("-", ":").split(":")
    good = len(octets) == 6 and all(len(o) == 2 and _is_hex(o) for o in octets)
    return ":".join(octets) if good else None


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)


def unicast_mac(raw: Any) -> str | None:
    """``mac_text`` of a MAC that an interface can have (not multicast, not zero); else None."""
    mac = mac_text(raw)
    return mac if mac and not is_multicast(mac) and mac.strip("0:") else None


def is_multicast(mac: str) -> bool:
    """Whether the group bit of the MAC is set, as in multicast and broadcast."""
    return bool(int(mac[:2], 16) & 1)


def _mac(_option: Option, raw: Any) -> str | None:
    mac = mac_text(raw)
    return mac if mac and not is_multicast(mac) else None


def link_name(raw: Any) -> str | None:
    """``raw`` if it can be a link's name or alternative name, else None."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        return None
    try:
        return raw if len(raw.encode()) <= MAX_NAME else None
    except UnicodeEncodeError:  # a lone surrogate, from a JSON escape
        return None


def _link(_option: Option, raw: Any) -> str | None:
    return link_name(raw)


def _addresses(option: Option, raw: Any) -> tuple[str, ...] | None:
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_TARGETS:
        return None
    found = [_target(option, part) for part in parts]
    texts = tuple(text for text in found if text)
    return texts if len(set(texts)) == len(parts) else None


def _target(option: Option, raw: Any) -> str | None:
    import ipaddress  # noqa: PLC0415  # slow to import, and few bonds have targets

    if not isinstance(raw, str) or "%" in raw:
        return None
    try:
        address = ipaddress.ip_address(raw.strip())
    except ValueError:
        return None
    if address.is_unspecified or f"ipv{address.version}-list" != option.codec:
        return None
    if address.version == 6:  # bond_is_ip6_target_ok()
        return None if address.is_loopback or address.is_multicast else str(address)
    return None if str(address) == "255.255.255.255" else str(address)


_PARSERS = {"mac": _mac, "ifindex": _link, "ipv4-list": _addresses, "ipv6-list": _addresses}
