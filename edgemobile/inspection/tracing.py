"""Follows values to their source through conversions; and groups of ops by function, in either format."""

from __future__ import annotations

from edgemobile.model_file.contents import Contents, Op

__all__ = [
    "ADDS",
    "CLAMPS",
    "CONVERSIONS",
    "DEQUANTIZES",
    "DIVIDES",
    "MULTIPLIES",
    "QUANTIZES",
    "WEIGHTED",
    "integers",
    "operands",
    "origin",
    "quantized",
    "root",
    "scalar",
]

QUANTIZES = frozenset(("QUANTIZE", "QuantizeLinear"))
DEQUANTIZES = frozenset(("DEQUANTIZE", "DequantizeLinear"))
CONVERSIONS = QUANTIZES | DEQUANTIZES | {"CAST", "Cast", "DynamicQuantizeLinear"}
CLAMPS = frozenset(("RELU", "RELU6", "Relu", "Clip"))
MULTIPLIES = frozenset(("MUL", "Mul", "QLinearMul"))
ADDS = frozenset(("ADD", "Add", "QLinearAdd"))
DIVIDES = frozenset(("DIV", "Div"))
# op -> the positions of its x, weight and bias among the inputs
WEIGHTED = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm", "MatMul"), (0, 1, 2)),
    "TRANSPOSE_CONV": (2, 1, 3),
    "QLinearConv": (0, 3, 8),
    "QGemm": (0, 3, 6),
}


def integers(contents: Contents, name: str) -> str:
    """The integers that a real value was computed from, or the value itself."""
    op = None if contents.optimized else contents.producers.get(name)
    return op.inputs[0] if op is not None and op.kind in DEQUANTIZES else name


def quantized(contents: Contents, name: str) -> str:
    """The integers that a result is quantized to, through its clamp; or the result itself."""
    readers = [] if contents.optimized else contents.consumers.get(name, [])
    if len(readers) == 1 and readers[0].kind in QUANTIZES | CLAMPS and name not in contents.outputs:
        if readers[0].kind in QUANTIZES:
            return readers[0].outputs[0]
        clamped = quantized(contents, readers[0].outputs[0])
        return clamped if clamped != readers[0].outputs[0] else name
    return name


def origin(contents: Contents, name: str) -> str:
    """The stored constant that a constant is computed from: an initializer, a Constant node's value, a buffer."""
    while name in contents.constants and not contents.values[name].constant:
        name = next(given for given in contents.producers[name].inputs if given)
    return name


def root(contents: Contents, name: str) -> str:
    """The source of `name` through conversions."""
    while name in contents.producers and contents.producers[name].kind in CONVERSIONS:
        name = contents.producers[name].inputs[0]
    return name


def operands(op: Op) -> tuple[str, ...]:
    """The two operands of a sum or product; onnxruntime's QLinear ops state scales between them."""
    return (op.inputs[0], op.inputs[3]) if op.kind.startswith("QLinear") else op.inputs[:2]


def scalar(contents: Contents, name: str) -> float | None:
    """The real value of a constant of one element."""
    value = contents.values.get(origin(contents, name))
    if value is None or value.data is None or value.data.size != 1:
        return None
    if value.scale is None or value.zero_point is None:
        return float(value.data.item())
    return float(value.scale[0]) * (int(value.data.item()) - int(value.zero_point[0]))
