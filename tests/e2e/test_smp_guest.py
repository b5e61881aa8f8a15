"""A stock kernel with two processors under QEMU, used as the other guests are."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bondlab.guest.guest import Guest, LostGuest, boot
from bondlab.kernels import catalog

BOND = """
for n in 0 1; do ip link add m$n type veth peer name s$n; ip link set s$n up; done
ip link add bond0 type bond mode active-backup miimon 50
for n in 0 1; do ip link set m$n master bond0; done
ip link set bond0 up
"""


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a share, with a comma")


def booted(share: Path) -> Guest:
    try:
        kernel = catalog.fetch(catalog.SMP, print)
    except catalog.KernelUnavailable as error:
        pytest.skip(f"the smp kernel can not be had here: {error}")
    return boot(kernel, shares={str(share): share}, progress=print)


@pytest.fixture(scope="module")
def guest(share: Path) -> Iterator[Guest]:
    with booted(share) as machine:
        yield machine


def output(guest: Guest, *argv: str) -> str:
    done = guest.run(argv, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def link(guest: Guest, name: str) -> dict[str, Any]:
    (found,) = json.loads(output(guest, "ip", "-j", "-d", "link", "show", name))
    assert isinstance(found, dict)
    return found


def test_it_is_a_stock_kernel_with_two_processors(guest: Guest) -> None:
    assert output(guest, "nproc").strip() == "2"
    assert output(guest, "uname", "-r").strip() == guest.release
    assert " SMP " in output(guest, "uname", "-v")


def test_a_bond_of_two_veths(guest: Guest) -> None:
    output(guest, "sh", "-ec", BOND)
    deadline = time.monotonic() + 20
    while "LOWER_UP" not in link(guest, "bond0")["flags"]:
        assert time.monotonic() < deadline, link(guest, "bond0")
    bond = link(guest, "bond0")["linkinfo"]
    assert bond["info_kind"] == "bond"
    assert bond["info_data"]["mode"] == "active-backup"
    assert bond["info_data"]["active_slave"] == "m0"
    members = [link(guest, name) for name in ("m0", "m1")]
    assert {member["master"] for member in members} == {"bond0"}
    assert {member["address"] for member in members} == {link(guest, "bond0")["address"]}


def test_the_modules_of_a_node_are_there(guest: Guest) -> None:
    names = ("8021q", "bridge", "dummy", "macvlan", "sch_netem")
    output(guest, "modprobe", "-a", *names)
    assert set(names) <= {line.split()[0] for line in output(guest, "lsmod").splitlines()}


def test_what_is_written_to_a_share_is_seen_on_both_sides(guest: Guest, share: Path) -> None:
    (share / "ours").write_text("from outside")
    assert output(guest, "cat", str(share / "ours")) == "from outside"
    output(guest, "sh", "-c", f"echo inside > '{share}/theirs'")
    assert (share / "theirs").read_text() == "inside\n"


def test_what_is_written_elsewhere_is_forgotten(guest: Guest) -> None:
    path = Path(sys.prefix) / "written-by-the-guest"
    output(guest, "touch", str(path))
    assert not path.exists()


def test_much_data_passes_both_ways(guest: Guest) -> None:
    data = bytes(range(256)) * 2000
    done = guest.run(["cat"], input=data, timeout=60)
    assert done.stdout == data


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process of this machine holds."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_output_that_nobody_reads_does_not_fill_the_supervisor(guest: Guest) -> None:
    assert guest._supervisor
    before = resident(guest._supervisor)
    endless = guest.start(["yes"])
    time.sleep(4)
    assert resident(guest._supervisor) - before < 8_000_000
    assert guest.run(["echo", "others run on"], timeout=10).stdout == b"others run on\n"
    heard = []
    with pytest.raises(subprocess.TimeoutExpired):  # it goes on where it waited
        endless.follow(lambda _, data: heard.append(len(data)), 5)
    assert sum(heard) > 2_000_000


def test_a_panic_is_a_lost_guest(share: Path) -> None:
    with booted(share) as machine:
        output(machine, "sh", "-c", "echo 1 > /proc/sys/kernel/sysrq")
        with pytest.raises(LostGuest) as lost:
            machine.run(["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"], timeout=60)
    assert any("Kernel panic - not syncing" in line for line in lost.value.console)
    assert not Path(lost.value.log).exists()
