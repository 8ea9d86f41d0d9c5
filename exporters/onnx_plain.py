"""Rewrites any ONNX file with the ops that the readers know. For reading only.

    Constant nodes; values computed from  initializers
    stored shapes and axes; a stored
    weight reshaped or transposed
    QLinearConv, QLinearAdd, QGemm, ...   the float op between DequantizeLinear and QuantizeLinear
    MatMul with a constant and the Add    Gemm with transB=1
    after it; Gemm with transB=0
    Erf and the ops around it             Gelu

Tensors keep their names, except for a float tensor `t` that some ops read directly and others quantized: its new name
is `t.real`. The operands and the result of a quantized operator, dequantized, are `t:dq` and `t:raw`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile.errors import require
from edgemobile.exporters.onnx_contents import onnx
from edgemobile.exporters.onnx_gelu import name_gelus

__all__ = ["REAL", "plain"]

# The suffix of a float tensor that is read both directly and quantized.
REAL = ".real"

_WHOLE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def plain(model: Any) -> Any:
    """A rewritten copy of a ModelProto, with the shapes that onnx can infer."""
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    _store_constants(rewritten.graph)
    _fold(rewritten)
    _rename_float_tensors(rewritten.graph)
    _split_operators(rewritten.graph)
    _name_gemms(rewritten.graph)
    name_gelus(rewritten.graph)
    return _described(rewritten)


def _described(model: Any) -> Any:
    """`model` with the shape of every value."""
    values = (*model.graph.value_info, *model.graph.output)
    stated = {value.name for value in values if value.type.tensor_type.HasField("shape")}
    computed = {name for node in model.graph.node for name in node.output if name}
    if computed <= stated:
        return model
    # The file may have the shape of a stored value before it was transposed here.
    stored = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in stored]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # An error about a missing shape is raised where it is needed.
        return model


# ---- Constant nodes -------------------------------------------------------------------------------------------------


def _store_constants(graph: Any) -> None:
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and (tensor := _constant(node)) is not None:
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


# Ops that only change the shape or order of stored values.
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity")


def _fold(model: Any) -> None:
    """Compute ops on stored integers (shapes, axes and pads), and reshapes and transposes of stored values."""
    reference: Any = require("onnx.reference", "export")
    graph, kept = model.graph, []
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shapes = _known_shapes(graph)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
            stored[node.output[0]] = onnx.numpy_helper.from_array(shapes[node.input[0]], node.output[0])
            graph.initializer.append(stored[node.output[0]])
            continue
        given = [stored.get(name) for name in node.input if name]
        whole = all(tensor is not None and tensor.data_type in _WHOLE for tensor in given)
        view = node.op_type in _VIEWS and all(tensor is not None for tensor in given)
        if not (given and (whole or view) and node.domain == "") or node.op_type == "DequantizeLinear":
            kept.append(node)
            continue
        feeds = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in given if tensor is not None}
        arrays = reference.ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
        for name, array in zip(node.output, arrays, strict=True):
            stored[name] = onnx.numpy_helper.from_array(np.asarray(array), name)
            graph.initializer.append(stored[name])
    _replace_nodes(graph, kept)


def _known_shapes(graph: Any) -> dict[str, np.ndarray]:
    """i64[rank] of every value without a free dimension."""
    found = {}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.dim_value > 0 for dim in dims):
            found[value.name] = np.array([dim.dim_value for dim in dims], np.int64)
    return found


def _constant(node: Any) -> Any:
    """The TensorProto of a Constant node; None for strings and sparse tensors, which no reader supports."""
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtypes:
        return None
    return onnx.numpy_helper.from_array(np.array(value, dtypes[attribute.name]), node.output[0])


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


# ---- float tensors that are also read quantized ---------------------------------------------------------------------


def _rename_float_tensors(graph: Any) -> None:
    kinds: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            kinds.setdefault(name, set()).add(node.op_type)
    made = {name for node in graph.node if node.op_type != "DequantizeLinear" for name in node.output}
    own = {name for name in made if "QuantizeLinear" in kinds.get(name, ()) and len(kinds[name]) > 1}
    own -= {value.name for value in graph.output}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}{REAL}" if name in own else name for name in names]
    for value in graph.value_info:
        value.name += REAL if value.name in own else ""


# ---- quantized operators --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operator:
    """A quantized operator and the float op that it computes.

    `operands` and `result` are the indices of tensor, scale and zero point in its inputs (the tensor of the result is
    its output). `bias` is the index of the int32 bias, whose scale is the product of the first two scales. `drops` are
    attributes that the float op does not have.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int]
    bias: int | None = None
    drops: tuple[str, ...] = ()


_ONE, _TWO = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5))
_OPERATORS = {
    "QLinearConv": _Operator("Conv", _TWO, (6, 7), bias=8),
    "QGemm": _Operator("Gemm", _TWO, (7, 8), bias=6),
    "QLinearMatMul": _Operator("MatMul", _TWO, (6, 7)),
    "QLinearAdd": _Operator("Add", _TWO, (6, 7)),
    "QLinearMul": _Operator("Mul", _TWO, (6, 7)),
    "QLinearSigmoid": _Operator("Sigmoid", _ONE, (3, 4)),
    "QLinearSoftmax": _Operator("Softmax", _ONE, (3, 4), drops=("opset",)),
    "QLinearAveragePool": _Operator("AveragePool", _ONE, (3, 4), drops=("channels_last",)),
    "QLinearGlobalAveragePool": _Operator("GlobalAveragePool", _ONE, (3, 4), drops=("channels_last",)),
}


