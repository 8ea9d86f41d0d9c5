"""A TFLite flatbuffer as an object: bytes <-> ModelT, and the metadata and tensors of a file.

The schema is TFLite's own (schema_py_generated, in ai-edge-litert). Object classes are made empty and their attributes
set one by one, because the constructors of older releases take no arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgemobile.errors import Unsupported, require
from edgemobile.exporters.damaged import reading
from edgemobile.exporters.tflite_metadata import (
    METADATA_NAME,
    image_metadata,
    in_words,
    label_lines,
    normalisation,
    packed_labels,
)
from edgemobile.exporters.tflite_sparse import dense
from edgemobile.graph import GraphError, QParams, Tensor
from edgemobile.preprocess import Channels

schema: Any = require("ai_edge_litert.schema_py_generated", "litert")

__all__ = [
    "DEPTHWISE_ORDER",
    "MIN_RUNTIME",
    "OP_NAMES",
    "add_metadata",
    "constant_array",
    "finished",
    "new",
    "octets",
    "official_metadata",
    "op_counts",
    "op_name",
    "op_versions",
    "pack",
    "read_metadata",
    "read_normalisation",
    "read_tensors",
    "reordered",
    "schema",
    "text",
    "unpack",
    "with_metadata",
]

_IDENTIFIER = b"TFL3"
# The schema requires this alignment for every buffer, but the generated Python does not ensure it; runtimes map weights
# in place.
_ALIGNMENT = 16

MIN_RUNTIME = "min_runtime_version"

# [out, kernel_h, kernel_w, 1] <-> [1, kernel_h, kernel_w, out]: its own inverse.
DEPTHWISE_ORDER = (3, 1, 2, 0)


def new(kind: str, **values: Any) -> Any:
    """An object of the schema's class `kind`T with these attributes."""
    made = getattr(schema, f"{kind}T")()
    for name, value in values.items():
        setattr(made, name, value)
    return made


# ---- bytes <-> ModelT -----------------------------------------------------------------------------------------------


def pack(model: Any) -> bytes:
    """ModelT -> the file. The same model always gives the same bytes."""
    flatbuffers = require("flatbuffers", "litert")
    builder = flatbuffers.Builder(1 << 20)
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuffer:
    """Packs as a Buffer whose bytes start at a multiple of 16. `data` is u8[n] or None."""

    def __init__(self, data: np.ndarray | None) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:
        if self.data is None or not len(self.data):
            schema.BufferStart(builder)
            return schema.BufferEnd(builder)
        octets = np.asarray(self.data, np.uint8).tobytes()
        builder.StartVector(1, len(octets), _ALIGNMENT)
        builder.head -= len(octets)
        builder.Bytes[builder.head : builder.head + len(octets)] = octets
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def unpack(data: bytes) -> Any:
    """The file -> ModelT; raises Unsupported if it is not a complete TFLite file."""
    if data[4:8] != _IDENTIFIER:
        raise Unsupported(
            f"not a TFLite file: bytes 4 to 8 are {bytes(data[4:8])!r}, allowed is {_IDENTIFIER!r}; export it again"
        )
    with reading("TFLite", data):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        if not model.subgraphs or not model.operatorCodes or not model.buffers:
            raise ValueError("it holds no graph")
    return model


# ---- ops and metadata of a file -------------------------------------------------------------------------------------


def op_versions(data: bytes) -> dict[tuple[str, int], int]:
    """(builtin name, version) -> how often it is in the main graph."""
    model = unpack(data)
    codes = [(op_name(code), code.version) for code in model.operatorCodes]
    with reading("TFLite", data):
        return dict(sorted(Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators).items()))


def op_counts(data: bytes) -> dict[str, int]:
    """Builtin name (CONV_2D, HARD_SWISH, ...) -> how often it is in the main graph."""
    counts: Counter[str] = Counter()
    for (name, _), count in op_versions(data).items():
        counts[name] += count
    return dict(counts)


def op_name(code: Any) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return OP_NAMES.get(number, f"BUILTIN_{number}")


OP_NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def add_metadata(model: Any, entries: Mapping[str, str]) -> None:
    """Append `entries` to a ModelT, each as a Metadata row with a UTF-8 buffer."""
    model.metadata = list(model.metadata or ())
    for key, value in sorted(entries.items()):
        octets = np.frombuffer(value.encode(), np.uint8)
        model.metadata.append(new("Metadata", name=key, buffer=len(model.buffers)))
        model.buffers.append(new("Buffer", data=octets))


def with_metadata(data: bytes, entries: Mapping[str, str]) -> bytes:
    """A file that some other tool wrote, with `entries` added."""
    model = unpack(data)
    add_metadata(model, entries)
    return finished(model, entries)


