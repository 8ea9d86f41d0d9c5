"""Any ONNX file -> Contents, as stored or as optimized by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, require
from edgemobile.exporters.damaged import reading
from edgemobile.model_file.contents import Contents, Op, Value

onnx: Any = require("onnx", "export")

__all__ = ["known_ops", "load", "read_contents"]

# (tensor, scale, zero point) among the inputs; -1 is the output.
_QPARAMS = {
    "QuantizeLinear": ((-1, 1, 2),),
    "DequantizeLinear": ((0, 1, 2),),
    "QLinearConv": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
    "QGemm": ((0, 1, 2), (3, 4, 5), (-1, 7, 8)),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
}


def read_contents(data: bytes, *, optimized: bool = False) -> Contents:
    """The graphs of an ONNX file, `optimized` if onnxruntime made it from another file.

    Raises EdgemobileError if the bytes are not an ONNX model.
    """
    model = load(data)
    with reading("ONNX", data):
        return _contents(model, optimized=optimized)


def load(data: bytes) -> Any:
    """The ModelProto. Raises EdgemobileError if the bytes are not an ONNX model."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise EdgemobileError(f"not an ONNX file ({len(data)} bytes): it does not parse; export it again") from error
    if not model.graph.node:
        raise EdgemobileError(f"not an ONNX model ({len(data)} bytes): it has no nodes; export it again")
    return model


def known_ops() -> frozenset[str]:
    """Every op of this release of onnx."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


def _contents(model: Any, *, optimized: bool) -> Contents:
    stated = {value.name: _described(value) for value in _inferred(model)}
    producer = f"{model.producer_name} {model.producer_version}".strip()
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    return replace(
        _graph(model.graph, stated, optimized),
        producer=producer,
        description=model.doc_string or f"opset {opsets}, IR {model.ir_version}",
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _graph(graph: Any, around: dict[str, Value], optimized: bool) -> Contents:
    """A GraphProto and the graphs that its nodes call. `around` are the values of the outer graph, which it may
    read.
    """
    if any(isinstance(name, bytes) for node in graph.node for name in (node.op_type, *node.input, *node.output)):
        raise ValueError("a name is not UTF-8")
    ops = tuple(_op(node) for node in graph.node)
    stated = {value.name: _described(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    values = {**around, **stated, **_stored(graph)}
    for op in ops:
        if lost := [name for name in op.inputs if name and name not in values]:
            raise ValueError(f"{op.kind} reads {lost[0]!r}, which no earlier node produces")
        for name in op.outputs:
            if name not in values:
                values[name] = Value(name, (), _guess(op, values))
        _set_qparams(op, values)
    return Contents(
        "onnx",
        "",
        "",
        tuple(value.name for value in graph.input if not values[value.name].constant),
        tuple(value.name for value in graph.output),
        ops,
        values,
        optimized=optimized,
        subgraphs=tuple(_graph(part, values, optimized) for node in graph.node for part in _called(node)),
    )


def _called(node: Any) -> list[Any]:
    """The graphs a node calls: both branches of If, the body of Loop and Scan."""
    own = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return own + [graph for attribute in node.attribute for graph in attribute.graphs]


def _captured(graph: Any) -> list[str]:
    """The values a called graph reads from the graph around it."""
    own = {entry.name for entry in (*graph.input, *graph.initializer)}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    read: list[str] = []
    for node in graph.node:
        own.update(node.output)
        read += [*node.input, *(name for part in _called(node) for name in _captured(part))]
    read += [value.name for value in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def _op(node: Any) -> Op:
    """An op; values that its subgraphs read from the outer graph are added to its inputs."""
    transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
    matrix = (node.op_type in ("Gemm", "QGemm") and not transposed) or node.op_type == "MatMul"
    captured = [name for part in _called(node) for name in _captured(part) if name not in node.input]
    given = (*node.input, *dict.fromkeys(captured))
    return Op(node.op_type, given, tuple(node.output), weight_axis=1 if matrix else 0)


def _stored(graph: Any) -> dict[str, Value]:
    found = {tensor.name: _constant(tensor.name, tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        found[sparse.values.name] = _sparse(sparse.values.name, sparse)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            found[node.output[0]] = _constant_node(node.output[0], node.attribute[0])
    return found


def _constant_node(name: str, attribute: Any) -> Value:
    """The value of a Constant node, which has exactly one attribute."""
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _constant(name, attribute.t)
    if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
        return _sparse(name, attribute.sparse_tensor)
    given = onnx.helper.get_attribute_value(attribute)
    if attribute.name.startswith("value_string"):
        return Value(name, () if isinstance(given, bytes) else (len(given),), "string", True)
    data = np.array(given, np.float32 if attribute.name.startswith("value_float") else np.int64)
    return Value(name, data.shape, data.dtype.name, True, data)


def _sparse(name: str, tensor: Any) -> Value:
    """A sparse constant; its values are not read."""
    stored = onnx.numpy_helper.to_array(tensor.values).nbytes + onnx.numpy_helper.to_array(tensor.indices).nbytes
    return Value(name, tuple(tensor.dims), _dtype(tensor.values.data_type), True, stored_bytes=stored)


def _constant(name: str, tensor: Any) -> Value:
    dtype, shape = _dtype(tensor.data_type), tuple(tensor.dims)
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    data = None if external or dtype not in np.sctypeDict else onnx.numpy_helper.to_array(tensor)
    return Value(name, shape, dtype, True, data)


def _inferred(model: Any) -> list[Any]:
    """The types of values in the file; onnx infers those that are missing."""
    if len(model.graph.value_info) < len(model.graph.node) // 2:
        try:
            return list(onnx.shape_inference.infer_shapes(model).graph.value_info)
        except Exception:  # Models with foreign ops, or past protobuf's 2 GiB: dtypes are guessed from the ops instead.
            return list(model.graph.value_info)
    return list(model.graph.value_info)


def _described(value: Any) -> Value:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return Value(value.name, shape, _dtype(tensor.elem_type))


def _dtype(number: int) -> str:
    name = onnx.TensorProto.DataType.Name(number).lower()
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def _guess(op: Op, values: dict[str, Value]) -> str:
    if op.kind == "DequantizeLinear":
        return "float32"
    if op.kind.startswith("Q"):
        index = next((zero for tensor, _, zero in _QPARAMS.get(op.kind, ()) if tensor < 0), len(op.inputs) - 1)
        zero_point = values.get(op.inputs[index]) if index < len(op.inputs) else None
        return zero_point.dtype if zero_point is not None else "float32" if op.kind == "QGemm" else "uint8"
    first = values.get(op.inputs[0]) if op.inputs else None
    return "unknown" if first is None else first.dtype


def _set_qparams(op: Op, values: dict[str, Value]) -> None:
    for tensor, scale, zero_point in _QPARAMS.get(op.kind, ()):
        name = op.outputs[0] if tensor < 0 else op.inputs[tensor]
        step = values[op.inputs[scale]].data if scale < len(op.inputs) and op.inputs[scale] in values else None
        if step is None or name not in values:
            continue
        zero = values[op.inputs[zero_point]].data if zero_point < len(op.inputs) and op.inputs[zero_point] else None
        zero = np.zeros(step.shape, np.int64) if zero is None else zero
        values[name] = replace(
            values[name], scale=np.atleast_1d(step).ravel(), zero_point=np.atleast_1d(zero).ravel().astype(np.int64)
        )
