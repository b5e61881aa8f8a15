"""Replaces IPAM plugins that are not installed.

calico-ipam and whereabouts need a cluster. host-local assigns addresses of the same network without
one; for calico-ipam these are addresses of one node's block (``calico``). The replaced section
determines which addresses are assigned, but the cluster-wide allocation is not emulated; a note says
so. Nothing is replaced if the plugin is installed, or with --strict.

Pure: a configuration in, a configuration and a note out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from bondlab.manifests import calico
from bondlab.manifests.manifests import Config, Pool

LEASES = "/var/lib/cni/networks"
"""The default dataDir of host-local; in the lab's guests it is a tmpfs."""


MIN_RANGE_ADDRESSES = (
    4  # addresses of a range of host-local: backend/allocator/range.go, Canonicalize
)


class UnsupportedCase(Exception):
    """The lab cannot run this case; the text says why and what to do."""


class Substitution(NamedTuple):
    """A configuration that can be run, and a note about what was replaced in it.

    ``other_nodes`` are addresses, with prefix lengths, that pods of another node could have.
    """

    config: Config
    note: str = ""
    other_nodes: tuple[str, ...] = ()


class _Ranges(NamedTuple):
    """Ranges for host-local, notes about them, and addresses of other nodes' pods."""

    ranges: list[Config]
    notes: list[str]
    other_nodes: list[str]


def substitute_ipam(
    config: Config, pools: Sequence[Pool], present: Collection[str], *, strict: bool
) -> Substitution:
    """The config with an IPAM plugin that is in ``present``. Raises UnsupportedCase."""
    ipam = config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) else None
    if kind == "dhcp":
        raise UnsupportedCase(
            "ipam dhcp needs its daemon and a DHCP server, which the lab does not provide: "
            "use static or host-local"
        )
    if not isinstance(ipam, dict) or not kind or kind in present:
        return Substitution(config)
    makers = {"calico-ipam": _calico, "whereabouts": _whereabouts}
    if kind not in makers:
        raise UnsupportedCase(
            f"the IPAM plugin {kind} is not installed: install it in /opt/cni/bin"
        )
    if strict:
        raise UnsupportedCase(
            f"{kind} is not installed, and --strict forbids a substitute: "
            "install it in /opt/cni/bin, or run without --strict"
        )
    ranges, notes, other_nodes = makers[kind](ipam, pools)
    made = {"type": "host-local", "ranges": [[one] for one in ranges]}
    subnets = " and ".join(one["subnet"] for one in ranges)
    note = f"{kind} is not installed: host-local assigns addresses of {subnets} instead"
    return Substitution(config | {"ipam": made}, "; ".join((note, *notes)), tuple(other_nodes))


def _calico(ipam: Config, pools: Sequence[Pool]) -> _Ranges:
    """One block for each requested address family, by default IPv4 alone."""
    blocks = []
    for number, default in ((4, "true"), (6, "false")):
        if str(ipam.get(f"assign_ipv{number}", default)).lower() == "true":
            blocks.append(_pool(ipam.get(f"ipv{number}_pools"), number, pools))
    if not blocks:
        raise UnsupportedCase("calico-ipam assigns neither IPv4 nor IPv6: set assign_ipv4")
    return _Ranges(
        [{"subnet": str(one.network)} for one in blocks],
        [one.note() for one in blocks],
        [one.other_node_address for one in blocks if one.other_node_address],
    )


def _pool(wanted: Any, number: int, pools: Sequence[Pool]) -> calico.Block:
    """A block of the first usable pool: of those named (or given as CIDR), else of any."""
    named = {pool.name: pool for pool in reversed(pools)}
    names = [str(one) for one in wanted] if isinstance(wanted, list) and wanted else list(named)
    for name in names:
        pool = named.get(name, Pool(name, name if "/" in name else ""))
        if pool.cidr and ipaddress.ip_network(pool.cidr, strict=False).version == number:
            made = calico.block(pool.cidr, pool.block, name)
            if made.network.num_addresses < MIN_RANGE_ADDRESSES:
                raise UnsupportedCase(
                    f"a block of {name} is {made.network}: host-local, the substitute for "
                    "calico-ipam, needs a block of at least four addresses; use a smaller blockSize"
                )
            return made
    asked = ", ".join(names) or "any"
    raise UnsupportedCase(
        f"no IPv{number} IPPool ({asked}) found in the files: add one with a cidr"
    )


def _whereabouts(ipam: Config, _: Sequence[Pool]) -> _Ranges:
    """``range`` is a network or ``first-last/prefix``; ``ipRanges`` has more of them."""
    entries = [ipam] if ipam.get("range") else []
    entries += [one for one in ipam.get("ipRanges") or () if isinstance(one, dict)]
    if not entries:
        raise UnsupportedCase('whereabouts has no "range": add one, such as "10.30.0.0/24"')
    return _Ranges([_whereabouts_range(entry) for entry in entries], [], [])


def _whereabouts_range(entry: Config) -> Config:
    first, dash, last = str(entry.get("range")).rpartition("-")
    try:
        network = ipaddress.ip_network(last, strict=False)
    except ValueError as error:
        raise UnsupportedCase(f"whereabouts: {error}: write the range like 10.30.0.0/24") from error
    made = {"subnet": str(network)}
    if dash:
        made |= {"rangeStart": first, "rangeEnd": last.split("/")[0]}
    for theirs, ours in (("range_start", "rangeStart"), ("range_end", "rangeEnd")):
        if entry.get(theirs):
            made[ours] = str(entry[theirs])
    if entry.get("gateway"):
        made["gateway"] = str(entry["gateway"])
    return made
