"""What a tensor's name says was done to it, written and read back."""

from __future__ import annotations

import pytest

from edgemobile.graph.tensor_names import (
    added,
    divided,
    equalized,
    is_constant_of,
    is_equalized,
    multiplied,
    raised,
    split_name,
)


@pytest.mark.parametrize("path", ["relu", "features.0.2", "block.x1", "block.x1.eq.2"])
@pytest.mark.parametrize("n", [1, 6, 36])
def test_what_was_multiplied_and_rescaled_is_read_back(path: str, n: int) -> None:
    name = multiplied(path, n)
    assert split_name(name, known=[path]) == split_name(equalized(name), known=[path]) == (path, n)
    assert [is_equalized(each) for each in (name, equalized(name))] == [False, True]


def test_a_module_called_like_a_multiple_is_told_by_the_reference() -> None:
    assert split_name("block.x6") == ("block", 6)
    assert split_name("block.x6", known=["block.x6"]) == ("block.x6", 1)
    assert split_name("block.x6.x6", known=["block.x6"]) == ("block.x6", 6)


def test_a_constant_is_known_by_whatever_was_done_to_it() -> None:
    for stored in ("w.1", divided("w.1", 6), multiplied("w.1", 36), multiplied(divided("w.1", 6), 6), raised("w.1")):
        assert is_constant_of(stored, "w.1")
        assert not is_constant_of(stored, "w.10")
        assert not is_constant_of(stored, "w")
    assert not is_constant_of("w.10", "w.1")
    assert not is_constant_of("wx1", "w.1")
    assert (added("b"), added(raised("b"))) == (0, 3)
