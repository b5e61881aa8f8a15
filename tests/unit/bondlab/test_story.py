"""The story against a guest that is one function: a small world answers the lab's commands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.unit.bondlab.labpods import bond, make_pod

from bondlab.guest.guest import Completed, LostGuest
from bondlab.scenario import drill, planning, story
from bondlab.scenario.events import (
    BondState,
    Call,
    CaseBegin,
    CaseEnd,
    Drill,
    Event,
    Leases,
    MemberState,
    NicComparison,
    Note,
    Ping,
)
from bondlab.scenario.guest_commands import GuestCommands
from bondlab.scenario.record import RunRecord
from bondlab.scenario.report import Report
from bondlab.scenario.topology import Topology

NICS = ("eth1000", "eth1001")
RESULT = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
PING = "5 packets transmitted, 5 received, 0% packet loss\n"


class World:
    """A guest in which a bond of two members works; ``broken`` says what does not."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.down: set[str] = set()
        self.away = False
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.batches: list[str] = []
        self.cables: list[str] = []
        self.sequence = 0

    # The seam

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002
        timeout: float = 60.0,
    ) -> Completed:
        del timeout
        if env:
            return self.plugin(env["CNI_COMMAND"], json.loads(input))
        if "-batch" in argv:
            self.batches += input.decode().splitlines()
            return Completed(0, b"", b"")
        if self.broken == "guest" and "link" in argv:
            raise LostGuest("it is gone")
        return Completed(0, self.answer(" ".join(argv)).encode(), b"")

    def cable(self, name: str) -> World:
        self.cables.append(name)
        return self

    def disconnect(self) -> None:
        self.cables.append("disconnect")

    def reconnect(self) -> None:
        self.cables.append("reconnect")

    # What is there

    def plugin(self, verb: str, config: dict[str, Any]) -> Completed:
        self.calls.append((verb, config))
        if self.broken == verb:
            error = {"code": 101, "msg": "no", "details": "not today"}
            return Completed(1, json.dumps(error).encode(), b"")
        self.away = verb == "ADD" or (self.away and verb == "CHECK")
        return Completed(0, json.dumps(RESULT).encode() if verb == "ADD" else b"", b"")

    def answer(self, command: str) -> str:
        if found := re.search(r"link set (\S+) (up|down)$", command):
            (self.down.add if found[2] == "down" else self.down.discard)(found[1])
            return ""
        if "link show" in command:
            return json.dumps(self.pod() if "-n pod-" in command else self.node())
        return next((text for words, text in self.texts().items() if words in command), "")

    def texts(self) -> dict[str, str]:
        info = {"local": "10.0.0.5", "prefixlen": 24, "scope": "global"}
        answers = [
            f"[{100 + 0.05 * n:.6f}] 64 bytes from 10.0.0.1: icmp_seq={n} ttl=64\n"
            for n in range(1, 11)
            if n != 5
        ]
        return {
            "addr show": json.dumps([{"addr_info": [] if self.broken == "address" else [info]}]),
            "cat /run/bondlab/ping": "".join(answers) + "10 packets transmitted, 9 received\n",
            "tail -n": "" if self.broken == "traffic" else answers[0],
            "ping": PING.replace("5 rec", "0 rec") if self.broken == "ping" else PING,
            "grep": "/var/lib/cni/networks/n/10.0.0.5" if self.broken == "lease" else "",
        }

    def node(self) -> list[dict[str, Any]]:
        if self.away:
            return []
        mtu = 1400 if self.broken == "home" and self.calls else 1500
        return [
            {"ifname": name, "ifindex": n, "address": f"02::{n}", "mtu": mtu, "flags": ["UP"]}
            for n, name in enumerate(NICS, 1)
        ]

    def pod(self) -> list[dict[str, Any]]:
        up = [name for name in NICS if name not in self.down]
        data = {"mode": "balance-rr" if self.broken == "mode" else "active-backup"}
        data["active_slave"] = up[0] if up else ""
        slaves = [
            {
                "ifname": name,
                "ifindex": n,
                "master": "net1",
                "linkinfo": {
                    "info_slave_data": {"mii_status": "UP" if name in up else "DOWN"},
                },
            }
            for n, name in enumerate(NICS, 1)
        ]
        main = {
            "ifname": "net1",
            "ifindex": 9,
            "flags": ["UP", "LOWER_UP"],
            "linkinfo": {"info_kind": "bond", "info_data": data},
        }
        return [] if self.broken == "bond" else [main, *slaves]


