"""Chooses a new MAC for a member that has the same MAC as another, if the mode needs that.

In balance-tlb and balance-alb the kernel identifies members by their MACs and refuses a member
whose MAC another has (EFAULT; drivers/net/bonding/bond_alb.c,
alb_handle_addr_collision_on_attach). Macvlans and VFs can have equal MACs.
"""

from collections.abc import Collection, Sequence

from bondcni.core.state import Link

DISTINCT_MAC_MODES = ("balance-tlb", "balance-alb")
"""The modes in which each member needs a different MAC."""


def replacement_macs(
    links: Sequence[Link], mode: str, seed: str, others: Collection[Link] = ()
) -> dict[int, str]:
    """The new MAC, by ifindex, of each link that has the MAC of an earlier link.

    A new MAC is a hash of ``seed`` (the attachment) and the link's name, so a repeated ADD
    chooses the same one. It is locally administered and unicast, and differs from every MAC of
    ``links`` and ``others``.
    """
    if mode not in DISTINCT_MAC_MODES:
        return {}
    taken = {mac for link in (*links, *others) for mac in (link.mac, link.permanent_mac)}
    seen: set[str] = set()
    replacements: dict[int, str] = {}
    for link in links:
        if link.mac and link.mac in seen:
            replacements[link.index] = _free(f"{seed} {link.name}", taken)
            taken.add(replacements[link.index])
        seen.add(link.mac)
    return replacements


def _free(seed: str, taken: Collection[str]) -> str:
    from hashlib import sha256  # noqa: PLC0415  # 2 ms to import, and few requests need it

    tries = 0
    while (mac := _mac(sha256(f"{seed} {tries}".encode()).digest())) in taken:
        tries += 1
    return mac


def _mac(digest: bytes) -> str:
    """Bit 1 of the first octet: locally administered; bit 0 clear: unicast (IEEE 802)."""
    return bytes((digest[0] & 0xFC | 0x02, *digest[1:6])).hex(":")


def replacement_warnings(
    links: Sequence[Link], mode: str, replacements: dict[int, str]
) -> list[str]:
    """A warning for each link that gets a new MAC."""
    warnings = []
    for link in links:
        if link.index in replacements:
            first = next(one for one in links if one.mac == link.mac)
            warnings.append(
                f"link {link.name} has the same MAC as {first.name} ({link.mac}), but {mode} needs "
                f"a different MAC for each member: {link.name} gets "
                f"{replacements[link.index]} until DEL"
            )
    return warnings
