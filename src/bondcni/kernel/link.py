"""Messages that create, change, delete and read links. Pure.

A function here returns a request, or decodes the body of a message into a ``state.Link``.
Bond and member options are payloads by their IFLA_BOND_ and IFLA_BOND_SLAVE_ numbers;
``option_codec.py`` encodes and decodes them.

Numbers and names are the kernel's (include/uapi/linux/if_link.h, rtnetlink.h).
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from bondcni.core.state import Link
from bondcni.kernel.option_codec import decode_bond, decode_member
from bondcni.kernel.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkRequest,
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
"""Kinds whose IFLA_LINK is their peer, not a lower link."""

_IFINFOMSG = struct.Struct("=BxHiII")  # family, ARPHRD type, index, flags, change mask
_NO_OPTIONS: Mapping[int, bytes] = {}


class Change(NamedTuple):
    """The changes that one message makes to a link; None means no change.

    The kernel applies bond and member options first, then the namespace, MAC, MTU, name,
    flags, and the master last (net/core/rtnetlink.c, rtnl_newlink and do_setlink). So one
    message can move a link and make it a member, but the member's options need a second
    message: without a master they are refused (EOPNOTSUPP). An error does not undo the earlier
    changes of the same message: a link whose new name is taken in the target namespace is
    refused with EEXIST, but has moved.

    ``namespace`` is a file descriptor; ``master`` an ifindex in that namespace, 0 for no master;
    ``mac`` is text with colons; ``flags`` are the IFF_* values of the bits in ``mask``;
    ``alias`` "" removes the alias. A link that moves keeps its ifindex if that is free, or gets
    ``new_index`` (EBUSY if that is taken).
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
    bond: Mapping[int, bytes] = _NO_OPTIONS
    member: Mapping[int, bytes] = _NO_OPTIONS


def pack_mac(mac: str) -> bytes:
    """The bytes of a MAC such as ``02:00:00:00:00:01``. Raises WireError if it is not one."""
    try:
        return bytes(int(octet, 16) for octet in mac.split(":"))
    except ValueError:
        raise WireError(f"{mac!r} is not a MAC address") from None


def _request(
    kind: int, operation: str, attributes: bytes, index: int = 0, bits: tuple[int, int] = (0, 0)
) -> NetlinkRequest:
    try:
        head = _IFINFOMSG.pack(0, 0, index, *bits)
    except struct.error:
        raise WireError(
            f"{operation}: ifindex {index} or flags {bits} do not fit into 32 bits"
        ) from None
    return NetlinkRequest(kind, 0, head + attributes, _IFINFOMSG.size, operation)


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
    if change.alias is not None:  # without the NUL: an empty value removes the alias
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
) -> NetlinkRequest:
    """RTM_NEWLINK of a bond with all its options, in the socket's namespace.

    ``index`` is its ifindex, 0 for one that the kernel chooses. EEXIST if the name or the ifindex
    is taken. If an option is refused, the kernel creates no link.
    """
    body = _change_attrs(Change(name=name, mac=mac, mtu=mtu))
    info = pack_attr(IFLA_INFO_KIND, b"bond") + _options(IFLA_INFO_DATA, options)
    body += pack_nest(IFLA_LINKINFO, info)
    request = _request(RTM_NEWLINK, f"create bond {name}", body, index)
    return request._replace(flags=NLM_F_CREATE | NLM_F_EXCL)


def change_link(index: int, operation: str, change: Change) -> NetlinkRequest:
    """RTM_NEWLINK that changes the link with an ifindex; ``operation`` is for error messages."""
    bits = (change.flags, change.mask)
    return _request(RTM_NEWLINK, operation, _change_attrs(change), index, bits)


def delete_link(index: int, name: str) -> NetlinkRequest:
    """RTM_DELLINK by ifindex; ``name`` is for error messages."""
    return _request(RTM_DELLINK, f"delete {name}", b"", index)


def _altnames(altnames: tuple[str, ...]) -> bytes:
    names = (pack_attr(IFLA_ALT_IFNAME, pack_text(altname)) for altname in altnames)
    return pack_nest(IFLA_PROP_LIST, *names)


def add_altnames(index: int, name: str, *altnames: str) -> NetlinkRequest:
    """RTM_NEWLINKPROP. EEXIST if a name is taken, also by this link."""
    operation = f"add alternative name {', '.join(altnames)} to {name}"
    request = _request(RTM_NEWLINKPROP, operation, _altnames(altnames), index)
    return request._replace(flags=NLM_F_CREATE | NLM_F_EXCL)


def delete_altnames(index: int, name: str, *altnames: str) -> NetlinkRequest:
    """RTM_DELLINKPROP. ENOENT if the link has no such alternative name."""
    operation = f"remove alternative name {', '.join(altnames)} from {name}"
    return _request(RTM_DELLINKPROP, operation, _altnames(altnames), index)


_NO_STATS = pack_attr(IFLA_EXT_MASK, pack_u32(RTEXT_FILTER_SKIP_STATS))


def get_links() -> NetlinkRequest:
    """RTM_GETLINK for a dump of all links in the namespace."""
    return _request(RTM_GETLINK, "list links", _NO_STATS)


def get_link(index: int) -> NetlinkRequest:
    """RTM_GETLINK by ifindex. ENODEV if there is no such link."""
    return _request(RTM_GETLINK, f"read link {index}", _NO_STATS, index)


def get_link_named(name: str) -> NetlinkRequest:
    """RTM_GETLINK by name or alternative name. ENODEV if no link has it.

    For IFLA_ALT_IFNAME the kernel searches names as well (__dev_get_by_name); IFLA_IFNAME is too
    short for an alternative name.
    """
    return _request(
        RTM_GETLINK, f"read link {name}", _NO_STATS + pack_attr(IFLA_ALT_IFNAME, pack_text(name))
    )


def lower_link_attr(index: int) -> bytes:
    """The bytes of IFLA_LINK with this ifindex, as in the message of each link on top of it.

    Other messages can contain the same bytes by chance.
    """
    return pack_attr(IFLA_LINK, pack_u32(index))


def decode_lower_link(body: bytes) -> tuple[int, int | None]:
    """The ifindex of the link in an RTM_NEWLINK or RTM_DELLINK, and that of its lower link.

    None: it has no lower link. 0: the lower link is in another namespace and can return with
    any ifindex. Raises WireError.
    """
    found = attrs(body, _IFINFOMSG.size)
    index = int(_IFINFOMSG.unpack_from(body)[2])
    kind = text(attrs(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b""))
    if kind not in PEER_KINDS and IFLA_LINK_NETNSID in found:
        return index, 0
    return index, _lower(index, kind, found) or None


def _lower(index: int, kind: str, found: Mapping[int, bytes]) -> int:
    """The ifindex of the lower link in the same namespace (IFLA_LINK); 0 if there is none."""
    if IFLA_LINK not in found or IFLA_LINK_NETNSID in found or kind in PEER_KINDS:
        return 0
    lower = u32(found[IFLA_LINK])
    return 0 if lower == index else lower


def decode_link(body: bytes) -> Link:
    """The link in the body of an RTM_NEWLINK. Raises WireError."""
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
