"""Dequantizes the integers and float16 values of a file to float32."""

from __future__ import annotations

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize

__all__ = ["dequantized_graph"]

_CONVERSIONS = ("quantize", "dequantize", "round")


def dequantized_graph(graph: Graph) -> Graph:
    """`graph` with float32 tensors only: constants are dequantized and activations are not rounded.

    If the zero point of an activation is its lowest integer, saturation acts as ReLU; its node gets one.

    Raises Unsupported for integer constants without a scale that a node computes with.
    """
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        if node.op in _CONVERSIONS:
            same[node.output] = inputs[0]
        else:
            cut = _saturates_as(graph[node.output]) if node.attrs.get("activation") == "" else ""
            attrs = {**node.attrs, "activation": cut} if cut else node.attrs
            nodes.append(Node(node.op, inputs, node.output, attrs))
    outputs = tuple(same.get(name, name) for name in graph.outputs)
    read = {name for node in nodes for name in node.inputs}
    kept = {*graph.inputs, *outputs, *read, *(node.output for node in nodes)}
    tensors = {name: _dequantized(tensor, read) for name, tensor in graph.tensors.items() if name in kept}
    return Graph(graph.name, graph.inputs, outputs, tuple(nodes), tensors)


def _saturates_as(tensor: Tensor) -> str:
    """The activation that has the same effect as the range of an integer tensor; "" if it has negative values."""
    if tensor.qparams is None or tensor.dtype not in ("int8", "uint8"):
        return ""
    limits = np.iinfo(tensor.dtype)
    if tensor.qparams.zero_point[0] != limits.min:
        return ""
    scale = float(tensor.qparams.scale[0])
    return "relu6" if abs(scale * (limits.max - limits.min) - 6) < scale / 2 else "relu"


def _dequantized(tensor: Tensor, read: set[str]) -> Tensor:
    if tensor.data is None:
        return Tensor(tensor.name, tensor.shape)
    if tensor.qparams is not None:
        return Tensor.constant(tensor.name, dequantize(tensor.data, tensor.qparams))
    if tensor.data.dtype.kind != "f" and tensor.name in read:
        raise Unsupported(f"the constant {tensor.name} is {tensor.dtype} without a scale: its values are not known")
    return Tensor.constant(tensor.name, tensor.data.astype(np.float32))
