"""Issue item 25: the explanation of each errno when a link is to become a member."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from tests.unit.core.world import config, mac, nic, plan_for, space

from bondcni.core.enslaving import ENOTSUPP, EXPLANATIONS, explain
from bondcni.core.plan import ChangeLink, CreateBond, Plan, Step

FIRST = "the MAC of eth1, the first link"
ALONE = (
    "in mode 802.3ad every member gets this MAC, whatever failOverMac is; in mode active-backup with "
    '"failOverMac": 1 each member keeps its own'
)
KEEP = 'or write "failOverMac": 1, so that each member keeps its own MAC'


def planned(mode: int = 1, **changes: Any) -> Plan:
    host = space(nic(11, "eth1"), nic(12, "eth2"))
    return plan_for(config("eth1", "eth2", mode=mode, **changes), host, space())


def enslave(plan: Plan) -> Step:
    """The step that makes eth2 a member."""
    steps = [s for s in plan.steps if isinstance(s, ChangeLink) and s.label == "eth2" and s.master]
    return steps[0]


def explained(number: int, text: str = "", mode: int = 1, **changes: Any) -> str:
    plan = planned(mode, **changes)
    return explain(plan, enslave(plan), number, text)


@pytest.mark.parametrize(
    ("number", "text", "mode", "words"),
    [
        (
            errno.EADDRINUSE,
            "",
            1,
            (
                f"eth2 cannot have the MAC {mac(11)}, {FIRST}, because another link on the same parent "
                "has it (macvlans on one parent must have different MACs): use links on different "
                f"parents; {KEEP}"
            ),
        ),
        (
            errno.EADDRNOTAVAIL,
            "",
            4,
            (
                f"eth2 may not change its MAC to {mac(11)}, {FIRST} (a PF allows a VF to change its MAC "
                "only if the VF is trusted or has no administrative MAC): if eth2 is a VF, make it "
                'trusted (ip link set PF vf N trust on, or "trust": "on" in the sriov-cni '
                "configuration; DEL of sriov-cni keeps the administrative MAC, so the next pod with "
                f"this VF also needs trust); {ALONE}"
            ),
        ),
        (
            errno.EOPNOTSUPP,
            (
                "Slave device does not support setting the MAC address, but fail_over_mac is not set "
                "to active"
            ),
            1,
            (
                f"eth2 cannot change its MAC to {mac(11)}, {FIRST}: use a link whose driver can change "
                f"the MAC; {KEEP}"
            ),
        ),
        (
            errno.EOPNOTSUPP,
            "",
            4,
            (
                f"the driver of eth2 cannot change the MAC, which must become {mac(11)}, {FIRST}: use "
                f"a link whose driver can change the MAC; {ALONE}"
            ),
        ),
    ],
)
def test_25_a_mac_that_is_refused(number: int, text: str, mode: int, words: str) -> None:
    assert explained(number, text, mode) == words


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_25_drivers_use_several_errnos_for_not_trusted(number: int) -> None:
    assert explained(number, "", 4) == explained(errno.EADDRNOTAVAIL, "", 4)
    assert "trust on" in explained(number, "", 4)


def test_25_an_internal_errno_of_the_kernel_is_explained() -> None:
    assert explained(ENOTSUPP) == explained(errno.EOPNOTSUPP)


def test_25_a_requested_mac_of_the_bond_is_named() -> None:
    said = explained(errno.EADDRNOTAVAIL, mac=mac(0x70))
    assert f"eth2 may not change its MAC to {mac(0x70)}, the MAC requested for net1" in said


def test_25_fail_over_mac_is_not_proposed_where_it_is_set() -> None:
    said = explained(errno.EINVAL, options={"miimon": 100, "fail_over_mac": 1})
    assert "failOverMac" not in said


@pytest.mark.parametrize(
    ("number", "text", "words"),
    [
        (errno.EBUSY, "Device is in use and cannot be enslaved", "eth2 is in use: a bridge"),
        (errno.EPERM, "Device can not be enslaved while up", "eth2 was set up by another"),
        (errno.EPERM, "Device type (master device) cannot be enslaved", "is itself a master"),
        (errno.EPERM, "Cannot enslave bond to itself.", "eth2 is the bond itself"),
        (
            errno.EPERM,
            "Can not enslave VLAN challenged device to VLAN enabled bond",
            "eth2 does not support VLANs",
        ),
        (errno.EINVAL, "Device type is different from other slaves", "has another device type"),
        (
            errno.EOPNOTSUPP,
            "Only active-backup mode is supported for infiniband slaves",
            "eth2 is an InfiniBand link",
        ),
        (errno.EOPNOTSUPP, "Slave does not support XDP", "XDP"),
        (errno.EEXIST, "", "an interface with the name or an alternative name of eth2"),
        (errno.EBUSY, "An interface with the desired index already exists", "ifindex chosen for"),
        (errno.EINVAL, "The interface netns is immutable", "does not allow it to leave"),
        (errno.EFAULT, "", "same MAC as another member"),
        (errno.EBUSY, "", "eth2 is busy"),
        (errno.EINVAL, "", "did not accept the MTU 1500 or the MAC"),
        (errno.ENODEV, "", "eth2 disappeared"),
        (errno.ENOMEM, "", "memory"),
        (errno.ELOOP, "", "on top of net1"),
        (errno.EMLINK, "", "too many links"),
        (errno.EIO, "", "could not bring it up"),
        (errno.ENOSYS, "", "refused a setting that a member needs"),
    ],
)
def test_25_every_errno_is_explained(number: int, text: str, words: str) -> None:
    assert words in explained(number, text)


def test_25_each_row_can_be_reached() -> None:
    """A row after one that matches all of its errnos and texts would never be used."""
    for place, row in enumerate(EXPLANATIONS):
        for number in row.errnos:
            before = [r for r in EXPLANATIONS[:place] if number in r.errnos]
            assert not any(earlier.text.lower() in row.text.lower() for earlier in before), row
    assert EXPLANATIONS[-1].errnos == ()
    assert EXPLANATIONS[-1].text == ""


def test_25_other_steps_are_not_explained() -> None:
    plan = planned()
    assert isinstance(plan.steps[0], CreateBond)
    for step in (plan.steps[0], plan.steps[-1]):
        assert explain(plan, step, errno.EINVAL, "") == ""
