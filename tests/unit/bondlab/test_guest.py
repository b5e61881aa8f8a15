"""The guest without a kernel: lines, commands through a stand-in supervisor, agent, cables."""

import base64
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bondlab.guest import cable, guest, guest_process
from bondlab.guest.agent import WINDOW
from bondlab.guest.control_client import ControlClient, LostGuest
from bondlab.guest.lines import Lines, Message
from bondlab.guest.process import Process

SOON = 10.0


def soon() -> float:
    return time.monotonic() + SOON


@pytest.fixture
def pair() -> Iterator[tuple[Lines, Lines]]:
    ends = [Lines(end) for end in socket.socketpair()]
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def test_messages_larger_than_a_socket_arrive_whole(pair: tuple[Lines, Lines]) -> None:
    ours, theirs = pair
    sent = {"data": "x" * 3_000_000}
    ours.send(sent)
    ours.send({"then": 1})
    theirs_out: list[Message] = []
    while len(theirs_out) < 2:
        ours.flush()
        theirs_out += theirs.receive()
    assert theirs_out == [sent, {"then": 1}]


def test_a_timeout_and_a_closed_connection_are_distinct(pair: tuple[Lines, Lines]) -> None:
    ours, theirs = pair
    with pytest.raises(TimeoutError):
        ours.wait(time.monotonic() + 0.01)
    theirs.close()
    with pytest.raises(EOFError):
        ours.wait(soon())


def test_no_more_than_the_window_is_under_way() -> None:
    one, two = socket.socketpair()
    two.settimeout(0)
    lines = Lines(one, window=10)
    lines.send({"data": "0123456789"})
    assert len(two.recv(100)) == 10
    assert not lines.pending  # it would have a loop spin: nothing may be written now
    lines.confirm(4)
    assert len(two.recv(100)) == 4
    one.close()
    two.close()


Script = Callable[[Lines], None]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Callable[[Script], ControlClient]]:
    """A stand-in supervisor whose one conversation is a function."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    listener.listen()

    def start(script: Script) -> ControlClient:
        def talk() -> None:
            lines = Lines(listener.accept()[0])
            script(lines)
            while lines.pending:
                lines.flush()
            lines.close()

        threading.Thread(target=talk, daemon=True).start()
        return ControlClient(str(tmp_path / "control"))

    yield start
    listener.close()


def out(text: bytes) -> Message:
    return {"out": base64.b64encode(text).decode()}


def test_a_status_travels_beside_the_output(supervisor: Callable[[Script], ControlClient]) -> None:
    def script(lines: Lines) -> None:
        lines.wait(soon())
        lines.send(out(b"exit 3\n") | {"id": 1})
        lines.send({"err": base64.b64encode(b"\xff").decode(), "id": 1})
        lines.send({"exit": -9, "id": 1})

    assert Process(supervisor(script), ["cmd"], {"env": {}}, b"").wait(SOON) == (
        -9,
        b"exit 3\n",
        b"\xff",
    )


def test_input_comes_in_pieces_and_ends(supervisor: Callable[[Script], ControlClient]) -> None:
    given = os.urandom(200_000)
    heard: list[bytes] = []

    def script(lines: Lines) -> None:
        lines.wait(soon())
        while not heard or heard[-1]:
            heard.append(base64.b64decode(lines.wait(soon())["data"]))
        lines.send({"exit": 0})

    Process(supervisor(script), ["cmd"], {"env": {}}, given).wait(SOON)
    assert b"".join(heard) == given
    assert len(heard) > 2


def test_a_command_that_cannot_start_is_an_oserror(
    supervisor: Callable[[Script], ControlClient],
) -> None:
    client = supervisor(lambda lines: lines.send({"error": "no: gone", "errno": 2}))
    with pytest.raises(FileNotFoundError, match="no: gone"):
        Process(client, ["no"], {"env": {}}, b"").wait(SOON)


def test_a_late_command_is_killed_and_its_output_kept(
    supervisor: Callable[[Script], ControlClient],
) -> None:
    orders: list[Message] = []

    def script(lines: Lines) -> None:
        lines.send(out(b"begun"))
        while not orders or orders[-1]["do"] != "signal":
            orders.append(lines.wait(soon()))
        lines.send({"exit": -9})

    with pytest.raises(subprocess.TimeoutExpired) as caught:
        Process(supervisor(script), ["slow"], {"env": {}}, b"").wait(0.2)
    assert caught.value.stdout == b"begun"
    assert orders[-1]["signal"] == 9


def test_a_lost_guest_shows_its_console(supervisor: Callable[[Script], ControlClient]) -> None:
    last = {"lost": "its kernel ended", "console": ["Kernel panic"], "log": "/t/console"}
    client = supervisor(lambda lines: lines.send(last))
    with pytest.raises(LostGuest) as caught:
        Process(client, ["cmd"], {"env": {}}, b"").wait(SOON)
    assert caught.value.why == "its kernel ended"
    for part in ("its kernel ended", "Kernel panic", "/t/console"):
        assert part in str(caught.value)


def test_a_supervisor_that_hangs_up_is_a_lost_guest(
    supervisor: Callable[[Script], ControlClient],
) -> None:
    def script(lines: Lines) -> None:
        lines.wait(soon())

    client = supervisor(script)
    with pytest.raises(LostGuest, match="its supervisor has ended"):
        client.request({"do": "describe"})


def test_a_path_without_a_supervisor_is_a_lost_guest(tmp_path: Path) -> None:
    with pytest.raises(LostGuest, match="no supervisor listens"):
        guest.attach(tmp_path / "none")


# The agent runs here as an ordinary process, without the mounts of main().
AGENT = """
import sys
from bondlab.guest.agent import Agent, Channel
Agent(Channel(int(sys.argv[1])), machine=False).serve()
"""


class Asked:
    """An agent and what it has said, by command."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.said: dict[int, list[Message]] = {}

    def order(self, number: int, **order: object) -> None:
        self.lines.send({"id": number, **order})

    def run(self, number: int, *argv: str) -> None:
        self.order(number, do="run", argv=argv, env={"A": "b"})

    def end(self, number: int) -> tuple[bytes, int]:
        """The output and status of a command."""
        while not any({"exit", "error"} & set(said) for said in self.said.get(number, [])):
            message = self.lines.wait(soon())
            if "got" not in message:
                self.said.setdefault(message["id"], []).append(message)
        said = self.said[number]
        output = b"".join(base64.b64decode(message.get("out", "")) for message in said)
        return output, said[-1].get("exit", -1000)


