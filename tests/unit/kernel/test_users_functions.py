"""Issue item 18: the VFs of a PF that is to be taken, as sysfs tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.kernel.test_reading import Kernel, Start, named

from bondcni.kernel import reading

PF = "0000:3b:02.1"


@pytest.mark.parametrize(("told", "vfs"), [("4\n", 4), ("0\n", 0), ("", 0), (None, 0)])
def test_18_the_vfs_of_a_pf_are_counted(
    kernel: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, vfs: int
) -> None:
    monkeypatch.setattr(reading, "VFS", f"{tmp_path}/{{}}/sriov_numvfs")
    if told is not None:
        (tmp_path / PF).mkdir()
        (tmp_path / PF / "sriov_numvfs").write_text(told)
    host = reading.read_candidates(kernel(Kernel()), named("eth2", "eth9"))
    found = {link.name: link.vfs for link in host.links if link.parent == PF}
    assert found
    assert set(found.values()) == {vfs}
    assert all(link.vfs == 0 for link in host.links if link.parent != PF)
