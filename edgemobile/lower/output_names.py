"""The names of a program's outputs, and the renaming of a Graph's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgemobile.graph import Graph
from edgemobile.graph.ir import unique_name
from edgemobile.graph.renaming import renamed

if TYPE_CHECKING:
    import torch

    from edgemobile.lower.module_trace import Program

__all__ = ["named_outputs", "with_output_names"]


def named_outputs(program: Program) -> list[tuple[str, torch.fx.Node]]:
    """(name, node) of every tensor that the program returns; None and numbers are left out.

    The name of a value in a dict is its key, or the path of keys to it: "out", "features.0". In a tuple or a list it is
    "output_0" and so on. A single tensor without a key has the name "".
    """
    import torch

    (end,) = (node for node in program.graph.nodes if node.op == "output")
    user_output = torch.export.graph_signature.OutputKind.USER_OUTPUT
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    leaves = [value for value, kind in zip(end.args[0], kinds, strict=True) if kind == user_output]
    named = [
        (_name(path, index), leaf)
        for index, (path, leaf) in enumerate(zip(_paths(program), leaves, strict=True))
        if isinstance(leaf, torch.fx.Node)
    ]
    return [("", named[0][1])] if len(named) == 1 and named[0][0].startswith("output_") else named


def _paths(program: Program) -> list[tuple[Any, ...]]:
    """The path of keys to each leaf of the value that forward() returns."""
    from torch.utils import _pytree as pytree

    spec = program.call_spec.out_spec
    result = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    try:
        found, _ = pytree.tree_flatten_with_path(result)
        return [tuple(map(_key, path)) for path, _ in found]
    except ValueError:  # a class that was registered with torch without names of its parts
        return [(index,) for index in range(spec.num_leaves)]


def _key(entry: Any) -> Any:
    """The key of a dict, the index of a sequence or the name of a field."""
    return next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name))


def _name(path: tuple[Any, ...], index: int) -> str:
    if not any(isinstance(key, str) and key for key in path):
        return f"output_{index}"
    return ".".join(map(str, path))


def with_output_names(graph: Graph, names: Sequence[str]) -> Graph:
    """`graph` with its outputs renamed to `names`; "" keeps the name. The Origin of an output has its old name.

    If another tensor has the new name already, it gets a number. An output with the name of an input gets one, too.
    """
    wanted: dict[str, str] = {}
    for tensor, name in zip(graph.outputs, names, strict=True):
        wanted[tensor] = unique_name(name, {*graph.inputs, *wanted.values()}) if name else tensor
    for tensor in graph.tensors:
        if tensor not in wanted and tensor in wanted.values():
            wanted[tensor] = unique_name(tensor, {*graph.tensors, *wanted.values()})
    changed = {tensor: name for tensor, name in wanted.items() if tensor != name}
    return renamed(graph, changed) if changed else graph
