"""Removes channel shuffles after a layer by changing the order of its rows."""

from __future__ import annotations

import numpy as np

from edgemobile.graph import Graph, Node, Tensor

__all__ = ["shuffle_rows"]


def shuffle_rows(graph: Graph) -> Graph:
    """`graph` without the channel shuffles whose input is a layer that nothing else reads.

    Given:  y = channel_shuffle(conv(x, w) + b)
    Result: y = conv(x, w') + b', where w' and b' have the rows of w and b in the order of the shuffled channels
    """
    nodes: list[Node] = []
    constants: list[Tensor] = []
    for node in graph.nodes:
        layer = graph.producer(node.inputs[0]) if node.op == "channel_shuffle" else None
        if layer is None or not _may_change(graph, layer):
            nodes.append(node)
            continue
        _, weight, bias = layer.inputs
        order = np.arange(graph[node.output].shape[-1]).reshape(node.attrs["groups"], -1).T.ravel()
        constants += [_rows(graph, name, order) for name in (weight, bias)]
        nodes[nodes.index(layer)] = Node(layer.op, layer.inputs, node.output, layer.attrs)
    return graph.replaced(nodes, constants)


def _may_change(graph: Graph, layer: Node) -> bool:
    """Whether the rows of a layer may change their order: it and its constants have no other reader."""
    if not layer.has_weights or layer.attrs.get("groups", 1) != 1 or layer.output in graph.outputs:
        return False
    return all(len(graph.consumers(name)) == 1 for name in (layer.output, *layer.inputs[1:]))


def _rows(graph: Graph, name: str, order: np.ndarray) -> Tensor:
    data = graph[name].data
    assert data is not None
    return Tensor.constant(name, np.ascontiguousarray(data[order]))
