"""A node of its own for each test: namespaces, NICs, a switch, pods, and the plugin.

The test process enters the node's namespace, so that plugin, delegates and ``ip`` run
where they would run on a node. What the kernel holds is read by ``ip -j -d`` only.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bondcni.frontends import plugin

NUMBERS = itertools.count(1)
CLONE_NEWNET = 0x40000000
DELEGATES = os.environ.get("BONDCNI_DELEGATES", "/usr/lib/cni")
Document = dict[str, Any]


def sh(*argv: str, check: bool = True, timeout: float = 60) -> str:
    """Run a command; its standard output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def wait_for(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll until ``what()`` is true; its value. Fails at the deadline."""
    until = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Answer(NamedTuple):
    """What the plugin answered."""

    status: int
    document: Document
    stderr: str

    def ok(self) -> Document:
        assert self.status == 0, (self.document, self.stderr)
        return self.document

    def failed(self, code: int) -> str:
        """The message and details of a refusal with that code."""
        assert self.status == 1, self.document
        assert self.document["code"] == code, self.document
        return f"{self.document['msg']} {self.document.get('details', '')}"


class Space:
    """A network namespace, read by ``ip``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"
        sh("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args: str, check: bool = True) -> str:
        return sh("ip", "-n", self.name, *args, check=check)

    def links(self) -> dict[str, Document]:
        """Every link by name, as ``ip -j -d`` shows it."""
        return {link["ifname"]: link for link in json.loads(self.ip("-j", "-d", "link") or "[]")}

    def link(self, name: str) -> Document:
        return self.links()[name]

    def bond(self, name: str) -> Document:
        """The bond's own options."""
        data: Document = self.link(name)["linkinfo"]["info_data"]
        return data

    def members(self, bond: str) -> set[str]:
        return {name for name, link in self.links().items() if link.get("master") == bond}

    def addresses(self, name: str) -> set[str]:
        """Global addresses in CIDR form."""
        found = json.loads(self.ip("-j", "addr", "show", "dev", name))
        infos = [info for link in found for info in link.get("addr_info", [])]
        return {f"{i['local']}/{i['prefixlen']}" for i in infos if i["scope"] == "global"}

    def routes(self, family: str = "-4") -> list[Document]:
        found: list[Document] = json.loads(self.ip(family, "-j", "route") or "[]")
        return found

    def exec(self, *argv: str, check: bool = True, timeout: float = 60) -> str:
        return sh("ip", "netns", "exec", self.name, *argv, check=check, timeout=timeout)

    def ping(self, address: str, count: int = 3, interval: float = 0.2) -> int:
        """Send ``count`` probes; the number of answers."""
        out = self.exec(
            *("ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", "1", address),
            check=False,
        )
        received = [part for part in out.split(",") if "received" in part]
        return int(received[0].split()[0]) if received else 0

    def delete(self) -> None:
        sh("ip", "netns", "del", self.name, check=False)


class Node:
    """A node: its own namespace, a switch in another, pods, state folders."""

    def __init__(self, folder: Path) -> None:
        self.number = next(NUMBERS)
        self.folder = folder
        self.spaces: list[Space] = []
        self.space = self._new("node")
        self.switch = self._new("switch")
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        self.state = folder / "state"

    def _new(self, role: str) -> Space:
        space = Space(f"{role}-{self.number}-{len(self.spaces)}")
        self.spaces.append(space)
        return space

    def pod(self) -> Space:
        return self._new("pod")

    def other(self) -> Space:
        """One more namespace, for a partner of some kind."""
        return self._new("other")

    def veth(self, name: str, inside: Space | None = None, *, bridged: bool = True) -> str:
        """A NIC ``name`` in the node or a pod; its far end, which this returns, on the switch."""
        far = f"s{self.number}{name}"[:15]
        self.switch.ip("link", "add", far, "type", "veth", "peer", "name", name)
        self.switch.ip("link", "set", name, "netns", (inside or self.space).name)
        if bridged:
            self.switch.ip("link", "set", far, "master", "br0")
        self.switch.ip("link", "set", far, "up")
        return far

    def home(self) -> dict[str, Document]:
        """What must be the same again after everything: the node's links, comparable."""
        keys = ("address", "mtu", "txqlen", "ifalias", "altnames", "master", "promiscuity")
        return {
            name: {**{key: link.get(key) for key in keys}, "up": "UP" in link["flags"]}
            for name, link in self.space.links().items()
            if name != "lo"
        }

    def cni(
        self,
        command: str,
        config: Document | bytes,
        pod: Space | None = None,
        *,
        ifname: str = "bond0",
        container: str = "c1",
        env: dict[str, str] | None = None,
    ) -> Answer:
        """Call the plugin as a runtime does, in this process."""
        whole = {
            "PATH": os.environ["PATH"],
            "BONDCNI_STATE": str(self.state),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod.path if pod else "",
            "CNI_IFNAME": ifname,
            "CNI_PATH": f"{self.folder}:{DELEGATES}",
            **(env or {}),
        }
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        out, err = io.StringIO(), io.StringIO()
        reading = os.memfd_create("stdin")
        os.write(reading, text)
        os.lseek(reading, 0, os.SEEK_SET)
        try:
            status = plugin.run(whole, reading, out, err)
        finally:
            os.close(reading)
        printed = out.getvalue()
        return Answer(status, json.loads(printed) if printed else {}, err.getvalue())

    def delegate(self, name: str, script: str) -> None:
        """An IPAM plugin of the test's own: a shell script."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def delete(self) -> None:
        for space in reversed(self.spaces):
            space.delete()


def setns(path: str) -> None:
    with Path(path).open() as file:
        assert ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) == 0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with Path("/proc/self/ns/net").open() as before:
        setns(made.space.path)
        try:
            yield made
        finally:
            assert ctypes.CDLL(None).setns(before.fileno(), CLONE_NEWNET) == 0
            made.delete()


@pytest.fixture
def pod(node: Node) -> Space:
    return node.pod()


def config(links: list[str], mode: str = "active-backup", **extra: Any) -> Document:
    """A configuration as users write it."""
    return {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bond",
        "mode": mode,
        "miimon": 100,
        "links": [{"name": name} for name in links],
        **extra,
    }