def tell(world: World, **config: Any) -> list[Event]:
    pod = make_pod(("net1", bond("active-backup", *NICS, **config)))
    return run(story.Case(lab(world), pod))


def lab(world: World) -> story.Lab:
    plugins = {"bond": "/b/bond", "static": "/b/static"}
    return story.Lab(GuestCommands(world), "/b", plugins, strict=False, hardware=True)


def run(case: story.Case) -> list[Event]:
    """Time passes only when somebody waits."""
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    case.observer = drill.Observer(case.commands, case.sandbox.netns, pause, lambda: now[0])
    return list(case.run())


def reasons(events: list[Event]) -> tuple[str, ...]:
    assert isinstance(events[-1], CaseEnd)
    return events[-1].reasons


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_good_case_from_begin_to_end() -> None:
    world = World()
    events = tell(world)
    assert reasons(events) == ()
    assert kinds(events) == [
        *("CaseBegin", "Call", "BondState", "Ping", "Drill", "Drill", "Call", "Call"),
        *("NicComparison", "NicComparison", "CaseEnd"),
    ]
    calls = [event for event in events if isinstance(event, Call)]
    assert [call.verb for call in calls] == ["ADD", "CHECK", "DEL"]
    drills = [event for event in events if isinstance(event, Drill)]
    assert [(one.member, one.active) for one in drills] == [
        ("eth1000", "eth1001"),
        ("eth1001", "eth1000"),
    ]
    assert (drills[0].sent, drills[0].lost, round(drills[0].gap)) == (10, 1, 50)
    assert world.cables == [
        "eth1000",
        "disconnect",
        "eth1000",
        "reconnect",
        "eth1001",
        "disconnect",
        "eth1001",
        "reconnect",
    ]
    assert not world.down


def test_del_and_check_get_the_result_and_check_comes_before() -> None:
    world = World()
    tell(world)
    assert [(verb, "prevResult" in config) for verb, config in world.calls] == [
        ("ADD", False),
        ("CHECK", True),
        ("DEL", True),
    ]


@pytest.mark.parametrize(("value", "killed"), [(False, 1), ("false", 1), (True, 0), ("true", 0)])
def test_only_a_bond_over_host_links_is_killed_first(value: object, killed: int) -> None:
    world = World()
    case = story.Case(
        lab(world)._replace(crash=True),
        make_pod(("net1", bond("active-backup", *NICS) | {"linksInContainer": value})),
    )
    list(case.collect_errors(case.attach(Topology((), (), ()))))
    fatal = [config for _, config in world.calls if config.get("ipam") == {"type": "fatal"}]
    assert len(fatal) == killed


def test_versions_without_check_have_none_and_no_prev_result() -> None:
    world = World()
    tell(world, cniVersion="0.3.1")
    assert [(verb, "prevResult" in config) for verb, config in world.calls] == [
        ("ADD", False),
        ("DEL", False),
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("ADD", "ADD of net-net1 failed: no (not today) (code 101)"),
        ("CHECK", "CHECK of net-net1 failed"),
        ("DEL", "DEL of net-net1 failed"),
        ("bond", "the pod has no bond net1"),
        ("mode", "net1 has mode balance-rr, not active-backup"),
        ("ping", "no answer from 10.0.0.1 through net1"),
        ("traffic", "no traffic while the link of eth1000 was down"),
        ("lease", "addresses still allocated after DEL: 10.0.0.5"),
        ("home", "eth1000 was not restored: 02::1 mtu 1400 up"),
    ],
)
def test_an_error_is_a_reason_and_the_case_is_removed(broken: str, said: str) -> None:
    world = World(broken)
    events = tell(world)
    assert any(said in one for one in reasons(events)), reasons(events)
    assert [verb for verb, _ in world.calls][-1] == "DEL"
    assert "netns del lab-switch0" in world.batches


def test_a_bond_without_address_gets_a_temporary_one() -> None:
    world = World("address")
    events = tell(world)
    assert reasons(events) == ()
    assert any(isinstance(one, Note) and "192.0.2.2/24" in one.text for one in events)
    assert "addr add 192.0.2.2/24 dev net1" in world.batches
    assert "addr del 192.0.2.2/24 dev net1" in world.batches


