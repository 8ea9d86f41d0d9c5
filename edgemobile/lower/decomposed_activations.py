"""Recognises hard-sigmoid and hard-swish computed from several ops, as in many early MobileNetV3s in PyTorch."""

from __future__ import annotations

import numpy as np

from edgemobile.graph import Graph, Node
from edgemobile.graph.affine import dequantize

__all__ = ["gate_input", "is_number", "recognise_activations"]


def recognise_activations(graph: Graph) -> Graph:
    """`graph` with one op for every hard-sigmoid and hard-swish; the ops it replaces may be left without a consumer.

    Given:  relu6(x + 3) / 6         Result: hardsigmoid(x)
    Given:  x * hardsigmoid(x)       Result: hardswish(x)
    Given:  x * relu6(x + 3) / 6     Result: hardswish(x)
    """
    nodes: list[Node] = []
    producers: dict[str, Node] = {}
    for node in graph.nodes:
        found = _gate(graph, producers, node) or node
        producers[node.output] = found
        nodes.append(found)
    return graph.replaced(nodes)


def _gate(graph: Graph, producers: dict[str, Node], node: Node) -> Node | None:
    if node.op != "mul":
        return None
    for a, b in (node.inputs, node.inputs[::-1]):
        producer = producers.get(a)
        if producer is None:
            continue
        if producer.op == "hardsigmoid" and producer.inputs == (b,):
            return Node("hardswish", (b,), node.output)
        if not is_number(graph, b, 1 / 6):
            continue
        if (x := gate_input(graph, producers, a)) is not None:
            return Node("hardsigmoid", (x,), node.output)
        for x, gate in (producer.inputs, producer.inputs[::-1]) if producer.op == "mul" else ():
            if gate_input(graph, producers, gate) == x:
                return Node("hardswish", (x,), node.output)
    return None


def gate_input(graph: Graph, producers: dict[str, Node], name: str) -> str | None:
    """x if `name` is relu6(x + 3), otherwise None."""
    plus = producers.get(name)
    if plus is not None and plus.op == "relu6":
        plus = producers.get(plus.inputs[0])
    elif plus is not None and plus.attrs.get("activation") != "relu6":
        return None
    for x, three in (plus.inputs, plus.inputs[::-1]) if plus is not None and plus.op == "add" else ():
        if is_number(graph, three, 3):
            return x
    return None


def is_number(graph: Graph, name: str, number: float) -> bool:
    """Whether `name` is a constant with one element, equal to `number`."""
    tensor = graph[name]
    if tensor.data is None or tensor.data.size != 1:
        return False
    value = tensor.data if tensor.qparams is None else dequantize(tensor.data, tensor.qparams)
    return bool(np.isclose(value.item(), number, rtol=1e-6))
