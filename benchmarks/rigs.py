"""A node for one party, with pods and links; and the checks of what was created there.

Each party has its own, so that leftovers of one do not affect another. All are built alike: a
node, a namespace with the far ends of all links (veth pairs, up), and a rig for each pod: the pod,
its links, its configuration. Checks read ``ip -j -d``, outside the measured time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.namespaces import Document, Space, raise_link

BOND = "bond0"
MODE = "active-backup"
MIIMON = 100
MTU = 1500
KEPT = ("address", "mtu", "txqlen")


class Case(NamedTuple):
    """What is measured: where the links are, how many, which IPAM plugin, on what node."""

    where: str  # "pod" or "host"
    links: int
    ipam: str = "none"  # or "static", "host-local"
    other_links: int = 0  # further links of the node, dummies
    other_bonds: int = 0  # further pods of the node with a bond, made by ADD

    @property
    def names(self) -> list[str]:
        """The links' names."""
        return [f"net{number}" for number in range(1, self.links + 1)]


class Wrong(Exception):
    """A plugin did not do what it was asked to do; its time is not valid."""


class Node:
    """The node of one party for one case. Call ``close`` at the end."""

    def __init__(self, label: str, case: Case, folder: Path) -> None:
        self.label = label
        self.case = case
        self.folder = folder
        folder.mkdir(parents=True)
        self.space, self.far = Space.create(f"{label}-node"), Space.create(f"{label}-far")
        others = [f"link add other{n} up type dummy" for n in range(case.other_links)]
        self.space.batch(others)

    def close(self) -> None:
        """Delete the namespaces."""
        for space in (self.space, self.far):
            space.delete()


class Rig:
    """One pod with its links. Call ``close`` before that of its node."""

    def __init__(self, node: Node, number: int = 0, case: Case | None = None) -> None:
        self.node = node
        self.case = case or node.case
        self.label = f"{node.label}-{number}"
        self.folder = node.folder / str(number)
        self.folder.mkdir()
        self.pod = Space.create(self.label)
        self.home = node.space if self.case.where == "host" else self.pod
        cable(node.far, number, self.home, self.case.names)
        self.before = self._state()
        self._socket = self.home.socket()
        self.config = self.folder / "config"
        self.config.write_text(json.dumps(configuration(self.case, node.folder)))

    def _state(self) -> dict[str, Document]:
        links = self.home.links()
        return {
            name: {
                **{key: links[name].get(key) for key in KEPT},
                "up": "UP" in links[name]["flags"],
            }
            for name in self.case.names
            if name in links
        }

    def check_added(self) -> None:
        """Check that the pod has the bond with every member, as configured. Raises Wrong."""
        links = self.pod.links()
        for fault in self._faults(links):
            raise Wrong(f"after ADD: {fault}")

    def _faults(self, links: dict[str, Document]) -> Iterator[str]:
        bond = links.get(BOND, {})
        data = bond.get("linkinfo", {}).get("info_data", {})
        found = (data.get("mode"), data.get("miimon"), bond.get("mtu"))
        if found != (MODE, MIIMON, MTU) or "UP" not in bond["flags"]:
            yield f"the bond is {found}, flags {bond.get('flags')}"
        members = {n for n, link in links.items() if link.get("master") == BOND}
        if members != set(self.case.names):
            yield f"its members are {sorted(members)}"
        if down := [name for name in members if "UP" not in links[name]["flags"]]:
            yield f"down are {down}"
        addresses = [one for one in bond.get("addr_info", []) if one["family"] == "inet"]
        if len(addresses) != (self.case.ipam != "none"):
            yield f"its addresses are {addresses}"

    def check_deleted(self, *, whole: bool = True) -> None:
        """Check that the bond is gone and the links are where and as they were. Raises Wrong."""
        if BOND in self.pod.links():
            raise Wrong("after DEL: the bond still exists")
        now = self._state()
        if set(now) != set(self.before) or (whole and now != self.before):
            raise Wrong(f"after DEL: links are {now}, were {self.before}")

    def set_links_up(self) -> None:
        """Set the links up: one party leaves them down, and each ADD must find the same."""
        for name in self.case.names:
            raise_link(self._socket, name)

    def close(self) -> None:
        """Delete the pod."""
        self._socket.close()
        self.pod.delete()


def cable(far: Space, number: int, home: Space, names: Sequence[str]) -> None:
    """Create a veth pair for each name: this end in ``home``, the other in ``far``; both up."""
    ends = [(f"{number}-{name}", name) for name in names]
    make = [f"link add {end} type veth peer name {name} netns {home.name}" for end, name in ends]
    far.batch([*make, *(f"link set {end} up" for end, _ in ends)])
    home.batch(f"link set {name} up" for name in names)


def configuration(case: Case, folder: Path) -> dict[str, Any]:
    """The configuration, valid for every plugin (Go bond-cni wants miimon as a string)."""
    ipam: dict[str, dict[str, Any]] = {
        "none": {},
        "static": {"ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}},
        "host-local": {
            "ipam": {
                "type": "host-local",
                "dataDir": str(folder / "leases"),
                "ranges": [[{"subnet": "10.1.0.0/24"}]],
            }
        },
    }
    return {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bond",
        "mode": MODE,
        "miimon": str(MIIMON),
        "linksInContainer": case.where == "pod",
        "links": [{"name": name} for name in case.names],
        **ipam[case.ipam],
    }


@contextlib.contextmanager
def node(label: str, case: Case, folder: Path) -> Iterator[Node]:
    """A node, deleted at the end."""
    made = Node(label, case, folder)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def rig(on: Node, number: int = 0, case: Case | None = None) -> Iterator[Rig]:
    """A pod on a node, deleted at the end."""
    made = Rig(on, number, case)
    try:
        yield made
    finally:
        made.close()
