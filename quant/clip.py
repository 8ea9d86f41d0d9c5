"""Clipping: one scale for a layer's weights, as fine as its output likes it.

The widest weight sets a scale that all channels share, and it may be the one that matters least. A channel that ReLU
keeps at zero has no variance, so the batch norm behind it divides by almost nothing: in a trained MobileNetV2 the
kernels of such channels are a hundred times as large as the others, and multiply zeros. Of a row of finer and finer
scales, under which more and more weights saturate, the one counts whose output, behind its activation, is nearest to
the float layer's (after OCS's clipping by mean squared error, arXiv:1901.09504, with the outputs' error for the
weights').
"""

from __future__ import annotations

import numpy as np

from edgemobile.quant.layerwise import Layer, reals
from edgemobile.quant.qparams import weight_qparams

__all__ = ["clip"]

# Each scale is 2^(-1/2) of the one before; the last is 2^-9 of what holds every weight.
_SCALES = 18
# A finer scale that takes less than a tenth off the error has only fitted itself to these images.
_WORTH = 0.9
# Once so many times the least error, it only grows.
_HOPELESS = 4
_IMAGES = slice(0, 64)


def clip(layer: Layer) -> Layer:
    """`layer` with the best of these scales where its weights share one; itself where every channel has its own."""
    if layer.per_channel:
        return layer
    best, least = layer, _WORTH * float(layer.error(rows=_IMAGES))
    for step in range(1, _SCALES + 1):
        clipped = _at_scale(layer, 2.0 ** (-step / 2))
        error = float(clipped.error(rows=_IMAGES))
        if error < least:
            best, least = clipped, error
        elif error > _HOPELESS * least:
            break
    return best


def _at_scale(layer: Layer, share: float) -> Layer:
    """`layer` with weights rounded at `share` of the scale that holds them all, or the least that holds the bias."""
    bias = reals(layer.bias).numpy()
    reach = share * np.abs(layer.float_weight).max()
    qparams = weight_qparams(np.clip(layer.float_weight, -reach, reach), bias, layer.input_scale, per_channel=False)
    return layer.rounded(layer.float_weight, bias, qparams)
