"""Bias correction: moves each int8 layer's bias so that its mean output equals the float layer's.

Rounding the weights shifts the mean of a channel, most of all in depthwise layers. The shift is measured on the inputs
that the int8 graph gives the layer, after the layers before it were corrected (Data-Free Quantization,
arXiv:1906.04721, section 4.2, the empirical, sequential form).
"""

from __future__ import annotations

import numpy as np

from edgemobile.graph import Tensor
from edgemobile.quant.layerwise import Layer

__all__ = ["correct_bias"]

_INT32 = np.iinfo(np.int32).max


def correct_bias(layer: Layer) -> Layer:
    """`layer` with its int32 bias moved."""
    error = (layer.target - layer.output()).double()
    shift = error.mean([0, *range(2, error.ndim)]).numpy()
    bias = layer.bias
    assert bias.data is not None
    moved = np.clip(np.rint(bias.data + shift / (layer.input_scale * layer.weight_scale)), -_INT32, _INT32)
    return layer.replaced(bias=Tensor.constant(bias.name, moved.astype(np.int32), bias.qparams))
