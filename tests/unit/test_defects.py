"""Defects of the Go bond-cni (at 258926a) that can be tested without a kernel.

``tests/kernel/test_defects.py`` has the others. Each of D1 to D27 has one test.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.world import config, nic, plan_for, space

from bondcni.core.config import BondConfig, parse
from bondcni.core.errors import ConfigError, Refused

FILES = (Path(__file__), Path(__file__).parents[1] / "kernel/test_defects.py")


def parsed(**changes: Any) -> BondConfig:
    links = [{"name": "eth1"}, {"name": "eth2"}]
    base = {"cniVersion": "1.0.0", "name": "n", "mode": "active-backup", "type": "bond"}
    return parse(json.dumps({**base, "miimon": 100, "links": links, **changes}).encode())


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parsed(**changes)
    return [problem.pointer for problem in error.value.problems]


def test_d15_miimon_is_validated_before_anything_is_changed() -> None:
    """The Go plugin accepted text only, read it after moving the links, ignored a negative number and
    took 2^32 as 0.
    """
    assert {parsed(miimon=value).options["miimon"] for value in (100, "100", " 100 ")} == {100}
    for bad in ("-5", -5, "99999999999", "x", True, 0.5):
        assert problems(miimon=bad) == ["/miimon"]
    assert "0 disables link monitoring" in parsed(mode="802.3ad", miimon="0").warnings[0]


def test_d17_an_mtu_is_compared_with_the_link_itself() -> None:
    """The Go plugin compared it with a PF that it found by MAC, which another VF can have as well."""
    mac = "02:00:00:00:00:01"
    links = (nic(5, "eth1", mac=mac, mtu=9000), nic(6, "eth2", mac=mac, mtu=1500))
    vfs = (*links, nic(7, "eth9", mac=mac, mtu=100))
    with pytest.raises(Refused) as refused:
        plan_for(config("eth1", "eth2", mtu=9000), space(*vfs), space())
    assert refused.value.reasons == (
        "mtu 9000 exceeds the MTU of eth2 (1500): lower mtu or raise the MTU of eth2",
    )
    plan = plan_for(config("eth1", "eth2", mtu=1500), space(*vfs), space())
    assert plan.wanted.mtu == 1500


def test_d26_the_pointer_names_the_invalid_entry() -> None:
    """The Go plugin said "failed to find link name" without the entry; of ipam it refused only "bond"."""
    links: list[Any] = [{"name": "eth1"}, {}, {"name": ""}, 5]
    assert problems(links=links) == ["/links/1", "/links/2/name", "/links/3"]
    assert problems(ipam={"type": "bond"}) == ["/ipam/type"]
    assert problems(ipam={"type": "../bond"}) == ["/ipam/type"]


def test_d27_options_without_effect_in_the_mode_cause_warnings() -> None:
    """The Go plugin accepted failOverMac and xmitHashPolicy silently in modes without an effect."""
    assert "/xmitHashPolicy: has no effect" in parsed(xmitHashPolicy="layer3+4").warnings[0]
    assert "/failOverMac: has no effect" in parsed(mode="balance-rr", failOverMac=1).warnings[0]
    assert parsed(failOverMac=1).warnings == ()
    assert parsed(mode="balance-xor", xmitHashPolicy="layer3+4").warnings == ()


def test_every_defect_has_one_test() -> None:
    found = [
        int(number)
        for file in FILES
        for number in re.findall(r"^def test_d(\d\d)_", file.read_text(), re.MULTILINE)
    ]
    assert sorted(found) == list(range(1, 28))
