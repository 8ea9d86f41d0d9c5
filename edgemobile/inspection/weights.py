"""Facts of int8 weights: scales, all-zero channels, and the share of the accumulator that a bias uses."""

from __future__ import annotations

import numpy as np

from edgemobile.inspection.records import WeightFacts
from edgemobile.inspection.tracing import WEIGHTED, integers, origin
from edgemobile.model_file.contents import Contents, Op, Value

__all__ = ["weight_facts"]


def weight_facts(contents: Contents) -> list[WeightFacts]:
    """One record for each constant weight, in the order of the graphs and their ops."""
    return [weight for graph in contents.graphs for weight in _weights_of(graph)]


def _weights_of(contents: Contents) -> list[WeightFacts]:
    found = {}
    for op in contents.ops:
        if op.kind in WEIGHTED:
            x, weight, bias = (_at(contents, op, position) for position in WEIGHTED[op.kind])
            if weight is not None and weight.constant:
                found[weight.name] = _facts(op, x, weight, bias)
    return list(found.values())


def _at(contents: Contents, op: Op, position: int) -> Value | None:
    """The stored or integer value of an input; None if it is omitted."""
    name = op.inputs[position] if position < len(op.inputs) else ""
    if not name:
        return None
    return contents.values.get(origin(contents, name) if name in contents.constants else integers(contents, name))


def _facts(op: Op, x: Value | None, weight: Value, bias: Value | None) -> WeightFacts:
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
    """Zero points shaped to broadcast against the weight; 0 if there are none, or one per block."""
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