@pytest.fixture
def agent() -> Iterator[Asked]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", AGENT, str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        lines = Lines(ours)
        yield Asked(lines)
        lines.close()
        process.wait(SOON)


def test_the_agent_runs_many_at_once(agent: Asked) -> None:
    agent.run(1, "sh", "-c", "read x; echo $x$A; exit 5")
    agent.run(2, "sh", "-c", "echo quick")
    assert agent.end(2) == (b"quick\n", 0)
    for data in (b"input", b"\n", b""):
        agent.order(1, do="in", data=base64.b64encode(data).decode())
    assert agent.end(1) == (b"inputb\n", 5)


def test_all_output_is_sent_before_the_status(agent: Asked) -> None:
    agent.run(1, "head", "-c", "1000000", "/dev/zero")
    assert agent.end(1) == (bytes(1_000_000), 0)


def test_a_daemon_left_behind_does_not_hold_the_command(agent: Asked) -> None:
    agent.run(1, "sh", "-c", "sleep 3 & echo up")
    assert agent.end(1) == (b"up\n", 0)


def test_a_paused_command_is_not_read_and_waits(agent: Asked) -> None:
    agent.run(1, "sh", "-c", "read x; head -c 200000 /dev/zero; echo done >&2")
    agent.order(1, do="pause", paused=True)
    agent.order(1, do="in", data=base64.b64encode(b"\n").decode())
    with pytest.raises(TimeoutError):
        agent.lines.wait(time.monotonic() + 0.3)
    agent.order(1, do="pause", paused=False)
    assert agent.end(1) == (bytes(200_000), 0)


def test_a_paused_command_can_be_killed(agent: Asked) -> None:
    agent.run(1, "yes")
    agent.order(1, do="pause", paused=True)
    agent.order(1, do="signal", signal=9)
    assert agent.end(1)[1] == -9


