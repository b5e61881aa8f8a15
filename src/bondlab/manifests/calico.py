"""Calico's blocks: what calico-ipam hands out, and to whom that is a neighbour.

Calico divides an IPPool into blocks of ``blockSize`` and gives each node blocks of its own;
calico-ipam answers with an address and the mask of its block. On Calico's routed interfaces
the mask does not matter. On a bond, which is a link of a LAN, the kernel takes the block for the
LAN: a pod of another node, in another block, is no neighbour, and the last address of the block
is the broadcast address. With ``blockSize`` equal to the pool's prefix length there is one block:
one node owns it, and the others borrow from it unless strictAffinity forbids that.

Pure. Source: Calico's reference of IPPool (cidr, blockSize) and IPAMConfiguration.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_SIZE = {4: 26, 6: 122}
MIN_SIZE = {4: 20, 6: 116}
MIN_SHARED_ADDRESSES = (
    8  # addresses of a block in which the pod, its peer and another pod find room
)


class Block(NamedTuple):
    """The block of the node that the lab plays, in its pool."""

    pool: IPNetwork
    network: IPNetwork
    pool_name: str  # how the pool is called

    @property
    def shared(self) -> bool:
        """Whether the pool is one block, so that all nodes take their addresses from it."""
        return self.network == self.pool

    @property
    def other_node_address(self) -> str:
        """The address, with prefix length, that a pod of another node could have; "" for none."""
        if not self.shared:
            other = self.network.network_address + self.network.num_addresses + 2
        elif self.network.num_addresses >= MIN_SHARED_ADDRESSES:
            other = self.network.broadcast_address - 1
        else:
            return ""
        return f"{other}/{self.network.prefixlen}"

    def note(self) -> str:
        """What the block means for a bond, and the remedy."""
        size = self.network.prefixlen
        if self.shared:
            return (
                f"the pool {self.pool_name} is one block (blockSize {size}): all nodes share it while "
                "strictAffinity is off"
            )
        text = (
            f"as Calico does, each node has a block of its own (blockSize {size} of {self.pool_name}) "
            "and the address has the mask of the block: pods of different nodes do not reach each "
            "other over this bond"
        )
        if self.network.version == 4:
            text += f", and {self.network.broadcast_address} is the block's broadcast address"
        return f"{text}. Remedy: {self.remedy()}"

    def remedy(self) -> str:
        """What makes one LAN of all nodes."""
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
    """Why Calico does not take a pool with this ``spec.blockSize`` ("" for none), "" if it does."""
    pool = ipaddress.ip_network(cidr, strict=False)
    low, high = MIN_SIZE[pool.version], pool.max_prefixlen
    default = DEFAULT_SIZE[pool.version]
    if size and not (re.fullmatch("[0-9]+", size) and low <= int(size) <= high):
        return f"spec.blockSize `{size}` is not between {low} and {high}"
    if int(size or default) < pool.prefixlen:
        said = f"blockSize {size}" if size else f"{default}, the default of blockSize"
        return f"no block fits into {cidr}: {said}, is a shorter prefix than /{pool.prefixlen}"
    return ""
