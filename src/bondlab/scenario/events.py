"""What happens in a lab run, as values: the story yields them, the report shows them.

Each is a fact that was seen, read by ``ip`` and ``ping`` and never by this project's own code.
Times are milliseconds. A case begins with `CaseBegin` and ends with `CaseEnd`, whatever happens
between, unless the guest is lost.
"""

from __future__ import annotations

from typing import NamedTuple


class CaseBegin(NamedTuple):
    """A pod and the networks it asks for, in order."""

    title: str
    file: str
    networks: tuple[str, ...]


class Note(NamedTuple):
    """A plain sentence about something that is not as it would be in a cluster."""

    text: str


class Call(NamedTuple):
    """One plugin run. ``exit`` is its status; ``code`` and ``message`` its CNI error if any.

    ``warnings`` are the lines it wrote to standard error, without a prefix ``bond: warning: ``.
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
    """An ADD that was killed half-way and recovered: ``away`` NICs, and those ``back`` as before.

    ``exit`` is the status of the executable: 1 where its daemon was killed, else minus the signal;
    ``said`` is what ``bondctl recover`` told.
    """

    network: str
    ifname: str
    exit: int
    away: tuple[str, ...]
    said: str
    back: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether NICs were away, and all of them are home."""
        return self.exit != 0 and bool(self.away) and self.back == self.away


class Member(NamedTuple):
    """One member as the pod sees it; ``actor`` and ``partner`` are LACP port states."""

    name: str
    mii: str
    state: str
    aggregator: int
    actor: int
    partner: int
    failures: int


class Bond(NamedTuple):
    """The bond as the pod sees it; ``ports`` and ``partner`` are LACP's."""

    name: str
    mode: str
    mac: str
    mtu: int
    carrier: bool
    active: str
    members: tuple[Member, ...]
    ports: int
    partner: str
    addresses: tuple[str, ...]
    milliseconds: float  # from the ADD's end until it was usable


class Ping(NamedTuple):
    """Probes through a bond that nobody disturbs."""

    bond: str
    target: str
    sent: int
    received: int


class OtherNode(NamedTuple):
    """Probes of a pod that another node would have: its address is ``target``."""

    bond: str
    target: str
    sent: int
    received: int


class Drill(NamedTuple):
    """One leg cut and mended under probes every 50 ms.

    ``gap`` is the longest time without an answer, ``noticed`` from the cut until the bond had
    left the leg and ``recovered`` from the mending until it was back, each -1 if never.
    """

    bond: str
    target: str
    leg: str
    how: str
    active: str  # the member that carried traffic while the leg was cut, where one does
    sent: int
    lost: int
    gap: float
    noticed: float
    recovered: float
    flowing: bool  # answers came while the leg was cut


class Nic(NamedTuple):
    """A NIC of the node before the first ADD and after the last DEL; ``after`` "" if it is gone."""

    name: str
    before: str
    after: str

    @property
    def home(self) -> bool:
        """Whether it is as it was."""
        return self.before == self.after


class Leases(NamedTuple):
    """Addresses that an IPAM plugin still holds after the last DEL."""

    left: tuple[str, ...]


class CaseEnd(NamedTuple):
    """``reasons`` are all that went wrong, none when all is well."""

    reasons: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the case went well."""
        return not self.reasons


Event = CaseBegin | Note | Call | Crash | Bond | Ping | OtherNode | Drill | Nic | Leases | CaseEnd