def _split_operators(graph: Any) -> None:
    """Write each quantized operator as the float op between conversions, except operators on NHWC images."""
    split = _Split(graph)
    for node in graph.node:
        given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "QLinearConcat":
            split.concat(node, given)
        elif node.op_type in _OPERATORS and not given.get("channels_last"):
            split.operator(node, _OPERATORS[node.op_type], given)
        else:
            split.nodes.append(node)
    _replace_nodes(graph, split.nodes)
    graph.initializer.extend(split.scales)


@dataclass
class _Split:
    """The nodes so far. Each tensor is dequantized once."""

    graph: Any
    nodes: list[Any] = field(default_factory=list)
    scales: list[Any] = field(default_factory=list)
    dequantized: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = {tensor.name: tensor for tensor in self.graph.initializer}

    def operator(self, node: Any, row: _Operator, given: dict[str, Any]) -> None:
        # The output channels are the first axis of the weight of a convolution, and the last axis in a matrix product.
        axis = 0 if row.op == "Conv" or given.get("transB") else 1
        operands = [self.dequantize(*(_input(node, place) for place in places), axis=axis) for places in row.operands]
        if row.bias is not None and (bias := _input(node, row.bias)):
            first, second = (onnx.numpy_helper.to_array(self.arrays[_input(node, place)]) for place in (1, 4))
            step = np.float32(given.get("alpha", 1.0)) * first * second
            self.scales.append(onnx.numpy_helper.from_array(step, f"{bias}:scale"))
            operands.append(self.dequantize(bias, f"{bias}:scale", "", axis=0))
        kept = {key: value for key, value in given.items() if key not in row.drops}
        self.quantized(node, row.op, operands, [_input(node, place) for place in row.result], kept)

    def concat(self, node: Any, given: dict[str, Any]) -> None:
        scale, zero_point, *parts = node.input
        operands = [self.dequantize(*parts[start : start + 3], axis=1) for start in range(0, len(parts), 3)]
        self.quantized(node, "Concat", operands, [scale, zero_point], given)

    def quantized(self, node: Any, op: str, operands: list[str], qparams: list[str], given: dict[str, Any]) -> None:
        """Add the float op and the quantization of its result, if the result has a scale."""
        (output,) = node.output
        real = f"{output}:raw" if qparams[0] else output
        self.nodes.append(onnx.helper.make_node(op, operands, [real], **given))
        if qparams[0]:
            self.nodes.append(onnx.helper.make_node("QuantizeLinear", [real, *filter(None, qparams)], [output]))

    def dequantize(self, tensor: str, scale: str, zero_point: str, *, axis: int) -> str:
        """Add the dequantization of a tensor, once; returns the name of the result."""
        if tensor not in self.dequantized:
            self.dequantized[tensor] = f"{tensor}:dq"
            inputs = [tensor, scale, *filter(None, [zero_point])]
            self.nodes.append(onnx.helper.make_node("DequantizeLinear", inputs, [f"{tensor}:dq"], axis=axis))
        return self.dequantized[tensor]


def _input(node: Any, place: int) -> str:
    """The name of an input; "" if it is omitted."""
    return node.input[place] if place < len(node.input) else ""


# ---- matrix products ------------------------------------------------------------------------------------------------


def _name_gemms(graph: Any) -> None:
    """Write x W with the + b after it, and Gemm with transB=0, as Gemm with transB=1."""
    matrices = _Matrices(graph)
    removed: list[int] = []
    for node in graph.node:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type not in ("MatMul", "Gemm") or transposed or not matrices.transpose(node.input[1]):
            continue
        if node.op_type == "MatMul" and (added := matrices.added(node)) is not None:
            bias, add = added
            node.input.append(bias)
            node.output[0] = add.output[0]
            removed.append(id(add))
        kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("transB", 1)])
        node.op_type = "Gemm"
    _replace_nodes(graph, [node for node in graph.node if id(node) not in removed])


class _Matrices:
    """The stored matrices of a graph and their consumers."""

    def __init__(self, graph: Any) -> None:
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def transpose(self, name: str) -> bool:
        """Transpose the stored matrix of `name`; False if there is none, or if it has other consumers."""
        producer = self.producers.get(name)
        conversion = producer if producer is not None and producer.op_type == "DequantizeLinear" else None
        tensor = self.stored.get(name if conversion is None else conversion.input[0])
        if tensor is None or len(tensor.dims) != 2 or len(self.readers[tensor.name]) > 1 or len(self.readers[name]) > 1:
            return False
        transposed = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor).T)
        tensor.CopyFrom(onnx.numpy_helper.from_array(transposed, tensor.name))
        for attribute in () if conversion is None else conversion.attribute:
            if attribute.name == "axis":
                attribute.i = 1 - attribute.i % 2
        return True

    def added(self, node: Any) -> tuple[str, Any] | None:
        """(a stored bias, the Add of it), if this Add is the only consumer of `node`; otherwise None."""
        (output,) = node.output
        readers = self.readers.get(output, [])
        if len(readers) != 1 or readers[0].op_type != "Add" or output in self.outputs:
            return None
        bias = next(name for name in readers[0].input if name != output)
        return (bias, readers[0]) if bias in self.stored and len(self.stored[bias].dims) == 1 else None
