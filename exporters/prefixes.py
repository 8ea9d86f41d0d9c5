"""Cuts a file after one of its layers, so that only the layers up to it run.

The cost of a layer in its net is the difference between two such files. A file with only one op would have another
cost, because a runtime chooses other kernels for it and adds its own overhead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemobile.model_file.contents import Contents, Op

__all__ = ["Layer", "layers", "prefix"]

# Runtimes fuse these into their consumer, or they cost nothing.
_WITH_CONSUMER = ("PAD", "PADV2", "RESHAPE", "Pad", "Reshape", "DequantizeLinear")
# Runtimes fuse these into the op before them, if it has no other consumer.
_WITH_PRODUCER = ("RELU", "RELU6", "RELU_N1_TO_1", "Relu", "Clip", "QuantizeLinear")


@dataclass(frozen=True)
class Layer:
    """The ops between one cut and the next.

    `name` is the last value they compute. `op` is the kind of the op with the most multiply-accumulates; without any,
    of the last op that is not a conversion. `macs` are for the whole batch, None if a dimension is dynamic. `dtype` is
    the dtype of the values it multiplies. `end` is the number of the file's ops up to this cut, and `outputs` are the
    outputs of the file that is cut here.
    """

    name: str
    op: str
    macs: int | None
    dtype: str
    end: int
    outputs: tuple[str, ...]


def layers(contents: Contents) -> tuple[Layer, ...]:
    """The layers of a file in order; the last ends the file."""
    found = []
    begin = 0
    for end in range(1, len(contents.ops) + 1):
        outputs = _remaining(contents, end)
        if end == len(contents.ops) or _is_cut(contents, end, outputs):
            found.append(_layer(contents, begin, end, outputs))
            begin = end
    return tuple(found)


def prefix(data: bytes, contents: Contents, layer: Layer | None) -> bytes:
    """The file `data`, whose `contents` these are, up to and including `layer`; with None it has no ops."""
    end, outputs = (0, contents.inputs) if layer is None else (layer.end, layer.outputs)
    return (_cut_onnx if contents.format == "onnx" else _cut_tflite)(data, contents, end, outputs)


def _remaining(contents: Contents, end: int) -> tuple[str, ...]:
    """The outputs of the file that is cut at `end`: values from before `end` that no op before it reads.

    They are outputs of the file or read by later ops. If they were not outputs, the runtime would leave out the ops
    that compute them. Values that an op before `end` reads are computed in any case, and each more output would cost
    thousands of instructions.
    """
    if end == len(contents.ops):
        return contents.outputs
    before, after = contents.ops[:end], contents.ops[end:]
    computed = {name for op in before for name in op.outputs if name} - contents.constants
    read = {name for op in before for name in op.inputs}
    wanted = (name for op in after for name in op.inputs if name not in read)
    return tuple(dict.fromkeys(_stored(contents, name) for name in (*wanted, *contents.outputs) if name in computed))


def _stored(contents: Contents, name: str) -> str:
    """The quantized form of `name` in a QDQ file, so that onnxruntime does not have to dequantize it."""
    op = contents.producers.get(name)
    return op.inputs[0] if op is not None and op.kind == "DequantizeLinear" and name not in contents.outputs else name


def _is_cut(contents: Contents, end: int, outputs: Sequence[str]) -> bool:
    op, after = contents.ops[end - 1], contents.ops[end]
    if not outputs or op.kind in _WITH_CONSUMER or set(op.outputs) <= contents.constants:
        return False
    return not (after.kind in _WITH_PRODUCER and after.inputs[0] in op.outputs and _is_only_reader(contents, after))


def _is_only_reader(contents: Contents, op: Op) -> bool:
    return len(contents.consumers[op.inputs[0]]) == 1 and op.inputs[0] not in contents.outputs


def _layer(contents: Contents, begin: int, end: int, outputs: tuple[str, ...]) -> Layer:
    ops = contents.ops[begin:end]
    counted = [_macs(contents, op) for op in ops]
    computing = [op for op in ops if op.kind not in (*_WITH_CONSUMER, *_WITH_PRODUCER)] or list(ops)
    most = max(range(len(ops)), key=lambda index: counted[index] or 0)
    main = ops[most] if any(count != 0 for count in counted) else computing[-1]
    name = next(filter(None, ops[-1].outputs), main.kind)
    macs = None if None in counted else sum(count or 0 for count in counted)
    return Layer(name, main.kind, macs, _dtype(contents, main), end, outputs)


def _dtype(contents: Contents, op: Op) -> str:
    """The dtype of an op's first input; in a QDQ file, of its quantized form."""
    given = next(filter(None, op.inputs), "")
    value = contents.values.get(_stored(contents, given))
    return "unknown" if value is None else value.dtype


# ---- multiply-accumulates -------------------------------------------------------------------------------------------

