"""What the lab puts in the place of an IPAM plugin that this machine does not have.

calico-ipam and whereabouts need a cluster; host-local hands out addresses of the same network
without one, for calico-ipam those of one node's block (``calico``). The replaced section says
which addresses, not how they are kept: the cluster-wide bookkeeping is lost, and the story says
so. Nothing is replaced where the plugin is there, or where the user asked for strictness.

Pure: a config in, a config and a sentence out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from bondlab.manifests import calico
from bondlab.manifests.manifests import Config, Pool

LEASES = "/var/lib/cni/networks"
"""host-local's default dataDir; the lab's guests have a file system of their own there."""


MIN_RANGE_ADDRESSES = (
    4  # addresses of a range of host-local: backend/allocator/range.go, Canonicalize
)


class UnsupportedCase(Exception):
    """The lab can not run this case; the text says why and what to do."""


class Substitution(NamedTuple):
    """A configuration that can run here, and what was changed in it, in plain words.

    ``other_nodes`` are addresses, with prefix lengths, that pods of another node could have.
    """

    config: Config
    note: str = ""
    other_nodes: tuple[str, ...] = ()


class _Ranges(NamedTuple):
    """Ranges for host-local, what there is to say of them, and addresses of other nodes' pods."""

    ranges: list[Config]
    notes: list[str]
    other_nodes: list[str]


def substitute_ipam(
    config: Config, pools: Sequence[Pool], present: Collection[str], *, strict: bool
) -> Substitution:
    """The config with an IPAM plugin that is ``present``. Raises UnsupportedCase."""
    ipam = config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) else None
    if kind == "dhcp":
        raise UnsupportedCase(
            "ipam dhcp needs its daemon and a DHCP server, which the lab does not start: "
            "use static or host-local"
        )
    if not isinstance(ipam, dict) or not kind or kind in present:
        return Substitution(config)
    makers = {"calico-ipam": _calico, "whereabouts": _whereabouts}
    if kind not in makers:
        raise UnsupportedCase(f"the IPAM plugin {kind} is not installed: put it in /opt/cni/bin")
    if strict:
        raise UnsupportedCase(
            f"{kind} is not installed and --strict forbids a substitute: "
            "install it in /opt/cni/bin, or run without --strict"
        )
    ranges, notes, other_nodes = makers[kind](ipam, pools)
    made = {"type": "host-local", "ranges": [[one] for one in ranges]}
    subnets = " and ".join(one["subnet"] for one in ranges)
    note = f"{kind} is not installed: host-local hands out addresses of {subnets} in its place"
    return Substitution(config | {"ipam": made}, "; ".join((note, *notes)), tuple(other_nodes))


def _calico(ipam: Config, pools: Sequence[Pool]) -> _Ranges:
    """One block per family that is asked for; IPv4 alone unless the config says otherwise."""
    blocks = []
    for number, default in ((4, "true"), (6, "false")):
        if str(ipam.get(f"assign_ipv{number}", default)).lower() == "true":
            blocks.append(_pool(ipam.get(f"ipv{number}_pools"), number, pools))
    if not blocks:
        raise UnsupportedCase("calico-ipam is asked for neither IPv4 nor IPv6: set assign_ipv4")
    return _Ranges(
        [{"subnet": str(one.network)} for one in blocks],
        [one.note() for one in blocks],
        [one.other_node_address for one in blocks if one.other_node_address],
    )


def _pool(wanted: Any, number: int, pools: Sequence[Pool]) -> calico.Block:
    """A block of the first pool that is named (or given as a CIDR), or of any."""
    named = {pool.name: pool for pool in reversed(pools)}
    names = [str(one) for one in wanted] if isinstance(wanted, list) and wanted else list(named)
    for name in names:
        pool = named.get(name, Pool(name, name if "/" in name else ""))
        if pool.cidr and ipaddress.ip_network(pool.cidr, strict=False).version == number:
            made = calico.block(pool.cidr, pool.block, name)
            if made.network.num_addresses < MIN_RANGE_ADDRESSES:
                raise UnsupportedCase(
                    f"a block of {name} is {made.network}: host-local, which the lab puts in the "
                    "place of calico-ipam, wants four addresses or more; use a shorter blockSize"
                )
            return made
    asked = ", ".join(names) or "any"
    raise UnsupportedCase(f"no IPv{number} IPPool ({asked}) in the files: add one with its cidr")


def _whereabouts(ipam: Config, _: Sequence[Pool]) -> _Ranges:
    """``range`` is a network or ``first-last/prefix``; ``ipRanges`` lists more of them."""
    entries = [ipam] if ipam.get("range") else []
    entries += [one for one in ipam.get("ipRanges") or () if isinstance(one, dict)]
    if not entries:
        raise UnsupportedCase('whereabouts has no "range": add one, as "10.30.0.0/24"')
    return _Ranges([_whereabouts_range(entry) for entry in entries], [], [])


def _whereabouts_range(entry: Config) -> Config:
    first, dash, last = str(entry.get("range")).rpartition("-")
    try:
        network = ipaddress.ip_network(last, strict=False)
    except ValueError as error:
        raise UnsupportedCase(f"whereabouts: {error}: write the range as 10.30.0.0/24") from error
    made = {"subnet": str(network)}
    if dash:
        made |= {"rangeStart": first, "rangeEnd": last.split("/")[0]}
    for theirs, ours in (("range_start", "rangeStart"), ("range_end", "rangeEnd")):
        if entry.get(theirs):
            made[ours] = str(entry[theirs])
    if entry.get("gateway"):
        made["gateway"] = str(entry["gateway"])
    return made
