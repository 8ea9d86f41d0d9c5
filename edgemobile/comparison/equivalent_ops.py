"""Rewrites a file's graph in the ops that the reference uses:

    layer(x), relu6(layer(x) + 3)       one layer computed twice, the second with 3 in its bias: an add after the first
    x * relu6(x + 3)                    6 times hardswish(x), if the 1/6 is in a later layer's weights
    relu6(x + 3) / 6, and so on         hardsigmoid, hardswish (edgemobile.lower.decomposed_activations)
    ReLU and ReLU6 after a layer        the layer's activation

If the 3 is only in the bias, a hard-sigmoid and a ReLU6 look the same without the reference; `names` resolves this.
"""

from __future__ import annotations

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.lower.decomposed_activations import gate_input, recognise_activations
from edgemobile.lower.fusion import fuse_activations

__all__ = ["SIXTH", "as_lowered", "real"]

SIXTH = " / 6"  # the suffix of the name of a tensor of which the file has 6 times the value
_THREE, _SIX = "the number 3", "the number 6"
# The 3 in an int32 bias is rounded to a step of the accumulator.
_STEP = 0.01


def as_lowered(graph: Graph) -> Graph:
    """`graph` in the reference's ops. Its tensors keep their names; new tensors are only intermediate."""
    graph = _without_duplicate_layers(graph)
    return fuse_activations(_undivided(_without_leftovers(recognise_activations(graph), graph)))


def real(tensor: Tensor) -> np.ndarray | None:
    """The real values of a constant; None for an activation."""
    if tensor.data is None:
        return None
    return tensor.data if tensor.qparams is None else dequantize(tensor.data, tensor.qparams)


def _without_duplicate_layers(graph: Graph) -> Graph:
    first: dict[tuple[str, ...], Node] = {}
    nodes = []
    for node in graph.nodes:
        if node.has_weights:
            other = first.setdefault(node.inputs[:2], node)
            if other is not node and _is_gate_of(graph, node, other):
                node = Node("add", (other.output, _THREE), node.output, {"activation": "relu6"})
        nodes.append(node)
    return graph.replaced(nodes, [_number(_THREE, 3)])


def _without_leftovers(graph: Graph, before: Graph) -> Graph:
    """`graph` without the nodes whose outputs only `before` reads. Outputs that neither reads are kept, because an op
    that a Graph cannot represent may read them."""
    once = {name for node in before.nodes for name in node.inputs}
    read, live = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if node.output in read or node.output not in once:
            read.update(node.inputs)
            live.append(node)
    return graph.replaced(reversed(live))


def _is_gate_of(graph: Graph, node: Node, plain: Node) -> bool:
    """Whether a layer computes relu6(y + 3), where `plain` computes y."""
    low, high = (real(graph[each.inputs[2]]) for each in (plain, node))
    alike = plain.attrs == {**node.attrs, "activation": ""} and node.attrs["activation"] == "relu6"
    return alike and low is not None and high is not None and bool(np.allclose(high - low, 3, atol=_STEP))


def _undivided(graph: Graph) -> Graph:
    makers = {node.output: node for node in graph.nodes}
    nodes, between = [], [_number(_SIX, 6)]
    for node in graph.nodes:
        pairs = (node.inputs, node.inputs[::-1]) if node.op == "mul" else ()
        x = next((a for a, b in pairs if gate_input(graph, makers, b) == a), None)
        if x is None:
            nodes.append(node)
            continue
        sixth = Tensor(f"{node.output}{SIXTH}", graph[node.output].shape)
        between.append(sixth)
        nodes.append(Node("hardswish", (x,), sixth.name))
        nodes.append(Node("mul", (sixth.name, _SIX), node.output, {"activation": ""}))
    return graph.replaced(nodes, between)


def _number(name: str, value: float) -> Tensor:
    return Tensor.constant(name, np.array(value, np.float32))
