"""The supervisor: the process that starts a guest, relays messages to it and ends it.

Each guest has a supervisor, a process of its own, so that a guest can outlive the command that
booted it (`keep`). Else it ends with that command, also when the command is killed: the launcher
has one end of a socket pair, which the kernel closes when the launcher ends.

A client opens one connection to the control socket per command; closing the connection kills the
command. The supervisor adds the command's id and relays the messages. Its only decision is whether
the guest is lost; then it tells all clients.
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
from bondlab.guest.cable import CableRelay, Port, cable_relays
from bondlab.guest.guest_process import GuestKind, GuestProcess, GuestSettings, share_mounts
from bondlab.guest.lines import Lines, Message
from bondlab.guest.loop import Loop

HALT_SECONDS = 5.0
# Pause a command when PAUSE_BYTES of its output are queued for its client; resume at RESUME_BYTES.
PAUSE_BYTES, RESUME_BYTES = 1 << 20, 1 << 18


class Client:
    """A client's connection, and the id of its command once it has started one."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.command: int | None = None
        self.paused = False  # the agent does not read the command's output


class Supervisor:
    """A guest, its cables and its clients."""

    def __init__(self, settings: GuestSettings, launcher: Lines) -> None:
        self.settings = settings
        self.launcher: Lines | None = launcher
        self.directory = Path(tempfile.mkdtemp(prefix="bondlab-"))
        self.loop = Loop()
        self.cable_relays = cable_relays(settings.nics, self.directory)
        self.ports = [port for relay in self.cable_relays for port in relay.ports]
        self.process = GuestProcess(
            settings, self.directory, [port.argument for port in self.ports]
        )
        self.agent = Lines(self.process.line, WINDOW)
        self.clients: dict[int | None, Client] = {}
        self.last_client = 0
        self.control_sockets: list[Path] = []
        self.idle_seconds: float | None = None
        self.lost: Message | None = None
        self.ready: Message | None = None
        self.ended = False

    # Start and end

    def serve(self) -> None:
        """Boot the guest and relay messages until the end."""
        self.loop.deadline = time.monotonic() + self.settings.boot_seconds
        self.loop.watch(self.agent, self.agent_readable)
        self.loop.watch(self.process.pidfd, self.guest_ended)
        self.loop.watch(self.launcher, self.launcher_closed)
        self.listen(self.directory / "control")
        for relay in self.cable_relays:
            for port in relay.ports:
                self.loop.watch(port.listener, self.nic_opener(relay, port))
        while not self.ended:
            if not self.loop.turn():
                self.deadline_passed()
            self.limit_output()

    def end(self) -> None:
        """Ask the guest to halt, kill it if it does not, and remove all files."""
        self.agent.send({"do": "halt"})
        self.process.stop(HALT_SECONDS if self.ready and not self.lost else 0)
        for path in self.control_sockets:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def deadline_passed(self) -> None:
        """The boot took too long, or a kept guest was idle too long."""
        if self.ready:
            self.ended = True
        else:
            self.guest_lost(
                f"the guest was not ready {self.settings.boot_seconds:g} s after its start"
            )

    def start_idle_timer(self) -> None:
        """Start the idle timer of a kept guest when it has no client, else stop it."""
        if self.idle_seconds is not None and not self.lost:
            deadline = time.monotonic() + self.idle_seconds
            self.loop.deadline = None if self.clients else deadline

    # The guest

    def agent_readable(self) -> None:
        """Handle messages of the agent; its end is reported by its process."""
        try:
            messages = self.agent.receive()
        except EOFError:
            self.loop.forget(self.agent)
            return
        for message in messages:
            if "id" in message:
                self.forward(message)
            elif "got" in message:
                self.agent.confirm(message["got"])
            elif "hello" in message:
                self.agent.send(self.setup_order())
            elif "ready" in message:
                self.booted(message["ready"])
            else:
                self.guest_lost(f"the guest could not be set up: {message['failed']}")

    def setup_order(self) -> Message:
        """The agent's order to set the guest up."""
        return {
            "overlay": self.settings.kind is not GuestKind.HOST,
            "modules": self.settings.modules,
            "shares": share_mounts(self.settings),
            "links": {f"vec{port.number}": port.name for port in self.ports},
        }

    def booted(self, release: str) -> None:
        """The agent accepts orders from now on."""
        self.loop.deadline = None
        self.ready = {
            "ready": str(self.directory / "control"),
            "kernel": self.settings.kernel,
            "release": release,
            "cables": [relay.name for relay in self.cable_relays],
        }
        self.notify_launcher(self.ready)

    def forward(self, message: Message) -> None:
        """Relay a message to the client that started its command."""
        client = self.clients.get(message["id"])
        if client:
            client.lines.send(message)
            if message.keys() & {"exit", "error"}:
                client.command = None

    def limit_output(self) -> None:
        """Pause commands whose clients do not read their output; resume them when they do."""
        for number, client in self.clients.items():
            paused = client.lines.waiting > (RESUME_BYTES if client.paused else PAUSE_BYTES)
            if client.command and paused != client.paused:
                client.paused = paused
                self.agent.send({"do": "pause", "id": number, "paused": paused})

    def guest_ended(self) -> None:
        """The guest's process ended unexpectedly."""
        self.loop.forget(self.process.pidfd)
        self.agent_readable()
        self.guest_lost(f"its kernel ended unexpectedly (exit status {self.process.stop(0)})")

    def guest_lost(self, why: str) -> None:
        """Tell the launcher and all clients, now and later, that the guest is lost."""
        if self.lost:
            return
        self.loop.deadline = None
        self.lost = self.report(why)
        for client in self.clients.values():
            client.lines.send(self.lost)
        self.notify_launcher(self.lost)
        self.ended = self.launcher is None

    def report(self, why: str) -> Message:
        """The message that the guest is lost, with the end of its console."""
        log = self.process.log
        return {"lost": why, "console": self.process.console_tail(), "log": str(log)}

    # The launcher

    def notify_launcher(self, message: Message) -> None:
        """Send a message to the launcher, unless it has ended."""
        if self.launcher:
            self.launcher.send(message)

    def launcher_closed(self) -> None:
        """The launcher ended (it sends nothing): end the guest, unless it is kept."""
        try:
            if self.launcher:
                self.launcher.receive()
        except EOFError:
            self.loop.forget(self.launcher)
            self.launcher = None
            self.ended = self.idle_seconds is None or self.lost is not None

    # The clients

    def listen(self, path: Path) -> None:
        """Listen at ``path``; only the same user may connect."""
        listener = socket.socket(socket.AF_UNIX)
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(64)
        self.control_sockets.append(path)
        self.loop.watch(listener, lambda: self.accept_client(listener))

    def accept_client(self, listener: socket.socket) -> None:
        """Accept a client; its number is also the id of its command."""
        client = Client(Lines(listener.accept()[0]))
        self.last_client += 1
        number = self.last_client
        self.clients[number] = client
        self.loop.watch(client.lines, lambda: self.client_readable(number, client))
        self.start_idle_timer()

    def client_readable(self, number: int, client: Client) -> None:
        """Handle messages of a client."""
        try:
            messages = client.lines.receive()
        except EOFError:
            self.client_closed(number, client)
            return
        for message in messages:
            self.handle(number, client, message)

    def client_closed(self, number: int, client: Client) -> None:
        """The client closed its connection: kill its command if it runs."""
        if client.command:
            self.agent.send({"do": "signal", "id": number, "signal": signal.SIGKILL})
        self.loop.forget(client.lines)
        client.lines.close()
        del self.clients[number]
        self.start_idle_timer()

    def handle(self, number: int, client: Client, message: Message) -> None:
        """Answer a request to the supervisor; relay any other to the agent."""
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
            client.lines.send(self.set_cable(message))
        elif action == "keep":
            client.lines.send(self.keep(Path(message["path"]), message["idle"]))
        else:
            client.command = number
            self.agent.send(message | {"id": number})

    def keep(self, path: Path, idle_seconds: float) -> Message:
        """Keep the guest when the launcher ends; clients connect at ``path``."""
        try:
            self.listen(path)
        except OSError as error:
            return {"error": f"{path}: {error.strerror}", "errno": error.errno}
        self.idle_seconds = idle_seconds
        with open(os.devnull, "wb") as devnull:  # close the launcher's terminal or pipe
            os.dup2(devnull.fileno(), sys.stderr.fileno())
        self.start_idle_timer()
        return {"kept": str(path)}

    # The cables

    def set_cable(self, message: Message) -> Message:
        """Connect or disconnect a cable if asked to; its state."""
        relay = next(relay for relay in self.cable_relays if relay.name == message["name"])
        if message["connected"] is not None:
            relay.connected = message["connected"]
        return {"connected": relay.connected, "carried": relay.carried, "dropped": relay.dropped}

    def nic_opener(self, relay: CableRelay, port: Port) -> Callable[[], None]:
        """The callback for the guest opening the NIC of ``port``."""

        def opened() -> None:
            if port.connection:
                self.loop.forget(port.connection)
            port.accept()
            self.loop.watch(port.connection, readable)

        def readable() -> None:
            connection = port.connection
            relay.forward(port)
            if port.connection is None:
                self.loop.forget(connection)

        return opened


def main() -> None:
    """``supervisor LAUNCHER SETTINGS``: a descriptor's number, and `GuestSettings` as JSON."""
    settings = GuestSettings(**json.loads(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    supervisor = Supervisor(settings, Lines(socket.socket(fileno=int(sys.argv[1]))))
    try:
        supervisor.serve()
    finally:
        supervisor.end()


if __name__ == "__main__":
    main()
