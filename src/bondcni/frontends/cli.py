"""``bondctl``: the command line of people, not of container runtimes.

Parses, calls the lab, prints, and turns the end into an exit code: 0 all well, 1 a case
failed, 2 the input or the usage is wrong, 3 the guest was lost. Every error is one message that
says what to do; a traceback is a bug.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

import bondcni
from bondcni.lab import byhand, guest, kernels, manifests, session, story, topology
from bondcni.lab.guest import Guest, LostGuest
from bondcni.lab.hands import CommandFailed
from bondcni.lab.manifests import Manifests
from bondcni.lab.record import Record
from bondcni.lab.report import Story
from bondcni.lab.substitutes import Impossible

FAILED, BAD_INPUT, LOST = 1, 2, 3
EXEC_SECONDS = 3600.0
PASSED_ON = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "TERM")

FILES = click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
KERNEL = click.option(
    "--kernel",
    metavar="NAME",
    help="The guest's kernel: one of `bondctl lab kernels`. Default: this machine's own if it "
    "has bonding and no NICs on cables are needed, else user-mode Linux.",
)


@click.group()
def main() -> None:
    """Bonded network interfaces for containers."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"bondcni {bondcni.__version__}")


@main.group()
def lab() -> None:
    """Try things on a kernel of their own: nothing on this machine is touched."""
    missing = kernels.missing_packages()
    if missing:
        stop(Story(stderr=True), f"install first: apt-get install {' '.join(missing)}")


def stop(teller: Story, text: str, code: int = BAD_INPUT) -> None:
    """Say one thing and exit."""
    teller.error(text)
    sys.exit(code)


@contextlib.contextmanager
def honest(teller: Story) -> Iterator[None]:
    """What can stop everything, as one message and an exit code."""
    try:
        yield
    except LostGuest as error:
        stop(teller, f"{error}\nNo case failed; run it again, or try another --kernel.", LOST)
    except kernels.Unavailable as error:
        stop(teller, str(error))
    except Impossible as error:
        stop(teller, str(error))
    except CommandFailed as error:
        stop(teller, f"the lab could not be set up: {error}", LOST)


@lab.command()
@FILES
@KERNEL
@click.option("--strict", is_flag=True, help="Fail where a plugin would have to be replaced.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--keep", is_flag=True, help="Keep the guest with the last pod: bondctl lab shell.")
def run(
    files: tuple[Path, ...], kernel: str | None, *, strict: bool, as_json: bool, keep: bool
) -> None:
    """Run the pods of manifests and tell what happens to their bonds."""
    teller = Story(stderr=as_json)
    found = checked(teller, files)
    record = Record()
    try:
        with honest(teller):
            tell(teller, record, found, kernel, strict=strict, keep=keep)
    finally:
        if as_json:
            click.echo(json.dumps(record.document(), indent=2))
    sys.exit(0 if record.ok else FAILED)


def checked(teller: Story, files: Sequence[Path]) -> Manifests:
    """The manifests; all that is wrong with them ends the program."""
    if not files:
        stop(teller, "no manifests: bondctl lab run FILE.yaml (there are some in examples/)")
    found = manifests.load(files)
    if found.findings:
        teller.findings(found.findings)
        stop(teller, f"{len(found.findings)} to correct; nothing was run")
    return found


def tell(
    teller: Story,
    record: Record,
    found: Manifests,
    kernel: str | None,
    *,
    strict: bool,
    keep: bool,
) -> None:
    """Boot, tell all cases, perhaps keep the guest."""
    folders = session.plugin_folders(teller.progress)
    hardware = kernel != kernels.HOST
    nics = topology.host_nics(found.pods) if hardware else []
    with booted(teller, kernel, nics) as machine:
        record.kernel = machine.release
        try:
            hands = session.prepare(machine, nics)
            room = session.lab(hands, folders, strict=strict, hardware=hardware)
            for event in story.tell(room, found.pods):
                record.add(event)
                teller.show(event)
            if keep:
                settle(teller, machine, room, found)
        except LostGuest as error:
            record.lost = error.why
            raise


def settle(teller: Story, machine: Guest, room: story.Lab, found: Manifests) -> None:
    """Bring the last pod up again and leave the guest to `bondctl lab shell`."""
    case = story.Case(room, found.pods[-1])
    for event in case.stay():
        teller.show(event)
    machine.keep(guest.kept_path())
    teller.progress(f"kept, with the pod in the namespace {case.sandbox.netns}: bondctl lab shell")


