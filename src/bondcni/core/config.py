"""Parses a network configuration into a ``BondConfig``, or reports all of its problems.

Option keys are accepted in any known spelling, at the top level or in ``options``, and
numbers as text. Unknown keys in ``options``, contradictory options, and values that the
kernel would refuse or ignore are errors. What the Go bond-cni accepts means the same here,
except where it does harm (a link listed twice, a negative miimon): that is an error. A key
without effect is a warning.

``parse_leniently`` is for DEL, which must succeed even if the configuration has become
invalid: an invalid part counts as empty, and every problem is a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bondcni.core import fields, rules
from bondcni.core.document import Diagnostics, Object, did_you_mean, pointer_token, read_object
from bondcni.core.errors import BondError, ConfigError, InputError, Problem, VersionError
from bondcni.core.links import LinkRef, pci_address, read_links
from bondcni.core.option_reader import OptionReader
from bondcni.core.options import BOND_OPTIONS, MODES, bond_option, folded_key, member_option
from bondcni.core.result import SUPPORTED, Result
from bondcni.core.runtime_config import (
    IPV6_MIN_MTU,
    RUNTIME,
    RuntimeConfig,
    expected_ipv6,
    has_mac_capability,
    ipv6_mtu_problem,
    read_runtime_config,
)
from bondcni.core.state import OptionValue
from bondcni.core.values import allowed, mac_text

__all__ = ["BondConfig", "LinkRef", "parse", "parse_leniently"]

PARAMETERS = (
    *("cniVersion", "name", "type", "ifname", "mtu", "linksInContainer", "links", "options"),
    *("ipam", "dns", "prevResult", "runtimeConfig", "args"),
)
"""The top-level keys of this plugin, except the options."""

FOREIGN = (
    # the runtime, Multus, the device plugin
    *("capabilities", "disableCheck", "deviceID", "pciBusID", "resourceName"),
    "description",
)
"""Top-level keys that runtimes write or read, and comments: no warning."""

FOREIGN_STARTS = ("_", "$")

CALICO = (
    *("kubernetes", "datastore_type", "policy", "nodename", "nodename_file_optional"),
    *("ipam_lock_file", "calico_api_group", "feature_control", "container_settings"),
)
CALICO_STARTS = ("log_", "etcd_")
"""Top-level settings of calico-ipam. Other IPAM plugins than ``WITHOUT_SETTINGS`` may read them."""

WITHOUT_SETTINGS = ("static", "host-local", "dhcp")
"""The reference IPAM plugins, which read only ipam, runtimeConfig and args."""

ELSEWHERE = {
    **dict.fromkeys(
        ("spoofChk", "trust", "link_state", "min_tx_rate", "max_tx_rate", "logLevel", "logFile"),
        "write it in the sriov-cni configuration of the links",
    ),
    **dict.fromkeys(
        ("mac", "ips"),
        "enable this capability, so that the runtime passes it in runtimeConfig, or write it in "
        "args.cni",
    ),
}
"""Keys that have an effect in another place, and advice for each."""

_PARAMETERS = {name.casefold(): name for name in PARAMETERS}
_FOREIGN = {folded_key(name) for name in FOREIGN}
_CALICO = {folded_key(name) for name in CALICO}
_ELSEWHERE = {folded_key(name): advice for name, advice in ELSEWHERE.items()}


@dataclass(frozen=True, slots=True)
class BondConfig:
    """A configuration without problems."""

    cni_version: str
    name: str
    mode: int
    options: Mapping[str, OptionValue]  # as configured, by kernel name, without mode
    links: tuple[LinkRef, ...]
    links_in_container: bool = False
    mtu: int | None = None  # bytes; None: not configured
    mtu_inherit: bool = False  # "inherit": the MTU of the members
    ifname: str = ""
    ipam: Mapping[str, Any] | None = None  # None: no IPAM plugin
    dns: Mapping[str, Any] = field(default_factory=dict)
    prev_result: Result | None = None
    mac: str = ""
    ips: tuple[str, ...] = ()  # CIDR text
    raw: Mapping[str, Any] = field(
        default_factory=dict
    )  # as received, keys in the spelling of PARAMETERS
    warnings: tuple[str, ...] = ()


def parse(text: bytes) -> BondConfig:
    """The configuration in ``text``.

    Raises InputError (not a JSON object), VersionError (its details list the supported
    versions) or ConfigError with every problem, each with a JSON pointer and advice.
    """
    diagnostics = Diagnostics()
    document = _canonical(read_object(text, diagnostics), diagnostics)
    if isinstance(document.get("plugins"), list) and "links" not in document:
        raise ConfigError((_LIST_OF_PLUGINS,))
    try:
        version, wrong = fields.version(document), None
    except VersionError as error:
        version, wrong = SUPPORTED[-1], error
    config = _checked(_read(document, version, diagnostics), diagnostics)
    if wrong:
        wrong.details = "; ".join((wrong.details, *map(str, diagnostics.problems)))
        raise wrong
    if diagnostics.problems:
        raise ConfigError(tuple(diagnostics.problems), tuple(diagnostics.warnings))
    return replace(config, warnings=tuple(map(str, diagnostics.warnings)))


def parse_leniently(text: bytes) -> BondConfig:
    """The valid parts of the configuration in ``text``, for DEL; never raises.

    An invalid part is empty (mode 0, no links, no ipam, cniVersion 0.1.0), and its problem is
    a warning.
    """
    diagnostics = Diagnostics()
    version = SUPPORTED[0]
    try:
        document = _canonical(read_object(text, diagnostics), diagnostics)
        version = fields.version(document)
    except InputError as error:
        document = {}
        diagnostics.warn("", error.message)
    except BondError as error:
        diagnostics.warn("/cniVersion", error.message)
    config = _read(document, version, diagnostics).config
    return replace(config, warnings=tuple(map(str, (*diagnostics.warnings, *diagnostics.problems))))


def _canonical(document: Object, diagnostics: Diagnostics) -> Object:
    """The object with its keys in the spelling of PARAMETERS: Go ignores case."""
    found: Object = {}
    for key, value in document.items():
        name = _PARAMETERS.get(key.casefold(), key)
        if name in found:
            diagnostics.warn(
                pointer_token(key), f"{name} appears twice (case is ignored): the last one is used"
            )
        found[name] = value
    return found


_LIST_OF_PLUGINS = Problem(
    "/plugins",
    "this is a list of plugins (conflist), but a plugin takes the configuration of one plugin",
    'write it to a .conflist file for the runtime, or pass only the entry with "type": "bond"',
)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A configuration before its cross-checks, and the place of each part."""

    config: BondConfig
    options: OptionReader
    links: Mapping[int, LinkRef]  # by index in the configuration
    all_links: bool  # whether each is valid
    runtime: RuntimeConfig