def finished(model: Any, entries: Mapping[str, str]) -> bytes:
    """ModelT -> the file, with preprocessing and labels of `entries` also as official TFLite metadata."""
    official = image_metadata(entries)
    if official is not None:
        model.metadata = [
            *(model.metadata or ()),
            new("Metadata", name=METADATA_NAME, buffer=len(model.buffers)),
        ]
        model.buffers.append(new("Buffer", data=np.frombuffer(official, np.uint8)))
    labels = label_lines(entries)
    data = pack(model)
    return packed_labels(data, labels) if official is not None and labels else data


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata entries by name, without binary ones and those of the runtime."""
    return {key: value for key, value in _metadata(data).items() if key not in (MIN_RUNTIME, METADATA_NAME)}


def official_metadata(model: Any) -> dict[str, str]:
    """TFLITE_METADATA -> a summary of it; {} if a ModelT has none."""
    official = _official(model)
    return {} if official is None else {METADATA_NAME: in_words(official)}


def read_normalisation(data: bytes) -> tuple[Channels, Channels] | None:
    """(mean, std) of R, G, B on pixels from 0 to 255 in a file's official metadata; None if it has none."""
    with reading("TFLite", data):
        official = _official(unpack(data))
    return None if official is None else normalisation(official)


def _official(model: Any) -> bytes | None:
    for entry in model.metadata or ():
        octets = model.buffers[entry.buffer].data
        if text(entry.name) == METADATA_NAME and octets is not None:
            return bytes(octets)
    return None


def _metadata(data: bytes) -> dict[str, str]:
    model = unpack(data)
    with reading("TFLite", data):
        entries = [(text(entry.name), model.buffers[entry.buffer].data) for entry in model.metadata or ()]
    return {name: "" if octets is None else bytes(octets).decode(errors="replace") for name, octets in entries}


def text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


# ---- tensors --------------------------------------------------------------------------------------------------------


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Every tensor of the main graph by name, in the Graph's layout: depthwise weights are [out, kh, kw, 1] again.

    Raises Unsupported for a dtype that a Graph does not have.
    """
    model = unpack(data)
    with reading("TFLite", data):
        depthwise = _depthwise_weights(model)
        found: dict[str, Tensor] = {}
        for index, raw in enumerate(model.subgraphs[0].tensors):
            tensor = _read_tensor(data, model, raw)
            if index in depthwise:
                tensor = reordered(tensor, DEPTHWISE_ORDER)
            name = tensor.name if tensor.name not in found else f"{tensor.name}#{index}"
            found[name] = replace(tensor, name=name)
    return found


def octets(data: bytes, buffer: Any) -> bytes:
    """The bytes of a buffer of the file `data`; some tools put large buffers after the flatbuffer."""
    if buffer.data is not None and len(buffer.data):
        return np.asarray(buffer.data, np.uint8).tobytes()
    offset = getattr(buffer, "offset", 0)
    return data[offset : offset + buffer.size] if offset > 1 else b""


def constant_array(stored: bytes, shape: tuple[int, ...], dtype: str, raw: Any) -> np.ndarray:
    """The values of a constant, a TensorT, from the bytes of its buffer; a sparse one becomes dense.

    Raises ValueError, IndexError or AttributeError if they do not fit.
    """
    array = np.frombuffer(stored, dtype)
    return array.reshape(shape) if raw.sparsity is None else dense(array, shape, raw.sparsity)


def _read_tensor(data: bytes, model: Any, raw: Any) -> Tensor:
    name = text(raw.name)
    dtype = _DTYPE_NAMES.get(raw.type, f"type {raw.type}")
    shape = tuple(int(side) for side in raw.shape) if raw.shape is not None else ()
    stored = octets(data, model.buffers[raw.buffer])
    try:
        array = constant_array(stored, shape, dtype, raw) if stored else None
        return Tensor(name, shape, dtype, array, _read_qparams(raw.quantization, len(shape)))
    except (GraphError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise Unsupported(f"tensor {name} of the TFLite file cannot be read: {error}") from error


def _read_qparams(raw: Any, ndim: int) -> QParams | None:
    if raw is None or raw.scale is None or not len(raw.scale):
        return None
    per_channel = len(raw.scale) > 1 or (ndim > 0 and raw.quantizedDimension > 0)
    return QParams(raw.scale, raw.zeroPoint, raw.quantizedDimension if per_channel else None)


def _depthwise_weights(model: Any) -> set[int]:
    """Indices of depthwise weights and of the constants that are dequantized to them."""
    names = [op_name(code) for code in model.operatorCodes]
    operators = [(names[operator.opcodeIndex], operator) for operator in model.subgraphs[0].operators]
    weights = {int(operator.inputs[1]) for name, operator in operators if name == "DEPTHWISE_CONV_2D"}
    return weights | {
        int(operator.inputs[0])
        for name, operator in operators
        if name == "DEQUANTIZE" and int(operator.outputs[0]) in weights
    }


def reordered(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """`tensor` with its axes in `order`, data and quantization axis with them."""
    data, qparams = tensor.data, tensor.qparams
    if data is not None:
        data = np.ascontiguousarray(data.transpose(order))
    if qparams is not None and qparams.axis is not None:
        qparams = replace(qparams, axis=order.index(qparams.axis))
    return Tensor(tensor.name, tuple(tensor.shape[axis] for axis in order), tensor.dtype, data, qparams)


_DTYPE_NAMES: dict[int, str] = {
    getattr(schema.TensorType, name.upper()): name for name in ("float32", "float16", "int8", "uint8", "int16", "int32")
}
