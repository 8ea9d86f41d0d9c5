"""What a model file is: ports, ops and their precision, hard-swish, float islands, weights and the guards of int8.

For any .onnx or .tflite, whoever wrote it. Facts of the file come from its bytes; how a runtime takes it is asked of
the runtime that is installed, and a note stands where it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgemobile.channel_factors import FACTORS_KEY
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.exporters.contents import Contents, Op, Value, layout_of
from edgemobile.graph import GraphError, Tensor

__all__ = [
    "Inspection",
    "PortFacts",
    "WeightFacts",
    "facts_of",
    "hswish_forms",
    "inspect_file",
    "islands",
    "precision_of",
    "read_stored_tensors",
]

_T = TypeVar("_T")

CONVERSION, CONSTANT = "conversion", "constant"
_LABELS, _PREPROCESS = "edgemobile.labels", "edgemobile.preprocess"
_QUANTIZES = frozenset(("QUANTIZE", "QuantizeLinear"))
_DEQUANTIZES = frozenset(("DEQUANTIZE", "DequantizeLinear"))
_CONVERSIONS = _QUANTIZES | _DEQUANTIZES | {"CAST", "Cast", "DynamicQuantizeLinear"}
_CLAMPS = frozenset(("RELU", "RELU6", "Relu", "Clip"))
_MULTIPLIES = frozenset(("MUL", "Mul", "QLinearMul"))
_ADDS = frozenset(("ADD", "Add", "QLinearAdd"))
_DIVIDES = frozenset(("DIV", "Div"))
_FUSED_HSWISH = frozenset(("HARD_SWISH", "HardSwish"))
_FUSED_HSIGMOID = frozenset(("HardSigmoid",))
# op -> where its x, weight and bias stand among the inputs
_WEIGHTED = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm", "MatMul"), (0, 1, 2)),
    "TRANSPOSE_CONV": (2, 1, 3),
    "QLinearConv": (0, 3, 8),
    "QGemm": (0, 3, 6),
}


@dataclass(frozen=True)
class PortFacts:
    """An input or output. `layout` is "NCHW", "NHWC" or ""; -1 in `shape` is a free dimension."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class WeightFacts:
    """The weight of one op. Scales are None for float weights.

    `dead_channels` is how many of `channels` hold nothing but zero. `bias_peak` is the largest |b / (s_in * s_w)|: what
    the bias takes of an int32 accumulator, which holds less than 2^31.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    channels: int
    scales: int = 0
    scale_min: float | None = None
    scale_max: float | None = None
    dead_channels: int = 0
    bias_peak: int | None = None

    @property
    def bias_share(self) -> float | None:
        """`bias_peak` over 2^31: from 1 on the bias overflows."""
        return None if self.bias_peak is None else self.bias_peak / 2**31


@dataclass(frozen=True)
class Inspection:
    """Everything known of one file. What the installed runtimes could not say is None, and `notes` says why.

    `precision` is precision -> op -> how many; `bytes_by_dtype` counts constants, "structure" is the rest of the file.
    `hswish` is form -> how many. `islands` are the ops, float between integers, a tuple an island. `runtime_ops` and
    `runtime_precision` are what onnxruntime runs of an ONNX file, `delegate_pieces` into how many pieces XNNPACK cuts a
    TFLite file.
    """

    file: str
    bytes: int
    format: str
    producer: str
    description: str
    inputs: tuple[PortFacts, ...]
    outputs: tuple[PortFacts, ...]
    ops: Mapping[str, int]
    precision: Mapping[str, Mapping[str, int]]
    bytes_by_dtype: Mapping[str, int]
    hswish: Mapping[str, int]
    islands: tuple[tuple[str, ...], ...]
    weights: tuple[WeightFacts, ...]
    metadata: Mapping[str, str]
    preprocess: Mapping[str, Any] | None = None
    labels: int | None = None
    runtime_ops: Mapping[str, int] | None = None
    runtime_precision: Mapping[str, Mapping[str, int]] | None = None
    delegate_pieces: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path) -> Inspection:
    """Raises EdgemobileError for a file that is missing, damaged or neither ONNX nor TFLite."""
    return facts_of(path, read_bytes(path))


def facts_of(path: Path, data: bytes, *, ask_runtimes: bool = True) -> Inspection:
    """The facts of a file's bytes; without `ask_runtimes` only those it states itself."""
    contents = contents_of(path, data)
    notes: list[str] = []
    optimized = _noted(notes, _optimized, data) if ask_runtimes and contents.format == "onnx" else None
    pieces = _noted(notes, _delegate_pieces, data) if ask_runtimes and contents.format == "tflite" else None
    usual = "NCHW" if contents.format == "onnx" else "NHWC"
    # Thousands of numbers, of use to a comparison only.
    metadata = {key: value for key, value in contents.metadata.items() if key != FACTORS_KEY}
    labels, preprocess = (_json(metadata.pop(key, None)) for key in (_LABELS, _PREPROCESS))
    return Inspection(
        file=str(path),
        bytes=len(data),
        format=contents.format,
        producer=contents.producer,
        description=contents.description,
        inputs=tuple(_port(contents, name, usual) for name in contents.inputs),
        outputs=tuple(_port(contents, name, usual) for name in contents.outputs),
        ops=contents.op_counts(),
        precision=_precisions(contents),
        bytes_by_dtype=_bytes_by_dtype(contents, len(data)),
        hswish=hswish_forms(contents),
        islands=islands(optimized or contents),
        weights=tuple(_weights(contents)),
        metadata=metadata,
        preprocess=preprocess if isinstance(preprocess, dict) else None,
        labels=len(labels) if isinstance(labels, list) else None,
        runtime_ops=None if optimized is None else optimized.op_counts(),
        runtime_precision=None if optimized is None else _precisions(optimized),
        delegate_pieces=pieces,
        notes=tuple(notes),
    )


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}. Name a .onnx or .tflite file") from error


