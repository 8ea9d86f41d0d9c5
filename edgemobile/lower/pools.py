"""Lowerings of pools and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.graph import Node, Tensor
from edgemobile.graph.average_pools import pixels_in_windows
from edgemobile.graph.padding import Pads, unpadded
from edgemobile.lower.lowering import Lowering, arguments, both_sides, conv_attrs, pair

if TYPE_CHECKING:
    import torch

__all__ = ["POOLS"]


def _mean(walk: Lowering, fx: torch.fx.Node) -> str:
    """Over height and width."""
    x, dims, keepdim = arguments(fx, "input", "dim", keepdim=False)
    rank = len(x.meta["val"].shape)
    if rank != 4 or sorted(dim % rank for dim in dims or ()) != [2, 3]:
        walk.refuse(fx, f"only the mean over height and width is supported, found dim={dims} of {rank} dimensions")
    name = walk.operand(fx, x, "input")
    if keepdim:
        return walk.emit(fx, "mean", (name,))
    # In every format the mean keeps height and width as dimensions of 1; a reshape drops them.
    n, c = fx.meta["val"].shape
    pooled = walk.unique(f"{walk.name_of(fx, 'mean')}.pool")
    walk.tensors[pooled] = Tensor(pooled, (n, 1, 1, c))
    walk.nodes.append(Node("mean", (name,), pooled))
    return walk.emit(fx, "reshape", (pooled,))


def _adaptive_avg_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """To a size that divides the size of the input."""
    image = walk.image(fx, fx.args[0])
    before, after = tuple(fx.args[0].meta["val"].shape[2:]), tuple(fx.meta["val"].shape[2:])  # type: ignore[union-attr]
    if after == (1, 1):
        return walk.emit(fx, "mean", (image,))
    if after == before:
        return image
    if any(size % pooled for size, pooled in zip(before, after, strict=True)):
        walk.refuse(fx, f"the output size must divide the input size, found {before} to {after}")
    kernel = tuple(size // pooled for size, pooled in zip(before, after, strict=True))
    return walk.emit(fx, "avg_pool2d", (image,), kernel=kernel, stride=kernel)


def _max_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """With or without padding and ceil_mode, without dilation."""
    x, kernel, stride, padding, dilation, ceil = arguments(
        fx, "input", "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False
    )
    if pair(dilation) != (1, 1):
        walk.refuse(fx, "max pooling with dilation is not supported")
    kernel, stride, pads = pair(kernel), pair(stride or kernel), both_sides(padding)
    if ceil:
        pads = _ceiled(fx, x, kernel, stride, pads)
    return walk.emit(fx, "max_pool2d", (walk.image(fx, x),), kernel=kernel, stride=stride, padding=pads)


def _ceiled(fx: torch.fx.Node, x: torch.fx.Node, kernel: Any, stride: Any, pads: Pads) -> Pads:
    """`pads`, increased at the end by what the last window of ceil_mode extends beyond the image."""
    before, after = x.meta["val"].shape[2:], fx.meta["val"].shape[2:]
    rows, columns = (
        (first, max(last, (pooled - 1) * step + span - size - first))
        for (first, last), size, pooled, span, step in zip(pads, before, after, kernel, stride, strict=True)
    )
    return rows, columns


def _avg_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """Windows beyond the image become a depthwise convolution, and a product where they count fewer pixels."""
    x, kernel, stride, padding, ceil, _, divisor = arguments(
        fx,
        "input",
        "kernel_size",
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    image, kernel = walk.image(fx, x), pair(kernel)
    stride, pads = pair(stride or kernel), both_sides(padding)
    if ceil:
        pads = _ceiled(fx, x, kernel, stride, pads)
    if pads == unpadded and not divisor:
        return walk.emit(fx, "avg_pool2d", (image,), kernel=kernel, stride=stride)
    share = 1 / (kernel[0] * kernel[1])
    path, channels = walk.name_of(fx, "conv2d"), x.meta["val"].shape[1]
    constants = (
        walk.constant(f"{path}.weight", np.full((channels, *kernel, 1), share)),
        walk.constant(f"{path}.bias", np.zeros(channels)),
    )
    attrs = conv_attrs(groups=channels, stride=stride, padding=pads)
    factors = _averages(fx, x) / (pixels_in_windows(x.meta["val"].shape[2:], kernel, stride, pads) * share)
    if np.allclose(factors, 1):
        return walk.emit(fx, "conv2d", (image, *constants), **attrs)
    whole = walk.emit(fx, "conv2d", (image, *constants), ".sum", **attrs)
    return walk.emit(fx, "mul", (whole, walk.constant(f"{path}.factors", factors[None, :, :, None])), activation="")


def _averages(fx: torch.fx.Node, x: torch.fx.Node) -> np.ndarray:
    """f64[H,W]: the average that PyTorch gives for an image of ones."""
    import torch

    pool: Any = fx.target
    ones = torch.ones(1, 1, *x.meta["val"].shape[2:], dtype=torch.float64)
    return np.asarray(pool(ones, *fx.args[1:], **fx.kwargs)[0, 0].numpy())


POOLS: dict[str, Callable[[Lowering, torch.fx.Node], str]] = {
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.mean.dim": _mean,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
}
