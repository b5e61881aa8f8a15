"""The parties that are measured: what each runs for a verb, and how its time inside is read.

A party is a value that consists of functions; a new party is added here. Each has a rig of its
own and is started by that rig's driver, so that only the program differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import resident
from benchmarks.resident import Place
from benchmarks.rigs import BOND, Node, Rig
from benchmarks.spawning import Job

BIN = Path("/run/bench/bin")
"""In the guest's memory: reading programs of the machine through hostfs is slower."""

LIB = BIN.parent / "lib"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def _nothing(_: Node) -> Iterator[None]:
    """The context of a party that needs nothing beside it."""
    yield


class Party(NamedTuple):
    """One program that serves requests.

    ``job`` is what to run for a verb; ``inside`` reads, after a job, its time inside in
    milliseconds; ``beside`` is what must run on the node meanwhile. ``whole``: DEL also restores
    whether the links were up or down. ``bonds``: it creates a bond, which is checked. ``needs`` is
    the file that must be in BIN, if its name is not the party's.
    """

    name: str
    job: Callable[[Rig, str], Job]
    whole: bool = True
    bonds: bool = True
    needs: str = ""
    inside: tuple[str, Callable[[Rig], float]] | None = None
    beside: Callable[[Node], AbstractContextManager[None]] = _nothing


def _cni(name: str) -> Callable[[Rig, str], Job]:
    """A CNI plugin in a directory with its party's name."""

    def job(rig: Rig, verb: str) -> Job:
        env = {
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": rig.label,
            "CNI_NETNS": rig.pod.path,
            "CNI_IFNAME": BOND,
            "CNI_PATH": f"{BIN / name}:{BIN}",
            "BONDCNI_STATE": str(place_of(rig.node).state),
            "BONDCNI_SOCKET": place_of(rig.node).socket,
        }
        out = str(rig.folder / f"answer-{verb}")
        return Job([str(BIN / name / "bond")], env, str(rig.config), out)

    return job


def _plugin(rig: Rig, verb: str) -> Job:
    """The IPAM plugin alone, started as a delegate."""
    job = _cni("")(rig, verb)
    return job._replace(argv=[str(BIN / rig.case.ipam)])


def _floor(rig: Rig, verb: str) -> Job:
    argv = [str(BIN / "floor"), verb, rig.case.where, rig.pod.path, BOND, *rig.case.names]
    return Job(argv, {}, "/dev/null", str(rig.folder / f"answer-{verb}"))


def _floor_inside(rig: Rig) -> float:
    """The time of the last request: the newer of both verbs' answers counts."""
    newest = max(rig.folder.glob("answer-*"), key=lambda path: path.stat().st_mtime_ns)
    return float(newest.read_text()) / 1e3


@contextmanager
def _daemon(node: Node) -> Iterator[None]:
    place = place_of(node)
    place.make()
    with resident.daemon(place, node.space, place.program(LIB)):
        yield


def place_of(node: Node) -> Place:
    """The paths of the node's daemon; the state directory is used without a daemon, too."""
    return Place(node.folder / "daemon")


def named(party: Party, name: str) -> Party:
    """The same party under another name, so that it can take part twice."""
    inside = (f"{name} inside", party.inside[1]) if party.inside else None
    return party._replace(name=name, inside=inside)


INCUMBENT = Party("incumbent", _cni("incumbent"), whole=False)
DIRECT = Party("direct", _cni("direct"))
THICK = Party(
    "thick",
    _cni("thick"),
    inside=("inside", lambda rig: resident.spent(place_of(rig.node).log)),
    beside=_daemon,
)
FLOOR = Party("floor", _floor, inside=("floor inside", _floor_inside))
PLUGIN = Party("plugin", _plugin, bonds=False, needs="static")

ALL = (INCUMBENT, DIRECT, THICK, FLOOR, PLUGIN)
"""The parties, in the order of their turns."""
