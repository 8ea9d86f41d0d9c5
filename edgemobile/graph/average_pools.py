"""Average pools whose windows reach beyond the image, from the ops that a Graph has.

every position counts       depthwise conv2d with weights 1 / (KH * KW)
only pixels count           the same, then mul by KH * KW / (the pixels in the window), per output pixel
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemobile.graph.ir import Node, Tensor
from edgemobile.graph.padding import Pads

__all__ = ["padded_average", "pixels_in_windows"]


def pixels_in_windows(
    size: Sequence[int], kernel: tuple[int, int], stride: tuple[int, int], padding: Pads
) -> np.ndarray:
    """f64[H,W]: the number of pixels of the image, `size` (height, width), in the window of each output pixel."""
    ones = np.pad(np.ones(tuple(size)), padding)
    windows = np.lib.stride_tricks.sliding_window_view(ones, kernel)[:: stride[0], :: stride[1]]
    return np.asarray(windows.sum(axis=(2, 3)))


def padded_average(
    x: Tensor, output: str, kernel: tuple[int, int], stride: tuple[int, int], padding: Pads, *, padding_counts: bool
) -> tuple[list[Node], list[Tensor]]:
    """(nodes that compute the tensor `output`, which exists; the tensors that they need) for `x` f32[N,H,W,C]."""
    batch, height, width, channels = x.shape
    whole = output if padding_counts else f"{output}.sum"
    weight = np.full((channels, *kernel, 1), 1 / (kernel[0] * kernel[1]), np.float32)
    constants = [
        Tensor.constant(f"{output}.weight", weight),
        Tensor.constant(f"{output}.bias", np.zeros(channels, np.float32)),
    ]
    attrs = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": channels, "activation": ""}
    nodes = [Node("conv2d", (x.name, *(constant.name for constant in constants)), whole, attrs)]
    if padding_counts:
        return nodes, constants
    counts = pixels_in_windows((height, width), kernel, stride, padding)
    factors = (kernel[0] * kernel[1] / counts).astype(np.float32)[None, :, :, None]
    tensors = [
        *constants,
        Tensor(whole, (batch, *counts.shape, channels)),
        Tensor.constant(f"{output}.factors", factors),
    ]
    return [*nodes, Node("mul", (whole, f"{output}.factors"), output, {"activation": ""})], tensors
