"""Any TFLite file -> Contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgemobile.exporters.damaged import reading
from edgemobile.exporters.tflite_file import (
    OP_NAMES,
    constant_array,
    octets,
    official_metadata,
    op_name,
    read_metadata,
    schema,
    text,
    unpack,
)
from edgemobile.model_file.contents import Contents, Op, Value

__all__ = ["known_ops", "read_contents"]

_DTYPES = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
_ACTIVATIONS = {number: name for name, number in vars(schema.ActivationFunctionType).items() if isinstance(number, int)}
# The axis of the output channels in the weight, if it is not the first.
_WEIGHT_AXIS = {"DEPTHWISE_CONV_2D": 3}


def read_contents(data: bytes) -> Contents:
    """The graphs of a TFLite file. Raises Unsupported if the bytes are damaged or not a TFLite file."""
    model = unpack(data)
    with reading("TFLite", data):
        metadata = read_metadata(data) | official_metadata(model)
        return _contents(data, model, 0, {0}, metadata)


def _contents(file: bytes, model: Any, number: int, seen: set[int], metadata: Mapping[str, str]) -> Contents:
    """Graph `number` of a ModelT, with the graphs it calls that are not in `seen`; several ops may call the same
    one.
    """
    graph = model.subgraphs[number]
    names = _names(graph.tensors)
    codes = [_kind(code) for code in model.operatorCodes]
    called = [other for operator in graph.operators for other in _called(operator)]
    below = []
    for other in called:
        if other not in seen:
            seen.add(other)
            below.append(_contents(file, model, other, seen, {}))
    return Contents(
        "tflite",
        text(model.description) or "not stated",
        f"schema version {model.version}",
        tuple(names[index] for index in graph.inputs),
        tuple(names[index] for index in graph.outputs),
        tuple(_op(codes[operator.opcodeIndex], operator, names) for operator in graph.operators),
        {name: _value(file, model, name, raw) for name, raw in zip(names, graph.tensors, strict=True)},
        metadata,
        subgraphs=tuple(below),
    )


def _called(operator: Any) -> list[int]:
    """The graphs an op calls: both branches of IF, condition and body of WHILE, what CALL_ONCE initialises."""
    found = []
    for options in filter(None, (operator.builtinOptions, getattr(operator, "builtinOptions2", None))):
        found += [
            value for name, value in vars(options).items() if name.lower().endswith(("subgraph", "subgraphindex"))
        ]
    # Number 0 is the main graph, and the default of an option that is not set.
    return [number for number in found if number > 0]


def known_ops() -> frozenset[str]:
    """Every builtin op of the schema."""
    return frozenset(OP_NAMES.values())


def _names(tensors: list[Any]) -> list[str]:
    """Unique names of the tensors, numbered as in read_tensors."""
    names: list[str] = []
    for index, tensor in enumerate(tensors):
        name = text(tensor.name)
        names.append(name if name and name not in names else f"{name}#{index}")
    return names


def _kind(code: Any) -> str:
    return text(code.customCode) if code.customCode else op_name(code)


def _op(kind: str, operator: Any, names: list[str]) -> Op:
    given, made = (
        tuple("" if index < 0 else names[index] for index in indices) if indices is not None else ()
        for indices in (operator.inputs, operator.outputs)
    )
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    activation = _ACTIVATIONS.get(fused, str(fused)) if fused else ""
    return Op(kind, given, made, activation, _WEIGHT_AXIS.get(kind, 0))


def _value(file: bytes, model: Any, name: str, raw: Any) -> Value:
    shape = tuple(int(side) for side in raw.shape) if raw.shape is not None else ()
    dtype = _DTYPES.get(raw.type, f"type {raw.type}")
    stored = octets(file, model.buffers[raw.buffer])
    if stored and min(shape, default=0) < 0:
        raise ValueError(f"the constant {name} has the shape {list(shape)}")
    data = constant_array(stored, shape, dtype, raw) if stored and dtype in np.sctypeDict else None
    scale, zero_point = _qparams(raw.quantization)
    sparse = None if raw.sparsity is None else len(stored)
    return Value(name, shape, dtype, bool(stored), data, scale, zero_point, stored_bytes=sparse)


def _qparams(raw: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    if raw is None or raw.scale is None or not len(raw.scale):
        return None, None
    scale = np.asarray(raw.scale, np.float32)
    absent = raw.zeroPoint is None or not len(raw.zeroPoint)
    return scale, np.zeros(scale.size, np.int64) if absent else np.asarray(raw.zeroPoint, np.int64)
