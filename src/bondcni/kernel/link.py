"""Messages about links: bonds, members, names; and links read back. Pure.

A function here returns a ``Request`` or turns a message's body into ``state.Link``.
Bond and member options travel as raw payloads by IFLA_BOND_ and IFLA_BOND_SLAVE_
number; what they mean is ``core.options``' business, and the only thing this module
asks of it is to decode them.

Numbers and names are the kernel's (include/uapi/linux/if_link.h, rtnetlink.h); the
order in which one message takes effect is told where it matters.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from bondcni.core.state import Link
from bondcni.kernel.option_codec import decode_bond, decode_member
from bondcni.kernel.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    WireError,
    attr_list,
    attrs,
    pack_attr,
    pack_nest,
    pack_text,
    pack_u32,
    text,
    u8,
    u32,
)

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWLINKPROP = 108
RTM_DELLINKPROP = 109

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_TXQLEN = 13
IFLA_OPERSTATE = 16
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_NET_NS_FD = 28
IFLA_EXT_MASK = 29
IFLA_CARRIER = 33
IFLA_LINK_NETNSID = 37
IFLA_NEW_IFINDEX = 49
IFLA_MIN_MTU = 50
IFLA_MAX_MTU = 51
IFLA_PROP_LIST = 52
IFLA_ALT_IFNAME = 53
IFLA_PERM_ADDRESS = 54
IFLA_PARENT_DEV_NAME = 56
IFLA_PARENT_DEV_BUS_NAME = 57

IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5

RTEXT_FILTER_SKIP_STATS = 8

PEER_KINDS = ("veth", "netkit", "vxcan")
"""Kinds whose IFLA_LINK is the other end of a cable and not a link below."""

_IFINFOMSG = struct.Struct("=BxHiII")  # family, ARPHRD type, index, flags, change mask
_NOTHING: Mapping[int, bytes] = {}


class Change(NamedTuple):
    """What one message changes of a link; None leaves a thing as it is.

    The kernel applies bond and member options first, then the namespace, MAC, MTU, name,
    flags, and the master last (net/core/rtnetlink.c, rtnl_newlink and do_setlink). So
    one message moves a NIC and enslaves it there, but a member's options want a later
    one: before the master is set there is nobody to take them (EOPNOTSUPP). A failure
    in the middle leaves what came before it done: a link whose new name is taken there
    is refused with EEXIST and has moved all the same.

    ``namespace`` is a file descriptor; ``master`` an ifindex there, 0 to leave it; MACs
    are colon text; ``flags`` are the IFF_* values of the bits in ``mask``; ``alias`` ""
    removes it. A link that moves keeps its ifindex where that is free, or takes
    ``new_index`` (EBUSY when that is taken).
    """

    namespace: int | None = None
    new_index: int | None = None
    mac: str | None = None
    mtu: int | None = None
    name: str | None = None
    alias: str | None = None
    master: int | None = None
    txqlen: int | None = None
    flags: int = 0
    mask: int = 0
    bond: Mapping[int, bytes] = _NOTHING
    member: Mapping[int, bytes] = _NOTHING


def pack_mac(mac: str) -> bytes:
    """The bytes of ``02:00:00:00:00:01``. Raises WireError for anything else."""
    try:
        return bytes(int(octet, 16) for octet in mac.split(":"))
    except ValueError:
        raise WireError(f"not a hardware address: {mac!r}") from None


def _request(
    kind: int, operation: str, attributes: bytes, index: int = 0, bits: tuple[int, int] = (0, 0)
) -> Request:
    try:
        head = _IFINFOMSG.pack(0, 0, index, *bits)
    except struct.error:
        raise WireError(f"{operation}: ifindex {index} or flags {bits} do not fit") from None
    return Request(kind, 0, head + attributes, _IFINFOMSG.size, operation)


def _options(kind: int, options: Mapping[int, bytes]) -> bytes:
    return pack_attr(kind, b"".join(pack_attr(n, v) for n, v in options.items()))


def _change_attrs(change: Change) -> bytes:
    numbers = (
        (IFLA_NET_NS_FD, change.namespace),
        (IFLA_NEW_IFINDEX, change.new_index),
        (IFLA_MTU, change.mtu),
        (IFLA_MASTER, change.master),
        (IFLA_TXQLEN, change.txqlen),
    )
    body = b"".join(pack_attr(n, pack_u32(v)) for n, v in numbers if v is not None)
    if change.mac is not None:
        body += pack_attr(IFLA_ADDRESS, pack_mac(change.mac))
    if change.name is not None:
        body += pack_attr(IFLA_IFNAME, pack_text(change.name))
    if change.alias is not None:  # without its NUL: an empty value is what removes it
        body += pack_attr(IFLA_IFALIAS, pack_text(change.alias)[:-1])
    info = b""
    if change.bond:
        info += pack_attr(IFLA_INFO_KIND, b"bond") + _options(IFLA_INFO_DATA, change.bond)
    if change.member:
        info += pack_attr(IFLA_INFO_SLAVE_KIND, b"bond")
        info += _options(IFLA_INFO_SLAVE_DATA, change.member)
    return body + (pack_nest(IFLA_LINKINFO, info) if info else b"")


def create_bond(
    name: str,
    options: Mapping[int, bytes],
    mac: str | None = None,
    mtu: int | None = None,
    index: int = 0,
) -> Request:
    """RTM_NEWLINK of a bond with all its options, in the socket's namespace.

    ``index`` is the ifindex it shall have, 0 for the kernel's choice. EEXIST when name
    or ifindex is taken; when an option is refused the kernel leaves no link.
    """
    body = _change_attrs(Change(name=name, mac=mac, mtu=mtu))
    info = pack_attr(IFLA_INFO_KIND, b"bond") + _options(IFLA_INFO_DATA, options)
    body += pack_nest(IFLA_LINKINFO, info)
    request = _request(RTM_NEWLINK, f"create bond {name}", body, index)
    return request._replace(flags=NLM_F_CREATE | NLM_F_EXCL)


def change_link(index: int, operation: str, change: Change) -> Request:
    """RTM_NEWLINK on the link of that ifindex; ``operation`` names it and the change."""
    bits = (change.flags, change.mask)
    return _request(RTM_NEWLINK, operation, _change_attrs(change), index, bits)


def delete_link(index: int, name: str) -> Request:
    """RTM_DELLINK by ifindex; ``name`` is for the error's sentence."""
    return _request(RTM_DELLINK, f"delete {name}", b"", index)


