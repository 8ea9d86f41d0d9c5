"""The scale and zero point of an activation's range and of a weight, and a layer's constants quantized with them."""

from __future__ import annotations

import numpy as np

from edgemobile.graph import QParams, Tensor
from edgemobile.graph.affine import quantize

__all__ = [
    "activation_qparams",
    "at_least",
    "bias_tensor",
    "clamp_qparams",
    "stepped_qparams",
    "weight_qparams",
    "weight_tensor",
]

# An int32 bias must stay below 2^31, with room for the products that are added to it.
_BIAS_LIMIT = 2**30
# The least weight scale. XNNPACK needs scale_in * scale_weight / scale_out >= 2^-32.
_MIN_WEIGHT_SCALE = 2.0**-24
_MIN_RANGE = 1e-6
# With fewer steps per unit, rounding their number down would make a step more than an eighth coarser.
_FEWEST_STEPS = 8


def activation_qparams(low: float, high: float) -> QParams:
    """Asymmetric int8 for a range, widened to include zero: scale = (high - low) / 255, and 0 is exact.

    The scale of a tensor that was always zero is not known; it gets the scale of a range of width 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low if high - low > _MIN_RANGE else 1.0
    scale = np.float32(span / 255)
    zero_point = int(np.clip(np.rint(-128 - low / float(scale)), -128, 127))
    return QParams(np.array([scale]), np.array([zero_point]))


def at_least(qparams: QParams, step: float) -> QParams:
    """`qparams`, which have one scale, with a scale of at least `step`. The zero point is unchanged."""
    return qparams if qparams.scale[0] >= step else QParams(np.array([step]), qparams.zero_point)


def stepped_qparams(low: float, high: float, unit: float) -> QParams:
    """Like activation_qparams, with `unit` a whole number of steps: the largest number at which int8 still covers the
    range. If `low` is above -unit or the number is below 8, the result is that of activation_qparams.
    """
    steps = int(unit * 255 / max(high - low, _MIN_RANGE))
    if low > -unit or steps < _FEWEST_STEPS:
        return activation_qparams(low, high)
    scale = np.float32(unit / steps)
    return QParams(np.array([scale]), np.array([int(np.rint(-128 - low / float(scale)))]))


def clamp_qparams(x: QParams, unit: float) -> QParams | None:
    """The QParams of x + `unit` with the same integers as `x`, so that the addition is only a clamp of integers. None
    if there are none.

    The scale is that of `x`, and the zero point is lower by `unit`, which must be a whole number of steps.
    """
    steps = unit / float(x.scale[0])
    zero_point = int(x.zero_point[0]) - round(steps)
    whole = abs(steps - round(steps)) < 1e-4
    return QParams(x.scale, np.array([zero_point])) if whole and zero_point >= -128 else None


def weight_qparams(weight: np.ndarray, bias: np.ndarray, input_scale: float, *, per_channel: bool = True) -> QParams:
    """Symmetric int8 in [-127, 127] for a weight whose first axis is the output channel.

    A channel with tiny weights and a large bias would overflow int32, |bias / (input_scale * scale)| >= 2^31, so its
    scale is raised until the bias fits. This hardly changes the output: K weights rounded by half a step move the
    channel by at most K * 255 / 2 * |bias| / 2^31, a fiftieth of an output step if K is 1280. Dead channels get a scale
    too.
    """
    peaks = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
    floors = np.maximum(np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT), _MIN_WEIGHT_SCALE)
    scale = np.maximum(peaks / 127, floors)
    if not per_channel:
        scale = scale.max(keepdims=True)
    return QParams(scale.astype(np.float32), np.zeros(scale.shape, np.int32), axis=0 if per_channel else None)


def weight_tensor(name: str, weight: np.ndarray, qparams: QParams) -> Tensor:
    """A weight int8, rounded to the nearest integers with `qparams`."""
    return Tensor.constant(name, np.clip(quantize(weight, qparams, "int8"), -127, 127).astype(np.int8), qparams)


def bias_tensor(name: str, bias: np.ndarray, input_scale: float, weight: QParams) -> Tensor:
    """A bias int32[O] with the scale input scale * weight scale, as the TFLite specification requires."""
    scale = (np.float64(input_scale) * weight.scale).astype(np.float32)
    integers = np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32)
    return Tensor.constant(name, integers, QParams(scale, np.zeros(scale.shape, np.int32), weight.axis))