def _read(document: Object, version: str, diagnostics: Diagnostics) -> _Reading:
    options = _options(document, diagnostics)
    runtime = read_runtime_config(document, diagnostics)
    mode = options.values.get("mode", 0)
    mtu, inherit = fields.mtu(document, diagnostics)
    fields.plugin_type(document, diagnostics)
    name = fields.network_name(document, diagnostics)
    links, all_links = read_links(document, diagnostics)
    config = BondConfig(
        cni_version=version,
        name=name,
        mode=mode if isinstance(mode, int) else 0,
        options={key: value for key, value in options.values.items() if key != "mode"},
        links=tuple(links.values()),
        links_in_container=fields.boolean(document, "linksInContainer", diagnostics),
        mtu=mtu,
        mtu_inherit=inherit,
        ifname=fields.interface_name(document, diagnostics),
        ipam=fields.ipam(document, diagnostics),
        dns=fields.dns(document, diagnostics),
        prev_result=fields.previous(document, diagnostics),
        mac=runtime.mac,
        ips=runtime.ips,
        raw=document,
    )
    return _Reading(config, options, links, all_links, runtime)


def _options(document: Object, diagnostics: Diagnostics) -> OptionReader:
    options = OptionReader(diagnostics)
    for key, raw in document.items():
        row = None if key in PARAMETERS else bond_option(key)
        if row is not None:
            options.read(row, raw, pointer_token(key))
        elif key not in PARAMETERS:
            _unknown(key, document, diagnostics)
    inner = fields.object_field(document.get("options"), "/options", diagnostics)
    for key, raw in inner.items():
        row = bond_option(key)
        if row is not None:
            options.read(row, raw, "/options" + pointer_token(key))
        else:
            _unknown_option(key, diagnostics)
    if "mode" not in options.pointers:
        diagnostics.problem("/mode", "is required", f"write {allowed(BOND_OPTIONS[0])}")
    return options


def _unknown(key: str, document: Object, diagnostics: Diagnostics) -> None:
    """Warn of a top-level key, unless another tool is known to write or read it."""
    if folded_key(key) in _FOREIGN or key.startswith(FOREIGN_STARTS) or "/" in key or "." in key:
        return
    if folded_key(key) in _CALICO or key.startswith(CALICO_STARTS):
        ipam = document.get("ipam")
        kind = ipam.get("type") if isinstance(ipam, dict) else None
        if not kind or kind in WITHOUT_SETTINGS:
            diagnostics.warn(
                pointer_token(key), "is a setting of calico-ipam and has no effect without it"
            )
        return
    if folded_key(key) in _ELSEWHERE:
        diagnostics.warn(pointer_token(key), "has no effect on a bond", _ELSEWHERE[folded_key(key)])
        return
    known = (*PARAMETERS, *(row.key for row in BOND_OPTIONS if not row.read_only))
    diagnostics.warn(pointer_token(key), "unknown key, ignored", did_you_mean(key, known))


