"""Any ONNX file -> Contents: the file as it is stored, and as onnxruntime runs it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, in_a_line, require
from edgemobile.exporters.contents import Contents, Op, Value

onnx: Any = require("onnx", "export")

__all__ = ["known_ops", "load", "read", "read_optimized"]

# (tensor, scale, zero point) among the inputs; -1 is the output.
_QPARAMS = {
    "QuantizeLinear": ((-1, 1, 2),),
    "DequantizeLinear": ((0, 1, 2),),
    "QLinearConv": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
    "QGemm": ((0, 1, 2), (3, 4, 5), (-1, 7, 8)),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
}


def read(data: bytes) -> Contents:
    """The main graph of an ONNX file. Raises EdgemobileError where the bytes are no ONNX model."""
    model = load(data)
    try:
        return _contents(model)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise EdgemobileError(f"damaged ONNX file of {len(data)} bytes: {error}; export or copy it again") from error


def load(data: bytes) -> Any:
    """The ModelProto. Raises EdgemobileError where the bytes are no ONNX model."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise EdgemobileError(f"not an ONNX file ({len(data)} bytes): it does not parse; export it again") from error
    if not model.graph.node:
        raise EdgemobileError(f"not an ONNX model ({len(data)} bytes): it holds no nodes; export it again")
    return model


def read_optimized(data: bytes) -> Contents:
    """The graph onnxruntime makes of the file on this machine. Raises EdgemobileError where it cannot load it."""
    load(data)
    runtime = require("onnxruntime", "onnxruntime")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _optimized_in(Path(folder) / "optimized.onnx", data, runtime)
    except OSError as error:
        raise EdgemobileError(
            f"what onnxruntime makes of this file cannot be written to a temporary folder: {error.strerror or error}. "
            "Set TMPDIR to a folder with room"
        ) from error


def _optimized_in(file: Path, data: bytes, runtime: Any) -> Contents:
    """As `read_optimized`; `file` is where onnxruntime leaves its graph. Raises OSError where it cannot."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(file)
    # The highest level only changes the memory layout of float convolutions, and cannot be saved without a warning.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return replace(_contents(onnx.load(file)), optimized=True)
    except OSError:
        raise
    except Exception as error:
        _check_loads(data, runtime)
        # It loads: what failed is writing.
        raise OSError(in_a_line(error)) from error


def _check_loads(data: bytes, runtime: Any) -> None:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = in_a_line(error)
        raise EdgemobileError(f"onnxruntime {runtime.__version__} does not load this file: {reason}") from error


def known_ops() -> frozenset[str]:
    """Every op this release of onnx knows."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


def _contents(model: Any) -> Contents:
    graph = model.graph
    if any(isinstance(name, bytes) for node in graph.node for name in (node.op_type, *node.input, *node.output)):
        raise ValueError("a name is not UTF-8")
    ops = tuple(_op(node) for node in graph.node)
    values = _stored(graph)
    stated = {value.name: _described(value) for value in (*_inferred(model), *graph.input, *graph.output)}
    values = {**stated, **values}
    for op in ops:
        for name in op.outputs:
            if name not in values:
                values[name] = Value(name, (), _guess(op, values))
        _set_qparams(op, values)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    return Contents(
        "onnx",
        producer,
        model.doc_string or f"opset {opsets}, IR {model.ir_version}",
        tuple(value.name for value in graph.input if not values[value.name].constant),
        tuple(value.name for value in graph.output),
        ops,
        values,
        {entry.key: entry.value for entry in model.metadata_props},
    )


def _op(node: Any) -> Op:
    transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
    matrix = (node.op_type in ("Gemm", "QGemm") and not transposed) or node.op_type == "MatMul"
    return Op(node.op_type, tuple(node.input), tuple(node.output), weight_axis=1 if matrix else 0)


def _stored(graph: Any) -> dict[str, Value]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: _constant(name, tensor) for name, tensor in tensors.items()}


def _constant(name: str, tensor: Any) -> Value:
    dtype, shape = _dtype(tensor.data_type), tuple(tensor.dims)
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    data = None if external or dtype not in np.sctypeDict else onnx.numpy_helper.to_array(tensor)
    return Value(name, shape, dtype, True, data)


def _inferred(model: Any) -> list[Any]:
    """What the file says of its values; where it says nothing, what onnx can derive."""
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
