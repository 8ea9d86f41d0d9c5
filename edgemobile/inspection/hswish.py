"""How a file expresses hard-swish, found from the connections of its ops."""

from __future__ import annotations

import math

import numpy as np

from edgemobile.inspection.precision import precision_of
from edgemobile.inspection.tracing import (
    ADDS,
    CLAMPS,
    DIVIDES,
    MULTIPLIES,
    WEIGHTED,
    operands,
    origin,
    quantized,
    root,
    scalar,
)
from edgemobile.model_file.contents import Contents, Op

__all__ = ["hswish_forms"]

_FUSED_HSWISH = frozenset(("HARD_SWISH", "HardSwish"))
_FUSED_HSIGMOID = frozenset(("HardSigmoid",))


def hswish_forms(contents: Contents) -> dict[str, int]:
    """The forms of x * relu6(x + 3) / 6.

    "fused": one op. "delegated": x * relu6(x + 3) in integers, which delegates accept completely; the 1/6 is in the
    next weights if possible, and the gate may be a depthwise convolution of x. "decomposed": the same in float, or with
    the 1/6 or a hard-sigmoid before x.
    """
    forms = {"fused": 0, "delegated": 0, "decomposed": 0}
    for graph in contents.graphs:
        for op in graph.ops:
            form = "fused" if op.kind in _FUSED_HSWISH else _product_form(graph, op) if op.kind in MULTIPLIES else ""
            if form:
                forms[form] += 1
    return {form: count for form, count in forms.items() if count}


def _product_form(contents: Contents, op: Op) -> str:
    factors = [root(contents, name) for name in operands(op)]
    for x, gate in (factors, factors[::-1]) if len(factors) == 2 else ():
        scaled = _share(contents, gate)
        if scaled and x == _gated(contents, scaled):
            return "decomposed"
        maker = contents.producers.get(gate)
        if maker is not None and maker.kind in _FUSED_HSIGMOID and root(contents, maker.inputs[0]) == x:
            return "decomposed"
        if x in (_gated(contents, gate), _scales_its_own(contents, gate)):
            return "delegated" if precision_of(contents, op).startswith("int") else "decomposed"
    return ""


def _gated(contents: Contents, gate: str) -> str | None:
    """The x of gate = relu6(x + 3). The clamp is fused, an op, or the saturation of the integers.

    Clamping integers also adds 3 if their zero point is 3 lower than before.
    """
    op = contents.producers.get(gate)
    if op is not None and op.kind in CLAMPS:
        if _zero_moves(contents, op, 3):
            return root(contents, op.inputs[0])
        op = contents.producers.get(root(contents, op.inputs[0]))
    if op is None or op.kind not in ADDS:
        return None
    a, b = operands(op)
    for x, three in ((a, b), (b, a)):
        number = scalar(contents, three)
        if number is not None and math.isclose(number, 3, rel_tol=0.01):
            return root(contents, x)
    return None


def _zero_moves(contents: Contents, op: Op, distance: float) -> bool:
    """Whether the output of `op` has the scale of its integer input and a zero point `distance` lower."""
    x, y = contents.values[op.inputs[0]], contents.values[op.outputs[0]]
    if x.scale is None or y.scale is None or x.zero_point is None or y.zero_point is None:
        return False
    moved = (int(x.zero_point[0]) - int(y.zero_point[0])) * float(x.scale[0])
    return x.scale[0] == y.scale[0] and math.isclose(moved, distance, rel_tol=0.01)


def _scales_its_own(contents: Contents, gate: str) -> str | None:
    """The x of gate = relu6(w * x + b), where w is a depthwise convolution with one number per channel."""
    op = contents.producers.get(gate)
    clamped = op is not None and (op.activation == "RELU6" or _spans_0_to_6(contents, gate))
    if op is not None and op.kind in CLAMPS:
        op, clamped = contents.producers.get(root(contents, op.inputs[0])), True
    if op is None or not clamped or op.kind not in WEIGHTED:
        return None
    position, weight, bias = WEIGHTED[op.kind]
    if bias >= len(op.inputs):
        return None
    sizes = [math.prod(contents.values[origin(contents, op.inputs[index])].shape) for index in (weight, bias)]
    return root(contents, op.inputs[position]) if sizes[0] == sizes[1] else None


def _spans_0_to_6(contents: Contents, name: str) -> bool:
    """Whether the integers of a result cover exactly 0 to 6, so that saturation clamps it."""
    value = contents.values[quantized(contents, name)]
    if value.scale is None or value.zero_point is None or value.dtype not in ("int8", "uint8"):
        return False
    lowest = np.iinfo(value.dtype).min
    return int(value.zero_point[0]) == lowest and math.isclose(255 * float(value.scale[0]), 6, rel_tol=0.01)


def _share(contents: Contents, name: str) -> str | None:
    """The y of name = y / 6."""
    op = contents.producers.get(name)
    if op is None or op.kind not in MULTIPLIES | DIVIDES:
        return None
    a, b = operands(op)
    for y, factor in ((a, b), (b, a)):
        number = scalar(contents, factor)
        if number is not None and math.isclose(number, 6 if op.kind in DIVIDES else 1 / 6, rel_tol=0.01):
            return root(contents, y)
    return None
