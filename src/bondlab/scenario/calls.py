"""Running CNI plugins in the guest as a runtime does: ADD in order, CHECK, DEL in reverse.

A plugin runs in the node's namespace, finds its configuration on standard input and everything
else in its environment; its standard output is one JSON document. Each run becomes a `Call`.
After a failed ADD the network still gets its DEL, and DEL goes on whatever fails: that is what
libcni and Multus do. The sequence of a case is the business of ``story``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bondlab.manifests.manifests import Config
from bondlab.manifests.multus import CHECK_SINCE, Sandbox, environment, version, with_result
from bondlab.scenario.events import Call
from bondlab.scenario.guest_commands import Hands

DEADLINE = 120.0  # kubelet's default runtimeRequestTimeout
WARNING = "bond: warning: "
MOST_WARNINGS = 20


class Attached(NamedTuple):
    """A network whose ADD was begun: what its DEL needs."""

    network: str
    ifname: str
    configs: tuple[Config, ...]
    result: Any  # of the last plugin, None where ADD failed


class Runtime:
    """The plugins of one guest, called for one sandbox."""

    def __init__(
        self, hands: Hands, sandbox: Sandbox, cni_path: str, plugins: Mapping[str, str]
    ) -> None:
        self.hands = hands
        self.sandbox = sandbox
        self.cni_path = cni_path
        self.plugins = plugins  # type -> path in the guest
        self.attached: list[Attached] = []

    def add(self, network: str, ifname: str, configs: list[Config]) -> Iterator[Call]:
        """ADD each plugin of a network in order, stop at the first that fails."""
        result = None
        for place, config in enumerate(configs):
            given = config if result is None else config | {"prevResult": result}
            call, result = self.call("ADD", network, ifname, given)
            done = tuple(configs[: place + 1])
            self.attached = [one for one in self.attached if one.ifname != ifname]
            self.attached.append(Attached(network, ifname, done, result))
            yield call
            if not call.ok:
                return

    def check(self) -> Iterator[Call]:
        """CHECK every bond whose version has it.

        The links below are left out: the bond has changed their MACs, which their own plugins
        (host-device, for one) call wrong, and Multus never checks a pod's further networks.
        """
        for one in self.attached:
            for config in one.configs:
                if config.get("type") == "bond" and version(config) >= CHECK_SINCE:
                    given = with_result(config, one.result)
                    yield self.call("CHECK", one.network, one.ifname, given)[0]

    def delete(self) -> Iterator[Call]:
        """DEL everything, the last first, the plugins of a network in reverse too."""
        for one in reversed(self.attached):
            for config in reversed(one.configs):
                given = with_result(config, one.result)
                yield self.call("DEL", one.network, one.ifname, given)[0]
        self.attached = []

    def call(self, verb: str, network: str, ifname: str, config: Config) -> tuple[Call, Any]:
        """One plugin run: what happened, and its result if it gave one."""
        kind = str(config.get("type"))
        path = self.plugins.get(kind)
        if path is None:
            text = f"the plugin {kind} is not in {self.cni_path}"
            return Call(verb, network, kind, ifname, 127, 5, text, 0.0), None
        began = time.monotonic()
        done = self.hands.machine.run(
            [path],
            env=environment(verb, self.sandbox, ifname, self.cni_path),
            input=json.dumps(config).encode(),
            timeout=DEADLINE,
        )
        spent = (time.monotonic() - began) * 1000
        said = done.stderr.decode(errors="replace")
        code, message, result = _judge(done.returncode, done.stdout, said)
        warnings = () if message and message == said.strip() else _warnings(said)
        status = done.returncode
        return Call(verb, network, kind, ifname, status, code, message, spent, warnings), result


def _warnings(said: str) -> tuple[str, ...]:
    """What a plugin wrote to standard error: its last lines, each without our plugin's prefix."""
    lines = [line.removeprefix(WARNING).strip() for line in said.splitlines()]
    return tuple(line for line in lines if line)[-MOST_WARNINGS:]


def _judge(status: int, stdout: bytes, stderr: str) -> tuple[int, str, Any]:
    """CNI code and message of a failure, and the result of a success."""
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
    said = (stderr or stdout.decode(errors="replace")).strip()
    return 999, said or f"ended with status {status} and said nothing", None
