"""What can be told of namespaces without the right to enter one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bondcni.core.errors import NamespaceGone, NotANamespace
from bondcni.kernel.namespace import in_namespace, namespace_fd, same_namespace


def test_a_path_that_is_gone(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path / "gone" / "deeper"):
        with pytest.raises(NamespaceGone, match="gone"):
            in_namespace(str(path), os.getpid)
        with pytest.raises(NamespaceGone):
            same_namespace(str(path))


def test_a_path_that_is_none(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(NotANamespace, match="file is not a network namespace"):
        in_namespace(str(plain), os.getpid)
    with pytest.raises(NotANamespace):
        same_namespace(str(plain))
    with pytest.raises(NotANamespace):
        in_namespace("/proc/self/ns/mnt", os.getpid)


def test_our_own_is_the_same() -> None:
    assert same_namespace("/proc/self/ns/net")


def test_the_descriptor_and_the_thread_end_with_the_work(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    with namespace_fd("/proc/self/ns/net") as fd:
        os.fstat(fd)
        assert not os.get_inheritable(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    before = threading.active_count()
    with pytest.raises(NotANamespace):
        in_namespace(str(plain), os.getpid)
    assert threading.active_count() == before
