"""Calls CNI plugins in the guest as a runtime does: ADD in order, CHECK, DEL in reverse order.

A plugin runs in the node's namespace, with its configuration on standard input and the other
parameters in its environment; its standard output is one JSON document. Each call becomes a
`Call`. As in libcni and Multus, a network whose ADD failed gets a DEL too, and DEL continues after
an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bondlab.manifests.manifests import Config
from bondlab.manifests.multus import CHECK_SINCE, Sandbox, environment, version, with_result
from bondlab.scenario.events import Call
from bondlab.scenario.guest_commands import GuestCommands

DEADLINE = 120.0  # kubelet's default runtimeRequestTimeout
WARNING = "bond: warning: "
MOST_WARNINGS = 20


class StartedNetwork(NamedTuple):
    """A network whose ADD was started: what its DEL needs."""

    network: str
    ifname: str
    configs: tuple[Config, ...]
    result: Any  # of the last plugin, None if ADD failed


class Runtime:
    """Calls the plugins of a guest for one sandbox."""

    def __init__(
        self, commands: GuestCommands, sandbox: Sandbox, cni_path: str, plugins: Mapping[str, str]
    ) -> None:
        self.commands = commands
        self.sandbox = sandbox
        self.cni_path = cni_path
        self.plugins = plugins  # path in the guest, by type
        self.attached: list[StartedNetwork] = []

    def add(self, network: str, ifname: str, configs: list[Config]) -> Iterator[Call]:
        """ADD each plugin of a network in order; stops at the first failure."""
        result = None
        for place, config in enumerate(configs):
            config_in = config if result is None else config | {"prevResult": result}
            call, result = self.call("ADD", network, ifname, config_in)
            done = tuple(configs[: place + 1])
            self.attached = [one for one in self.attached if one.ifname != ifname]
            self.attached.append(StartedNetwork(network, ifname, done, result))
            yield call
            if not call.ok:
                return

    def check(self) -> Iterator[Call]:
        """CHECK each bond whose cniVersion has CHECK.

        The networks of the members are not checked: the bond has changed the members' MACs, which
        their plugins (such as host-device) report as an error, and Multus calls no CHECK for a
        pod's additional networks.
        """
        for one in self.attached:
            for config in one.configs:
                if config.get("type") == "bond" and version(config) >= CHECK_SINCE:
                    config_in = with_result(config, one.result)
                    yield self.call("CHECK", one.network, one.ifname, config_in)[0]

    def delete(self) -> Iterator[Call]:
        """DEL all networks in reverse order, and the plugins of each in reverse order."""
        for one in reversed(self.attached):
            for config in reversed(one.configs):
                config_in = with_result(config, one.result)
                yield self.call("DEL", one.network, one.ifname, config_in)[0]
        self.attached = []

    def call(self, verb: str, network: str, ifname: str, config: Config) -> tuple[Call, Any]:
        """Call one plugin; the event, and the plugin's result if any."""
        kind = str(config.get("type"))
        path = self.plugins.get(kind)
        if path is None:
            text = f"plugin {kind} not found in {self.cni_path}"
            return Call(verb, network, kind, ifname, 127, 5, text, 0.0), None
        began = time.monotonic()
        done = self.commands.guest.run(
            [path],
            env=environment(verb, self.sandbox, ifname, self.cni_path),
            input=json.dumps(config).encode(),
            timeout=DEADLINE,
        )
        spent = (time.monotonic() - began) * 1000
        stderr = done.stderr.decode(errors="replace")
        code, message, result = _parse_answer(done.returncode, done.stdout, stderr)
        warnings = () if message and message == stderr.strip() else _warnings(stderr)
        status = done.returncode
        return Call(verb, network, kind, ifname, status, code, message, spent, warnings), result


def _warnings(stderr: str) -> tuple[str, ...]:
    """The last lines on standard error, without the prefix of our plugin's warnings."""
    lines = [line.removeprefix(WARNING).strip() for line in stderr.splitlines()]
    return tuple(line for line in lines if line)[-MOST_WARNINGS:]


def _parse_answer(status: int, stdout: bytes, stderr: str) -> tuple[int, str, Any]:
    """The CNI error code and message, or the result."""
    try:
        answer = json.loads(stdout) if stdout.strip() else None
    except ValueError:
        answer = None
    if status == 0:
        return 0, "", answer
    if isinstance(answer, dict) and "code" in answer:
        details = answer.get("details")
        text = str(answer.get("msg", "")) + (f" ({details})" if details else "")
        return int(answer["code"]), text, None
    stderr = (stderr or stdout.decode(errors="replace")).strip()
    return 999, stderr or f"exit status {status} and stderr nothing", None