def contents_of(path: Path, data: bytes) -> Contents:
    """What the file holds; the bytes decide the format, not the suffix."""
    if data[4:8] == b"TFL3":
        from edgemobile.exporters.tflite_contents import read as read_tflite

        return read_tflite(data)
    # An ONNX file is a protobuf whose first field is ir_version: a varint under tag 1.
    if data[:1] != b"\x08":
        raise Unsupported(
            f"{path} ({len(data)} bytes) is neither TFLite (no 'TFL3' at byte 4) nor ONNX; name a .onnx or .tflite file"
        )
    from edgemobile.exporters.onnx_contents import read as read_onnx

    return read_onnx(data)


def read_stored_tensors(path: Path) -> dict[str, Tensor]:
    """The constants and quantized tensors of a file by the Graph's names, layouts and signedness.

    Raises Unsupported where they have no such form: many files of other tools.
    """
    data = read_bytes(path)
    kind = contents_of(path, data).format
    try:
        return FORMATS[kind].load().read_tensors(data)
    except (EdgemobileError, GraphError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"the tensors of {path} have no form that compares across formats ({error})") from error


def _optimized(data: bytes) -> Contents:
    from edgemobile.exporters.onnx_contents import read_optimized

    return read_optimized(data)


def _delegate_pieces(data: bytes) -> int | None:
    from edgemobile.exporters.tflite import delegate_pieces

    try:
        return delegate_pieces(data)
    except (RuntimeError, ValueError) as error:
        raise EdgemobileError(f"LiteRT does not load this file: {' '.join(str(error).split())[:200]}") from error


def _noted(notes: list[str], ask: Callable[[bytes], _T], data: bytes) -> _T | None:
    """What a runtime says, or None and a note."""
    try:
        return ask(data)
    except EdgemobileError as error:
        notes.append(str(error))
        return None


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _port(contents: Contents, name: str, usual: str) -> PortFacts:
    value = contents.values[name]
    layout = layout_of(value.shape, usual)
    if value.scale is None or value.zero_point is None:
        return PortFacts(name, value.shape, value.dtype, layout)
    return PortFacts(name, value.shape, value.dtype, layout, float(value.scale[0]), int(value.zero_point[0]))


