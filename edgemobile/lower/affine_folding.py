"""Products with and sums of a constant per channel, as part of the layer before them: batch norm that stands unfolded.

    mul(layer(x), k)                   w' = w * k, b' = b * k
    add(layer(x), c)                   w' = w,     b' = b + c
    depthwise 1x1 of layer(x), k, c    w' = w * k, b' = b * k + c

Folded in float64, and only where nothing else reads the layer and it has no activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.ir import unique_name
from edgemobile.graph.padding import unpadded

__all__ = ["fold_affine"]


def fold_affine(graph: Graph) -> Graph:
    """`graph` with every scale and offset per channel behind a layer folded into that layer. It takes their name."""
    return _Folding(graph).result()


@dataclass
class _Folding:
    graph: Graph
    nodes: dict[str, Node] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # f64 of the constants that were changed

    def result(self) -> Graph:
        for node in self.graph.nodes:
            found = self._affine(node)
            host = None if found is None else self._host(found[0])
            if found is None or host is None:
                self.nodes[node.output] = node
            else:
                del self.nodes[host.output]
                self.nodes[node.output] = self._folded(host, node, *found[1:])
        constants = [Tensor.constant(name, data.astype(np.float32)) for name, data in self.values.items()]
        return self.graph.replaced(self.nodes.values(), constants)

    def _affine(self, node: Node) -> tuple[str, np.ndarray, np.ndarray] | None:
        """(x, scale, offset), each f64[C] or f64[1], where `node` gives x * scale + offset."""
        if node.op in ("add", "mul"):
            for x, name in (node.inputs, node.inputs[::-1]):
                constant = self._per_channel(x, name)
                if constant is not None:
                    return (x, constant, np.zeros(1)) if node.op == "mul" else (x, np.ones(1), constant)
        if node.op != "conv2d":
            return None
        weight, bias = (self.graph[name].data for name in node.inputs[1:])
        plain = node.attrs["stride"] == (1, 1) and node.attrs["padding"] == unpadded
        if weight is None or bias is None or not plain or weight.shape != (node.attrs["groups"], 1, 1, 1):
            return None
        return node.inputs[0], weight.ravel().astype(np.float64), bias.astype(np.float64)

    def _per_channel(self, x: str, name: str) -> np.ndarray | None:
        """f64[C] or f64[1] of a constant that is one value, or one for each channel of `x`."""
        data, shape = self.graph[name].data, self.graph[x].shape
        if data is None or self.graph[x].is_constant or (data.size != 1 and data.shape[-1:] != shape[-1:]):
            return None
        return data.ravel().astype(np.float64) if data.size in (1, shape[-1]) and data.ndim <= len(shape) else None

    def _host(self, name: str) -> Node | None:
        """The layer that makes `name` for one reader; None where there is none."""
        host = self.nodes.get(name)
        alone = len(self.graph.consumers(name)) == 1 and name not in self.graph.outputs
        return host if host is not None and host.has_weights and not host.attrs["activation"] and alone else None

    def _folded(self, host: Node, node: Node, scale: np.ndarray, offset: np.ndarray) -> Node:
        x, weight, bias = host.inputs
        w, b = self._value(weight), self._value(bias)
        constants = (
            self._changed(weight, w * scale.reshape(-1, *[1] * (w.ndim - 1)), host),
            self._changed(bias, b * scale + offset, host),
        )
        return Node(host.op, (x, *constants), node.output, {**host.attrs, "activation": node.attrs["activation"]})

    def _value(self, name: str) -> np.ndarray:
        if name in self.values:
            return self.values[name]
        data = self.graph[name].data
        assert data is not None
        return data.astype(np.float64)

    def _changed(self, name: str, value: np.ndarray, host: Node) -> str:
        """The name of a constant with a new value; a new one where other layers read it as it is."""
        if name not in self.values and len(self.graph.consumers(name)) > 1:
            name = unique_name(f"{host.output}.{name}", {*self.graph.tensors, *self.values})
        self.values[name] = value
        return name
