"""The kernel's rule for interface names."""

from __future__ import annotations

import pytest

from bondcni.core.names import invalid_interface_name


@pytest.mark.parametrize("name", ["a", "net1", "bond0.5", "x" * 15, "ü", "-", "a@b"])
def test_names_that_the_kernel_takes(name: str) -> None:
    assert invalid_interface_name(name) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 16, "at most 15 bytes"),
        ("ü" * 8, "at most 15 bytes"),
        ("", "not be empty"),
        (".", "or be '.' or '..'"),
        ("..", "or be '.' or '..'"),
        ("a/b", "not contain '/'"),
        ("a:1", "not contain '/', ':'"),
        ("a b", "white space"),
        ("a\n", "white space"),
        ("à", "white space"),  # its UTF-8 ends with 0xa0, white space in the kernel's ctype
        ("bond%d", "'%'"),  # the kernel would fill in a number
        ("a\udcff", "UTF-8"),  # a byte that os.environ could not decode
    ],
)
def test_names_that_the_kernel_does_not_take(name: str, why: str) -> None:
    assert why in invalid_interface_name(name)