def _bytes_by_dtype(contents: Contents, total: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    # TFLite writes equal constants once; tensors then look at the same bytes.
    seen: set[tuple[str, bytes]] = set()
    for value in contents.values.values():
        if value.data is not None and contents.format == "tflite":
            key = (value.dtype, value.data.tobytes())
            if key in seen:
                continue
            seen.add(key)
        if value.constant:
            sizes[value.dtype] = sizes.get(value.dtype, 0) + value.nbytes
    ordered = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    return {**ordered, "structure": max(total - sum(ordered.values()), 0)}


# ---- precision ------------------------------------------------------------------------------------------------------


def precision_of(contents: Contents, op: Op) -> str:
    """ "int8", "float32", ...: what `op` computes in; "conversion" between two, "constant" where it can run once.

    In an ONNX file of QuantizeLinear and DequantizeLinear pairs that is the integers around the op. Float arithmetic on
    small weights says so: "float32, int8 weights".
    """
    if all(name in contents.constants for name in op.outputs):
        return CONSTANT
    if op.kind in _CONVERSIONS:
        return CONVERSION
    given = [
        _dtype(contents, _integers(contents, name)) for name in op.inputs if name and name not in contents.constants
    ]
    made = _dtype(contents, _quantized(contents, op.outputs[0])) if op.outputs else "unknown"
    if all("int" in dtype for dtype in (*given, made)):
        return made
    _, weight, _ = _WEIGHTED.get(op.kind, (0, -1, -1))
    real = next((dtype for dtype in (made, *given) if dtype.startswith(("float", "bfloat"))), made)
    stored = _dtype(contents, _origin(contents, op.inputs[weight])) if 0 <= weight < len(op.inputs) else real
    return real if stored == real else f"{real}, {stored} weights"


def _precisions(contents: Contents) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for op in contents.ops:
        counts = found.setdefault(precision_of(contents, op), {})
        counts[op.kind] = counts.get(op.kind, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (item[0] in (CONSTANT, CONVERSION), -sum(item[1].values()))))


def _dtype(contents: Contents, name: str) -> str:
    value = contents.values.get(name)
    # onnxruntime stores int8 as uint8 with an offset of 128, and either is 8-bit integer arithmetic.
    return "unknown" if value is None else "int8" if value.dtype == "uint8" else value.dtype


def _integers(contents: Contents, name: str) -> str:
    """The integers a real value was made of, or the value itself."""
    op = None if contents.optimized else contents.producers.get(name)
    return op.inputs[0] if op is not None and op.kind in _DEQUANTIZES else name


def _quantized(contents: Contents, name: str) -> str:
    """The integers a result goes to, through the clamp that belongs to it; or the result itself."""
    readers = [] if contents.optimized else contents.consumers.get(name, [])
    if len(readers) == 1 and readers[0].kind in _QUANTIZES | _CLAMPS and name not in contents.outputs:
        if readers[0].kind in _QUANTIZES:
            return readers[0].outputs[0]
        clamped = _quantized(contents, readers[0].outputs[0])
        return clamped if clamped != readers[0].outputs[0] else name
    return name


def _origin(contents: Contents, name: str) -> str:
    """The stored constant a constant is made of."""
    while name in contents.constants and name in contents.producers:
        name = next((given for given in contents.producers[name].inputs if given), name)
    return name


# ---- float islands --------------------------------------------------------------------------------------------------


def islands(contents: Contents) -> tuple[tuple[str, ...], ...]:
    """Runs of float ops that read integers and are quantized again: each is a detour out of the integer kernels."""
    floats = [
        op
        for op in contents.ops
        if op.kind not in _CONVERSIONS and not precision_of(contents, op).startswith(("int", CONSTANT))
    ]
    after = _reachable(contents.ops, _DEQUANTIZES)
    before = _reachable(tuple(_turned(op) for op in reversed(contents.ops)), _QUANTIZES)
    group: dict[str, list[Op]] = {}
    for op in floats:
        if not (set(op.inputs) & after and set(op.outputs) & before):
            continue
        near = list({id(group[name]): group[name] for name in op.inputs if name in group}.values())
        merged = [member for part in near for member in part] + [op]
        for member in merged:
            group.update(dict.fromkeys(member.outputs, merged))
    return tuple(tuple(op.kind for op in part) for part in {id(part): part for part in group.values()}.values())