def test_the_next_case_follows_a_failed_one() -> None:
    bad = make_pod(("net1", bond("balance-rr", "x", "y", inside=True)))
    events = list(story.run_cases(lab(World("ADD")), [bad, bad]))
    assert kinds(events) == ["CaseBegin", "CaseEnd"] * 2


def test_a_lost_guest_is_not_a_failed_case() -> None:
    with pytest.raises(LostGuest):
        tell(World("guest"))


def test_a_missing_plugin_is_named() -> None:
    pod = make_pod(
        ("m", {"type": "macvlan", "master": "eth5"}), ("net1", bond("active-backup", *NICS))
    )
    events = run(story.Case(lab(World()), pod))
    assert "plugin macvlan not found in /b" in reasons(events)[0]


@pytest.mark.parametrize(
    ("address", "targets", "peer"),
    [
        ("10.0.0.5/24", (), "10.0.0.1"),
        ("10.0.0.1/24", (), "10.0.0.2"),
        ("10.0.0.5/24", ("10.9.0.1", "10.0.0.7"), "10.0.0.7"),
        ("2001:db8::1/64", (), "2001:db8::2"),
    ],
)
def test_the_peer_is_a_neighbour(address: str, targets: tuple[str, ...], peer: str) -> None:
    assert story.neighbour(address, targets) == peer


def test_an_address_without_neighbours_fails_the_case() -> None:
    with pytest.raises(story.CaseFailed, match="no other address"):
        story.neighbour("10.0.0.1/32")


# Reading ping and ip


def test_the_longest_gap_is_counted_beyond_the_interval() -> None:
    text = "[1.00] 64 bytes from a: icmp_seq=1\n[1.05] no answer yet for icmp_seq=2\n"
    assert round(drill.longest_gap(text + "[1.60] 64 bytes from a: icmp_seq=12\n")) == 550
    assert drill.longest_gap("") == 0
    assert drill.counts("nothing") == (0, 0)


def lacp(ports: int, actor: int, partner: int) -> BondState:
    members = tuple(MemberState(name, "UP", "ACTIVE", 1, actor, partner, 0) for name in NICS)
    return BondState(
        "b",
        "802.3ad",
        "",
        1500,
        carrier=True,
        active="",
        members=members,
        ports=ports,
        partner="02::",
        addresses=(),
        milliseconds=0.0,
    )


@pytest.mark.parametrize(
    ("ports", "actor", "partner", "whole"),
    [(2, 61, 63, True), (2, 61, 15, False), (2, 13, 63, False), (1, 61, 63, False)],
)
def test_lacp_members_are_up_when_both_ends_collect_and_distribute(
    ports: int, actor: int, partner: int, *, whole: bool
) -> None:
    made = planning.plan(make_pod(("b", bond("802.3ad", *NICS))), hardware=True)
    assert drill.all_members_up(lacp(ports, actor, partner), made.bonds[0]) is whole


# RunRecord and report


def test_the_document_holds_everything() -> None:
    record = RunRecord("6.1")
    for event in tell(World()):
        record.add(event)
    document = json.loads(json.dumps(record.document()))
    assert document["ok"] is True
    (case,) = document["cases"]
    assert [call["verb"] for call in case["calls"]] == ["ADD", "CHECK", "DEL"]
    assert case["bonds"][0]["addresses"] == ["10.0.0.5/24"]
    assert case["drills"][0]["sent"] == 10
    assert [(nic["name"], nic["restored"]) for nic in case["nics"]] == [
        ("eth1000", True),
        ("eth1001", True),
    ]


def test_a_failed_case_and_a_lost_guest_are_not_ok() -> None:
    record = RunRecord()
    assert not record.ok
    for event in tell(World("DEL")):
        record.add(event)
    assert not record.ok
    assert record.document()["cases"][0]["reasons"]


def test_the_story_is_plain_text_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Report()
    for event in tell(World("lease")):
        teller.show(event)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for words in ("Pod default/pod", "ADD ", "members: eth1000 up (active)", "1 of 10 probes lost"):
        assert words in text
    assert "NIC eth1000: restored" in text
    assert "FAILED" in text


def test_every_event_can_be_shown() -> None:
    teller = Report(quiet=True)
    for event in (
        CaseBegin("t", "f", ()),
        Note("n"),
        NicComparison("n", "a", ""),
        Leases(("1",)),
        Ping("b", "t", 2, 1),
        CaseEnd(("r",)),
    ):
        teller.show(event)
