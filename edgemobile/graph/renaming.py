"""Renames tensors of a Graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgemobile.graph.ir import Graph, Node
from edgemobile.graph.origin import Origin

__all__ = ["by_path", "relabelled", "renamed"]


def relabelled(graph: Graph, names: Mapping[str, str]) -> Graph:
    """`graph` with tensors renamed by `names` (old -> new); Origins are unchanged."""

    def named(old: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    nodes = (Node(node.op, named(node.inputs), names.get(node.output, node.output), node.attrs) for node in graph.nodes)
    tensors = {names.get(old, old): replace(tensor, name=names.get(old, old)) for old, tensor in graph.tensors.items()}
    return Graph(graph.name, named(graph.inputs), named(graph.outputs), tuple(nodes), tensors)


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """As `relabelled`, but a renamed tensor without an Origin gets one with its old name."""
    tensors = {}
    for old, tensor in graph.tensors.items():
        new = names.get(old, old)
        origin = tensor.origin or (Origin(old) if new != old else None)
        tensors[old] = replace(tensor, origin=None if origin == Origin(new) else origin)
    return relabelled(replace(graph, tensors=tensors), names)


def by_path(graph: Graph) -> Graph:
    """`graph` with the names of PyTorch for tensors that were only renamed, such as outputs."""
    paths = {name: origin.of for name, origin in graph.origins.items() if origin == Origin(origin.of)}
    return renamed(graph, paths) if paths else graph
