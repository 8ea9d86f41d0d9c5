"""A Graph with other names for some of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgemobile.graph.ir import Graph, Node
from edgemobile.graph.origin import Origin

__all__ = ["by_path", "relabelled", "renamed"]


def relabelled(graph: Graph, names: Mapping[str, str]) -> Graph:
    """`graph` with its tensors called by `names` (old -> new), and their Origins as they are."""

    def named(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    nodes = (Node(node.op, named(node.inputs), names.get(node.output, node.output), node.attrs) for node in graph.nodes)
    tensors = {names.get(old, old): replace(tensor, name=names.get(old, old)) for old, tensor in graph.tensors.items()}
    return Graph(graph.name, named(graph.inputs), named(graph.outputs), tuple(nodes), tensors)


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """As `relabelled`; a tensor without an Origin gets one, of its old name."""
    told = {}
    for old, tensor in graph.tensors.items():
        new = names.get(old, old)
        origin = tensor.origin or (Origin(old) if new != old else None)
        told[old] = replace(tensor, origin=None if origin == Origin(new) else origin)
    return relabelled(replace(graph, tensors=told), names)


def by_path(graph: Graph) -> Graph:
    """`graph` with every tensor that is simply what PyTorch calls otherwise, an output with a name of its own, by that
    name."""
    paths = {name: origin.of for name, origin in graph.origins.items() if origin == Origin(origin.of)}
    return renamed(graph, paths) if paths else graph
