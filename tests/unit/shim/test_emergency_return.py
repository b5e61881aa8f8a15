"""DEL while the daemon is gone: links without hardware come home before their namespace ends."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.unit.shim.bench import HERE, Answer, Bond, Build, Netns, ended, identity, used

from bondcni.core.plan import Claimed, Member, Wanted
from bondcni.core.state import Link, Location
from bondcni.kernel.apply import emergency_messages
from bondcni.service.journal import Journal, Record

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR = 16, 17, 20
NLM_F_CREATE = 0x400
IFLA_MTU, IFLA_IFNAME, IFLA_NET_NS_FD = 4, 3, 28
PLACEHOLDER = 0x7FFFFFFF

Attribute = tuple[int, bytes]


class Scene(NamedTuple):
    bond: Bond
    host: str
    pod: str

    def delete(self, record: bytes) -> Answer:
        """DEL without a daemon, with that record in the state folder."""
        self.write(record)
        return self.bond.run("DEL", CNI_NETNS=self.pod)

    def write(self, record: bytes) -> None:
        state = self.bond.folder / "state"
        state.mkdir(exist_ok=True)
        (state / "abc:net1.json").write_bytes(record)

    def record(self, *messages: bytes, pod: bytes | None = None) -> bytes:
        """As the journal writes it."""
        namespace = (pod or identity(self.pod)).decode()
        document = {"way_home": b"".join(messages).hex(), "namespace": namespace, "format": 1}
        return json.dumps(document, indent=1).encode()


def ip(path: str, *words: str) -> list[dict[str, Any]]:
    """What ``ip`` says in the namespace."""
    command = ["nsenter", f"--net={path}", "ip", "-j", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return json.loads(done.stdout) if done.stdout else []


def links(path: str) -> dict[str, int]:
    """Name -> ifindex."""
    return {link["ifname"]: link["ifindex"] for link in ip(path, "link") if link["ifname"] != "lo"}


@pytest.fixture
def scene(build: Build, tmp_path: Path, netns: Netns, request: pytest.FixtureRequest) -> Any:
    """Two pairs of veth, a0 with a1 and b0 with b1, in the pod's namespace."""
    host, pod = netns("host"), netns("pod")
    for name in "ab":
        words = ("link", "add", f"{name}0", "type", "veth", "peer", "name", f"{name}1")
        command = ["nsenter", f"--net={pod}", "ip", *words]
        if subprocess.run(command, capture_output=True, check=False, timeout=10).returncode:
            pytest.skip("this kernel has no veth")
    bond = Bond(
        build(getattr(request, "param", "sanitized")), tmp_path, ("nsenter", f"--net={host}", "--")
    )
    for each in used(bond):
        yield Scene(each, host, pod)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, index: int, *attributes: Attribute, flags: int = 0) -> bytes:
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    body += b"".join(attribute(*each) for each in attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def home(index: int, *more: Attribute, flags: int = 0) -> bytes:
    """Move the link to the host."""
    target = (IFLA_NET_NS_FD, struct.pack("=i", PLACEHOLDER))
    return message(RTM_NEWLINK, index, target, *more, flags=flags)


ALL = {"a0", "a1", "b0", "b1"}


@pytest.mark.parametrize("scene", ["release", "sanitized"], indirect=True)
def test_links_come_home(scene: Scene) -> None:
    there = links(scene.pod)
    answer = scene.delete(
        scene.record(
            message(RTM_DELLINK, there["b0"]),
            message(RTM_NEWLINK, there["a0"], (IFLA_MTU, struct.pack("=I", 1400))),
            home(there["a0"], (IFLA_IFNAME, b"back0\0")),
        )
    )
    assert (answer.status, answer.stdout) == (0, b"")
    assert ({*links(scene.host)}, {*links(scene.pod)}) == ({"back0"}, {"a1"})
    (link,) = ip(scene.host, "link", "show", "back0")
    assert link["mtu"] == 1400
    assert (scene.bond.folder / "state" / "queue" / "abc:net1.del").is_file()


def test_the_journal_writes_what_the_shim_reads(scene: Scene) -> None:
    """With a user's text that looks like it, further down."""
    there = links(scene.pod)
    members = tuple(Member(there[name], name, {}) for name in ("a0", "b0"))
    wanted = Wanted(9999, "net1", "", {}, 1500, "", members)
    claimed = tuple(Claimed(home, Link(1, "x")) for home in Location)
    config = {"way_home": "00", "namespace": "1:1"}
    record = Record("abc", "net1", scene.pod, config, wanted, claimed)
    messages = emergency_messages(wanted, claimed).hex()
    folder = scene.bond.folder / "state"
    Journal(str(folder)).write(
        record._replace(way_home=messages, namespace=identity(scene.pod).decode())
    )
    assert scene.bond.run("DEL", CNI_NETNS=scene.pod).status == 0
    assert links(scene.host).keys() == {"a0"}


def test_8_a_record_that_is_a_fifo_with_a_silent_writer(scene: Scene) -> None:
    """Issue item 8: DEL is stored at once; who owns the state directory cannot hold it up."""
    state = scene.bond.folder / "state"
    state.mkdir()
    os.mkfifo(state / "abc:net1.json")
    writer = os.open(state / "abc:net1.json", os.O_RDWR)
    try:
        since = time.monotonic()
        assert scene.bond.run("DEL", CNI_NETNS=scene.pod).status == 0
        assert time.monotonic() - since < 1
    finally:
        os.close(writer)
    assert (state / "queue" / "abc:net1.del").is_file()


def test_an_error_does_not_stop_it(scene: Scene) -> None:
    there = links(scene.pod)
    run = [message(RTM_DELLINK, 9999), home(9998), home(there["a0"])]
    assert scene.delete(scene.record(*run)).status == 0
    assert links(scene.host).keys() == {"a0"}


def test_many_messages(scene: Scene) -> None:
    run = [message(RTM_DELLINK, 9999)] * 500
    assert scene.delete(scene.record(*run, home(links(scene.pod)["a0"]))).status == 0
    assert links(scene.host).keys() == {"a0"}


Damage = Callable[[Scene, bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "another namespace": lambda scene, run: scene.record(run, pod=identity(scene.host)),
    "a longer number": lambda scene, run: scene.record(run, pod=identity(scene.pod) + b"0"),
    "a shorter number": lambda scene, run: scene.record(run, pod=identity(scene.pod)[:-1]),
    "no namespace": lambda scene, run: scene.record(run).replace(b"namespace", b"namespacE"),
    "in the configuration": lambda scene, run: json.dumps(
        {"config": json.loads(scene.record(run)), "namespace": identity(scene.pod).decode()},
        indent=1,
    ).encode(),
    "not first": lambda scene, run: b'{\n "x": 1,' + scene.record(run)[1:],
    "another indent": lambda scene, run: json.dumps(
        json.loads(scene.record(run)), indent=2
    ).encode(),
    "a line before": lambda scene, run: b"\n" + scene.record(run),
    "half a byte": lambda scene, run: scene.record(run).replace(b'",\n "name', b'0",\n "name'),
    "no hex": lambda scene, run: scene.record(run).replace(b'",\n "name', b'0x",\n "name'),
    "half a header": lambda scene, run: scene.record(run, b"\0" * 8),
    "a size of nothing": lambda scene, run: scene.record(run, bytes(32)),
    "a size beyond": lambda scene, run: scene.record(run, struct.pack("=I", 64) + run[4:]),
    "another type": lambda scene, run: scene.record(run, message(RTM_NEWADDR, 1)),
    "a new link": lambda scene, run: scene.record(run, home(1, flags=NLM_F_CREATE)),
    "half an attribute": lambda scene, run: scene.record(
        run, struct.pack("=IHHII", 34, RTM_NEWLINK, 0, 0, 0) + bytes(18)
    ),
    "an attribute of nothing": lambda scene, run: scene.record(
        run, struct.pack("=IHHII", 36, RTM_NEWLINK, 0, 0, 0) + bytes(20)
    ),
    "an attribute beyond": lambda scene, run: scene.record(
        run, struct.pack("=IHHII", 36, RTM_NEWLINK, 0, 0, 0) + bytes(16) + b"\x08\0\x03\0"
    ),
    "a short descriptor": lambda scene, run: scene.record(
        run, message(RTM_NEWLINK, 1, (IFLA_NET_NS_FD, b"\0\0"))
    ),
    "nothing": lambda scene, run: scene.record(run)[:0],
    "cut off": lambda scene, run: scene.record(run)[: 16 + len(run)],
    "too long": lambda scene, run: scene.record(run, *[message(RTM_DELLINK, 9999)] * (1 << 14)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_nothing_is_touched(scene: Scene, name: str) -> None:
    run = home(links(scene.pod)["a0"])
    assert scene.delete(DAMAGES[name](scene, run)).status == 0
    assert ({*links(scene.host)}, {*links(scene.pod)}) == (set(), ALL)


def test_a_link_to_a_record_is_not_followed(scene: Scene) -> None:
    record = scene.record(home(links(scene.pod)["a0"]))
    scene.write(b"")
    (scene.bond.folder / "elsewhere").write_bytes(record)
    (scene.bond.folder / "state" / "abc:net1.json").unlink()
    (scene.bond.folder / "state" / "abc:net1.json").symlink_to(scene.bond.folder / "elsewhere")
    assert scene.bond.run("DEL", CNI_NETNS=scene.pod).status == 0
    assert links(scene.pod).keys() == ALL


@pytest.mark.parametrize("gone", [True, False])
def test_only_when_the_daemon_is_gone(scene: Scene, *, gone: bool) -> None:
    """One that talks rubbish is there, and may be at work."""
    scene.write(scene.record(home(links(scene.pod)["a0"])))
    process, peer = scene.bond.asked("DEL", CNI_NETNS=scene.pod)
    if not gone:
        peer.send(bytes(64))
    peer.close()
    assert ended(process).status == 0
    assert links(scene.host).keys() == ({"a0"} if gone else set())


def test_not_for_add(scene: Scene) -> None:
    scene.write(scene.record(home(links(scene.pod)["a0"])))
    for command in ("ADD", "CHECK", "GC", "STATUS"):
        assert scene.bond.run(command, CNI_NETNS=scene.pod).status == 1
    assert scene.bond.run("DEL", CNI_NETNS=HERE).status == 0
    assert scene.bond.run("DEL").status == 0
    assert links(scene.pod).keys() == ALL


def test_not_after_it_was_too_slow(build: Build, scene: Scene) -> None:
    scene.bond.program = build("hasty")
    scene.write(scene.record(home(links(scene.pod)["a0"])))
    process, _ = scene.bond.asked("DEL", CNI_NETNS=scene.pod)
    assert ended(process).status == 0
    assert links(scene.pod).keys() == ALL
