"""Different MACs for members that have the same one, where the mode needs that.

balance-tlb and balance-alb tell members apart by their MACs, and the kernel refuses a second one
with the same (EFAULT; drivers/net/bonding/bond_alb.c, alb_handle_addr_collision_on_attach).
Macvlans and VFs may well come with one MAC.
"""

from collections.abc import Collection, Sequence

from bondcni.core.state import Link

DISTINCT = ("balance-tlb", "balance-alb")
"""The modes that need different MACs."""


def distinct(
    links: Sequence[Link], mode: str, seed: str, others: Collection[Link] = ()
) -> dict[int, str]:
    """By ifindex the new MAC of each link whose MAC an earlier link has.

    It is a hash of ``seed`` (the attachment) and of the link's name, so that an ADD that is
    repeated gives the same one; locally administered, unicast, and no MAC of ``links`` or
    ``others``.
    """
    if mode not in DISTINCT:
        return {}
    taken = {mac for link in (*links, *others) for mac in (link.mac, link.permanent_mac)}
    seen: set[str] = set()
    given: dict[int, str] = {}
    for link in links:
        if link.mac and link.mac in seen:
            given[link.index] = _free(f"{seed} {link.name}", taken)
            taken.add(given[link.index])
        seen.add(link.mac)
    return given


def _free(seed: str, taken: Collection[str]) -> str:
    from hashlib import sha256  # noqa: PLC0415  2 ms that few requests need

    tries = 0
    while (mac := _mac(sha256(f"{seed} {tries}".encode()).digest())) in taken:
        tries += 1
    return mac


def _mac(digest: bytes) -> str:
    """Bit 1 of the first octet: locally administered; bit 0 clear: unicast (IEEE 802)."""
    return bytes((digest[0] & 0xFC | 0x02, *digest[1:6])).hex(":")


def replacement_warnings(links: Sequence[Link], mode: str, given: dict[int, str]) -> list[str]:
    """A warning for each link that gets a new MAC."""
    words = []
    for link in links:
        if link.index in given:
            first = next(one for one in links if one.mac == link.mac)
            words.append(
                f"link {link.name} has the same MAC as {first.name} ({link.mac}), and {mode} needs "
                f"different ones: {link.name} has {given[link.index]} until DEL"
            )
    return words
