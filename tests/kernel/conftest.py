"""A node for each test: namespaces, NICs, a switch, pods, and the plugin.

The test process enters the node's namespace, so plugin, delegates and ``ip`` run where they would
run on a node. The kernel's state is read with ``ip -j -d`` only.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import itertools
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.kernel.thick import Thick, Way

from bondcni.direct import plugin
from bondcni.service.timeouts import DEFAULT, Timeouts

NUMBERS = itertools.count(1)
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
SIOCSIFFLAGS = 0x8914
DELEGATES = os.environ.get("BONDCNI_DELEGATES") or os.environ.get("CNI_PATH", "/usr/lib/cni")
THICK = os.environ.get("BONDCNI_WAY") == "thick"
"""Whether requests go through the executable and a daemon. Otherwise they run in this process."""

Document = dict[str, Any]


def sh(*argv: str, check: bool = True, timeout: float = 60, stdin: str = "") -> str:
    """Run a command; its standard output."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def wait_for(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll until ``what()`` is true, and return its value. Fails at the deadline."""
    until = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Answer(NamedTuple):
    """The plugin's answer."""

    status: int
    document: Document
    stderr: str

    def ok(self) -> Document:
        assert self.status == 0, (self.document, self.stderr)
        return self.document

    def failed(self, code: int) -> str:
        """Message and details of an error with this code."""
        assert self.status == 1, self.document
        assert self.document["code"] == code, self.document
        return f"{self.document['msg']} {self.document.get('details', '')}"


def answer(status: int, printed: str, told: str) -> Answer:
    """An ``Answer`` from exit code, standard output and standard error."""
    return Answer(status, json.loads(printed) if printed else {}, told)