def _altnames(altnames: tuple[str, ...]) -> bytes:
    names = (pack_attr(IFLA_ALT_IFNAME, pack_text(altname)) for altname in altnames)
    return pack_nest(IFLA_PROP_LIST, *names)


def add_altnames(index: int, name: str, *altnames: str) -> Request:
    """RTM_NEWLINKPROP. EEXIST when a name is taken, be it by this very link."""
    operation = f"give {name} the alternative name {', '.join(altnames)}"
    request = _request(RTM_NEWLINKPROP, operation, _altnames(altnames), index)
    return request._replace(flags=NLM_F_CREATE | NLM_F_EXCL)


def delete_altnames(index: int, name: str, *altnames: str) -> Request:
    """RTM_DELLINKPROP. ENOENT when the link has no such alternative name."""
    operation = f"take the alternative name {', '.join(altnames)} from {name}"
    return _request(RTM_DELLINKPROP, operation, _altnames(altnames), index)


_NO_STATS = pack_attr(IFLA_EXT_MASK, pack_u32(RTEXT_FILTER_SKIP_STATS))


def get_links() -> Request:
    """RTM_GETLINK for a dump of the namespace."""
    return _request(RTM_GETLINK, "list links", _NO_STATS)


def get_link(index: int) -> Request:
    """RTM_GETLINK of one ifindex. ENODEV when there is none."""
    return _request(RTM_GETLINK, f"read link {index}", _NO_STATS, index)


def get_link_named(name: str) -> Request:
    """RTM_GETLINK of a name or alternative name. ENODEV when no link has it.

    The kernel looks among both for either attribute (__dev_get_by_name); IFLA_IFNAME has no
    room for a long one.
    """
    return _request(
        RTM_GETLINK, f"read link {name}", _NO_STATS + pack_attr(IFLA_ALT_IFNAME, pack_text(name))
    )


def stands_on(index: int) -> bytes:
    """What the message of a link that stands on another holds: IFLA_LINK with its ifindex.

    Other messages may hold these bytes by chance.
    """
    return pack_attr(IFLA_LINK, pack_u32(index))


def decode_stack(body: bytes) -> tuple[int, int | None]:
    """The ifindex of an RTM_NEWLINK's or RTM_DELLINK's link, and that of the link below it.

    None: there is none. 0: it is in another namespace, and may come back under any ifindex.
    Raises WireError.
    """
    found = attrs(body, _IFINFOMSG.size)
    index = int(_IFINFOMSG.unpack_from(body)[2])
    kind = text(attrs(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b""))
    if kind not in PEER_KINDS and IFLA_LINK_NETNSID in found:
        return index, 0
    return index, _lower(index, kind, found) or None


def _lower(index: int, kind: str, found: Mapping[int, bytes]) -> int:
    """IFLA_LINK, where it is a link below this one and in the same namespace."""
    if IFLA_LINK not in found or IFLA_LINK_NETNSID in found or kind in PEER_KINDS:
        return 0
    lower = u32(found[IFLA_LINK])
    return 0 if lower == index else lower


def decode_link(body: bytes) -> Link:
    """The link of an RTM_NEWLINK's body. Raises WireError."""
    found = attrs(body, _IFINFOMSG.size)
    _, arp_type, index, flags, _ = _IFINFOMSG.unpack_from(body)
    info = attrs(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    of_bond = text(info.get(IFLA_INFO_SLAVE_KIND, b"")) == "bond"

    def number(attribute: int) -> int:
        return u32(found[attribute]) if attribute in found else 0

    def string(attribute: int) -> str:
        return text(found.get(attribute, b""))

    return Link(
        index=index,
        name=string(IFLA_IFNAME),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        permanent_mac=found.get(IFLA_PERM_ADDRESS, b"").hex(":"),
        mtu=number(IFLA_MTU),
        min_mtu=number(IFLA_MIN_MTU),
        max_mtu=number(IFLA_MAX_MTU),
        flags=flags,
        type=arp_type,
        kind=kind,
        master=number(IFLA_MASTER),
        lower=_lower(index, kind, found),
        altnames=tuple(
            text(v) for n, v in attr_list(found.get(IFLA_PROP_LIST, b"")) if n == IFLA_ALT_IFNAME
        ),
        alias=string(IFLA_IFALIAS),
        txqlen=number(IFLA_TXQLEN),
        parent=string(IFLA_PARENT_DEV_NAME),
        parent_bus=string(IFLA_PARENT_DEV_BUS_NAME),
        carrier=bool(u8(found.get(IFLA_CARRIER, b"\0"))),
        operstate=u8(found.get(IFLA_OPERSTATE, b"\0")),
        bond=decode_bond(attrs(info.get(IFLA_INFO_DATA, b""))) if kind == "bond" else None,
        member=decode_member(attrs(info.get(IFLA_INFO_SLAVE_DATA, b""))) if of_bond else None,
    )
