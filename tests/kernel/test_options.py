"""Every row of the option table, set through the plugin and read by another program.

Each writable row has an example here: a value that is not the default, in a mode that takes it,
with the options that it needs. A row without one fails, so a new option needs an example. The
reader is ``ip -j -d``; what Debian's ``ip`` does not print is read as raw netlink attributes. If
this kernel does not have an option, ADD must fail and name it: the kernel itself gives no error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from tests.kernel.conftest import Document, Node, Space, config
from tests.kernel.lan import bond_attributes, member_attributes

from bondcni.core.options import BOND_OPTIONS, MEMBER_OPTIONS, Option, key_of

ARP = {"miimon": None, "arpInterval": 200, "arpIpTarget": ["10.9.0.1"]}


class Example(NamedTuple):
    """A value as users write it, and how it is read back."""

    value: Any
    shown: Any = None  # what ip prints, if that is not the value itself
    mode: str = "active-backup"
    beside: Mapping[str, Any] = {}  # options that it needs
    key: str = ""  # the key in ip's output, if it is not the kernel's name
    raw: bytes | None = None  # the attribute's payload, if ip 6.1 does not print it


BOND: dict[str, Example] = {
    "mode": Example("802.3ad", mode="802.3ad"),
    "active_slave": Example("m2"),
    "miimon": Example(250),
    "updelay": Example(300),
    "downdelay": Example(200),
    "use_carrier": Example("off", 0),
    "arp_interval": Example(400, beside=ARP),
    "arp_ip_target": Example(["10.9.0.7", "10.9.0.8"], beside=ARP),
    "arp_validate": Example("filter_backup", beside=ARP),
    "arp_all_targets": Example("all", beside={**ARP, "arpValidate": "all"}),
    "primary": Example("m2"),
    "primary_reselect": Example("better", beside={"primary": "m1"}),
    "fail_over_mac": Example("follow"),
    "xmit_hash_policy": Example("vlan+srcmac", mode="balance-xor"),
    "resend_igmp": Example(7),
    "num_peer_notif": Example(9),
    "all_slaves_active": Example("on", 1),
    "min_links": Example(2, mode="802.3ad"),
    "lp_interval": Example(5, mode="balance-tlb"),
    "packets_per_slave": Example(3, mode="balance-rr"),
    "lacp_rate": Example("fast", mode="802.3ad", key="ad_lacp_rate"),
    "ad_select": Example("bandwidth", mode="802.3ad"),
    "ad_actor_sys_prio": Example(1000, mode="802.3ad"),
    "ad_user_port_key": Example(1023, mode="802.3ad"),
    "ad_actor_system": Example("02:00:5e:00:00:42", mode="802.3ad"),
    "tlb_dynamic_lb": Example("off", 0, mode="balance-tlb"),
    "peer_notif_delay": Example(300, key="peer_notify_delay"),
    "lacp_active": Example("off", mode="802.3ad", key="ad_lacp_active"),
    "arp_missed_max": Example(5, beside=ARP),
    "ns_ip6_target": Example(["fd00:9::1", "fd00:9::2"], beside={**ARP, "arpIpTarget": None}),
    "coupled_control": Example("off", mode="802.3ad", raw=b"\0"),
    "broadcast_neighbor": Example("on", mode="802.3ad", raw=b"\1"),
    "lacp_strict": Example("on", mode="802.3ad", raw=b"\1"),
}

MEMBER: dict[str, Example] = {
    "queue_id": Example(3),
    "prio": Example(-5),
    "actor_port_prio": Example(7, mode="802.3ad", raw=struct.pack("=H", 7)),
}


def writable(table: tuple[Option, ...]) -> list[str]:
    return [row.kernel for row in table if not row.read_only]


def test_every_row_has_an_example() -> None:
    assert list(BOND) == writable(BOND_OPTIONS)
    assert list(MEMBER) == writable(MEMBER_OPTIONS)


@pytest.fixture
def nics(node: Node) -> list[str]:
    """Two NICs with one cable: a test of options needs carrier, but no partner."""
    node.space.batch("link add m1 type veth peer name m2")
    node.space.batch("link set m1 up", "link set m2 up")
    return ["m1", "m2"]


def is_lacking(node: Node, row: Option, mode: str, reader: Callable[[Space, str], Any]) -> bool:
    """Whether a bond with default options does not report the option."""
    fresh = node.pod()
    node.cni("ADD", config(["m1", "m2"], mode), fresh, container="fresh").ok()
    lacking = row.number not in reader(fresh, "bond0" if reader is bond_attributes else "m1")
    node.cni("DEL", config(["m1", "m2"], mode), fresh, container="fresh").ok()
    return lacking


def assert_told(node: Node, pod: Space, message: str, before: Document) -> None:
    """The silent no of this kernel was told, and everything is as it was."""
    assert "is not supported by this kernel" in message
    assert node.home() == before
    assert set(pod.links()) == {"lo"}


@pytest.mark.parametrize("name", writable(BOND_OPTIONS))
def test_a_bond_option_is_set_and_read_back(
    node: Node, pod: Space, nics: list[str], name: str
) -> None:
    row = next(row for row in BOND_OPTIONS if row.kernel == name)
    example = BOND[name]
    before = node.home()
    asked = {**config(nics, example.mode), **example.beside, row.key: example.value}

    answer = node.cni("ADD", asked, pod)

    if answer.status and row.obsolete:
        message = answer.failed(102)
        assert name in message
        assert node.home() == before
        return
    if answer.status:
        message = answer.failed(103)
        assert f"bond0: {key_of(name)} {example.value} is not supported" in message
        assert_told(node, pod, message, before)
        assert is_lacking(node, row, example.mode, bond_attributes)
        return
    expected = example.value if example.shown is None else example.shown
    if example.raw is None:
        assert pod.bond("bond0")[example.key or name] == expected
    else:
        assert bond_attributes(pod, "bond0")[row.number] == example.raw
    assert pod.bond("bond0")["mode"] == example.mode
    assert pod.members("bond0") == set(nics)
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


@pytest.mark.parametrize("name", writable(MEMBER_OPTIONS))
def test_a_member_option_is_set_and_read_back(
    node: Node, pod: Space, nics: list[str], name: str
) -> None:
    row = next(row for row in MEMBER_OPTIONS if row.kernel == name)
    example = MEMBER[name]
    before = node.home()
    asked = config(nics, example.mode)
    asked["links"][1][row.key] = example.value

    answer = node.cni("ADD", asked, pod)

    if answer.status:
        message = answer.failed(103)
        assert f"member m2: {key_of(name)} {example.value} is not supported" in message
        assert_told(node, pod, message, before)
        assert is_lacking(node, row, example.mode, member_attributes)
        return
    first, second = (pod.links()[nic]["linkinfo"]["info_slave_data"] for nic in nics)
    if example.raw is None:
        assert (first[name], second[name]) == (0, example.value)
    else:
        assert member_attributes(pod, "m2")[row.number] == example.raw
        assert member_attributes(pod, "m1")[row.number] != example.raw
    node.cni("DEL", asked, pod).ok()
    assert node.home() == before


@pytest.mark.parametrize(
    ("row", "value"),
    [(row, value) for row in BOND_OPTIONS for value in row.newer_values],
    ids=lambda part: part.kernel if isinstance(part, Option) else str(part),
)
def test_a_value_of_newer_kernels_is_held_or_told(
    node: Node, pod: Space, nics: list[str], row: Option, value: int
) -> None:
    before = node.home()
    asked = config(nics, "802.3ad", **{row.key: row.names[value]})
    answer = node.cni("ADD", asked, pod)
    if answer.status:
        message = answer.failed(102)
        assert row.kernel in message
        assert node.home() == before
    else:
        assert bond_attributes(pod, "bond0")[row.number] == bytes([value])


@pytest.mark.parametrize("mode", ["balance-rr", "802.3ad", "active-backup"])
def test_what_was_not_asked_for_stays_the_kernels_default(
    node: Node, pod: Space, nics: list[str], mode: str
) -> None:
    node.cni("ADD", config(nics, mode), pod).ok()
    pod.ip("link", "add", "bare", "type", "bond", "mode", mode, "miimon", "100")
    ours, bare = pod.bond("bond0"), pod.bond("bare")
    for data in (ours, bare):
        data.pop("ad_info", None)  # the running state
        data.pop("active_slave", None)
    assert ours == bare


def test_many_options_at_once_in_users_spellings(node: Node, pod: Space, nics: list[str]) -> None:
    asked = config(nics, "4", miimon="100", xmitHashPolicy="layer3+4", failOverMac="0")
    asked["options"] = {"lacp_rate": 1, "ad_select": "count", "min-links": "1", "updelay": 200}
    node.cni("ADD", asked, pod).ok()
    bond = pod.bond("bond0")
    assert (bond["mode"], bond["xmit_hash_policy"]) == ("802.3ad", "layer3+4")
    assert (bond["ad_lacp_rate"], bond["ad_select"]) == ("fast", "count")
    assert (bond["min_links"], bond["updelay"]) == (1, 200)


def test_a_delay_is_held_as_the_kernel_rounds_it(node: Node, pod: Space, nics: list[str]) -> None:
    answer = node.cni("ADD", config(nics, updelay=250, downdelay=199), pod)
    answer.ok()
    assert pod.bond("bond0")["updelay"] == 200
    assert pod.bond("bond0")["downdelay"] == 100
    assert "rounds it down to 200" in answer.stderr
