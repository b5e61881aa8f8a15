"""The lab's stand-in plugins are found as files of the package."""

from __future__ import annotations

from bondlab.plugins.stand_ins import stand_ins


def test_every_stand_in_is_an_executable_text() -> None:
    found = stand_ins()
    assert set(found) == {"fatal", "sriov"}
    assert all(text.startswith("#!/") for text in found.values())
