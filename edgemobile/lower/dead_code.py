"""Removes branches that lead to no output, such as an auxiliary head whose result the net does not return."""

from __future__ import annotations

from edgemobile.graph import Graph, Node

__all__ = ["without_dead_code"]


def without_dead_code(graph: Graph) -> Graph:
    """`graph` with only the nodes that an output depends on; all its inputs are kept."""
    read = set(graph.outputs)
    live: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in read:
            read.update(node.inputs)
            live.append(node)
    return graph.replaced(reversed(live))