def _turned(op: Op) -> Op:
    return Op(op.kind, op.outputs, op.inputs)


def _reachable(ops: tuple[Op, ...], start: frozenset[str]) -> set[str]:
    """Values made by a `start` op or of such values."""
    found: set[str] = set()
    for op in ops:
        if op.kind in start or found.intersection(name for name in op.inputs if name):
            found.update(name for name in op.outputs if name)
    return found


# ---- hard-swish -----------------------------------------------------------------------------------------------------


def hswish_forms(contents: Contents) -> dict[str, int]:
    """How x * relu6(x + 3) / 6 is written.

    "fused": one op. "delegated": x * relu6(x + 3) in integers, which delegates take whole; the 1/6 is in the next
    weights wherever they can hold it, and the gate may have a convolution of its own. "decomposed": the same in
    float, or with the 1/6 or a hard-sigmoid before x.
    """
    forms = {"fused": 0, "delegated": 0, "decomposed": 0}
    for op in contents.ops:
        if op.kind in _FUSED_HSWISH:
            forms["fused"] += 1
        elif op.kind in _MULTIPLIES:
            form = _product_form(contents, op)
            if form:
                forms[form] += 1
    return {form: count for form, count in forms.items() if count}


def _product_form(contents: Contents, op: Op) -> str:
    operands = [_root(contents, name) for name in _operands(op)]
    for x, gate in (operands, operands[::-1]) if len(operands) == 2 else ():
        scaled = _share(contents, gate)
        if scaled and x == _gated(contents, scaled):
            return "decomposed"
        maker = contents.producers.get(gate)
        if maker is not None and maker.kind in _FUSED_HSIGMOID and _root(contents, maker.inputs[0]) == x:
            return "decomposed"
        if x == _gated(contents, gate) or _is_split(contents, x, gate):
            return "delegated" if precision_of(contents, op).startswith("int") else "decomposed"
    return ""


def _operands(op: Op) -> tuple[str, ...]:
    """The two operands of a sum or product; onnxruntime's QLinear ops state scales between them."""
    return (op.inputs[0], op.inputs[3]) if op.kind.startswith("QLinear") else op.inputs[:2]


def _root(contents: Contents, name: str) -> str:
    """`name` up through conversions."""
    while name in contents.producers and contents.producers[name].kind in _CONVERSIONS:
        name = contents.producers[name].inputs[0]
    return name


def _gated(contents: Contents, gate: str) -> str | None:
    """The x of gate = relu6(x + 3), its clamp fused, an op or left to the saturation of the integers."""
    op = contents.producers.get(gate)
    if op is not None and op.kind in _CLAMPS:
        op = contents.producers.get(_root(contents, op.inputs[0]))
    if op is None or op.kind not in _ADDS:
        return None
    a, b = _operands(op)
    for x, three in ((a, b), (b, a)):
        number = _scalar(contents, three)
        if number is not None and math.isclose(number, 3, rel_tol=0.01):
            return _root(contents, x)
    return None


def _is_split(contents: Contents, x: str, gate: str) -> bool:
    """Whether x and the gate are two convolutions of one input, the gate's clamped to [0, 6]: the 3 is in its bias."""
    maker, clamp = contents.producers.get(x), contents.producers.get(gate)
    clamped = clamp is not None and (clamp.activation == "RELU6" or _spans_0_to_6(contents, gate))
    if clamp is not None and clamp.kind in _CLAMPS:
        clamp, clamped = contents.producers.get(_root(contents, clamp.inputs[0])), True
    if maker is None or clamp is None or not clamped or maker.kind != clamp.kind or maker.kind not in _WEIGHTED:
        return False
    position, weight, _ = _WEIGHTED[maker.kind]
    shapes = {contents.values[_origin(contents, op.inputs[weight])].shape for op in (maker, clamp)}
    sources = {_root(contents, op.inputs[position]) for op in (maker, clamp)}
    return maker is not clamp and len(shapes) == len(sources) == 1


