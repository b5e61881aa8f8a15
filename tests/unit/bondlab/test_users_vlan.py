"""10.27: a VLAN on a bond works, and with which plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bondlab.labpods import bond, make_pod
from tests.unit.bondlab.test_story import NICS, World, kinds, lab, reasons, run

from bondlab.kernels import catalog
from bondlab.scenario import planning, session, story
from bondlab.scenario.events import Note, Ping
from bondlab.scenario.topology import Vlan

VLAN = {"type": "vlan", "master": "net1", "linkInContainer": True, "vlanId": 100}


@pytest.mark.parametrize(
    ("config", "vlans"),
    [
        (VLAN, (Vlan("net2", 100),)),
        (VLAN | {"master": "net9"}, ()),
        (VLAN | {"linkInContainer": False}, ()),
        ({"type": "tuning"}, ()),
    ],
)
def test_10_27_vlans_of_a_bond(config: dict[str, Any], vlans: tuple[Vlan, ...]) -> None:
    pod = make_pod(("net1", bond("active-backup", *NICS)), ("net2", config))
    assert planning.plan(pod, hardware=True).bonds[0].vlans == vlans


def told(world: World) -> list[Any]:
    pod = make_pod(("net1", bond("active-backup", *NICS)), ("net2", VLAN))
    room = lab(world)
    return run(story.Case(room._replace(plugins={**room.plugins, "vlan": "/b/vlan"}), pod))


def test_10_27_the_vlan_is_probed_through_its_own_interface() -> None:
    world = World()
    events = told(world)
    assert reasons(events) == ()
    assert [one.bond for one in events if isinstance(one, Ping)] == ["net1", "net2"]
    assert "link add link lan name lan.100 type vlan id 100" in world.batches
    assert kinds(events)[-1] == "CaseEnd"


def test_10_27_a_vlan_without_address_is_noted() -> None:
    events = told(World("address"))
    assert any(isinstance(one, Note) and "net2 has no address" in one.text for one in events)


@pytest.mark.parametrize(
    ("installed", "config", "fetched"),
    [
        (None, {"type": "tuning"}, [False]),
        (None, VLAN, [True, False]),
        ("linkInContainer", VLAN, []),
        ("of 1.1.1", VLAN, [True]),
        ("of 1.1.1", {"type": "tuning"}, []),
    ],
)
def test_10_27_new_plugins_are_fetched_where_they_are_needed(
    installed: str | None,
    config: dict[str, Any],
    fetched: list[bool],
    tmp_path: Path,
) -> None:
    asked: list[bool] = []

    def fetch(progress: object, *, new: bool = False) -> Path:
        del progress
        asked.append(new)
        return tmp_path / ("new" if new else "old")

    if installed is not None:
        (tmp_path / "vlan").write_text(json.dumps(installed))
        (tmp_path / "host-local").touch()
    pods = [make_pod(("net2", config))]
    folders = session.plugin_directories(lambda _: None, pods, [str(tmp_path)], fetch)
    assert asked == fetched
    assert (folders[0] == str(tmp_path / "new")) is (True in fetched)


def test_10_27_both_sets_of_plugins_are_kept_side_by_side() -> None:
    assert catalog.DELEGATES.name != catalog.NEW_DELEGATES.name
