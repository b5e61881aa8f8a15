"""The process that holds a guest: it starts it, relays to it and never outlives its purpose.

One holder a guest, always a process of its own, so that a guest can outlive the command that
booted it (`keep`) and ends with it otherwise, however that command ends: the launcher holds
one end of a socket, the lifeline, which the kernel closes for the dead.

A client connects to the control socket once for each command: the connection is the command's
life, hanging up kills the command. The holder passes messages on and gives them their id; it
decides nothing but whether the guest is still there, and says so to everybody when it is not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bondlab.guest.agent import WINDOW
from bondlab.guest.cable import Port, Wire, wires
from bondlab.guest.lines import Lines, Message
from bondlab.guest.loop import Loop
from bondlab.guest.machine import Kind, Machine, Settings, share_mounts

HALT_SECONDS = 5.0
# A command waits while this many bytes of its output wait for its client, until it is fewer again.
HOLD_BYTES, RELEASE_BYTES = 1 << 20, 1 << 18


class Client:
    """One connection, and the command it runs once it has asked for one."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.job: int | None = None
        self.held = False  # the agent leaves the command's output unread


class Holder:
    """One guest, its cables and its clients."""

    def __init__(self, settings: Settings, lifeline: Lines) -> None:
        self.settings = settings
        self.lifeline: Lines | None = lifeline
        self.folder = Path(tempfile.mkdtemp(prefix="bondlab-"))
        self.loop = Loop()
        self.wires = wires(settings.nics, self.folder)
        self.ports = [port for wire in self.wires for port in wire.ports]
        self.machine = Machine(settings, self.folder, [port.argument for port in self.ports])
        self.agent = Lines(self.machine.line, WINDOW)
        self.clients: dict[int | None, Client] = {}
        self.jobs = 0
        self.doors: list[Path] = []
        self.idle_seconds: float | None = None
        self.lost: Message | None = None
        self.ready: Message | None = None
        self.ended = False

    # Life

    def serve(self) -> None:
        """Boot, relay, end; always leaves neither process nor file."""
        self.loop.deadline = time.monotonic() + self.settings.boot_seconds
        self.loop.watch(self.agent, self.hear_agent)
        self.loop.watch(self.machine.pidfd, self.machine_ended)
        self.loop.watch(self.lifeline, self.hear_lifeline)
        self.open_door(self.folder / "control")
        for wire in self.wires:
            for port in wire.ports:
                self.loop.watch(port.listener, self.plugger(wire, port))
        while not self.ended:
            if not self.loop.turn():
                self.too_late()
            self.restrain()

    def end(self) -> None:
        """Ask the guest to halt, kill it if it does not, and remove every file."""
        self.agent.send({"do": "halt"})
        self.machine.stop(HALT_SECONDS if self.ready and not self.lost else 0)
        for path in self.doors:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def too_late(self) -> None:
        """The deadline came: of the boot, or of the patience of a kept guest."""
        if self.ready:
            self.ended = True
        else:
            self.lose(f"the guest was not ready {self.settings.boot_seconds:g} s after its start")

    def rest(self) -> None:
        """A kept guest's time begins to run when nobody is there."""
        if self.idle_seconds is not None and not self.lost:
            deadline = time.monotonic() + self.idle_seconds
            self.loop.deadline = None if self.clients else deadline

    # The guest

    def hear_agent(self) -> None:
        """Deal with what the agent says; its end is told by its process."""
        try:
            messages = self.agent.receive()
        except EOFError:
            self.loop.forget(self.agent)
            return
        for message in messages:
            if "id" in message:
                self.answer(message)
            elif "got" in message:
                self.agent.confirm(message["got"])
            elif "hello" in message:
                self.agent.send(self.outfit())
            elif "ready" in message:
                self.booted(message["ready"])
            else:
                self.lose(f"the guest could not be set up: {message['failed']}")

    def outfit(self) -> Message:
        """What the agent needs to dress the guest."""
        return {
            "overlay": self.settings.kind is not Kind.HOST,
            "modules": self.settings.modules,
            "shares": share_mounts(self.settings),
            "links": {f"vec{port.number}": port.name for port in self.ports},
        }

    def booted(self, release: str) -> None:
        """The agent takes orders from now on."""
        self.loop.deadline = None
        self.ready = {
            "ready": str(self.folder / "control"),
            "kernel": self.settings.kernel,
            "release": release,
            "cables": [wire.name for wire in self.wires],
        }
        self.tell_launcher(self.ready)

    def answer(self, message: Message) -> None:
        """Pass an answer on to the client whose command it is about."""
        client = self.clients.get(message["id"])
        if client:
            client.lines.send(message)
            if message.keys() & {"exit", "error"}:
                client.job = None

    def restrain(self) -> None:
        """Hold the commands whose clients do not read their output, release those that do."""
        for number, client in self.clients.items():
            held = client.lines.waiting > (RELEASE_BYTES if client.held else HOLD_BYTES)
            if client.job and held != client.held:
                client.held = held
                self.agent.send({"do": "hold", "id": number, "hold": held})

    def machine_ended(self) -> None:
        """The guest's process ended, and nobody had asked for it."""
        self.loop.forget(self.machine.pidfd)
        self.hear_agent()
        self.lose(f"its kernel ended by itself (status {self.machine.stop(0)})")

    def lose(self, why: str) -> None:
        """From now on every client learns that the guest is gone, and what it said last."""
        if self.lost:
            return
        self.loop.deadline = None
        self.lost = self.report(why)
        for client in self.clients.values():
            client.lines.send(self.lost)
        self.tell_launcher(self.lost)
        self.ended = self.lifeline is None

    def report(self, why: str) -> Message:
        """The message that the guest is lost."""
        log = self.machine.log
        return {"lost": why, "console": self.machine.last_words(), "log": str(log)}

    # The launcher

    def tell_launcher(self, message: Message) -> None:
        """Say it on the lifeline, while there is one."""
        if self.lifeline:
            self.lifeline.send(message)

    def hear_lifeline(self) -> None:
        """The launcher says nothing here; its end ends a guest that is not kept."""
        try:
            if self.lifeline:
                self.lifeline.receive()
        except EOFError:
            self.loop.forget(self.lifeline)
            self.lifeline = None
            self.ended = self.idle_seconds is None or self.lost is not None

    # The clients

    def open_door(self, path: Path) -> None:
        """Listen at ``path`` for clients of the same user."""
        door = socket.socket(socket.AF_UNIX)
        umask = os.umask(0o177)
        try:
            door.bind(str(path))
        finally:
            os.umask(umask)
        door.listen(64)
        self.doors.append(path)
        self.loop.watch(door, lambda: self.welcome(door))

    def welcome(self, door: socket.socket) -> None:
        """A client connects; its number is also its command's."""
        client = Client(Lines(door.accept()[0]))
        self.jobs += 1
        number = self.jobs
        self.clients[number] = client
        self.loop.watch(client.lines, lambda: self.hear_client(number, client))
        self.rest()

    def hear_client(self, number: int, client: Client) -> None:
        """Deal with what a client says."""
        try:
            messages = client.lines.receive()
        except EOFError:
            self.part(number, client)
            return
        for message in messages:
            self.obey(number, client, message)

    def part(self, number: int, client: Client) -> None:
        """A client hung up: its command, if it still runs, is killed."""
        if client.job:
            self.agent.send({"do": "signal", "id": number, "signal": signal.SIGKILL})
        self.loop.forget(client.lines)
        client.lines.close()
        del self.clients[number]
        self.rest()

    def obey(self, number: int, client: Client, message: Message) -> None:
        """Answer what is ours to answer and pass the rest on to the agent."""
        action = message["do"]
        if action == "halt":
            self.ended = True
        elif self.lost:
            client.lines.send(self.lost)
        elif action == "describe":
            client.lines.send(self.ready or {})
        elif action == "console":
            client.lines.send(self.report(message["why"]))
        elif action == "cable":
            client.lines.send(self.turn_cable(message))
        elif action == "keep":
            client.lines.send(self.keep(Path(message["path"]), message["idle"]))
        else:
            client.job = number
            self.agent.send(message | {"id": number})

    def keep(self, path: Path, idle_seconds: float) -> Message:
        """Live on without the launcher, reached through ``path``."""
        try:
            self.open_door(path)
        except OSError as error:
            return {"error": f"{path}: {error.strerror}", "errno": error.errno}
        self.idle_seconds = idle_seconds
        with open(os.devnull, "wb") as nowhere:  # let go of the launcher's terminal or pipe
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        self.rest()
        return {"kept": str(path)}

    # The cables

    def turn_cable(self, message: Message) -> Message:
        """Cut or mend a cable, or neither; its state."""
        wire = next(wire for wire in self.wires if wire.name == message["name"])
        if message["whole"] is not None:
            wire.whole = message["whole"]
        return {"whole": wire.whole, "carried": wire.carried, "dropped": wire.dropped}

    def plugger(self, wire: Wire, port: Port) -> Callable[[], None]:
        """What to do when the guest opens the NIC of ``port``."""

        def plug() -> None:
            if port.connection:
                self.loop.forget(port.connection)
            port.accept()
            self.loop.watch(port.connection, carry)

        def carry() -> None:
            connection = port.connection
            wire.relay(port)
            if port.connection is None:
                self.loop.forget(connection)

        return plug


def main() -> None:
    """``holder LIFELINE SETTINGS``: a descriptor's number, and `Settings` as JSON."""
    settings = Settings(**json.loads(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    holder = Holder(settings, Lines(socket.socket(fileno=int(sys.argv[1]))))
    try:
        holder.serve()
    finally:
        holder.end()


if __name__ == "__main__":
    main()
