"""Bounds of every channel of every tensor for all possible inputs, by interval arithmetic.

If both bounds of a channel are the same number, it has this value at every pixel of every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgemobile.graph import Graph, Node
from edgemobile.graph.padding import unpadded

__all__ = ["ELEMENTWISE", "Bounds", "channel_bounds"]


@dataclass(frozen=True)
class Bounds:
    """low f64[C] and high f64[C]; infinite if unknown."""

    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """bool[C]: the channels with one value everywhere, the one in `low`."""
        return self.low == self.high

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Bounds:
        """The bounds after a function that never decreases."""
        return Bounds(function(self.low), function(self.high))


def channel_bounds(graph: Graph) -> dict[str, Bounds]:
    """Tensor name -> the bounds of its channels (its last dimension); constants are left out."""
    bounds = {name: _unknown(graph[name].shape) for name in graph.inputs}
    for node in graph.nodes:
        bounds[node.output] = _of_node(graph, node, bounds)
    return bounds


def _unknown(shape: tuple[int, ...]) -> Bounds:
    return Bounds(np.full(shape[-1], -np.inf), np.full(shape[-1], np.inf))


def _of_node(graph: Graph, node: Node, bounds: dict[str, Bounds]) -> Bounds:
    if node.has_weights:
        return _activated(node, _layer(graph, node, bounds))
    channels = graph[node.output].shape[-1]
    operands = [bounds[name] if name in bounds else _of_constant(graph, name, channels) for name in node.inputs]
    if node.op in ELEMENTWISE:
        return _activated(node, ELEMENTWISE[node.op](*(_widened(each, channels) for each in operands)))
    if node.op in _AVERAGES:
        return operands[0]
    if node.op == "concat" and node.attrs["axis"] == len(graph[node.output].shape) - 1:
        low, high = (np.concatenate([getattr(each, end) for each in operands]) for end in ("low", "high"))
        return Bounds(low, high)
    if node.op == "reshape" and channels % len(operands[0].low) == 0:
        return _widened(operands[0], channels)
    return _unknown(graph[node.output].shape)


# Every output value is one value, or an average of values, of the same channel.
_AVERAGES = ("mean", "max_pool2d", "avg_pool2d", "resize", "reflect_pad")


def _of_constant(graph: Graph, name: str, channels: int) -> Bounds:
    """The bounds of a constant operand: the smallest and largest value of each channel."""
    data = graph[name].data
    assert data is not None
    values = np.atleast_1d(data).astype(np.float64)
    rows = values.reshape(-1, values.shape[-1])
    return _widened(Bounds(rows.min(axis=0), rows.max(axis=0)), channels)


def _widened(bounds: Bounds, channels: int) -> Bounds:
    """One channel broadcast to `channels`, or the channels of an image repeated for each of its pixels."""
    times = channels // len(bounds.low)
    return bounds if times == 1 else Bounds(np.tile(bounds.low, times), np.tile(bounds.high, times))


def _layer(graph: Graph, node: Node, bounds: dict[str, Bounds]) -> Bounds:
    """bias + the sum of each product's lowest (highest) value. Padding adds zeros to the input."""
    x, weight_name, bias_name = node.inputs
    weight, bias = graph[weight_name].data, graph[bias_name].data
    assert weight is not None
    assert bias is not None
    given = bounds[x]
    if node.attrs.get("padding", unpadded) != unpadded:
        given = Bounds(np.minimum(given.low, 0), np.maximum(given.high, 0))
    groups = node.attrs.get("groups", 1)
    # A linear layer may read [N,1,1,C]; its channels are the last dimension as well.
    columns = weight.astype(np.float64).reshape(groups, len(weight) // groups, -1, weight.shape[-1])
    low, high = (end.reshape(groups, 1, 1, -1) for end in (given.low, given.high))
    products = _product(columns, low), _product(columns, high)
    sums = (choose(*products).sum(axis=(2, 3)).reshape(-1) + bias for choose in (np.minimum, np.maximum))
    return Bounds(*sums)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b, and 0 if either is 0, even if the other is infinite."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0.0, a * b)


def _activated(node: Node, bounds: Bounds) -> Bounds:
    match node.attrs.get("activation", ""):
        case "relu":
            return _relu(bounds)
        case "relu6":
            return _relu6(bounds)
        case _:
            return bounds


def _relu(x: Bounds) -> Bounds:
    return x.mapped(lambda end: np.maximum(end, 0.0))


def _relu6(x: Bounds) -> Bounds:
    return x.mapped(lambda end: np.clip(end, 0.0, 6.0))


def _hardsigmoid(x: Bounds) -> Bounds:
    return x.mapped(lambda end: np.clip(end + 3.0, 0.0, 6.0) / 6.0)


def _hardswish(x: Bounds) -> Bounds:
    """Hard-swish falls from 0 at -3 to -3/8 at -3/2 and then rises, so its highest value is at one of the ends."""
    ends = [(end := np.maximum(side, -3.0)) * np.minimum(end + 3.0, 6.0) / 6.0 for side in (x.low, x.high)]
    lowest = np.where((x.low < -1.5) & (x.high > -1.5), -0.375, np.minimum(*ends))
    return Bounds(lowest, np.maximum(*ends))


def _sigmoid(x: Bounds) -> Bounds:
    return x.mapped(lambda end: 1.0 / (1.0 + np.exp(-np.clip(end, -700, 700))))


def _tanh(x: Bounds) -> Bounds:
    return x.mapped(np.tanh)


def _add(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(a.low + b.low, a.high + b.high)


def _mul(a: Bounds, b: Bounds) -> Bounds:
    products = np.stack([_product(left, right) for left in (a.low, a.high) for right in (b.low, b.high)])
    return Bounds(products.min(axis=0), products.max(axis=0))


# Elementwise ops, with broadcasting -> the bounds of their output.
ELEMENTWISE: dict[str, Callable[..., Bounds]] = {
    "add": _add,
    "mul": _mul,
    "relu": _relu,
    "relu6": _relu6,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}
