"""TensorFlow's two paddings by name against a Graph's padding in pixels.

TensorFlow knows 'VALID' (none) and 'SAME' (graph/padding.py). Taking 'SAME' for a size on which it is not PyTorch's
padding shifts the picture by one pixel: the file runs, and is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemobile.graph.padding import Pads, same_pads, unpadded

__all__ = ["padding_name"]


def padding_name(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads
) -> str | None:
    """'VALID' or 'SAME' where that means exactly `pads` for this input; None where only an explicit PAD does.

    size, kernel, stride and dilation are (height, width).
    """
    if pads == unpadded:
        return "VALID"
    sides = zip(size, kernel, stride, dilation, pads, same_pads(size, kernel, stride, dilation), strict=True)
    return "SAME" if all(_has_same_windows(*side) for side in sides) else None


def _has_same_windows(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], same: tuple[int, int]
) -> bool:
    """Whether `pads` and `same` make the same windows along one side.

    Padding behind the last window is never read, so equal starts and equal outputs are enough.
    """
    outputs = [(size + sum(ends) - ((kernel - 1) * dilation + 1)) // stride + 1 for ends in (pads, same)]
    return pads[0] == same[0] and outputs[0] == outputs[1]
