"""The lifecycle of an attachment, as two tables: its state, and what each operation does in it.

``docs/lifecycle.md`` is generated from both (``tools/lifecycle_page.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Boot(StrEnum):
    """When the record was written, by the kernel's boot_id."""

    THIS = "this boot"
    EARLIER = "an earlier boot"


class NamespaceState(StrEnum):
    """What is known of the network namespace that the record names, by device and inode."""

    PRESENT = "present"
    GONE = "gone"
    UNKNOWN = "unknown"


class AttachmentState(StrEnum):
    """The state of an attachment, as messages and ``bondctl`` print it."""

    ACTIVE = "active"
    INTERRUPTED = "interrupted"
    NAMESPACE_GONE = "namespace gone"
    OTHER_BOOT = "other boot"
    UNKNOWN = "unknown"
    BUSY = "busy"
    QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class StateRow:
    """One row of the table of states; None stands for any value."""

    boot: Boot
    namespace: NamespaceState | None
    complete: bool | None
    state: AttachmentState


STATES = (
    StateRow(Boot.EARLIER, None, None, AttachmentState.OTHER_BOOT),
    StateRow(Boot.THIS, NamespaceState.UNKNOWN, None, AttachmentState.UNKNOWN),
    StateRow(Boot.THIS, NamespaceState.GONE, None, AttachmentState.NAMESPACE_GONE),
    StateRow(Boot.THIS, NamespaceState.PRESENT, complete=False, state=AttachmentState.INTERRUPTED),
    StateRow(Boot.THIS, NamespaceState.PRESENT, complete=True, state=AttachmentState.ACTIVE),
)
"""The state of a record. Exactly one row matches. ``complete``: ADD completed, and no DEL began."""


class Operation(StrEnum):
    """What meets the record of an attachment."""

    ADD = "ADD of the same attachment"
    ADD_LINKS = "ADD of its links"
    DEL = "DEL"
    GC = "GC"
    CLEANUP = "pending cleanup"
    RECOVER = "bondctl recover"
    CHECK = "bondctl check"


class Action(StrEnum):
    """What an operation does with an attachment."""

    KEEP = "keep"
    VERIFY = "verify"
    REPORT = "report"
    REFUSE = "refuse"
    TAKE_DOWN = "take down"
    RESTORE = "restore"
    RELEASE = "release"
    WAIT = "wait"
    TRY_AGAIN = "try again"
    FINISH = "finish"

    @property
    def ends(self) -> bool:
        """Whether the action ends the attachment."""
        return self in (Action.TAKE_DOWN, Action.RESTORE, Action.RELEASE)


def _row(*actions: Action | None) -> dict[Operation, Action]:
    pairs = zip(Operation, actions, strict=True)
    return {operation: action for operation, action in pairs if action}


_A, _S = Action, AttachmentState
# fmt: off
ACTIONS: Mapping[AttachmentState, Mapping[Operation, Action]] = {
    #                           ADD           ADD_LINKS     DEL           GC            CLEANUP       RECOVER       CHECK
    _S.ACTIVE:          _row(   _A.REFUSE,    _A.REFUSE,    _A.TAKE_DOWN, _A.KEEP,      _A.KEEP,      _A.KEEP,      _A.VERIFY),
    _S.INTERRUPTED:     _row(   _A.TAKE_DOWN, _A.TAKE_DOWN, _A.TAKE_DOWN, _A.TAKE_DOWN, _A.TAKE_DOWN, _A.TAKE_DOWN, _A.REPORT),
    _S.NAMESPACE_GONE:  _row(   _A.RESTORE,   _A.RESTORE,   _A.TAKE_DOWN, _A.RESTORE,   _A.RESTORE,   _A.RESTORE,   _A.REPORT),
    _S.OTHER_BOOT:      _row(   _A.RELEASE,   _A.RELEASE,   _A.TAKE_DOWN, _A.RELEASE,   _A.RELEASE,   _A.RELEASE,   _A.REPORT),
    _S.UNKNOWN:         _row(   _A.TRY_AGAIN, _A.KEEP,      _A.TAKE_DOWN, _A.KEEP,      _A.KEEP,      _A.KEEP,      _A.REPORT),
    _S.BUSY:            _row(   _A.WAIT,      _A.WAIT,      _A.WAIT,      _A.KEEP,      _A.KEEP,      _A.KEEP,      None),
    _S.QUEUED:          _row(   _A.FINISH,    _A.FINISH,    _A.FINISH,    None,         _A.FINISH,    _A.FINISH,    None),
}
# fmt: on
"""What each operation does. None: the operation does not look at it. BUSY and QUEUED are found
beside the record: its lock is held, or a DEL of it is in the queue.
"""


def state_of(boot: Boot, namespace: NamespaceState, *, complete: bool) -> AttachmentState:
    """The state of an attachment, from its record."""
    return next(
        row.state
        for row in STATES
        if row.boot is boot
        and row.namespace in (None, namespace)
        and row.complete in (None, complete)
    )


def action_of(operation: Operation, state: AttachmentState) -> Action:
    """What an operation does with an attachment in this state."""
    return ACTIONS[state].get(operation, Action.KEEP)