class Space:
    """A network namespace, read by ``ip``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"
        create_namespace(self.path)

    def ip(self, *args: str, check: bool = True) -> str:
        return sh("ip", "-n", self.name, *args, check=check)

    def batch(self, *lines: str, flags: tuple[str, ...] = ()) -> str:
        """Run several ``ip`` commands in one process: starting a process takes longer than its
        work.
        """
        text = "".join(f"{line}\n" for line in lines)
        return sh("ip", *flags, "-n", self.name, "-batch", "-", stdin=text)

    def everything(self) -> Document:
        """Links in every detail, global addresses and routes: what a refusal must not change."""
        out = self.batch("addr", "route show table all", flags=("-j", "-d"))
        links, routes = (json.loads(line) for line in out.splitlines())
        return {
            "links": {link["ifname"]: _lasting(link) for link in links},
            "routes": sorted(json.dumps(route) for route in routes if _made_by_hand(route)),
        }

    def links(self) -> dict[str, Document]:
        """Every link by name, as ``ip -j -d`` prints it."""
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
        if Path(self.path).exists():
            LIBC.umount2(self.path.encode(), MNT_DETACH)
            Path(self.path).unlink()


def flat(document: Document, start: str) -> Document:
    """A nested value as one level with joined keys, so that a failed comparison shows only
    differences.
    """
    whole: Document = {}
    for key, value in document.items():
        path = f"{start}.{key}"
        whole |= flat(value, path) if isinstance(value, dict) else {path: value}
    return whole


def _lasting(link: Document) -> Document:
    """Without what the kernel changes by itself: addresses that it makes, lifetimes."""
    infos = [info for info in link.get("addr_info", []) if info["scope"] != "link"]
    addresses = sorted(f"{info['local']}/{info['prefixlen']}" for info in infos)
    moving = ("addr_info", "operstate", "qdisc")
    info = link.get("linkinfo", {})
    for part in ("info_data", "info_slave_data"):
        for key in [k for k in info.get(part, {}) if k == "gc_timer" or k.startswith("ad_")]:
            del info[part][key]  # a bridge's clock, LACP's state machines
    flags = sorted(set(link["flags"]) - {"NO-CARRIER", "LOWER_UP"})
    rest = {key: value for key, value in link.items() if key not in moving}
    return {**rest, "flags": flags, "addresses": addresses}


def _made_by_hand(route: Document) -> bool:
    own = route["dst"].startswith(("fe80:", "ff00:")) or route.get("protocol") == "kernel"
    return not own and route.get("table") != "local"


class Node:
    """A node: its own namespace, a switch in another one, pods, state directories."""

    way: type[Way] = Thick
    """How the next daemon runs: in this process, or as one of its own."""

    timeouts = DEFAULT
    """Those of direct mode, and of the next daemon of this process."""

    _daemon: Way | None = None

    def __init__(self, folder: Path) -> None:
        self.number = next(NUMBERS)
        self.folder = folder
        self.spaces: list[Space] = []
        self.space = self._new("node")
        self.switch = self._new("switch")
        self.switch.ip("link", "add", "br0", "up", "type", "bridge")
        self.state = folder / "state"

    def _new(self, role: str) -> Space:
        space = Space(f"{role}-{self.number}-{len(self.spaces)}")
        self.spaces.append(space)
        return space

    def pod(self) -> Space:
        return self._new("pod")

    def other(self) -> Space:
        """One more namespace, for a peer."""
        return self._new("other")

    def veth(self, name: str, inside: Space | None = None, *, bridged: bool = True) -> str:
        """A veth ``name`` in the node or a pod. Its far end, which is returned, is on the switch."""
        far = f"s{self.number}{name}"[:15]
        space = (inside or self.space).name
        self.switch.batch(
            f"link add {far} type veth peer name {name} netns {space}",
            f"link set {far} {'master br0' if bridged else ''} up",
        )
        return far

    def home(self) -> dict[str, Document]:
        """What must be unchanged at the end: the links of the node, comparable."""
        keys = ("address", "mtu", "txqlen", "ifalias", "altnames", "master", "promiscuity")
        return {
            name: {**{key: link.get(key) for key in keys}, "up": "UP" in link["flags"]}
            for name, link in self.space.links().items()
            if name != "lo"
        }

    def leases(self) -> set[str]:
        """The addresses that host-local has reserved, for ``host_local`` configurations."""
        return {path.name for path in self.folder.glob("leases/*/*[.:]*[0-9a-f]")} - {
            path.name for path in self.folder.glob("leases/*/last_reserved_ip*")
        }

    def records(self) -> set[str]:
        """The journal's files."""
        return {path.name for path in self.state.glob("*.json*")}

    def everything(self, *pods: Space) -> Document:
        """Links, addresses and routes of node and pods, leases and records."""
        whole = {"leases": self.leases(), "records": self.records()}
        for space in (self.space, *pods):
            whole |= flat(space.everything(), space.name)
        return whole

    def host_local(self, subnet: str = "10.1.0.0/24", **extra: Any) -> Document:
        """IPAM by the reference plugin, its leases in this node's directory."""
        ranges = {"subnet": subnet, "dataDir": str(self.folder / "leases")}
        return {"type": "host-local", **ranges, **extra}

    def cni(
        self, command: str, config: Document | bytes, pod: Space | None = None, **named: Any
    ) -> Answer:
        """Call the plugin as a runtime does: in this process, or through the executable and a
        daemon.
        """
        env, text = self.request(command, config, pod, **named)
        if THICK:
            return answer(*self._through_daemon(env, text))
        return answer(*here(env, text, self.timeouts))

    def request(
        self,
        command: str,
        config: Document | bytes,
        pod: Space | None = None,
        *,
        ifname: str = "bond0",
        container: str = "c1",
        env: dict[str, str] | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """Environment and standard input, as a runtime passes them."""
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
        return whole, config if isinstance(config, bytes) else json.dumps(config).encode()

    def _through_daemon(self, env: dict[str, str], text: bytes) -> tuple[int, str, str]:
        """A request through the executable and a daemon of this node, which starts at the first
        request.
        """
        return self.daemon(env.get("BONDCNI_POLICY", "")).call(env, text)

    def daemon(self, policy: str = "") -> Way:
        """This node's daemon; another where another policy or other timeouts are asked for."""
        policy = policy or str(self.folder / "no-policy.yaml")
        if self._daemon and self._daemon.serves(policy, self.timeouts):
            return self._daemon
        self.end_daemon()
        self._daemon = self.way(self.folder, self.state, policy, self.timeouts)
        return self._daemon

    def end_daemon(self) -> None:
        """End the daemon by SIGTERM, unless it belongs to a parent process."""
        if self._daemon:
            self._daemon.end()
            self._daemon = None

    def delegate(self, name: str, script: str) -> None:
        """An IPAM plugin of the test: a shell script."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def delete(self) -> None:
        self.end_daemon()
        for space in reversed(self.spaces):
            space.delete()


def here(env: dict[str, str], text: bytes, timeouts: Timeouts = DEFAULT) -> tuple[int, str, str]:
    """Direct mode, without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    reading = os.memfd_create("stdin")
    os.write(reading, text)
    os.lseek(reading, 0, os.SEEK_SET)
    try:
        status = plugin.run(env, reading, out, err, timeouts)
    finally:
        os.close(reading)
    return status, out.getvalue(), err.getvalue()


def setns(path: str) -> None:
    with Path(path).open() as file:
        assert LIBC.setns(file.fileno(), CLONE_NEWNET) == 0


def create_namespace(path: str) -> None:
    """A namespace with its loopback up, as ``ip netns add`` makes one, without a process."""

    def make() -> None:
        assert LIBC.unshare(CLONE_NEWNET) == 0
        source = b"/proc/thread-self/ns/net"
        assert LIBC.mount(source, path.encode(), b"none", MS_BIND, None) == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 1))
        done.append(True)

    done: list[bool] = []
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch(exist_ok=False)
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert done, f"no namespace at {path}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with Path("/proc/self/ns/net").open() as before:
        setns(made.space.path)
        try:
            yield made
        finally:
            assert LIBC.setns(before.fileno(), CLONE_NEWNET) == 0
            made.delete()


def direct_only(why: str) -> pytest.MarkDecorator:
    """Skip a test if requests go through the daemon."""
    return pytest.mark.skipif(THICK, reason=f"direct mode's: {why}")


def thick_only(why: str) -> pytest.MarkDecorator:
    """Skip a test if requests do not go through the daemon."""
    return pytest.mark.skipif(not THICK, reason=f"the daemon's: {why}")


@pytest.fixture
def pod(node: Node) -> Space:
    return node.pod()


def config(links: Sequence[str | Document], mode: str = "active-backup", **extra: Any) -> Document:
    """A configuration as users write it."""
    return {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bond",
        "mode": mode,
        "miimon": 100,
        "links": [{"name": link} if isinstance(link, str) else link for link in links],
        **extra,
    }
