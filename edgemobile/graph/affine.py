"""Between reals and integers: the affine quantization of the TFLite 8-bit specification, and nothing more."""

from __future__ import annotations

import numpy as np

from edgemobile.graph import QParams

__all__ = ["dequantize", "quantize"]


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
