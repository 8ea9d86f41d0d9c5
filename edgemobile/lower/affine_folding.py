"""Folds products and sums with a constant per channel, such as unfolded batch norm, into the layer before them.

    mul(layer(x), k)                   w' = w * k, b' = b * k
    add(layer(x), c)                   w' = w,     b' = b + c
    depthwise 1x1 of layer(x), k, c    w' = w * k, b' = b * k + c

The folding is in float64, and only if the layer has no other consumer and no activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.padding import unpadded

__all__ = ["affine", "fold_affine"]


def affine(graph: Graph, node: Node) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(x, scale, offset) if `node` computes x * scale + offset, then its activation; scale, offset f64[C] or f64[1]."""
    if node.op in ("add", "mul"):
        for x, name in (node.inputs, node.inputs[::-1]):
            constant = _per_channel(graph, x, name)
            if constant is not None:
                return (x, constant, np.zeros(1)) if node.op == "mul" else (x, np.ones(1), constant)
    if node.op != "conv2d":
        return None
    weight, bias = (graph[name].data for name in node.inputs[1:])
    plain = node.attrs["stride"] == (1, 1) and node.attrs["padding"] == unpadded
    if weight is None or bias is None or not plain or weight.shape != (node.attrs["groups"], 1, 1, 1):
        return None
    return node.inputs[0], weight.ravel().astype(np.float64), bias.astype(np.float64)


def _per_channel(graph: Graph, x: str, name: str) -> np.ndarray | None:
    """The constant `name` as f64[C] or f64[1]; None if it is not one value, or one for each channel of `x`."""
    data, shape = graph[name].data, graph[x].shape
    if data is None or graph[x].is_constant or (data.size != 1 and data.shape[-1:] != shape[-1:]):
        return None
    return data.ravel().astype(np.float64) if data.size in (1, shape[-1]) and data.ndim <= len(shape) else None


def fold_affine(graph: Graph) -> Graph:
    """`graph` with every scale and offset per channel folded into the layer before it, which takes their name.

    Each constant of `graph` has one consumer.
    """
    return _Folding(graph).result()


@dataclass
class _Folding:
    graph: Graph
    nodes: dict[str, Node] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # changed constants, f64

    def result(self) -> Graph:
        for node in self.graph.nodes:
            found = affine(self.graph, node)
            layer = None if found is None else self._layer(found[0])
            if found is None or layer is None:
                self.nodes[node.output] = node
            else:
                del self.nodes[layer.output]
                self.nodes[node.output] = self._folded(layer, node, *found[1:])
        constants = [Tensor.constant(name, data.astype(np.float32)) for name, data in self.values.items()]
        return self.graph.replaced(self.nodes.values(), constants)

    def _layer(self, name: str) -> Node | None:
        """The layer that produces `name`, if it has one consumer and no activation; otherwise None."""
        layer = self.nodes.get(name)
        if layer is None or not layer.has_weights or layer.attrs["activation"]:
            return None
        return layer if len(self.graph.consumers(name)) == 1 and name not in self.graph.outputs else None

    def _folded(self, layer: Node, node: Node, scale: np.ndarray, offset: np.ndarray) -> Node:
        x, weight, bias = layer.inputs
        w, b = self._value(weight), self._value(bias)
        constants = (
            self._changed(weight, w * scale.reshape(-1, *[1] * (w.ndim - 1))),
            self._changed(bias, b * scale + offset),
        )
        return Node(layer.op, (x, *constants), node.output, {**layer.attrs, "activation": node.attrs["activation"]})

    def _value(self, name: str) -> np.ndarray:
        if name in self.values:
            return self.values[name]
        data = self.graph[name].data
        assert data is not None
        return data.astype(np.float64)

    def _changed(self, name: str, value: np.ndarray) -> str:
        self.values[name] = value
        return name
