"""``bondctl lab``: run manifests, commands and shells in a guest.

Parses the command line, calls the lab, prints, and exits: 0 success, 1 a case failed, 2 wrong
input or usage, 3 the guest was lost, 130 interrupted. Every error is one message that says what
to do; a traceback is a bug.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from bondcni.core.errors import PolicyError
from bondcni.service import policy as rules
from bondcni.service.executable import NoExecutable
from bondlab.guest import guest
from bondlab.guest.guest import Guest, LostGuest
from bondlab.kernels import catalog
from bondlab.manifests import manifests
from bondlab.manifests.ipam_substitute import UnsupportedCase
from bondlab.manifests.manifests import Manifests
from bondlab.manifests.multus import Sandbox
from bondlab.scenario import interactive, node_daemon, planning, session, story
from bondlab.scenario.guest_commands import CommandFailed
from bondlab.scenario.record import RunRecord
from bondlab.scenario.report import Report

FAILED, BAD_INPUT, LOST, INTERRUPTED = 1, 2, 3, 130
EXEC_SECONDS = 3600.0
PASSED_ON = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "TERM")

FILES = click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
KERNEL = click.option(
    "--kernel",
    metavar="NAME",
    help="Kernel of the guest, as listed by `bondctl lab kernels`. Default: the kernel of this "
    "machine if it has bonding and no hardware-like NICs are needed, else user-mode Linux.",
)

DIRECT = click.option(
    "--direct", is_flag=True, help="Direct mode: each request is a Python process; no daemon."
)
POLICY = click.option(
    "--policy",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Policy file in the guest. Default: none, even if this machine has one.",
)
MODE_TEXTS = {
    False: f"thick mode: a static executable, and a daemon as user {node_daemon.USER} with "
    "CAP_NET_ADMIN alone",
    True: "direct mode: each request is a Python process",
}


@click.group()
def lab() -> None:
    """Run manifests and commands in a guest; this machine stays unchanged.

    \b
    Exit codes of run, shell and exec:
      0    success; shell and exec exit with the code of what they ran
      1    a case failed, or a command could not be started or timed out
      2    wrong input or usage
      3    the guest was lost
      130  interrupted
    """  # noqa: D301  \b keeps the lines apart


class Stop(Exception):
    """End the program: the text is the error message, ``code`` the exit code."""

    def __init__(self, text: str, code: int = BAD_INPUT) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def handle_errors(report: Report, record: RunRecord | None = None) -> Iterator[None]:
    """Turn an error that ends the run into a message, an entry in the record and an exit code."""
    try:
        yield
    except (
        Stop,
        LostGuest,
        catalog.KernelUnavailable,
        UnsupportedCase,
        CommandFailed,
        NoExecutable,
    ) as error:
        code = _code(error)
        text = str(error)
        if record:
            record.error = text
        advice = "\nNo case failed. Run it again, or try another --kernel." * (code == LOST)
        report.error(text + advice)
        sys.exit(code)
    except subprocess.TimeoutExpired as error:
        report.error(f"the guest did not end {error.cmd} within {error.timeout:g} s")
        sys.exit(LOST)
    except KeyboardInterrupt:  # the guest was ended on the way here
        text = "interrupted; no guest is left running"
        if record:
            record.error = text
        report.error(text)
        sys.exit(INTERRUPTED)


def _code(error: Exception) -> int:
    if isinstance(error, Stop):
        return error.code
    return LOST if isinstance(error, LostGuest | CommandFailed) else BAD_INPUT


@lab.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
)
@KERNEL
@click.option(
    "--strict", is_flag=True, help="Fail if a plugin would have to be replaced by a stand-in."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
@click.option(
    "--keep", is_flag=True, help="Keep the guest and its last pod for `bondctl lab shell`."
)
@click.option("--crash", is_flag=True, help="First interrupt an ADD with SIGKILL, then recover.")
@DIRECT
@POLICY
def run(files: tuple[Path, ...], *, as_json: bool, **options: Any) -> None:
    """Run the pods of manifests and report what happens to their bonds.

    FILES are manifests in YAML or JSON; - is standard input.
    """
    report, record = Report(stderr=as_json), RunRecord()
    try:
        with handle_errors(report, record):
            found = checked(report, files, record)
            run_pods(report, record, found, Choice(**options))
    finally:
        if as_json:
            click.echo(json.dumps(record.document(), indent=2))
    sys.exit(0 if record.ok else FAILED)


class Choice(NamedTuple):
    """The options of ``bondctl lab run``."""

    kernel: str | None
    policy: Path | None
    strict: bool
    keep: bool
    crash: bool
    direct: bool


def policy_text(path: Path | None, kernel: str | None) -> bytes | None:
    """The content of a policy file, None if none is given. Raises ``Stop`` if it has mistakes."""
    if path is None:
        return None
    if kernel == catalog.HOST:
        raise Stop(
            f"--policy does not work with --kernel {catalog.HOST}: that guest uses the files of "
            "this machine; use another kernel of `bondctl lab kernels`"
        )
    try:
        rules.load(str(path))
        return path.read_bytes()
    except PolicyError as error:
        raise Stop(error.message) from error
    except OSError as error:
        raise Stop(f"policy {path} cannot be read: {error.strerror}") from error


def checked(report: Report, files: Sequence[Path], record: RunRecord) -> Manifests:
    """Load the manifests. Prints every problem with them, and raises ``Stop`` if there are any."""
    if not files:
        raise Stop("no manifests given: use bondctl lab run FILE.yaml, or - for standard input")
    found = manifests.load(files)
    if found.findings:
        record.findings = found.findings
        report.findings(found.findings)
        raise Stop(f"problems in the manifests: {len(found.findings)}; nothing was run")
    return found


def run_pods(report: Report, record: RunRecord, found: Manifests, choice: Choice) -> None:
    """Boot a guest, run and report all cases, and keep the guest if asked to."""
    if choice.keep and guest.is_answering(guest.kept_path()):
        raise Stop("a guest is already kept: end it with `bondctl lab stop`, or omit --keep")
    policy = policy_text(choice.policy, choice.kernel)
    kernel = choice.kernel or (catalog.DEFAULT if policy is not None else None)
    folders = session.plugin_directories(report.progress, found.pods)
    hardware = catalog.has_cables(kernel)
    nics = planning.host_nics(found.pods) if hardware else []
    with booted(report, kernel, nics) as machine:
        record.kernel = machine.release
        try:
            guest_commands = session.prepare(machine, nics, direct=choice.direct, policy=policy)
            report.progress(MODE_TEXTS[choice.direct])
            room = session.lab(
                guest_commands,
                folders,
                strict=choice.strict,
                hardware=hardware,
                crash=choice.crash,
                direct=choice.direct,
            )
            for event in story.run_cases(room, found.pods):
                record.add(event)
                report.show(event)
            if choice.keep:
                keep_guest(report, machine, room, found)
        except LostGuest as error:
            record.lost = error.why
            raise


def keep_guest(report: Report, machine: Guest, room: story.Lab, found: Manifests) -> None:
    """Bring the last pod up again and keep the guest for `bondctl lab shell`."""
    case = story.Case(room, found.pods[-1])
    for event in case.bring_up_only():
        report.show(event)
    for one in case.runtime.attached:
        for config in one.configs:
            if config.get("type") == "bond":
                interactive.write_home(
                    room.commands, case.sandbox, one.ifname, room.cni_path, config, one.result
                )
    machine.keep(guest.kept_path())
    report.progress(
        f"guest kept; the pod is in the namespace {case.sandbox.netns}. Enter it with "
        "`bondctl lab shell`, end it with `bondctl lab stop`"
    )


@contextlib.contextmanager
def booted(
    report: Report,
    kernel: str | None,
    nics: Sequence[str] = (),
    memory: int = 1024,
    shares: Sequence[Path] = (),
) -> Iterator[Guest]:
    """Boot a guest and show the progress. Raises ``Stop`` if packages are missing."""
    missing = catalog.missing_packages()
    if missing:
        raise Stop(f"packages for the guest are missing: apt-get install {' '.join(missing)}")
    with report.waiting("booting a guest"):
        machine = guest.open_guest(
            kernel,
            nics=session.nic_pairs(nics),
            memory_mb=memory,
            shares={str(directory.resolve()): directory for directory in shares},
            progress=report.progress,
        )
    with machine:
        yield machine


@lab.command()
@FILES
@KERNEL
@DIRECT
@POLICY
def shell(
    files: tuple[Path, ...], kernel: str | None, policy: Path | None, *, direct: bool
) -> None:
    """Open a shell in the kept guest, or in a new one with two free NICs."""
    report = Report(stderr=True)
    with handle_errors(report):
        text = policy_text(policy, kernel)
        if text is None and guest.is_answering(guest.kept_path()) and not files:
            sys.exit(guest.attach(guest.kept_path()).shell(["sh", "-c", interactive.SHELL_SCRIPT]))
        found = checked(report, files, RunRecord()) if files else Manifests((), ())
        sys.exit(new_shell(report, found, kernel, text, direct=direct))


def new_shell(
    report: Report, found: Manifests, kernel: str | None, policy: bytes | None, *, direct: bool
) -> int:
    """Boot a guest, set up a pod, and run a shell; return its exit status."""
    folders = session.plugin_directories(report.progress, found.pods)
    pod = interactive.example_pod(found.pods)
    cables = catalog.has_cables(kernel)
    nics = interactive.hardware_nics(pod) if cables else []
    with booted(report, kernel, nics) as machine:
        guest_commands = session.prepare(machine, nics, direct=direct, policy=policy)
        path = ":".join([session.BIN, *folders])
        interactive.set_up_pod(guest_commands, pod, cables=cables)
        sandbox = Sandbox(pod, "by-hand", "by-hand", "pod")
        interactive.write_home(guest_commands, sandbox, "net1", path, interactive.SAMPLE)
        return machine.shell(["sh", "-c", interactive.SHELL_SCRIPT])


@lab.command("stop")
def stop() -> None:
    """End the guest that `lab run --keep` kept."""
    path = guest.kept_path()
    if guest.is_answering(path):
        guest.attach(path).halt()
        click.echo("guest ended")
    else:
        click.echo("no guest is kept")


@lab.command("kernels")
def list_kernels() -> None:
    """List the kernels that a guest can run."""
    reason = catalog.usable_host_kernel()
    for name in catalog.NAMES:
        if name == catalog.HOST:
            text = f"the kernel of this machine: {reason or 'can be used'}"
        else:
            text = cached(name)
        click.echo(f"{name:<6} {text}")


def cached(name: str) -> str:
    """What a kernel is, and the version that was downloaded, if any."""
    suite = catalog.SUITES[name]
    kind = "stock kernel under QEMU" if name == catalog.SMP else "user-mode Linux"
    pattern = f"{suite.name}-{suite.packages[0]}-*/packages"
    for path in sorted(catalog.cache_directory().glob(pattern), reverse=True):
        return f"{kind}, downloaded: {path.read_text().splitlines()[0]}"
    return f"{kind} from Debian {suite.name}, downloaded at first use"


@lab.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@KERNEL
@click.option(
    "--memory", type=int, default=1024, show_default=True, help="Memory of the guest, in MB."
)
@click.option(
    "--share",
    "shares",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory of this machine that the command may write to, at the same path.",
)
@click.option(
    "--nic",
    "nics",
    multiple=True,
    help="Hardware-like NIC; the other end of its cable is far-NAME.",
)
@click.option(
    "--timeout", type=float, default=EXEC_SECONDS, show_default=True, help="Time limit, in seconds."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    command: tuple[str, ...],
    kernel: str | None,
    memory: int,
    shares: tuple[Path, ...],
    nics: tuple[str, ...],
    timeout: float,
) -> None:
    """Run a command in a guest: bondctl lab exec -- CMD..."""
    report = Report(stderr=True)
    with handle_errors(report):
        folders = session.plugin_directories(report.progress)
        with booted(report, kernel, nics, memory, shares) as machine:
            sys.exit(stream(report, machine, command, ":".join(folders), timeout))


def stream(
    report: Report, machine: Guest, command: Sequence[str], cni_path: str, timeout: float
) -> int:
    """Run the command and pass on its output as it comes; return its exit status."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env["PATH"] = f"{env.get('PATH', '')}:{session.STANDARD_PATH}"
    env["CNI_PATH"] = cni_path

    def copy(name: str, data: bytes) -> None:
        file = (sys.stdout if name == "out" else sys.stderr).buffer
        file.write(data)
        file.flush()

    try:
        return machine.start(command, env=env, cwd=os.getcwd()).follow(copy, timeout)
    except subprocess.TimeoutExpired:
        report.error(f"{command[0]} did not end within {timeout:g} s and was killed")
    except OSError as error:
        report.error(f"{command[0]} could not be started: {error.strerror}")
    return FAILED
