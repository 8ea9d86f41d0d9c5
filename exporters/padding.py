"""TensorFlow's two paddings by name against a Graph's padding in pixels.

TensorFlow knows 'VALID' (none) and 'SAME', which puts the odd pixel at the end. PyTorch pads both ends alike, so at
stride 2 the two agree on some sizes only. Taking 'SAME' for the other sizes shifts the picture by one pixel: the file
runs, and is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pads", "padding_name", "unpadded"]

Pads = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)) in pixels

unpadded: Pads = ((0, 0), (0, 0))


def padding_name(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads
) -> str | None:
    """'VALID' or 'SAME' where that means exactly `pads` for this input; None where only an explicit PAD does.

    size, kernel, stride and dilation are (height, width).
    """
    if pads == unpadded:
        return "VALID"
    sides = zip(size, kernel, stride, dilation, pads, strict=True)
    return "SAME" if all(_is_same(*side) for side in sides) else None


def _is_same(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> bool:
    """Whether SAME makes the same windows along one side.

    SAME: out = ceil(size / stride), total = max(0, (out - 1) * stride + span - size), before = total // 2.
    Padding behind the last window is never read, so equal starts and equal outputs are enough.
    """
    before, after = pads
    span = (kernel - 1) * dilation + 1
    out = (size + before + after - span) // stride + 1
    same_out = -(-size // stride)
    total = max(0, (same_out - 1) * stride + span - size)
    return out == same_out and before == total // 2