def _spans_0_to_6(contents: Contents, name: str) -> bool:
    """Whether the integers a result goes to hold 0 to 6, so that saturation clamps it."""
    value = contents.values[_quantized(contents, name)]
    if value.scale is None or value.zero_point is None or value.dtype not in ("int8", "uint8"):
        return False
    lowest = np.iinfo(value.dtype).min
    return int(value.zero_point[0]) == lowest and math.isclose(255 * float(value.scale[0]), 6, rel_tol=0.01)


def _share(contents: Contents, name: str) -> str | None:
    """The y of name = y / 6."""
    op = contents.producers.get(name)
    if op is None or op.kind not in _MULTIPLIES | _DIVIDES:
        return None
    a, b = _operands(op)
    for y, factor in ((a, b), (b, a)):
        number = _scalar(contents, factor)
        if number is not None and math.isclose(number, 6 if op.kind in _DIVIDES else 1 / 6, rel_tol=0.01):
            return _root(contents, y)
    return None


def _scalar(contents: Contents, name: str) -> float | None:
    """The real value of a constant of one element."""
    value = contents.values.get(_origin(contents, name))
    if value is None or value.data is None or value.data.size != 1:
        return None
    if value.scale is None or value.zero_point is None:
        return float(value.data.item())
    return float(value.scale[0]) * (int(value.data.item()) - int(value.zero_point[0]))


# ---- weights --------------------------------------------------------------------------------------------------------


def _weights(contents: Contents) -> list[WeightFacts]:
    found = {}
    for op in contents.ops:
        x, weight, bias = (
            (
                contents.values.get(name) if name else None
                for name in (_at(contents, op, position) for position in _WEIGHTED.get(op.kind, ()))
            )
            if op.kind in _WEIGHTED
            else (None, None, None)
        )
        if weight is not None and weight.constant:
            found[weight.name] = _weight_facts(op, x, weight, bias)
    return list(found.values())


def _at(contents: Contents, op: Op, position: int) -> str:
    """The stored or integer value behind an input; "" where it is left out."""
    name = op.inputs[position] if position < len(op.inputs) else ""
    return _origin(contents, name) if name in contents.constants else _integers(contents, name)


def _weight_facts(op: Op, x: Value | None, weight: Value, bias: Value | None) -> WeightFacts:
    axis = op.weight_axis if op.weight_axis < len(weight.shape) else 0
    channels = weight.shape[axis] if weight.shape else 1
    dead = 0
    if weight.data is not None and weight.data.ndim and weight.data.size:
        zero = _zero_points(weight, channels, axis)
        rows = np.moveaxis(weight.data.astype(np.float32) - zero, axis, 0).reshape(channels, -1)
        dead = int(np.count_nonzero(~rows.any(axis=1)))
    scale = weight.scale
    return WeightFacts(
        weight.name.removesuffix(":q"),
        op.kind,
        weight.shape,
        weight.dtype,
        channels,
        0 if scale is None else scale.size,
        None if scale is None else float(scale.min()),
        None if scale is None else float(scale.max()),
        dead,
        _bias_peak(x, weight, bias),
    )


def _zero_points(weight: Value, channels: int, axis: int) -> np.ndarray:
    """Zero points shaped to broadcast against the weight; 0 where there are none, or one a block."""
    zero, ndim = weight.zero_point, len(weight.shape)
    if zero is None or zero.size not in (1, channels):
        return np.zeros(1)
    return zero.reshape([-1 if dimension == axis else 1 for dimension in range(ndim)])


def _bias_peak(x: Value | None, weight: Value, bias: Value | None) -> int | None:
    if bias is None or bias.data is None or not bias.data.size:
        return None
    if bias.dtype == "int32":
        return int(np.abs(bias.data.astype(np.int64)).max())
    if x is None or x.scale is None or weight.scale is None or x.scale.size != 1:
        return None
    if weight.scale.size not in (1, bias.data.size) or not np.isfinite(bias.data).all():
        return None
    return int(np.abs(bias.data.ravel() / (x.scale.astype(np.float64) * weight.scale)).max())