# op -> (the index of its weight, the axis of the output channels in the weight). There is one multiply-accumulate for
# each output value and each weight element of its output channel.
_WEIGHTS = {
    "CONV_2D": (1, 0),
    "CONV_3D": (1, 4),
    "DEPTHWISE_CONV_2D": (1, 3),
    "FULLY_CONNECTED": (1, 0),
    "Conv": (1, 0),
    "ConvInteger": (1, 0),
    "QLinearConv": (3, 0),
}
# Transposed convolutions: one for each input value and each weight element of its input channel.
_TRANSPOSED = {"TRANSPOSE_CONV": (2, 1, 3), "ConvTranspose": (0, 1, 0)}
# Matrix products: one for each output value and each column of the first operand.
_MATRICES = {"BATCH_MATMUL": 0, "MatMul": 0, "MatMulInteger": 0, "QLinearMatMul": 0, "Gemm": 0}


def _macs(contents: Contents, op: Op) -> int | None:
    if op.kind in _WEIGHTS:
        weight, axis = _WEIGHTS[op.kind]
        return _product(_shape(contents, op.outputs[0]), _without(_shape(contents, op.inputs[weight]), axis))
    if op.kind in _TRANSPOSED:
        data, weight, axis = _TRANSPOSED[op.kind]
        return _product(_shape(contents, op.inputs[data]), _without(_shape(contents, op.inputs[weight]), axis))
    if op.kind in _MATRICES:
        first = _shape(contents, op.inputs[0])
        return _product(_shape(contents, op.outputs[0]), None if not first else first[-1:])
    return 0


def _shape(contents: Contents, name: str) -> tuple[int, ...] | None:
    """The shape of a value, with batch 1 if the batch is dynamic; None if unknown or if another dimension is
    dynamic.
    """
    value = contents.values.get(name)
    shape = () if value is None else value.shape
    if not shape or value is None:
        return None
    shape = shape if value.constant or shape[0] > 0 else (1, *shape[1:])
    return shape if min(shape) > 0 else None


def _without(shape: tuple[int, ...] | None, axis: int) -> tuple[int, ...] | None:
    return None if shape is None else shape[:axis] + shape[axis + 1 :]


def _product(*shapes: tuple[int, ...] | None) -> int | None:
    known = [math.prod(shape) for shape in shapes if shape is not None]
    return math.prod(known) if len(known) == len(shapes) else None


# ---- the cut --------------------------------------------------------------------------------------------------------


def _cut_tflite(data: bytes, contents: Contents, end: int, outputs: Sequence[str]) -> bytes:
    from edgemobile.exporters.tflite_file import octets, pack, unpack

    model = unpack(data)
    graph = model.subgraphs[0]
    index = {name: number for number, name in enumerate(contents.values)}
    graph.operators = list(graph.operators)[:end]
    graph.outputs = np.array([index[name] for name in outputs], np.int32)
    # The signature has the indices of the old outputs, which runtimes refuse.
    model.signatureDefs = None
    kept = {graph.tensors[number].buffer for op in graph.operators for number in op.inputs if number >= 0}
    kept |= {entry.buffer for entry in model.metadata or ()}
    kept |= {tensor.buffer for other in model.subgraphs[1:] for tensor in other.tensors}
    for number, buffer in enumerate(model.buffers):
        stored = octets(data, buffer) if number in kept else b""
        buffer.data = np.frombuffer(stored, np.uint8) if stored else None
        buffer.offset = buffer.size = 0
    return pack(model)


def _cut_onnx(data: bytes, contents: Contents, end: int, outputs: Sequence[str]) -> bytes:
    from edgemobile.exporters.onnx_contents import load, onnx

    model = load(data)
    graph = model.graph
    described = {value.name: value for value in (*graph.value_info, *graph.output)}
    needed = _needed(contents.ops[:end], outputs)
    nodes = [graph.node[number] for number in needed]
    renamed = list(outputs)
    if not end:
        # onnxruntime refuses a graph whose inputs are its outputs.
        renamed = [f"{name}/unchanged" for name in outputs]
        nodes = [onnx.helper.make_node("Identity", [name], [new]) for name, new in zip(outputs, renamed, strict=True)]
    read = {name for number in needed for name in contents.ops[number].inputs}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    # Files of old IR versions also list their weights as inputs.
    inputs = [value for value in graph.input if value.name in contents.inputs or value.name in read]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input.extend(inputs)
    # If the file has no type for a value, onnxruntime infers it.
    graph.output.extend(described.get(name) or onnx.ValueInfoProto(name=name) for name in renamed)
    return model.SerializeToString()


def _needed(ops: Sequence[Op], outputs: Sequence[str]) -> list[int]:
    """The indices of the ops that `outputs` depend on, in order."""
    wanted, kept = set(outputs), list[int]()
    for number in reversed(range(len(ops))):
        if wanted.intersection(ops[number].outputs):
            kept.append(number)
            wanted.update(ops[number].inputs)
    return kept[::-1]
