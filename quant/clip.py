"""Clipping: chooses the one scale of a layer's weights by the error of the layer's output.

The largest weight sets the scale that all channels share, and it may be the weight that matters least. A channel that
ReLU keeps at zero has no variance, so the batch norm after it divides by almost zero: in a trained MobileNetV2 the
kernels of such channels are a hundred times as large as the others, and multiply zeros. This tries finer and finer
scales, at which more and more weights saturate, and takes the one whose output, after the activation, is closest to the
float layer's. OCS (arXiv:1901.09504) clips by the mean squared error of the weights; here it is that of the outputs.
"""

from __future__ import annotations

import numpy as np

from edgemobile.quant.layerwise import Layer, real_values
from edgemobile.quant.qparams import weight_qparams

__all__ = ["clip"]

# Each scale is 2^(-1/2) times the one before; the last is 2^-9 times the scale at which no weight saturates.
_SCALES = 18
# A finer scale must reduce the error by at least a tenth. A smaller gain may hold for these images only.
_NEEDED_RATIO = 0.9
# The search stops at this many times the least error, because the error only grows from there.
_STOP_RATIO = 4
_IMAGES = slice(0, 64)


def clip(layer: Layer) -> Layer:
    """`layer` with the best of these scales. If every channel has its own scale, `layer` is returned unchanged."""
    if layer.per_channel:
        return layer
    best, least = layer, _NEEDED_RATIO * float(layer.error(rows=_IMAGES))
    for step in range(1, _SCALES + 1):
        clipped = _at_scale(layer, 2.0 ** (-step / 2))
        error = float(clipped.error(rows=_IMAGES))
        if error < least:
            best, least = clipped, error
        elif error > _STOP_RATIO * least:
            break
    return best


def _at_scale(layer: Layer, share: float) -> Layer:
    """`layer` with weights rounded at `share` of the scale at which none saturates, or at the least scale at which the
    bias fits into int32."""
    bias = real_values(layer.bias).numpy()
    limit = share * np.abs(layer.float_weight).max()
    qparams = weight_qparams(np.clip(layer.float_weight, -limit, limit), bias, layer.input_scale, per_channel=False)
    return layer.rounded(layer.float_weight, bias, qparams)
