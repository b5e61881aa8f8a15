"""Print docs/lifecycle.md from the tables of core/lifecycle.py: ``python tools/lifecycle_page.py``.

A unit test compares the page in the tree with the output.
"""

from __future__ import annotations

from collections.abc import Iterator

from bondcni.core.lifecycle import (
    ACTIONS,
    STATES,
    Action,
    AttachmentState,
    NamespaceState,
    Operation,
    StateRow,
)

HEAD = """# Lifecycle of an attachment

Generated from the tables in `src/bondcni/core/lifecycle.py` by `tools/lifecycle_page.py`.

ADD writes the record of an attachment before its first change, and stores the CNI result in it
when it has completed. DEL clears the result before its first change, and removes the record last.
So the state of an attachment follows from its record and from the network namespace that the
record names.
"""

BESIDE = """Two more states are found beside the record: `busy`, another request holds the lock of
the attachment or of one of its links; `queued`, the executable stored a DEL of it because the
daemon did not answer.
"""

MEANING = {
    Action.KEEP: "nothing is changed. A state other than `active` is reported in a message",
    Action.VERIFY: "the bond, its members and its addresses are compared with the record",
    Action.REPORT: "the state is printed; `bondctl` exits with 2 if it is `unknown`, else with 1",
    Action.REFUSE: (
        "the request fails with code 101, which names the interface, or the link and the attachment "
        "that claimed it"
    ),
    Action.TAKE_DOWN: (
        "the bond is deleted, the claimed links are restored, the addresses are released, and the "
        "record is removed"
    ),
    Action.RESTORE: (
        "as *take down*, but there is no pod any more: the links that the kernel returned to the "
        "host are restored. While one is missing the record is kept"
    ),
    Action.RELEASE: (
        "the addresses are released and the record is removed. The links are left unchanged: since "
        "the boot they have been in the host's namespace"
    ),
    Action.WAIT: (
        "for the lock, 30 seconds at most. Then ADD fails with code 11; DEL continues without the "
        "lock and keeps the record"
    ),
    Action.TRY_AGAIN: "the request fails with code 11; the message says why the state is unknown",
    Action.FINISH: (
        "the queued DEL is done first, in thick mode and by `bondctl recover`. ADD fails with code "
        "11 while it cannot be done"
    ),
}

FOOT = """DEL does not depend on the state: it works in the namespace that CNI_NETNS names, else in
that of the record, else, where neither exists, in the host's. GC considers only the attachments of
its network that `cni.dev/valid-attachments` does not list. GC, pending cleanup and `bondctl
recover` wait 0.2 seconds for a lock and go on with the next attachment. `bondctl check` takes no
locks and does not read the queue.
"""


def states() -> Iterator[str]:
    """The lines of the table of states."""
    yield "| record written in | its namespace is | ADD completed | state |"
    yield "|---|---|---|---|"
    for row in STATES:
        yield f"| {row.boot} | {_namespace(row)} | {_complete(row)} | `{row.state}` |"


def _namespace(row: StateRow) -> str:
    if row.namespace is None:
        return "any"
    return "not known" if row.namespace is NamespaceState.UNKNOWN else str(row.namespace)


def _complete(row: StateRow) -> str:
    return {None: "any", True: "yes", False: "no"}[row.complete]


def actions() -> Iterator[str]:
    """The lines of the table of actions."""
    yield f"| state | {' | '.join(Operation)} |"
    yield "|---" * (len(Operation) + 1) + "|"
    for state in AttachmentState:
        cells = (ACTIONS[state].get(operation, "-") for operation in Operation)
        yield f"| `{state}` | {' | '.join(cells)} |"


def meanings() -> Iterator[str]:
    """The lines that explain the actions."""
    return (f"* *{action}*: {MEANING[action]}." for action in Action)


def page() -> str:
    """The whole page."""
    parts = (
        HEAD,
        "## States\n",
        *("\n".join(states()), ""),
        BESIDE,
        "## Actions\n",
        *("\n".join(actions()), ""),
        *("\n".join(meanings()), ""),
        FOOT,
    )
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
