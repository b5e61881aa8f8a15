"""Issue item 12: whether the kernel can load the bonding driver."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bondcni.core.errors import KernelError
from bondcni.kernel.driver import Driver, bonding_driver, with_driver_advice

RELEASE = os.uname().release
DEP = "kernel/drivers/net/bonding/bonding.ko.xz: kernel/net/tls/tls.ko\nkernel/x.ko:\n"

Tree = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """The file system of a host where the driver can be loaded, changed by the arguments."""

    def make(**files: str | None) -> str:
        whole: dict[str, str | None] = {
            f"lib/modules/{RELEASE}/modules.dep": DEP,
            f"lib/modules/{RELEASE}/modules.builtin": "kernel/lib/crc.ko\n",
            "proc/sys/kernel/modprobe": "/sbin/modprobe\n",
            "proc/sys/kernel/modules_disabled": "0\n",
            "proc/cmdline": "quiet\n",
            "sbin/modprobe": "",
            **files,
        }
        for name, text in whole.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
                path.chmod(0o755)
        return str(tmp_path)

    return make


def missing(root: str) -> str:
    found = bonding_driver(root)
    assert not found.unknown
    return found.missing


def test_12_it_can_be_loaded(tree: Tree) -> None:
    assert bonding_driver(tree()) == Driver()


def test_12_it_is_loaded_or_built_in(tree: Tree) -> None:
    off = {"proc/sys/kernel/modules_disabled": "1\n"}
    assert missing(tree(**off))
    builtin = {f"lib/modules/{RELEASE}/modules.builtin": "kernel/drivers/net/bonding/bonding.ko\n"}
    assert bonding_driver(tree(**off, **builtin)) == Driver()
    root = tree(**off)
    Path(f"{root}/sys/module/bonding").mkdir(parents=True)
    assert bonding_driver(root) == Driver()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"proc/sys/kernel/modules_disabled": "1\n"}, "kernel.modules_disabled is 1"),
        ({"proc/sys/kernel/modprobe": "\n"}, "kernel.modprobe is ''"),
        ({"proc/sys/kernel/modprobe": "/bin/false\n"}, "kernel.modprobe is '/bin/false'"),
        ({"sbin/modprobe": None}, "/sbin/modprobe, with which the kernel loads modules, does not"),
        ({"etc/modprobe.d/x.conf": "# x\nblacklist  bonding\n"}, "x.conf prevents loading it"),
        ({"usr/lib/modprobe.d/x.conf": "install bonding /bin/true\n"}, "remove `install bonding"),
        (
            {"proc/cmdline": "quiet modprobe.blacklist=a,bonding\n"},
            "command line prevents loading it",
        ),
        ({f"lib/modules/{RELEASE}/modules.dep": "kernel/x.ko:\n"}, f"kernel {RELEASE} has no bond"),
    ],
)
def test_12_it_cannot_be_loaded(tree: Tree, files: dict[str, str | None], said: str) -> None:
    assert said in missing(tree(**files))


@pytest.mark.parametrize(
    "text", ["options bonding max_bonds=0\n", "blacklist bonding2\n", "# blacklist bonding\n"]
)
def test_12_other_lines_of_modprobe_d_are_ignored(tree: Tree, text: str) -> None:
    assert bonding_driver(tree(**{"etc/modprobe.d/x.conf": text})) == Driver()
    assert bonding_driver(tree(**{"etc/modprobe.d/x.bak": "blacklist bonding\n"})) == Driver()


def without_lists(tree: Tree) -> str:
    lists = {f"lib/modules/{RELEASE}/modules.{name}": None for name in ("dep", "builtin")}
    root = tree(**lists)
    Path(f"{root}/lib/modules/{RELEASE}").rmdir()
    return root


def test_12_in_a_container_it_is_not_known(tree: Tree) -> None:
    root = without_lists(tree)
    for remove in (None, f"{root}/lib/modules"):
        if remove:
            Path(remove).rmdir()
        found = bonding_driver(root)
        assert found.missing == ""
        assert f"{root}/lib/modules/{RELEASE} is not visible here" in found.unknown
        assert "it is not known whether it can be" in found.unknown


def test_12_only_modules_of_another_kernel_exist(tree: Tree) -> None:
    """The node was upgraded and not rebooted."""
    root = without_lists(tree)
    Path(f"{root}/lib/modules/9.9.9").mkdir()
    assert "modules of 9.9.9 exist: boot one of these kernels" in missing(root)


def test_12_the_sysctl_is_not_visible(tree: Tree) -> None:
    assert (
        "modprobe is not visible"
        in bonding_driver(tree(**{"proc/sys/kernel/modprobe": None})).unknown
    )


def test_12_other_errors_are_unchanged() -> None:
    error = KernelError("create bond bond0", errno.EEXIST)
    assert (
        with_driver_advice(error).message == "create bond bond0: kernel says EEXIST (File exists)"
    )
