"""Issue item 18: a PF whose VFs pods may hold is not taken."""

from __future__ import annotations

import pytest
from tests.unit.core.world import config, nic, plan_for, space

from bondcni.core.errors import Refused
from bondcni.core.policy import Policy, Rule
from bondcni.core.state import Link


@pytest.mark.parametrize(("vfs", "count"), [(1, "1 VF"), (4, "4 VFs")])
def test_18_a_pf_with_vfs_is_in_use(vfs: int, count: str) -> None:
    host = space(nic(11, "eth1", vfs=vfs), nic(12, "eth2"))
    with pytest.raises(Refused) as refused:
        plan_for(config("eth1", "eth2"), host, space())
    assert refused.value.reasons == (
        (
            f"host link eth1 is in use: it is an SR-IOV PF with {count}, which pods may use: use VFs "
            "instead, remove them (echo 0 >/sys/class/net/eth1/device/sriov_numvfs), or allow the "
            "link with force in the node's policy"
        ),
    )


def test_18_the_policy_can_force_it() -> None:
    host = space(nic(11, "eth1", vfs=2), nic(12, "eth2"))
    forced = Policy((Rule(name="eth1", force=True), Rule(name="eth2")), "p.yaml")
    plan = plan_for(config("eth1", "eth2"), host, space(), forced)
    assert [item.link.name for item in plan.claimed] == ["eth1", "eth2"]


def test_18_a_pf_without_vfs_and_a_link_in_the_pod_are_free() -> None:
    def links(vfs: int) -> tuple[Link, Link]:
        return nic(11, "eth1", vfs=vfs), nic(12, "eth2")

    assert plan_for(config("eth1", "eth2"), space(*links(0)), space()).steps
    inside = config("eth1", "eth2", links_in_container=True)
    assert plan_for(inside, space(), space(*links(4))).steps
