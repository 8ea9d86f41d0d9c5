"""The arithmetic precision of each op of a file."""

from __future__ import annotations

from edgemobile.inspection.tracing import CONVERSIONS, WEIGHTED, integers, origin, quantized
from edgemobile.model_file.contents import Contents, Op

__all__ = ["CONSTANT", "CONVERSION", "ops_by_precision", "precision_of"]

CONVERSION, CONSTANT = "conversion", "constant"


def precision_of(contents: Contents, op: Op) -> str:
    """ "int8", "float32", ...: the precision of `op`; "conversion" between two, "constant" if it can run once.

    In an ONNX file with QuantizeLinear and DequantizeLinear pairs, it is that of the integers around the op. Float
    arithmetic with smaller weights is "float32, int8 weights".
    """
    if all(name in contents.constants for name in op.outputs):
        return CONSTANT
    if op.kind in CONVERSIONS:
        return CONVERSION
    given = [
        _dtype(contents, integers(contents, name)) for name in op.inputs if name and name not in contents.constants
    ]
    made = _dtype(contents, quantized(contents, op.outputs[0])) if op.outputs else "unknown"
    if all("int" in dtype for dtype in (*given, made)):
        return made
    _, weight, _ = WEIGHTED.get(op.kind, (0, -1, -1))
    real = next((dtype for dtype in (made, *given) if dtype.startswith(("float", "bfloat"))), made)
    stored = _dtype(contents, origin(contents, op.inputs[weight])) if 0 <= weight < len(op.inputs) else real
    return real if stored == real else f"{real}, {stored} weights"


def ops_by_precision(contents: Contents) -> dict[str, dict[str, int]]:
    """Precision -> op -> count, in all graphs."""
    found: dict[str, dict[str, int]] = {}
    for graph in contents.graphs:
        for op in graph.ops:
            counts = found.setdefault(precision_of(graph, op), {})
            counts[op.kind] = counts.get(op.kind, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (item[0] in (CONSTANT, CONVERSION), -sum(item[1].values()))))


def _dtype(contents: Contents, name: str) -> str:
    value = contents.values.get(name)
    # onnxruntime stores int8 as uint8 with an offset of 128, and either is 8-bit integer arithmetic.
    return "unknown" if value is None else "int8" if value.dtype == "uint8" else value.dtype
