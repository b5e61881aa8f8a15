"""What the daemon has the shim do: delegates, sysctls, namespaces."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.protocol.golden import frame
from tests.unit.shim.bench import (
    Bond,
    Netns,
    Peer,
    changed,
    ended,
    golden,
    identity,
    is_gone,
    kill,
    number_in,
    parsed,
    socket_identity,
    wait_for,
)

from bondcni.daemon.protocol import Frame, Tag, Type, number, pack

LIMIT = 1 << 20
CALLS = ("exec", "find", "sysctl", "identify", "open")


def finish(process: subprocess.Popen[bytes], peer: Peer, *, quiet: bool = True) -> None:
    peer.send("answer-nothing")
    status, out, err = ended(process)
    assert (status, out) == (0, b"")
    assert not (quiet and err)


def exec_once(bond: Bond, script: str, *, quiet: bool = True, **fields: bytes | None) -> Frame:
    """One delegate of that script, run as the golden EXEC says but for ``fields``."""
    bond.delegate(script)
    process, peer = bond.asked()
    done = peer.call(changed("exec", **fields))
    finish(process, peer, quiet=quiet)
    assert done.type == Type.DONE
    return done


def failed(error: int) -> Frame:
    return Frame(Type.DONE, ((Tag.STATUS, number(error)),))


def test_exec_is_golden(any_bond: Bond) -> None:
    any_bond.delegate("echo '{\"ips\": []}'; exit 3")
    process, peer = any_bond.asked()
    peer.send("exec")
    assert peer.receive() == frame("done-exec")
    finish(process, peer)


def test_a_signal_is_told(bond: Bond) -> None:
    bond.delegate("kill $$")
    process, peer = bond.asked()
    peer.send("exec")
    assert peer.receive() == frame("done-signal")
    finish(process, peer)


def test_its_environment_is_ours_with_the_differences(any_bond: Bond) -> None:
    done = exec_once(any_bond, "/bin/cat /proc/$$/environ")
    seen = (done.get(Tag.OUTPUT) or b"").rstrip(b"\0").split(b"\0")
    assert sorted(seen) == sorted(
        (
            *(b"CNI_CONTAINERID=abc", b"CNI_PATH=none::bin", b"BONDCNI_SOCKET=bond.sock"),
            *(b"BONDCNI_STATE=state", b"CNI_COMMAND=CHECK", b"CNI_ARGS=A=B", b"CNI_IFNAME=net2"),
            b"ODD=a=b \xff",
        )
    )


def test_the_last_difference_of_a_name_counts(bond: Bond) -> None:
    bond.delegate("/bin/cat /proc/$$/environ")
    process, peer = bond.asked()
    more = (b"CNI_IFNAME", b"CNI_IFNAME=net3", b"CNI_ARGS", b"CNI_COMMAND=DEL")
    call = parsed(frame("exec"))
    done = peer.call(pack(call.type, [*call.fields, *((Tag.ENV, value) for value in more)]))
    seen = (done.get(Tag.OUTPUT) or b"").rstrip(b"\0").split(b"\0")
    finish(process, peer)
    assert {b"CNI_IFNAME=net3", b"CNI_COMMAND=DEL"} < {*seen}
    assert len(seen) == len({value.partition(b"=")[0] for value in seen})
    assert not [value for value in seen if value.startswith((b"CNI_ARGS", b"CNI_NETNS="))]


@pytest.mark.parametrize("size", [0, 10, 1 << 20, 4 << 20])
def test_its_input_is_whole_and_ends(bond: Bond, tmp_path: Path, size: int) -> None:
    text = os.urandom(size // 2).hex().encode()
    done = exec_once(bond, "/bin/cat > given", STDIN=text)
    assert done.signed(Tag.EXIT) == 0
    assert (tmp_path / "given").read_bytes() == text


def test_input_that_is_not_read_does_not_matter(bond: Bond) -> None:
    assert exec_once(bond, "exit 4", STDIN=bytes(4 << 20)).signed(Tag.EXIT) == 4


LIBC_S_OWN = 7 << 31
"""Signals 32 to 34 in a mask: a C library keeps them for itself and lets nobody set them."""


def test_it_is_alone_and_as_new(bond: Bond) -> None:
    """A group of its own; no signal ignored or blocked; no descriptor but the three."""
    script = """
    while read -r key rest; do  # a shell that starts a process blocks signals meanwhile
        case $key in SigBlk:|SigIgn:) echo "$key $rest" ;; esac
    done </proc/$$/status
    set -- $(/bin/cat /proc/$$/stat); [ $1 = $5 ] && echo leader
    /bin/ls /proc/$$/fd
    """
    process = exec_once(bond, script)
    seen = (process.get(Tag.OUTPUT) or b"").decode().split("\n")
    masks = {key: int(mask, 16) & ~LIBC_S_OWN for key, mask in map(str.split, seen[:2])}
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}
    assert seen[2] == "leader"
    assert set(seen[3:]) <= {"0", "1", "2", "10", "255", ""}  # 10: the script, as dash reads it


def test_its_standard_error_is_told_and_goes_to_ours(any_bond: Bond) -> None:
    """Issue 10, item 21."""
    any_bond.delegate("echo panic: no pool >&2; exit 2")
    process, peer = any_bond.asked()
    peer.send("exec")
    assert peer.receive() == frame("done-stderr")
    peer.send("answer-nothing")
    assert ended(process) == (0, b"", "panic: no pool\n")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo said >&2; exec /bin/sleep 60", errno.ETIMEDOUT),
        ("echo said >&2; exec /bin/cat /dev/zero", errno.EFBIG),
    ],
)
def test_its_standard_error_is_told_though_it_had_to_be_ended(
    bond: Bond, script: str, error: int
) -> None:
    bond.delegate(script)
    process, peer = bond.asked()
    done = peer.call(changed("exec", DEADLINE=number(300)))
    assert (done.number(Tag.STATUS), done.get(Tag.STDERR)) == (error, b"said\n")
    peer.send("answer-nothing")
    assert ended(process) == (0, b"", "said\n")


def test_of_much_standard_error_the_last_is_kept(bond: Bond) -> None:
    bond.delegate("/usr/bin/head -c 300000 /dev/zero >&2; echo last >&2; echo '{}'")
    process, peer = bond.asked()
    done = peer.call("exec")
    kept = bytes((64 << 10) - 5) + b"last\n"
    assert (done.get(Tag.OUTPUT), done.get(Tag.STDERR)) == (b"{}\n", kept)
    peer.send("answer-nothing")
    assert ended(process) == (0, b"", kept.decode())


@pytest.mark.parametrize("left", ["", "& echo $! > left; exit 0"])
def test_endless_standard_error_ends(bond: Bond, tmp_path: Path, left: str) -> None:
    """At the deadline, or with the process where only what it left writes."""
    before = time.monotonic()
    done = exec_once(bond, f"/usr/bin/yes >&2 {left}", DEADLINE=number(500), quiet=False)
    assert time.monotonic() - before < 3
    assert done.number(Tag.STATUS) == (0 if left else errno.ETIMEDOUT)
    assert len(done.get(Tag.STDERR) or b"") <= 64 << 10
    if left:
        wait_for(lambda: is_gone(number_in(tmp_path / "left")))


def test_standard_error_that_is_closed_first_does_not_count(bond: Bond) -> None:
    done = exec_once(bond, "exec 2>&-; /bin/sleep 0.2; echo said; exit 5")
    assert (done.signed(Tag.EXIT), done.get(Tag.OUTPUT)) == (5, b"said\n")


@pytest.mark.parametrize(
    ("extra", "error"), [(0, 0), (1, errno.EFBIG), (LIMIT, errno.EFBIG)], ids=str
)
def test_output_up_to_the_limit(bond: Bond, extra: int, error: int) -> None:
    done = exec_once(bond, f"/usr/bin/head -c {LIMIT + extra} /dev/zero")
    assert done.number(Tag.STATUS) == error
    assert done.get(Tag.OUTPUT) == (None if error else bytes(LIMIT))


def test_endless_output_is_ended(bond: Bond) -> None:
    assert exec_once(bond, "exec /bin/cat /dev/zero") == failed(errno.EFBIG)


@pytest.mark.parametrize("name", [b"../bin/delegate", b"/bin/sh", b"bin/delegate", b"", None])
def test_a_path_is_never_run(bond: Bond, name: bytes | None) -> None:
    assert exec_once(bond, "exit 0", NAME=name) == failed(errno.EINVAL)


@pytest.mark.parametrize("name", [b"other", b".", b"..", b"dele\0gate", b"x" * 5000])
def test_there_is_none_of_this_name(bond: Bond, name: bytes) -> None:
    assert exec_once(bond, "exit 0", NAME=name) == failed(errno.ENOENT)


@pytest.mark.parametrize(
    "value", [b"CNI_PATH", b"CNI_PATH=evil", b"LD_PRELOAD=x.so", b"PATH=evil", b"ODD", b"=", b""]
)
def test_what_only_the_runtime_may_say(bond: Bond, value: bytes) -> None:
    """A daemon that somebody took over must not become root by this."""
    assert exec_once(bond, "exit 0", ENV=value) == failed(errno.EPERM)


def test_what_cannot_be_started(bond: Bond, tmp_path: Path) -> None:
    bond.delegate("exit 0")
    process, peer = bond.asked()
    program = tmp_path / "bin" / "delegate"
    program.chmod(0o644)
    assert peer.call("exec") == peer.call("find") == failed(errno.ENOENT)
    program.chmod(0o755)
    assert peer.call("find") == failed(0)
    program.write_bytes(b"no program\n")
    assert peer.call("exec") == failed(errno.ENOEXEC)
    program.write_text("#!/none\n")
    assert peer.call("exec") == failed(errno.ENOENT)
    program.unlink()
    program.mkdir()
    assert peer.call("exec") == peer.call("find") == failed(errno.ENOENT)
    finish(process, peer)


def test_a_program_that_is_being_replaced(bond: Bond, tmp_path: Path) -> None:
    bond.delegate("exit 0")
    process, peer = bond.asked()
    with (tmp_path / "bin" / "delegate").open("r+b"):
        before = time.monotonic()
        done = peer.call("exec")
        took = time.monotonic() - before
        if done.number(Tag.STATUS) == 0:
            pytest.skip("this kernel runs a file that is open for writing")
        assert done == failed(errno.ETXTBSY)
        assert 0.7 < took < 3
        peer.send("exec")
        time.sleep(0.1)
    assert parsed(peer.receive()).number(Tag.STATUS) == 0
    finish(process, peer)


def test_one_that_hangs_is_ended_with_its_group(bond: Bond, tmp_path: Path) -> None:
    script = "/bin/sleep 60 & echo $! > one; echo $$ > two; wait"
    before = time.monotonic()
    assert exec_once(bond, script, DEADLINE=number(200)) == failed(errno.ETIMEDOUT)
    assert 0.2 <= time.monotonic() - before < 2
    pids = [number_in(tmp_path / name) for name in ("one", "two")]
    wait_for(lambda: all(map(is_gone, pids)))


def test_the_end_of_the_process_counts(bond: Bond, tmp_path: Path) -> None:
    """What it left in the background holds the pipe, and is ended."""
    before = time.monotonic()
    done = exec_once(bond, "/bin/sleep 60 & echo $! > left; echo said")
    assert time.monotonic() - before < 2
    assert (done.signed(Tag.EXIT), done.get(Tag.OUTPUT)) == (0, b"said\n")
    left = number_in(tmp_path / "left")
    wait_for(lambda: is_gone(left))


def test_output_that_ends_first_does_not_count(bond: Bond) -> None:
    done = exec_once(bond, "echo said; exec >&-; /bin/sleep 0.2; exit 5")
    assert (done.signed(Tag.EXIT), done.get(Tag.OUTPUT)) == (5, b"said\n")


@pytest.mark.parametrize("noise", [False, True])
def test_a_daemon_that_goes_ends_the_delegate(bond: Bond, tmp_path: Path, *, noise: bool) -> None:
    bond.delegate("echo $$ > pid; exec /bin/sleep 60")
    process, peer = bond.asked()
    peer.send("exec")
    pid = number_in(tmp_path / "pid")
    if noise:
        peer.send("find")
    peer.close()
    code, message = ended(process).error
    assert (code, "connection closed before the answer" in message) == (11, True)
    assert is_gone(pid)


def test_the_delegate_ends_with_the_shim(bond: Bond, tmp_path: Path) -> None:
    bond.delegate("echo $$ > pid; exec /bin/sleep 60")
    process, peer = bond.asked()
    peer.send("exec")
    pid = number_in(tmp_path / "pid")
    kill(process.pid)
    assert ended(process).status == -signal.SIGKILL
    wait_for(lambda: is_gone(pid))


def test_the_whole_deadline_bounds_a_delegate(hasty: Bond, tmp_path: Path) -> None:
    hasty.delegate("echo $$ > pid; exec /bin/sleep 60")
    process, peer = hasty.asked()
    peer.send("exec")
    assert "timed out" in ended(process).error[1]
    assert is_gone(number_in(tmp_path / "pid"))


def test_many_differences_are_refused(bond: Bond) -> None:
    bond.delegate("exit 0")
    process, peer = bond.asked()
    for run in (
        [(Tag.ENV, b"CNI_ARGS=1")] * 4097,
        [(Tag.ENV, bytes([*b"CNI_ARGS="] + [65] * (2 << 20)))],
        [(Tag.ENV, b"CNI_ARGS=\0")],
        [(99, b"")] * 100_000,
    ):
        call = pack(Type.EXEC, [(Tag.NAME, b"delegate"), *run])
        assert peer.call(call) == failed(errno.E2BIG)
    finish(process, peer)


def test_find_is_golden(bond: Bond) -> None:
    bond.delegate("exit 0")
    process, peer = bond.asked()
    peer.send("find")
    assert peer.receive() == frame("done")
    (bond.folder / "bin" / "delegate").unlink()
    peer.send("find")
    assert peer.receive() == frame("done-none")
    finish(process, peer)


def test_an_unknown_call_is_told_and_the_next_served(any_bond: Bond) -> None:
    process, peer = any_bond.asked()
    peer.send("later-call")
    assert peer.receive() == frame("done-unknown")
    assert peer.call("find") == failed(errno.ENOENT)
    finish(process, peer)


def test_empty_calls(any_bond: Bond) -> None:
    process, peer = any_bond.asked()
    for name in CALLS:
        kind = parsed(frame(name)).type
        assert peer.call(pack(kind, [])) == failed(errno.EINVAL)
    finish(process, peer)


def test_identify_and_open_are_golden(inside: Bond, netns: Netns) -> None:
    host = identity(netns("host"))
    process, peer = inside.asked()
    for name in ("identify", "open"):
        peer.send(name)
        assert peer.receive() == golden(f"done-{name}", b"", host)
    finish(process, peer)


def test_open_hands_over_the_namespace(inside: Bond, netns: Netns) -> None:
    pod = identity(netns("pod"))
    process, peer = inside.asked()
    for _ in range(3):
        done = peer.call(changed("open", PATH=netns("pod").encode()))
        assert (done.get(Tag.POD), done.get(Tag.DESCRIPTORS)) == (pod, b"pP")
        assert [socket_identity(peer.fds[0]), identity(peer.fds[1])] == [pod, pod]
    here = peer.call("identify").get(Tag.POD)
    assert here == identity(netns("host")), "it came back"
    finish(process, peer)


def sysctl(path: str, key: str) -> str:
    """Read in the namespace, by another program."""
    command = ["nsenter", f"--net={path}", "cat", f"/proc/sys/net/ipv6/conf/lo/{key}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_sysctls(inside: Bond, netns: Netns) -> None:
    if not Path("/proc/sys/net/ipv6/conf").exists():
        pytest.skip("this kernel has no IPv6")
    process, peer = inside.asked()
    pod = netns("pod")
    lo = changed("sysctl", PATH=pod.encode(), NAME=b"lo")
    assert peer.call(lo) == failed(0)
    assert [sysctl(pod, key) for key in ("disable_ipv6", "keep_addr_on_down")] == ["1", "1"]
    assert sysctl(netns("host"), "keep_addr_on_down") == "0"
    assert peer.call(changed("identify", PATH=b"/proc/self/ns/net")).number(Tag.STATUS) == 0
    peer.send(changed("sysctl", PATH=pod.encode()))
    assert peer.receive() == frame("done-sysctl")
    finish(process, peer)


@pytest.mark.parametrize(
    "fields",
    [
        *({"NAME": name} for name in (b"", b".", b"..", b"a/b", b"all", b"default")),
        *({"NAME": name} for name in (b"lo\0", b"x" * 16, None)),
        *({"PATH": path} for path in (b"", None, b"/proc/self/ns/net\0", b"x" * 5000)),
    ],
    ids=str,
)
def test_sysctl_of_what_is_no_interface(bond: Bond, fields: dict[str, Any]) -> None:
    process, peer = bond.asked()
    error = errno.ENOENT if fields == {"PATH": b""} else errno.EINVAL
    assert peer.call(changed("sysctl", **fields)) == failed(error)
    finish(process, peer)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (b"forwarding=1", b"forwarding"),
        (b"disable_ipv6=2", b"disable_ipv6"),
        (b"disable_ipv6=11", b"disable_ipv6"),
        (b"disable_ipv6=", b"disable_ipv6"),
        (b"disable_ipv6", b"disable_ipv6"),
        (b"../../ipv4/ip_forward=1", b"../../ipv4/ip_forward"),
        (b"=1", b""),
        (b"", b""),
    ],
)
def test_sysctls_that_are_not_ours(inside: Bond, netns: Netns, setting: bytes, key: bytes) -> None:
    """All are looked at before one is written."""
    process, peer = inside.asked()
    call = parsed(changed("sysctl", PATH=netns("pod").encode(), NAME=b"lo"))
    done = peer.call(pack(call.type, [*call.fields, (Tag.SETTING, setting)]))
    assert (done.number(Tag.STATUS), done.get(Tag.NAME) or b"") == (errno.EINVAL, key)
    finish(process, peer)
    assert sysctl(netns("pod"), "disable_ipv6") == "0"


def test_no_process_is_left(bond: Bond) -> None:
    """The delegate was waited for: the shim has no child when it answers."""
    bond.delegate("exit 0")
    process, peer = bond.asked()
    peer.call("exec")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert children.read_text(encoding="ascii") == ""
    fds = os.listdir(f"/proc/{process.pid}/fd")
    for name in ("exec", "find", "identify", "open"):
        peer.call(name)
    wait_for(lambda: os.listdir(f"/proc/{process.pid}/fd") == fds)
    finish(process, peer)
