"""Runs commands in the guest, and reads links and addresses by ``ip``.

`GuestCommands` needs only ``run`` and ``cable`` of a guest; tests pass an object that answers from a
table. Links and bonds are read by ``ip -j -d``, never by this project's own reader, so that the
results are independent of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bondlab.guest.guest import Completed
from bondlab.scenario.build import Batch
from bondlab.scenario.events import BondState, MemberState

Link = dict[str, Any]

SECONDS = 60.0


class CableInterface(Protocol):
    """A cable; while it is disconnected, frames are dropped and the carrier stays."""

    def disconnect(self) -> None:
        """Drop frames from now on."""

    def reconnect(self) -> None:
        """Relay frames again."""


class GuestInterface(Protocol):
    """The methods of `bondlab.guest.guest.Guest` that are used here."""

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",  # noqa: A002 as in subprocess.run
        timeout: float = SECONDS,
    ) -> Completed:
        """Run a command and wait for it."""

    def cable(self, name: str) -> CableInterface:
        """The cable of the NIC with this name."""


class CommandFailed(Exception):
    """A command of the lab itself failed; the text has its error output."""


class GuestCommands:
    """Runs commands in the network namespaces of a guest."""

    def __init__(self, guest: GuestInterface) -> None:
        self.guest = guest

    def run(self, argv: Sequence[str], *, namespace: str = "", input_data: bytes = b"") -> str:
        """Run a command in a named namespace; its output. Raises CommandFailed."""
        enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        done = self.guest.run([*enter, *argv], input=input_data, timeout=SECONDS)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def shell(self, script: str, *, namespace: str = "") -> str:
        """Run a shell script; its output. Raises CommandFailed."""
        return self.run(["sh", "-c", script], namespace=namespace)

    def write(self, path: str, data: bytes, mode: str = "644") -> None:
        """Write a file; creates its directory."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0" && chmod "$1" "$0"'
        self.run(["sh", "-c", script, path, mode], input_data=data)

    def batch(self, batches: Sequence[Batch]) -> None:
        """Run ``ip`` batches. Raises CommandFailed, except for a batch with ``force``."""
        for batch in batches:
            done = self.guest.run(batch.argv(), input=batch.text(), timeout=SECONDS)
            if done.returncode and not batch.force:
                said = done.stderr.decode(errors="replace").strip()
                raise CommandFailed(f"{' '.join(batch.argv())}: {said}")

    def links(self, namespace: str = "") -> list[Link]:
        """All links of a namespace, as printed by ``ip -j -d -s link``."""
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


def packets_sent(links: Sequence[Link]) -> dict[str, int]:
    """The number of packets sent, by link name."""
    return {
        link["ifname"]: int(link.get("stats64", {}).get("tx", {}).get("packets", 0))
        for link in links
    }


def bond(links: Sequence[Link], ifname: str) -> BondState | None:
    """The bond ``ifname`` among the links of a namespace, None if not found."""
    found = [link for link in links if link["ifname"] == ifname and kind(link) == "bond"]
    if not found:
        return None
    data = found[0]["linkinfo"].get("info_data", {})
    lacp = data.get("ad_info", {})
    return BondState(
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


def _member(link: Link) -> MemberState:
    data = link.get("linkinfo", {}).get("info_slave_data", {})
    return MemberState(
        name=link["ifname"],
        mii=str(data.get("mii_status", "")),
        state=str(data.get("state", "")),
        aggregator=int(data.get("ad_aggregator_id", 0)),
        actor=int(data.get("ad_actor_oper_port_state", 0)),
        partner=int(data.get("ad_partner_oper_port_state", 0)),
        failures=int(data.get("link_failure_count", 0)),
    )
