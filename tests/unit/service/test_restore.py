"""The rounds of a restore: what is refused, and what may have been destroyed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.core.test_restore import CASES, after
from tests.unit.core.world import Model, World, die, mac

from bondcni.core.plan import ChangeLink, Step
from bondcni.core.state import Device, Link
from bondcni.service.restore import Restored, restore_with

START = CASES["hardware"]
BOND, CLAIMED = START.plan.wanted, START.plan.claimed
WHOLE = after(START, len(START.plan.steps))
ASSIGNED = mac(0x77)


def restored(model: Model, device_of: Callable[[Link], Device | None] = lambda _: None) -> Restored:
    return restore_with(BOND, CLAIMED, model.read, model.attempt, device_of)


def assigned(world: World, name: str) -> World:
    """The PF assigned another MAC to a VF that is at home."""
    links = tuple(
        replace(n, mac=ASSIGNED, permanent_mac=ASSIGNED) if n.name == name else n
        for n in world.host.links
    )
    return world._replace(host=replace(world.host, links=links))


def refusing(number: int, of: str) -> Callable[[Step], int]:
    """A driver that answers each change of a link's MAC with an errno."""

    def refuse(step: Step) -> int:
        return number if isinstance(step, ChangeLink) and step.label == of and step.mac else 0

    return refuse


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES])
def test_a_mac_that_the_pf_assigns_is_a_warning(number: int) -> None:
    """It cannot be changed: else DEL and ADD fail for ever."""
    off = assigned(START.world, "eth2")
    done = restored(Model(off, refusing(number, "eth2")))
    assert (done.errors, done.missing) == ((), ())
    (warning,) = done.warnings
    assert warning.startswith(f"link eth2 keeps the MAC {ASSIGNED}, before ADD it had {mac(12)}: ")
    assert errno.errorcode[number] in warning
    assert "The PF assigns the MAC of a VF" in warning


def test_everything_else_is_restored_where_the_mac_is_refused() -> None:
    off = assigned(START.world, "eth2")
    links = tuple(replace(n, mtu=1400) if n.name == "eth2" else n for n in off.host.links)
    model = Model(World(replace(off.host, links=links), off.pod), refusing(errno.EPERM, "eth2"))
    done = restored(model)
    assert (done.errors, len(done.warnings)) == ((), 1)
    eth2 = model.world.host.named("eth2")
    assert eth2
    assert eth2.mtu == 1500


@pytest.mark.parametrize(
    ("number", "world"),
    [
        (errno.EBUSY, assigned(START.world, "eth2")),  # may succeed later
        (errno.EADDRNOTAVAIL, WHOLE),  # the move itself, from the pod to the host
    ],
)
def test_other_refusals_are_errors(number: int, world: World) -> None:
    def refuse(step: Step) -> int:
        if not isinstance(step, ChangeLink) or step.label != "eth2":
            return 0
        return number if step.mac or step.to else 0

    done = restored(Model(world, refuse))
    assert len(done.errors) == 1
    assert errno.errorcode[number] in done.errors[0]


def test_a_step_without_effect_is_an_error() -> None:
    model = Model(assigned(START.world, "eth2"))
    done = restore_with(BOND, CLAIMED, model.read, lambda _: (), lambda _: None)
    assert done.errors == (
        f"change eth2 (mac {mac(12)}): the kernel acknowledged it, without effect",
    )


# Missing hardware

DEAD = die(WHOLE)
GONE = DEAD._replace(
    host=replace(DEAD.host, links=tuple(n for n in DEAD.host.links if n.name != "eth2"))
)


def test_hardware_whose_device_is_unknown_is_missing() -> None:
    done = restored(Model(GONE))
    assert (done.errors, done.warnings, done.missing) == ((), (), ("eth2",))


def test_hardware_that_was_unplugged_is_a_warning() -> None:
    done = restored(Model(GONE), lambda _: Device(present=False))
    assert (done.errors, done.missing) == ((), ())
    assert [text.partition(":")[0] for text in done.warnings] == ["link eth2 was unplugged"]


def test_hardware_that_came_home_while_its_device_was_read_is_restored() -> None:
    """Its interface was on the way between two namespaces when both were read."""
    model = Model(GONE)

    def device_of(_: Link) -> Device:
        model.world = DEAD
        return Device(present=True)

    done = restored(model, device_of)
    assert done == Restored((), (), ())
    assert model.world.host.named("eth2")
