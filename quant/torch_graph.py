"""Runs a float graph in PyTorch: many times faster than the numpy interpreter, and with gradients.

The interpreter is still the reference; this is for passes over many images or with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.errors import Unsupported, require
from edgemobile.graph import Graph, Node

if TYPE_CHECKING:
    import torch

__all__ = ["TorchGraph", "evaluate", "to_nchw", "to_nhwc"]

Tap = Callable[[str, "torch.Tensor"], "torch.Tensor"]


class TorchGraph:
    """A float `graph` with its `constants` as tensors, by name. Images are NCHW, as in PyTorch."""

    def __init__(self, graph: Graph) -> None:
        require("torch", "export")
        self.graph = graph
        self.constants = {name: to_nchw(t.data) for name, t in graph.constants.items() if t.data is not None}
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        unknown = sorted({node.op for node in graph.nodes} - set(_ROWS))
        if unknown:
            raise Unsupported(f"cannot run {', '.join(unknown)} in torch. Supported: {', '.join(_ROWS)}")

    def __call__(self, images: np.ndarray, tap: Tap = lambda name, value: value) -> tuple[torch.Tensor, ...]:
        """The outputs for images f32[N,H,W,C]; outputs with 4 dimensions are NCHW.

        `tap` is called with the name and value of every activation, the input first; its result replaces the value.
        """
        first = self.graph.inputs[0]
        values = {**self.constants, first: tap(first, to_nchw(images))}
        for index, node in enumerate(self.graph.nodes):
            operands = [values[name] for name in node.inputs]
            values[node.output] = tap(node.output, evaluate(self.graph, node, operands))
            for name in set(node.inputs) - set(self.graph.outputs) - set(self.constants):
                if self._last_use[name] == index:
                    del values[name]
        return tuple(values[name] for name in self.graph.outputs)


def evaluate(graph: Graph, node: Node, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """The output of one float node for its operands; images are NCHW."""
    return _ROWS[node.op](graph, node, *operands)


def to_nchw(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor; with 4 dimensions, NHWC becomes NCHW in the channels-last memory format."""
    import torch

    tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def to_nhwc(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; with 4 dimensions, NCHW becomes NHWC."""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()


# ---- one function per op ---------------------------------------------------------------------------------------------


def _activate(node: Node, x: Any) -> Any:
    match node.attrs["activation"]:
        case "relu":
            return x.relu()
        case "relu6":
            return x.clamp(0, 6)
        case _:
            return x


def _padded(node: Node, x: Any, value: float = 0.0) -> Any:
    import torch

    (top, bottom), (left, right) = node.attrs["padding"]
    return torch.nn.functional.pad(x, (left, right, top, bottom), value=value)


def _conv2d(graph: Graph, node: Node, x: Any, weight: Any, bias: Any) -> Any:
    import torch

    attrs, ((top, bottom), (left, right)) = node.attrs, node.attrs["padding"]
    even = top == bottom and left == right
    x = x if even else _padded(node, x)
    y = torch.nn.functional.conv2d(
        x, weight, bias, attrs["stride"], (top, left) if even else 0, attrs["dilation"], attrs["groups"]
    )
    return _activate(node, y)


def _max_pool2d(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    padded = _padded(node, x, float("-inf"))
    return torch.nn.functional.max_pool2d(padded, node.attrs["kernel"], node.attrs["stride"])


def _avg_pool2d(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    return torch.nn.functional.avg_pool2d(x, node.attrs["kernel"], node.attrs["stride"])


def _resize(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    size, mode = node.attrs["size"], node.attrs["mode"]
    if mode == "bilinear":
        corners = node.attrs["coordinates"] == "align_corners"
        return torch.nn.functional.interpolate(x, size, mode=mode, align_corners=corners)
    exact = node.attrs["coordinates"] == "half_pixel"
    return torch.nn.functional.interpolate(x, size, mode="nearest-exact" if exact else "nearest")


def _channel_shuffle(graph: Graph, node: Node, x: Any) -> Any:
    groups = node.attrs["groups"]
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _reshape(graph: Graph, node: Node, x: Any) -> Any:
    flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    y = flat.reshape(len(x), *graph[node.output].shape[1:])
    return y.permute(0, 3, 1, 2) if y.ndim == 4 else y


def _leaky_relu(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    return torch.nn.functional.leaky_relu(x, node.attrs["slope"])


def _prelu(graph: Graph, node: Node, x: Any, slope: Any) -> Any:
    import torch

    return torch.nn.functional.prelu(x, slope.flatten())


def _elu(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    return torch.nn.functional.elu(x)


def _gelu(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    return torch.nn.functional.gelu(x)


def _depth_to_space(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    # PyTorch has the channels of a square next to each other, a Graph those of a pixel.
    block = node.attrs["block"]
    return torch.nn.functional.pixel_shuffle(x.unflatten(1, (block**2, -1)).transpose(1, 2).flatten(1, 2), block)


def _reflect_pad(graph: Graph, node: Node, x: Any) -> Any:
    import torch

    (top, bottom), (left, right) = node.attrs["padding"]
    return torch.nn.functional.pad(x, (left, right, top, bottom), mode="reflect")


def _concat(graph: Graph, node: Node, *parts: Any) -> Any:
    import torch

    axis = node.attrs["axis"]
    return torch.cat(parts, dim=(0, 2, 3, 1)[axis] if parts[0].ndim == 4 else axis)


def _broadcastable(x: Any, other: Any) -> Any:
    """`other`, with a constant [C] or [H,W,C] shaped to broadcast against an image `x` in NCHW."""
    if x.ndim == 4 and other.ndim == 3:
        return other.permute(2, 0, 1)
    return other.reshape(-1, 1, 1) if x.ndim == 4 and other.ndim == 1 and other.numel() > 1 else other


_ROWS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "linear": lambda graph, node, x, w, b: _activate(node, x @ w.T + b),
    "add": lambda graph, node, a, b: _activate(node, _broadcastable(b, a) + _broadcastable(a, b)),
    "mul": lambda graph, node, a, b: _activate(node, _broadcastable(b, a) * _broadcastable(a, b)),
    "concat": _concat,
    "slice": lambda graph, node, x: x[:, node.attrs["begin"] : node.attrs["end"]],
    "channel_shuffle": _channel_shuffle,
    "depth_to_space": _depth_to_space,
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "mean": lambda graph, node, x: x.mean((2, 3), keepdim=True),
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "reshape": _reshape,
    "relu": lambda graph, node, x: x.relu(),
    "relu6": lambda graph, node, x: x.clamp(0, 6),
    "hardswish": lambda graph, node, x: x * (x + 3).clamp(0, 6) / 6,
    "hardsigmoid": lambda graph, node, x: (x + 3).clamp(0, 6) / 6,
    "sigmoid": lambda graph, node, x: x.sigmoid(),
    "tanh": lambda graph, node, x: x.tanh(),
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "elu": _elu,
    "gelu": _gelu,
    "clip": lambda graph, node, x: x.clamp(node.attrs["low"], node.attrs["high"]),
}
