"""TensorFlow's names of paddings for a Graph's padding in pixels.

TensorFlow has 'VALID' (none) and 'SAME' (graph/padding.py). For sizes at which 'SAME' differs from PyTorch's padding,
using it would shift the image by one pixel: the file would run, but with wrong results.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemobile.graph.padding import Pads, same_pads, unpadded

__all__ = ["padding_name"]


def padding_name(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads
) -> str | None:
    """'VALID' or 'SAME' if it is equal to `pads` for this input; None if an explicit PAD is needed.

    size, kernel, stride and dilation are (height, width).
    """
    if pads == unpadded:
        return "VALID"
    sides = zip(size, kernel, stride, dilation, pads, same_pads(size, kernel, stride, dilation), strict=True)
    return "SAME" if all(_has_same_windows(*side) for side in sides) else None


def _has_same_windows(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], same: tuple[int, int]
) -> bool:
    """Whether `pads` and `same` give the same windows along one side.

    Padding after the last window is never read, so equal starts and equal outputs are enough.
    """
    outputs = [(size + sum(ends) - ((kernel - 1) * dilation + 1)) // stride + 1 for ends in (pads, same)]
    return pads[0] == same[0] and outputs[0] == outputs[1]