@contextlib.contextmanager
def booted(
    teller: Story,
    kernel: str | None,
    nics: Sequence[str] = (),
    memory: int = 1024,
    shares: Sequence[Path] = (),
) -> Iterator[Guest]:
    """A guest; its boot is shown."""
    with teller.waiting("booting a guest"):
        machine = guest.open_guest(
            kernel,
            nics=session.nic_pairs(nics),
            memory_mb=memory,
            shares={str(folder.resolve()): folder for folder in shares},
            progress=teller.progress,
        )
    with machine:
        yield machine


@lab.command()
@FILES
@KERNEL
def shell(files: tuple[Path, ...], kernel: str | None) -> None:
    """Open a shell in the kept guest, or in a new one with two spare NICs."""
    teller = Story(stderr=True)
    with honest(teller):
        path = guest.kept_path()
        if guest.is_answering(path) and not files:
            machine = guest.attach(path)
            env = byhand.environment(":".join([session.BIN, *session.plugin_folders(print)]))
            sys.exit(machine.shell(env=env))
        found = checked(teller, files) if files else Manifests((), ())
        sys.exit(new_shell(teller, found, kernel))


def new_shell(teller: Story, found: Manifests, kernel: str | None) -> int:
    """Boot, furnish, and leave the user to it; the shell's status."""
    folders = session.plugin_folders(teller.progress)
    pod = byhand.pod_by_hand(found.pods)
    hardware = kernel != kernels.HOST
    nics = byhand.hardware(pod) if hardware else []
    with booted(teller, kernel, nics) as machine:
        hands = session.prepare(machine, nics)
        path = ":".join([session.BIN, *folders])
        env = byhand.furnish(hands, pod, path, hardware=hardware)
        script = f"cat {byhand.HOME}/motd >&2; exec bash"
        return machine.shell(["sh", "-c", script], env=env)


@lab.command("kernels")
def list_kernels() -> None:
    """List the kernels a guest can have."""
    reason = kernels.usable_host_kernel()
    for name in kernels.NAMES:
        if name == kernels.HOST:
            text = f"this machine's own: {reason or 'can be used'}"
        else:
            text = cached(name)
        click.echo(f"{name:<6} {text}")


def cached(name: str) -> str:
    """Whether a kernel was fetched, and which version it is."""
    suite = kernels.SUITES[name]
    pattern = f"{suite.name}-{suite.packages[0]}-*/packages"
    for path in sorted(kernels.cache_folder().glob(pattern), reverse=True):
        return f"user-mode Linux, fetched: {path.read_text().splitlines()[0]}"
    return f"user-mode Linux from Debian {suite.name}, fetched at first use"


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@KERNEL
@click.option("--memory", type=int, default=1024, show_default=True, help="Of the guest, in MB.")
@click.option(
    "--share",
    "shares",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of this machine that the command may write to, at the same path.",
)
@click.option("--nic", "nics", multiple=True, help="A NIC on a cable; its other end is far-NAME.")
@click.option("--timeout", type=float, default=EXEC_SECONDS, show_default=True, help="Seconds.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    command: tuple[str, ...],
    kernel: str | None,
    memory: int,
    shares: tuple[Path, ...],
    nics: tuple[str, ...],
    timeout: float,
) -> None:
    """Run a command inside a guest: bondctl lab exec -- CMD..."""
    teller = Story(stderr=True)
    with honest(teller):
        folders = session.plugin_folders(teller.progress)
        with booted(teller, kernel, nics, memory, shares) as machine:
            sys.exit(stream(teller, machine, command, ":".join(folders), timeout))


def stream(
    teller: Story, machine: Guest, command: Sequence[str], cni_path: str, timeout: float
) -> int:
    """The command's status; its output goes where ours does, as it comes."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env["PATH"] = f"{env.get('PATH', '')}:{session.STANDARD_PATH}"
    env["CNI_PATH"] = cni_path
    files = {"out": click.get_binary_stream("stdout"), "err": click.get_binary_stream("stderr")}

    def copy(name: str, data: bytes) -> None:
        files[name].write(data)
        files[name].flush()

    try:
        return machine.start(command, env=env, cwd=os.getcwd()).follow(copy, timeout)
    except subprocess.TimeoutExpired:
        teller.error(f"{command[0]} did not end within {timeout:g} s and was killed")
    except OSError as error:
        teller.error(f"{command[0]} could not be started: {error.strerror}")
    return FAILED
