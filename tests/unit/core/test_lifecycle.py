"""The two tables of the lifecycle: complete, and without contradiction."""

from __future__ import annotations

import itertools

import pytest

from bondcni.core.lifecycle import (
    ACTIONS,
    STATES,
    Action,
    AttachmentState,
    Boot,
    NamespaceState,
    Operation,
    action_of,
    state_of,
)


@pytest.mark.parametrize(
    ("boot", "namespace", "complete"),
    list(itertools.product(Boot, NamespaceState, (False, True))),
)
def test_exactly_one_row_matches(boot: Boot, namespace: NamespaceState, complete: object) -> None:
    rows = [
        row.state
        for row in STATES
        if row.boot is boot
        and row.namespace in (None, namespace)
        and row.complete in (None, complete)
    ]
    assert rows == [state_of(boot, namespace, complete=bool(complete))]


def test_each_state_has_a_row_of_actions() -> None:
    assert set(ACTIONS) == set(AttachmentState)
    beside = {AttachmentState.BUSY, AttachmentState.QUEUED}
    assert {row.state for row in STATES} == set(AttachmentState) - beside
    for state in set(AttachmentState) - beside:
        assert set(ACTIONS[state]) == set(Operation)


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("state", [AttachmentState.UNKNOWN, AttachmentState.BUSY])
def test_what_is_not_known_or_in_use_is_ended_by_del_alone(
    operation: Operation, state: AttachmentState
) -> None:
    assert not action_of(operation, state).ends or operation is Operation.DEL


def test_an_active_attachment_is_ended_by_del_alone() -> None:
    ended = [one for one in Operation if action_of(one, AttachmentState.ACTIVE).ends]
    assert ended == [Operation.DEL]


def test_an_operation_that_does_not_look_changes_nothing() -> None:
    assert action_of(Operation.GC, AttachmentState.QUEUED) is Action.KEEP
