"""SAME in pixels: what TensorFlow's guide says of it, and where PyTorch's padding is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.graph.padding import Pads, same_pads, unpadded

Pair = tuple[int, int]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "pads"),
    [
        ((224, 224), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
        ((224, 225), (3, 3), (2, 2), (1, 1), ((0, 1), (1, 1))),
        ((28, 14), (5, 5), (2, 1), (1, 1), ((1, 2), (2, 2))),
        ((14, 14), (3, 5), (1, 1), (2, 3), ((2, 2), (6, 6))),
        ((7, 7), (1, 1), (2, 2), (1, 1), unpadded),
    ],
)
def test_height_and_width_each_their_own(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, pads: Pads) -> None:
    assert same_pads(size, kernel, stride, dilation) == pads


@given(st.integers(1, 300), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_the_output_is_the_size_over_the_stride_rounded_up(size: int, kernel: int, stride: int, dilation: int) -> None:
    (before, after), _ = same_pads((size, 1), (kernel, 1), (stride, 1), (dilation, 1))
    span = (kernel - 1) * dilation + 1
    assert (size + before + after - span) // stride + 1 == -(-size // stride)
    assert after - before in (0, 1)
