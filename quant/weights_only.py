"""Weight-only quantization: float16 or int8 weights, which the runtime dequantizes when it loads the file.

Only the weights of convolutions and linear layers change. Biases, activations and arithmetic stay float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.quant.qparams import weight_qparams, weight_tensor

__all__ = ["to_float16", "to_int8_weights"]


def to_float16(graph: Graph) -> Graph:
    """`graph` with its weights stored as float16, saturated at 65504."""
    limit = float(np.finfo(np.float16).max)
    return _stored(graph, lambda name, data: Tensor.constant(name, np.clip(data, -limit, limit).astype(np.float16)))


def to_int8_weights(graph: Graph) -> Graph:
    """`graph` with its weights stored as int8, symmetric, with one scale per output channel."""

    def store(name: str, data: np.ndarray) -> Tensor:
        qparams = weight_qparams(data, bias=np.zeros(len(data)), input_scale=1.0)
        return weight_tensor(name, data, qparams)

    return _stored(graph, store)


def _stored(graph: Graph, store: Callable[[str, np.ndarray], Tensor]) -> Graph:
    """Replace each weight by its `store`d form and a `dequantize` node."""
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.has_weights:
            x, weight, bias = node.inputs
            data = graph[weight].data
            assert data is not None
            tensors[weight] = store(weight, data)
            real = f"{weight}.dequantized"
            tensors[real] = Tensor(real, data.shape)
            nodes.append(Node("dequantize", (weight,), real))
            node = Node(node.op, (x, real, bias), node.output, node.attrs)
        nodes.append(node)
    return graph.replaced(nodes, tensors.values())
