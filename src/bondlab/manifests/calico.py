"""Calico's address blocks, and which pods they make neighbours on a bond.

Calico divides an IPPool into blocks of ``blockSize`` and assigns blocks to nodes; calico-ipam
returns an address with the prefix length of its block. On Calico's routed interfaces the prefix
length does not matter. On a bond, which is a link of a LAN, the block becomes the on-link subnet: a
pod of another node has an address of another block and is not on-link, and the last address of the
block is the broadcast address. If ``blockSize`` equals the pool's prefix length, there is one block:
one node owns it, and the others borrow addresses from it unless strictAffinity is on.

Pure. Source: Calico's reference of IPPool (cidr, blockSize) and IPAMConfiguration.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_SIZE = {4: 26, 6: 122}
MIN_SIZE = {4: 20, 6: 116}
MIN_SHARED_ADDRESSES = 8  # addresses of a block that has room for the pod, its peer and another pod


class Block(NamedTuple):
    """The block of the node that the lab emulates, and its pool."""

    pool: IPNetwork
    network: IPNetwork
    pool_name: str  # the name of the pool, for messages

    @property
    def shared(self) -> bool:
        """Whether the pool is a single block, from which all nodes take addresses."""
        return self.network == self.pool

    @property
    def other_node_address(self) -> str:
        """An address, with prefix length, that a pod of another node could have; "" for none."""
        if not self.shared:
            other = self.network.network_address + self.network.num_addresses + 2
        elif self.network.num_addresses >= MIN_SHARED_ADDRESSES:
            other = self.network.broadcast_address - 1
        else:
            return ""
        return f"{other}/{self.network.prefixlen}"

    def note(self) -> str:
        """The consequences of the block for a bond, and the remedy."""
        size = self.network.prefixlen
        if self.shared:
            return (
                f"the pool {self.pool_name} is one block (blockSize {size}), which all nodes share "
                "if strictAffinity is off"
            )
        text = (
            f"as with Calico, each node has its own block (blockSize {size} of {self.pool_name}), and "
            "the address has the prefix length of the block: pods of different nodes cannot reach "
            "each other over this bond"
        )
        if self.network.version == 4:
            text += f", and {self.network.broadcast_address} is the block's broadcast address"
        return f"{text}. Remedy: {self.remedy()}"

    def remedy(self) -> str:
        """How to put the pods of all nodes into one subnet."""
        shortest = MIN_SIZE[self.pool.version]
        if self.pool.prefixlen < shortest:
            return (
                f"a new IPPool with a cidr of /{shortest} or longer and blockSize equal to its "
                "prefix length, strictAffinity off"
            )
        return (
            f"a new IPPool with blockSize {self.pool.prefixlen}, equal to the prefix length of its "
            "cidr, and strictAffinity off (blockSize of an existing pool cannot be changed)"
        )


def block(cidr: str, size: int, pool_name: str) -> Block:
    """The first block of a pool; ``size`` 0 for the default."""
    pool: IPNetwork = ipaddress.ip_network(cidr, strict=False)
    length = max(size or DEFAULT_SIZE[pool.version], pool.prefixlen)
    first = ipaddress.ip_network(f"{pool.network_address}/{length}")
    return Block(pool, first, pool_name)


def block_size_error(cidr: str, size: str) -> str:
    """Why Calico rejects a pool with this ``spec.blockSize`` ("": not given); "" if it does not."""
    pool = ipaddress.ip_network(cidr, strict=False)
    low, high = MIN_SIZE[pool.version], pool.max_prefixlen
    default = DEFAULT_SIZE[pool.version]
    if size and not (re.fullmatch("[0-9]+", size) and low <= int(size) <= high):
        return f"spec.blockSize `{size}` is not between {low} and {high}"
    if int(size or default) < pool.prefixlen:
        said = f"blockSize {size}" if size else f"the default blockSize {default}"
        return f"no block fits into {cidr}: {said} is a shorter prefix than /{pool.prefixlen}"
    return ""
