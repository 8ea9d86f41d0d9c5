"""A Graph with other names for some of its tensors; an Origin says what PyTorch calls each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgemobile.graph.ir import Graph, Node
from edgemobile.graph.origin import Origin

__all__ = ["by_path", "renamed"]


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """`graph` with its tensors called by `names` (old -> new). One without an Origin gets one, of its old name."""
    tensors = {}
    for old, tensor in graph.tensors.items():
        new = names.get(old, old)
        origin = tensor.origin or (Origin(old) if new != old else None)
        tensors[new] = replace(tensor, name=new, origin=None if origin == Origin(new) else origin)

    def named(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    nodes = (Node(node.op, named(node.inputs), names.get(node.output, node.output), node.attrs) for node in graph.nodes)
    return Graph(graph.name, named(graph.inputs), named(graph.outputs), tuple(nodes), tensors)


def by_path(graph: Graph) -> Graph:
    """`graph` with every tensor that is simply what PyTorch calls otherwise, an output with a name of its own, by that
    name."""
    paths = {name: origin.of for name, origin in graph.origins.items() if origin == Origin(origin.of)}
    return renamed(graph, paths) if paths else graph
