"""Refit: weights fitted to what int8 really feeds a layer, by least squares, before they are rounded.

A layer's input is not what it was in float: it carries the rounding of every layer before. Where channels of it tell
much the same, other weights than the trained ones bring the output nearer to the float one. Over the pixels of the
calibration images, with x the int8 input and y the float output, both without their means:

    w' = argmin |x w' - y|^2 + s |w' - w|^2   =>   (x'x + s I) w' = x'y + s w

s is a multiple of the mean of x'x's diagonal, and larger where there are fewer pixels than weights, so that directions
the images hardly show keep the trained weights (ridge regression towards them; the same error, solved by gradients, is
AdaQuant's, arXiv:2006.10518).
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

# Pixels a layer is fitted to: some dozen for each of the widest layer's weights.
_ROWS = 2**14


def refit(layer: Layer, strength: float, *, pooled: bool = True) -> Layer:
    """`layer` with other weights, where it is a 1x1 convolution or a linear layer; a kernel has too few to fit.

    `strength` is s above: 0 would trust the images alone, and a large one changes nothing. `pooled`: also a layer that
    reads one pixel per image, inside a squeeze-and-excite or behind the pooling.
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
    """f32[rows,C] of f32[N,C,H,W] or [N,C]: an even sample of the pixels."""
    flat = values.movedim(1, -1).reshape(-1, values.shape[1])
    # An odd stride does not walk along one column of an image.
    return flat[:: (len(flat) // _ROWS) | 1]
