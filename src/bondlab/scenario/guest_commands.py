"""Commands in the guest, and what ``ip`` says there: the lab's only eyes.

`Hands` needs of a guest one function, ``run``, and its cables; a test gives it a function that
answers from a table. Links and bonds are read with ``ip -j -d``, never with this project's
reader, so that the story does not vouch for itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bondlab.guest.guest import Completed
from bondlab.scenario.build import Batch
from bondlab.scenario.events import Bond, Member

Link = dict[str, Any]

SECONDS = 60.0


class Cable(Protocol):
    """A cable that can be cut: frames are dropped, carrier stays."""

    def cut(self) -> None:
        """Drop frames from now on."""

    def mend(self) -> None:
        """Carry them again."""


class Machine(Protocol):
    """What the lab needs of a guest; `bondlab.guest.guest.Guest` is one."""

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002 subprocess's word
        timeout: float = SECONDS,
    ) -> Completed:
        """Run a command to its end."""

    def cable(self, name: str) -> Cable:
        """The cable of the NIC of that name."""


class CommandFailed(Exception):
    """A command of the lab itself failed; the text is what it said."""


class Hands:
    """Commands in a guest's namespaces."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, argv: Sequence[str], *, namespace: str = "", given: bytes = b"") -> str:
        """Output of a command in a named namespace. Raises CommandFailed."""
        enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        done = self.machine.run([*enter, *argv], input=given, timeout=SECONDS)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(f"{' '.join(argv)} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def shell(self, script: str, *, namespace: str = "") -> str:
        """Output of a shell script. Raises CommandFailed."""
        return self.run(["sh", "-c", script], namespace=namespace)

    def write(self, path: str, data: bytes, mode: str = "644") -> None:
        """Make a file and its folders."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0" && chmod "$1" "$0"'
        self.run(["sh", "-c", script, path, mode], given=data)

    def batch(self, batches: Sequence[Batch]) -> None:
        """Run ``ip`` batches; raises CommandFailed unless a batch is to go on after errors."""
        for batch in batches:
            done = self.machine.run(batch.argv(), input=batch.text(), timeout=SECONDS)
            if done.returncode and not batch.force:
                said = done.stderr.decode(errors="replace").strip()
                raise CommandFailed(f"{' '.join(batch.argv())}: {said}")

    def links(self, namespace: str = "") -> list[Link]:
        """Every link of a namespace, as ``ip -j -d -s link`` tells it."""
        inside = ["-n", namespace] if namespace else []
        text = self.run(["ip", *inside, "-j", "-d", "-s", "link", "show"])
        found: list[Link] = json.loads(text or "[]")
        return [link for link in found if link]

    def addresses(self, namespace: str, ifname: str) -> tuple[str, ...]:
        """The global addresses of a link, with prefix lengths."""
        text = self.run(["ip", "-n", namespace, "-j", "addr", "show", "dev", ifname])
        infos = [info for link in json.loads(text or "[]") for info in link.get("addr_info", ())]
        return tuple(
            f"{info['local']}/{info['prefixlen']}"
            for info in infos
            if info.get("scope") == "global"
        )


def kind(link: Link) -> str:
    """The link's kind, "" for hardware."""
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def sent(links: Sequence[Link]) -> dict[str, int]:
    """Packets sent, by link."""
    return {
        link["ifname"]: int(link.get("stats64", {}).get("tx", {}).get("packets", 0))
        for link in links
    }


def bond(links: Sequence[Link], ifname: str) -> Bond | None:
    """The bond of that name among a namespace's links, None if there is none."""
    found = [link for link in links if link["ifname"] == ifname and kind(link) == "bond"]
    if not found:
        return None
    data = found[0]["linkinfo"].get("info_data", {})
    lacp = data.get("ad_info", {})
    return Bond(
        name=ifname,
        mode=str(data.get("mode", "")),
        mac=str(found[0].get("address", "")),
        mtu=int(found[0].get("mtu", 0)),
        carrier="LOWER_UP" in found[0].get("flags", ()),
        active=str(data.get("active_slave", "")),
        members=tuple(_member(link) for link in links if link.get("master") == ifname),
        ports=int(lacp.get("num_ports", 0)),
        partner=str(lacp.get("partner_mac", "")),
        addresses=(),
        milliseconds=0.0,
    )


def _member(link: Link) -> Member:
    data = link.get("linkinfo", {}).get("info_slave_data", {})
    return Member(
        name=link["ifname"],
        mii=str(data.get("mii_status", "")),
        state=str(data.get("state", "")),
        aggregator=int(data.get("ad_aggregator_id", 0)),
        actor=int(data.get("ad_actor_oper_port_state", 0)),
        partner=int(data.get("ad_partner_oper_port_state", 0)),
        failures=int(data.get("link_failure_count", 0)),
    )
