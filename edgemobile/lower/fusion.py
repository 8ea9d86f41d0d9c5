"""Fuses ReLU and ReLU6 into the op before them."""

from __future__ import annotations

from edgemobile.graph import Graph, Node

__all__ = ["fuse_activations"]


def fuse_activations(graph: Graph) -> Graph:
    """relu and relu6 become the `activation` of the conv2d, linear or add before them, if it has no other consumer.

    A depth_to_space may be between them.
    """
    nodes: list[Node] = []
    index_of: dict[str, int] = {}
    for node in graph.nodes:
        before = index_of.get(node.inputs[0])
        if node.op in ("relu", "relu6") and before is not None and _moves_only(graph, nodes[before]):
            # It commutes with an op that only moves values.
            moved, layer = nodes[before], index_of.get(nodes[before].inputs[0])
            if layer is not None and _takes_activation(graph, nodes[layer]):
                old = nodes[layer]
                nodes[layer] = Node(old.op, old.inputs, old.output, {**old.attrs, "activation": node.op})
                nodes[before] = Node(moved.op, moved.inputs, node.output, moved.attrs)
                index_of[node.output] = before
                continue
        if node.op in ("relu", "relu6") and before is not None and _takes_activation(graph, nodes[before]):
            fused = nodes[before]
            nodes[before] = Node(fused.op, fused.inputs, node.output, {**fused.attrs, "activation": node.op})
            index_of[node.output] = before
        else:
            index_of[node.output] = len(nodes)
            nodes.append(node)
    return graph.replaced(nodes)


def _moves_only(graph: Graph, node: Node) -> bool:
    alone = len(graph.consumers(node.output)) == 1 and node.output not in graph.outputs
    return node.op == "depth_to_space" and alone


def _takes_activation(graph: Graph, node: Node) -> bool:
    return (
        node.op in ("conv2d", "linear", "add")
        and not node.attrs["activation"]
        and len(graph.consumers(node.output)) == 1
        and node.output not in graph.outputs
    )