def _unknown_option(key: str, diagnostics: Diagnostics) -> None:
    pointer = "/options" + pointer_token(key)
    member = member_option(key)
    if key.casefold() in _PARAMETERS:
        diagnostics.problem(pointer, "is not a bonding option", "write it at the top level")
    elif member is not None and not member.read_only:
        diagnostics.problem(pointer, "is a member option", "write it in an entry of links")
    else:
        near = did_you_mean(key, (row.key for row in BOND_OPTIONS if not row.read_only))
        advice = near or "remove it, or write one of the options in docs/options.md"
        diagnostics.problem(pointer, "unknown option", advice)


def _checked(reading: _Reading, diagnostics: Diagnostics) -> BondConfig:
    """The configuration after the cross-checks, with delays rounded as the kernel does."""
    config, reader = reading.config, reading.options
    options = _canonical_links(config)
    members = {index: ref.options for index, ref in reading.links.items()}
    by_name = reading.all_links and all(ref.by == "name" for ref in config.links)
    known = [ref.value for ref in config.links] if by_name else None
    mode = config.mode if "mode" in reader.values else None
    unread = reader.pointers.keys() - reader.values.keys()
    if "miimon" not in reader.pointers and not _arp_monitored(options, unread):
        diagnostics.problem(
            "/miimon",
            "is required",
            'write "miimon": 100 (milliseconds), or configure ARP monitoring with arpInterval '
            "and arpIpTarget",
        )
    for finding in rules.problems(mode, options, known, members, unread):
        diagnostics.problem(_pointer(finding, reading), finding.message, finding.advice)
    for finding in rules.warnings(mode, options, members, unread):
        diagnostics.warn(_pointer(finding, reading), finding.message, finding.advice)
    config = replace(config, options=rules.with_rounded_delays(mode, options))
    _check_ipv6(config, diagnostics)
    return _checked_mac(config, mode, reading.runtime.mac_pointer, diagnostics)


def _check_ipv6(config: BondConfig, diagnostics: Diagnostics) -> None:
    address = expected_ipv6(config.ips, config.ipam, config.raw)
    if why := ipv6_mtu_problem(address, config.mtu or IPV6_MIN_MTU):
        advice = f"write an mtu of {IPV6_MIN_MTU} or more, or use no IPv6 address"
        diagnostics.problem("/mtu", why, advice)


def _checked_mac(
    config: BondConfig, mode: int | None, at: str, diagnostics: Diagnostics
) -> BondConfig:
    """The configuration without its MAC if the bond takes the MAC of its active member.

    The Go bond-cni ignores a MAC from the runtime, so that is a warning; a MAC in the
    configuration itself is an error.
    """
    follows = config.options.get("fail_over_mac") == 1
    if not config.mac or not follows or mode != MODES.index("active-backup"):
        return config
    why = "with failOverMac 1 the bond takes the MAC of its active member"
    advice = "write failOverMac 0 or 2 if the members can change their MAC"
    if at.startswith(RUNTIME) and not has_mac_capability(config.raw):
        diagnostics.problem(at, f"{config.mac} cannot be set: {why}", f"remove mac, or {advice}")
    else:
        diagnostics.warn(at, f"{config.mac} is not set: {why}", advice)
    return replace(config, mac="")


def _arp_monitored(options: Mapping[str, OptionValue], unread: Collection[str]) -> bool:
    interval, *targets = (
        options.get(name) or name in unread
        for name in ("arp_interval", "arp_ip_target", "ns_ip6_target")
    )
    return bool(interval and any(targets))


def _canonical_links(config: BondConfig) -> dict[str, OptionValue]:
    """The options; a MAC or PCI address of a link is spelled as in ``links``."""
    values = {ref.value for ref in config.links if ref.by != "name"}
    options = dict(config.options)
    for row in BOND_OPTIONS:
        if row.codec == "ifindex" and row.kernel in options:
            spelled = mac_text(options[row.kernel]) or pci_address(options[row.kernel])
            if spelled in values and spelled is not None:
                options[row.kernel] = spelled
    return options


def _pointer(finding: rules.OptionFinding, reading: _Reading) -> str:
    if finding.member < 0:
        return reading.options.pointers.get(finding.option, pointer_token(finding.option))
    entry = reading.config.raw["links"][finding.member]
    rows = ((key, member_option(key)) for key in entry)
    key = next(key for key, row in rows if row and row.kernel == finding.option)
    return f"/links/{finding.member}{pointer_token(key)}"
