"""A gate of its own: hard-swish of a layer computed from two convolutions instead of one and an addition.

    x = conv(input);  gate = relu6(x + 3);            y = x * gate      the delegated form
    x = conv(input);  gate = relu6(conv(input) + 3);  y = x * gate      this one: the second bias is 3 larger

Both are the same function. In the first, int8 makes the gate from integers whose step serves the whole range of x, and
x must keep its scale, since hard-swish lets none through. In the second the gate has its own 256 steps, and x, which
only the product reads now, may have its channels equalized. It costs the layer's multiplications once more: little in
the stem, where it matters most, because its few channels differ widely and every later layer inherits their noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.quant.hswish import is_gate

__all__ = ["GATES", "split_gates"]


def split_gates(graph: Graph, wanted: Callable[[Node], bool]) -> tuple[Graph, list[str]]:
    """(`graph` in the new form at the convolutions that are `wanted`, the names of those convolutions).

    `graph` is in the delegated form; a convolution that more than a hard-swish reads is left alone.
    """
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    split: dict[str, Node] = {}
    for node in graph.nodes:
        source = split.get(node.inputs[0])
        if source is not None and node.op == "add":
            gate, constants = _gate(graph, source, node)
            nodes.append(gate)
            tensors |= {tensor.name: tensor for tensor in constants}
            continue
        if node.op == "conv2d" and _feeds_one_hswish(graph, node) and wanted(node):
            split[node.output] = node
        nodes.append(node)
    return graph.replaced(nodes, tensors.values()), list(split)


def _gate(graph: Graph, source: Node, add: Node) -> tuple[Node, tuple[Tensor, Tensor]]:
    x, weight, bias = source.inputs
    weights, offsets = graph[weight].data, graph[bias].data
    assert weights is not None
    assert offsets is not None
    constants = (
        Tensor.constant(f"{add.output}.weight", weights),
        Tensor.constant(f"{add.output}.bias", (offsets + np.float32(3)).astype(np.float32)),
    )
    names = (x, *(tensor.name for tensor in constants))
    return Node("conv2d", names, add.output, {**source.attrs, "activation": "relu6"}), constants


def _feeds_one_hswish(graph: Graph, node: Node) -> bool:
    consumers = graph.consumers(node.output)
    if node.attrs["activation"] or node.output in graph.outputs or len(consumers) != 2:
        return False
    gate = next((other for other in consumers if other.op == "add"), None)
    product = next((other for other in consumers if other.op == "mul"), None)
    if gate is None or product is None or set(product.inputs) != {node.output, gate.output}:
        return False
    return is_gate(graph, gate)


def _is_stem(graph: Graph, node: Node) -> bool:
    """Whether a layer reads the image itself."""
    return node.inputs[0] in graph.inputs


def _is_depthwise(graph: Graph, node: Node) -> bool:
    return node.attrs["groups"] == graph[node.output].shape[-1] > 1


# Which layers a recipe's `split_gates` asks for.
GATES: dict[str, Callable[[Graph, Node], bool]] = {
    "none": lambda graph, node: False,
    "stem": _is_stem,
    "depthwise": lambda graph, node: _is_stem(graph, node) or _is_depthwise(graph, node),
    "all": lambda graph, node: True,
}
