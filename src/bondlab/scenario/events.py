"""The events of a run: ``story`` yields them, ``report`` prints them, ``record`` collects them.

Each is an observation by ``ip`` or ``ping``, never by this project's own reader. Times are
milliseconds. A case begins with `CaseBegin` and ends with `CaseEnd`, also if it fails, unless the
guest is lost.
"""

from __future__ import annotations

from typing import NamedTuple


class CaseBegin(NamedTuple):
    """A pod and its networks, in order."""

    title: str
    file: str
    networks: tuple[str, ...]


class Note(NamedTuple):
    """A sentence about something that differs from a cluster, or may surprise."""

    text: str


class Call(NamedTuple):
    """One call of a plugin: its exit status, and ``code`` and ``message`` of its CNI error.

    ``warnings`` are its lines on standard error, without the prefix ``bond: warning: ``.
    """

    verb: str
    network: str
    type: str
    ifname: str
    exit: int
    code: int
    message: str
    milliseconds: float
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.exit == 0


class Crash(NamedTuple):
    """An ADD that was killed and recovered.

    ``in_pod`` are the NICs that were left in the pod, ``restored`` those that are as before.

    ``exit`` is the exit status of the executable: 1 if its daemon was killed, in direct mode the
    negative signal number. ``recover_output`` is the output of ``bondctl recover``.
    """

    network: str
    ifname: str
    exit: int
    in_pod: tuple[str, ...]
    recover_output: str
    restored: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether NICs were left in the pod, and all of them were restored."""
        return self.exit != 0 and bool(self.in_pod) and self.restored == self.in_pod


class MemberState(NamedTuple):
    """A member as read in the pod; ``actor`` and ``partner`` are LACP port states."""

    name: str
    mii: str
    state: str
    aggregator: int
    actor: int
    partner: int
    failures: int


class BondState(NamedTuple):
    """A bond as read in the pod; ``ports`` and ``partner`` are LACP's, ``active`` "" for none."""

    name: str
    mode: str
    mac: str
    mtu: int
    carrier: bool
    active: str
    members: tuple[MemberState, ...]
    ports: int
    partner: str
    addresses: tuple[str, ...]
    milliseconds: float  # from the end of the last ADD until all members were up; -1: never


class Ping(NamedTuple):
    """Probes through a bond without a fault."""

    bond: str
    target: str
    sent: int
    received: int


class OtherNode(NamedTuple):
    """Probes of ``target``, an address that a pod of another node could have."""

    bond: str
    target: str
    sent: int
    received: int


class Drill(NamedTuple):
    """The link of one member taken down and restored while probes were sent every 50 ms.

    ``gap`` is the longest time without an answer, ``noticed`` the time until the bond stopped
    using the member, ``recovered`` the time from restoring the link until all members were up;
    each of these two is -1 if it did not happen.
    """

    bond: str
    target: str
    member: str
    how: str
    active: str  # the active member while the link was down, "" in modes without one
    sent: int
    lost: int
    gap: float
    noticed: float
    recovered: float
    flowing: bool  # whether answers arrived while the link was down


class NicComparison(NamedTuple):
    """A NIC of the node before the first ADD and after the last DEL; "" if not found."""

    name: str
    before: str
    after: str

    @property
    def restored(self) -> bool:
        """Whether its state is as before."""
        return self.before == self.after


class Leases(NamedTuple):
    """Addresses that are still allocated after the last DEL."""

    left: tuple[str, ...]


class CaseEnd(NamedTuple):
    """The end of a case; ``reasons`` are all its errors."""

    reasons: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the case succeeded."""
        return not self.reasons


Event = (
    CaseBegin
    | Note
    | Call
    | Crash
    | BondState
    | Ping
    | OtherNode
    | Drill
    | NicComparison
    | Leases
    | CaseEnd
)
