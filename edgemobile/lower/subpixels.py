"""Lowerings that make an image larger by an integer factor, as a depth_to_space of a layer's channels.

A transposed convolution of stride s is a convolution with a row of weights for each of the s * s places of an output
pixel in a square, and depth_to_space puts the rows in their places. Integer kernels for both are in every runtime,
while onnxruntime has none for a transposed convolution. Where the kernel is not a multiple of the stride, or not
aligned with it, some weights are zeros: 2x2 with stride 2 has none, 4x4 with stride 2 and padding 1 has 5 of 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.graph import Node
from edgemobile.lower.lowering import Lowering, arguments, conv_attrs, pair

if TYPE_CHECKING:
    import torch

__all__ = ["SUBPIXELS", "subpixel_layer"]


@dataclass(frozen=True)
class _Taps:
    """One dimension of a transposed convolution as a convolution: output pixel stride * i + place is the sum over
    (place, tap, source) of weight[source] * input pixel i + tap - before."""

    taps: int
    before: int
    after: int
    rows: tuple[tuple[int, int, int], ...]


def _taps(size: int, made: int, kernel: int, stride: int, padding: int, dilation: int) -> _Taps:
    """`made` is the size of the output, a multiple of the stride.

    Given:  output o receives weight[k] * input i where o + padding = stride * i + dilation * k
    """
    found = [
        (place, (place + padding - dilation * k) // stride, k)
        for place in range(stride)
        for k in range(kernel)
        if (place + padding - dilation * k) % stride == 0
    ]
    least = min(0, *(offset for _, offset, _ in found))
    most = max(0, size - made // stride, *(offset for _, offset, _ in found))
    rows = tuple((place, offset - least, k) for place, offset, k in found)
    return _Taps(most - least + 1, -least, made // stride - 1 + most - (size - 1), rows)


def _conv_transpose2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """As a convolution and depth_to_space; with one group or one channel a group, to a multiple of the stride."""
    x, weight, bias, stride, padding, _, groups, dilation = arguments(
        fx, "input", "weight", bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    )
    kernel = walk.array(fx, weight).astype(np.float64)
    inputs, made = kernel.shape[0] // groups, kernel.shape[1]
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    before, after = tuple(x.meta["val"].shape[2:]), tuple(fx.meta["val"].shape[2:])
    if stride[0] != stride[1] or any(side % stride[0] for side in after):
        walk.refuse(
            fx,
            f"the output size must be a multiple of the stride, equal in both directions, found {list(after)} with "
            f"stride {list(stride)}; with kernel_size 3, stride 2 and padding 1, use output_padding=1",
        )
    if groups > 1 and made > 1:
        walk.refuse(fx, f"only one group, or groups of one output channel, are supported, found groups={groups}")
    rows, columns = (
        _taps(*sides) for sides in zip(before, after, kernel.shape[2:], stride, padding, dilation, strict=True)
    )
    # [group, place in the square, output of the group, input of the group, taps]
    grouped = kernel.reshape(groups, inputs, made, *kernel.shape[2:])
    block = stride[0]
    whole = np.zeros((groups, block, block, made, rows.taps, columns.taps, inputs))
    for place, tap, k in rows.rows:
        for across, tap_across, k_across in columns.rows:
            whole[:, place, across, :, tap, tap_across] = grouped[:, :, :, k, k_across].transpose(0, 2, 1)
    offset = np.zeros(groups * made) if bias is None else walk.array(fx, bias)
    repeated = np.repeat(offset, block**2) if groups > 1 else np.tile(offset, block**2)
    path = walk.layer_path(weight, "conv2d")
    constants = (
        walk.constant(f"{path}.weight", whole.reshape(-1, rows.taps, columns.taps, inputs)),
        walk.constant(f"{path}.bias", repeated),
    )
    attrs = conv_attrs(groups=groups, padding=((rows.before, rows.after), (columns.before, columns.after)))
    shape = (x.meta["val"].shape[0], len(repeated), *(side // block for side in after))
    if block == 1:
        return walk.emit(fx, "conv2d", (walk.image(fx, x), *constants), **attrs)
    layer = walk.emit_of(fx, "conv2d", (walk.image(fx, x), *constants), ".subpixels", shape, **attrs)
    if groups > 1:
        layer = walk.emit_of(fx, "channel_shuffle", (layer,), ".shuffled", shape, groups=groups)
    return walk.emit(fx, "depth_to_space", (layer,), block=block)


def subpixel_layer(walk: Lowering, name: str) -> Node | None:
    """The convolution of the transposed convolution that made `name`, if it has one group; None for other tensors."""
    last = walk.producer(name)
    if last is None or last.op != "depth_to_space":
        return None
    layer = walk.producer(last.inputs[0])
    if layer is None or layer.op != "conv2d":
        return None
    # The convolution before a pixel shuffle is an op of the program by itself, which others may read.
    own = not any(walk.is_name(value, layer.output) for value in walk.values.values())
    return layer if own else None


def _pixel_shuffle(walk: Lowering, fx: torch.fx.Node) -> str:
    """As depth_to_space; the order of the channels becomes that of the layer before it, if only this op reads it."""
    x, block = arguments(fx, "input", "upscale_factor")
    image, shape = walk.image(fx, x), tuple(x.meta["val"].shape)
    made = shape[1] // block**2
    if made > 1:
        # PyTorch has the places of a channel next to each other, a Graph the channels of a place.
        image = walk.emit_of(fx, "channel_shuffle", (image,), ".shuffled", shape, groups=made)
    return walk.emit(fx, "depth_to_space", (image,), block=block)


SUBPIXELS: dict[str, Callable[[Lowering, torch.fx.Node], str]] = {
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.pixel_shuffle.default": _pixel_shuffle,
}
