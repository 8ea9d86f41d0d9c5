"""Refit: fits the weights of a layer to its int8 inputs, by least squares, before they are rounded.

The int8 input of a layer differs from the float one: it has the rounding errors of all layers before. If its channels
are correlated, other weights than the trained ones bring the output closer to the float output. Over the pixels of the
calibration images, with x the int8 input and y the float output, both without their means:

    w' = argmin |x w' - y|^2 + s |w' - w|^2   =>   (x'x + s I) w' = x'y + s w

s is a multiple of the mean of the diagonal of x'x, and larger if there are fewer pixels than weights. So the trained
weights are kept in directions in which the images hardly vary. This is ridge regression towards the trained weights;
AdaQuant (arXiv:2006.10518) minimizes the same error with gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.quant.layerwise import Layer
from edgemobile.quant.qparams import weight_qparams

if TYPE_CHECKING:
    import torch

__all__ = ["refit"]

# The number of pixels that a layer is fitted to: a few dozen per input channel of the widest layer.
_ROWS = 2**14


def refit(layer: Layer, strength: float, *, pooled: bool = True) -> Layer:
    """`layer` with refitted weights if it is a 1x1 convolution or a linear layer; other layers are returned unchanged.

    `strength` sets s above, as a multiple of the mean diagonal: with 0 the weights depend on the images only, and with
    a large value they stay as trained. `pooled`: whether to refit layers that read one pixel per image, inside a
    squeeze-and-excite or after the pooling.
    """
    import torch

    weight = layer.float_weight
    pointwise = weight.ndim == 2 or weight.shape[1:3] == (1, 1)
    if not pooled and math.prod(layer.x.shape[2:]) == 1:
        return layer
    if layer.groups != 1 or not pointwise or layer.x.shape[2:] != layer.target.shape[2:]:
        return layer
    x, y = _rows(layer.x), _rows(layer.target)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    trained = torch.from_numpy(weight.reshape(len(weight), -1)).double()
    gram, moment = (x.T @ x).double(), (x.T @ y).double()
    scarcity = max(1.0, x.shape[1] / len(x))
    ridge = strength * scarcity * float(gram.diagonal().mean()) + 1e-12
    gram.diagonal().add_(ridge)
    fitted = torch.cholesky_solve(moment + ridge * trained.T, torch.linalg.cholesky(gram)).T
    bias = (y_mean.double() - fitted @ x_mean.double()).numpy()
    values = fitted.numpy().reshape(weight.shape).astype(np.float32)
    qparams = weight_qparams(values, bias, layer.input_scale, per_channel=layer.per_channel)
    return layer.rounded(values, bias, qparams)


def _rows(values: torch.Tensor) -> torch.Tensor:
    """f32[rows,C] of f32[N,C,H,W] or [N,C]: an evenly spaced sample of the pixels."""
    flat = values.movedim(1, -1).reshape(-1, values.shape[1])
    # The stride is odd, so that the sample covers all columns of an image.
    return flat[:: (len(flat) // _ROWS) | 1]
