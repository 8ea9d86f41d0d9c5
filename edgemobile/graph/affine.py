"""Affine quantization as in the TFLite 8-bit specification."""

from __future__ import annotations

import numpy as np

from edgemobile.graph import QParams

__all__ = ["FIXED_QPARAMS", "SIGMOID_QPARAMS", "activation_range", "dequantize", "quantize", "rounded"]

# The specification requires these for the output of LOGISTIC: int8 in steps of 1 / 256 from 0.
SIGMOID_QPARAMS = QParams(np.array([1 / 256]), np.array([-128]))
# Op -> the QParams that TFLite's specification requires for its output.
FIXED_QPARAMS = {"sigmoid": SIGMOID_QPARAMS, "tanh": QParams(np.array([1 / 128]), np.array([0]))}


def quantize(real: np.ndarray, qparams: QParams, dtype: str) -> np.ndarray:
    """real -> integer: round half to even of real / scale, plus zero_point, saturated to `dtype`."""
    scale, zero_point = qparams.along(real.ndim)
    info = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(np.asarray(real, np.float32) / scale) + zero_point
    return np.clip(steps, info.min, info.max).astype(dtype)


def dequantize(q: np.ndarray, qparams: QParams) -> np.ndarray:
    """integer -> f32: scale * (q - zero_point)."""
    scale, zero_point = qparams.along(q.ndim)
    return (q.astype(np.int32) - zero_point).astype(np.float32) * scale


def activation_range(activation: str, qparams: QParams, dtype: str) -> tuple[int, int]:
    """(lowest, highest) integer after a fused activation, by the TFLite specification."""
    info = np.iinfo(dtype)
    zero, scale = int(qparams.zero_point[0]), float(qparams.scale[0])
    low = max(info.min, zero) if activation else info.min
    high = min(info.max, zero + round(6 / scale)) if activation == "relu6" else info.max
    return low, high


def rounded(real: np.ndarray) -> np.ndarray:
    """Each image of f32[N,...] quantized to int8 over its own range, which includes 0, and dequantized.

    This is the input of a layer with int8 weights and float activations (XNNPACK's qd8, TFLite's dynamic range).
    """
    axes = tuple(range(1, real.ndim))
    low = np.minimum(real.min(axis=axes, keepdims=True, initial=0), 0)
    high = np.maximum(real.max(axis=axes, keepdims=True, initial=0), 0)
    step = (high - low) / np.float32(255)
    step[step == 0] = 1
    zero = np.rint(-128 - low / step)
    return ((np.clip(np.rint(real / step) + zero, -128, 127) - zero) * step).astype(np.float32)
