"""10.22: calico-ipam answers with its block's mask, and the lab does not hide it."""

from __future__ import annotations

import pytest
from tests.unit.bondlab.labpods import bond, make_pod
from tests.unit.bondlab.test_manifests import GOOD_BOND, pod, read
from tests.unit.bondlab.test_story import NICS, World, lab, reasons, run

from bondlab.manifests import calico
from bondlab.manifests.ipam_substitute import Substitution, UnsupportedCase, substitute_ipam
from bondlab.manifests.manifests import Pool
from bondlab.scenario import story
from bondlab.scenario.events import Event, OtherNode
from bondlab.scenario.record import RunRecord
from bondlab.scenario.report import Report


def played(pool: Pool, **ipam: str) -> Substitution:
    config = {"ipam": {"type": "calico-ipam", **ipam}}
    return substitute_ipam(config, [pool], {"host-local"}, strict=False)


@pytest.mark.parametrize(
    ("pool", "subnet", "elsewhere"),
    [
        (Pool("p", "10.20.0.0/24"), "10.20.0.0/26", "10.20.0.66/26"),
        (Pool("p", "10.20.0.0/24", block=27), "10.20.0.0/27", "10.20.0.34/27"),
        (Pool("p", "10.20.0.0/24", block=24), "10.20.0.0/24", "10.20.0.254/24"),
        (Pool("p", "10.20.0.0/16"), "10.20.0.0/26", "10.20.0.66/26"),
    ],
)
def test_10_22_one_node_has_one_block(pool: Pool, subnet: str, elsewhere: str) -> None:
    made = played(pool)
    assert made.config["ipam"]["ranges"] == [[{"subnet": subnet}]]
    assert made.other_nodes == (elsewhere,)


def test_10_22_ipv6_has_blocks_too() -> None:
    made = played(Pool("p", "2001:db8::/64"), assign_ipv4="false", assign_ipv6="true")
    assert made.config["ipam"]["ranges"] == [[{"subnet": "2001:db8::/122"}]]
    assert made.other_nodes == ("2001:db8::42/122",)
    assert "broadcast" not in made.note


def test_10_22_the_note_says_what_it_means_and_the_remedy() -> None:
    note = played(Pool("p", "10.20.0.0/24")).note
    assert "pods of different nodes cannot reach each other over this bond" in note
    assert "10.20.0.63 is the block's broadcast address" in note
    assert "blockSize 24, equal to the prefix length of its cidr, and strictAffinity off" in note
    shared = played(Pool("p", "10.20.0.0/24", block=24)).note
    assert "Remedy" not in shared
    assert "which all nodes share if strictAffinity is off" in shared
    wide = played(Pool("p", "10.20.0.0/16")).note
    assert "a cidr of /20 or longer" in wide  # blockSize is 20 to 32


def test_10_22_a_block_that_host_local_cannot_play() -> None:
    with pytest.raises(UnsupportedCase, match="four addresses"):
        played(Pool("p", "10.20.0.0/24", block=32))
    assert played(Pool("p", "10.20.0.0/30", block=30)).other_nodes == ()


@pytest.mark.parametrize(
    ("cidr", "size", "said"),
    [
        ("10.0.0.0/24", "", ""),
        ("10.0.0.0/24", "24", ""),
        ("10.0.0.0/24", "16", "`16` is not between 20 and 32"),
        ("10.0.0.0/24", "x", "`x` is not between 20 and 32"),
        ("10.0.0.0/24", "20", "no block fits into 10.0.0.0/24: blockSize 20"),
        ("10.0.0.0/28", "", "no block fits into 10.0.0.0/28: the default blockSize 26"),
        ("2001:db8::/64", "64", "`64` is not between 116 and 128"),
    ],
)
def test_10_22_a_block_size_that_calico_refuses(cidr: str, size: str, said: str) -> None:
    assert said in calico.block_size_error(cidr, size)
    assert bool(said) is bool(calico.block_size_error(cidr, size))
    spec = f"  cidr: {cidr}\n" + f"  blockSize: {size}\n" * bool(size)
    text = "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: p }\nspec:\n"
    found = read(GOOD_BOND + pod("bond0") + text + spec)
    assert [one.message for one in found.findings if said in one.message] == [
        one.message for one in found.findings
    ]
    assert bool(found.findings) is bool(said)
    assert [one.block for one in found.pods[0].pools] == ([] if said else [int(size or 0)])


def test_10_22_the_story_probes_a_pod_of_another_node(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    config = bond("active-backup", *NICS, ipam={"type": "calico-ipam"})
    pod_ = make_pod(("net1", config))._replace(pools=(Pool("p", "10.0.0.0/24"),))
    events: list[Event] = run(story.Case(lab(world), pod_))
    assert reasons(events) == ()
    (one,) = [event for event in events if isinstance(event, OtherNode)]
    assert one.target == "10.0.0.66/26"
    assert "addr replace 10.0.0.66/26 dev lan" in world.batches
    record, teller = RunRecord(), Report()
    for event in events:
        record.add(event)
    assert record.document()["cases"][0]["other_nodes"] == [one._asdict()]
    for received, said in ((0, "no answer"), (3, "3 sent, 3 answered")):
        teller.show(one._replace(sent=3, received=received))
        assert said in capsys.readouterr().out
