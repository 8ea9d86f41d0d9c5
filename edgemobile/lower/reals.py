"""Integers and float16 of a file as the reals that they stand for."""

from __future__ import annotations

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize

__all__ = ["as_reals"]

_CONVERSIONS = ("quantize", "dequantize", "round")


def as_reals(graph: Graph) -> Graph:
    """`graph` with float32 tensors only: constants dequantized, and no rounding between them.

    Raises Unsupported for integer constants without a scale that a node computes with.
    """
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        if node.op in _CONVERSIONS:
            same[node.output] = inputs[0]
        else:
            nodes.append(Node(node.op, inputs, node.output, node.attrs))
    outputs = tuple(same.get(name, name) for name in graph.outputs)
    read = {name for node in nodes for name in node.inputs}
    kept = {*graph.inputs, *outputs, *read, *(node.output for node in nodes)}
    tensors = {name: _real(tensor, read) for name, tensor in graph.tensors.items() if name in kept}
    return Graph(graph.name, graph.inputs, outputs, tuple(nodes), tensors)


def _real(tensor: Tensor, read: set[str]) -> Tensor:
    if tensor.data is None:
        return Tensor(tensor.name, tensor.shape)
    if tensor.qparams is not None:
        return Tensor.constant(tensor.name, dequantize(tensor.data, tensor.qparams))
    if tensor.data.dtype.kind != "f" and tensor.name in read:
        raise Unsupported(f"the constant {tensor.name} is {tensor.dtype} without a scale: its reals are not known")
    return Tensor.constant(tensor.name, tensor.data.astype(np.float32))
