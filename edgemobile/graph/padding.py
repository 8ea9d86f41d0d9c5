"""Padding in pixels, ((top, bottom), (left, right)), as in a Graph's nodes, and the pixels of TensorFlow's SAME.

PyTorch pads both ends equally and SAME puts the odd pixel at the end, so at stride 2 both are equal only for some
sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pads", "same_pads", "unpadded"]

Pads = tuple[tuple[int, int], tuple[int, int]]

unpadded: Pads = ((0, 0), (0, 0))


def same_pads(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
    """The padding of SAME in pixels; all arguments are (height, width).

    out = ceil(size / stride), total = max(0, (out - 1) * stride + span - size), before = total // 2.
    """
    height, width = (_same(*side) for side in zip(size, kernel, stride, dilation, strict=True))
    return height, width


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    span = (kernel - 1) * dilation + 1
    total = max(0, (-(-size // stride) - 1) * stride + span - size)
    return total // 2, total - total // 2