def test_a_signal_reaches_the_whole_command(agent: Asked) -> None:
    agent.run(1, "sh", "-c", "echo up; sleep 60 | cat")
    while not agent.said.get(1):
        message = agent.lines.wait(soon())
        agent.said.setdefault(message.get("id", 0), []).append(message)
    agent.order(1, do="signal", signal=15)
    assert agent.end(1)[1] == -15


def test_a_terminal_has_a_size_and_answers_control_c(agent: Asked) -> None:
    script = "trap 'echo caught; exit 4' INT; stty size; while :; do sleep 0.05; done"
    agent.order(1, do="run", argv=["sh", "-c", script], env={}, pty=[33, 101])
    while not any("33 101" in str(base64.b64decode(m["out"])) for m in agent.said.get(1, [])):
        message = agent.lines.wait(soon())
        agent.said.setdefault(message.get("id", 0), []).append(message)
    agent.order(1, do="in", data=base64.b64encode(b"\x03").decode())
    output, status = agent.end(1)
    assert b"caught" in output
    assert status == 4


@pytest.mark.parametrize("cwd", ["/", "/nonexistent"])
def test_a_command_that_cannot_start_is_reported(agent: Asked, cwd: str) -> None:
    agent.order(1, do="run", argv=["/nonexistent"], env={}, cwd=cwd)
    assert agent.end(1)[1] == -1000
    assert "nonexistent" in agent.said[1][-1]["error"]


def test_every_byte_heard_is_confirmed_in_time(agent: Asked) -> None:
    agent.lines = Lines(agent.lines._sock, WINDOW)
    agent.run(1, "wc", "-c")
    for _ in range(10):
        agent.order(1, do="in", data=base64.b64encode(bytes(3000)).decode())
    agent.order(1, do="in", data="")
    confirmed = 0
    while "exit" not in (message := agent.lines.wait(soon())):
        agent.lines.confirm(message.get("got", 0))
        confirmed += message.get("got", 0)
    assert confirmed > 30_000


def plug(port: cable.Port) -> socket.socket:
    nic = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nic.connect(str(port.path))
    port.accept()
    return nic


def unplug(relay: cable.CableRelay, *nics: socket.socket) -> None:
    for port in relay.ports:
        port.unplug()
        port.listener.close()
    for nic in nics:
        nic.close()


def test_a_cable_carries_drops_and_counts(tmp_path: Path) -> None:
    (relay,) = cable.cable_relays([("n0", "s0")], tmp_path)
    one, two = (plug(port) for port in relay.ports)
    two.settimeout(0)
    one.send(b"frame")
    relay.forward(relay.ports[0])
    assert two.recv(100) == b"frame"
    relay.connected = False
    one.send(b"lost")
    relay.forward(relay.ports[0])
    with pytest.raises(BlockingIOError):
        two.recv(100)
    assert (relay.carried, relay.dropped) == (1, 1)
    unplug(relay, one, two)


def test_a_nic_that_closes_can_be_opened_anew(tmp_path: Path) -> None:
    (relay,) = cable.cable_relays([("n0", "s0")], tmp_path)
    first, other = (plug(port) for port in relay.ports)
    first.close()
    relay.forward(relay.ports[0])
    assert relay.ports[0].connection is None
    other.send(b"to nobody")
    relay.forward(relay.ports[1])
    again = plug(relay.ports[0])
    other.send(b"frame")
    relay.forward(relay.ports[1])
    assert again.recv(100) == b"frame"
    unplug(relay, again, other)


def test_every_nic_has_its_own_fixed_mac(tmp_path: Path) -> None:
    made = cable.cable_relays([("a0", "b0"), ("a1", "b1")], tmp_path)
    ports = [port for relay in made for port in relay.ports]
    assert len({port.mac for port in ports}) == 4
    assert all(int(port.mac[:2], 16) & 1 == 0 for port in ports)
    for port in ports:
        port.listener.close()


@pytest.mark.parametrize(
    ("parameter", "words"),
    [("init=/usr/bin/python3", "init=/usr/bin/python3"), ("init=/a b/c", 'init="/a b/c"')],
)
def test_a_path_with_a_space_is_one_kernel_parameter(parameter: str, words: str) -> None:
    assert guest_process.quoted(parameter) == words
