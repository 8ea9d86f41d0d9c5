"""AdaRound: learns layer by layer which weights to round up and which to round down (arXiv:2004.10568).

The nearest integer is best for each weight alone, but not for the layer's output. A weight becomes floor(w / s) + h(v),
where h is a sigmoid stretched and clipped to [0, 1]. v is trained on the layer's output, with a term that drives h to 0
or 1:

    loss = |f(x w') - f(y)|^2 / |f(x w_nearest) - f(y)|^2 + lambda * mean(1 - |2 h(v) - 1|^beta),  beta from 20 to 2

x is the layer's input in the int8 graph and y its output in the float graph, so the errors of earlier layers are
corrected as well. f is the layer's activation: values that it clips need not be right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.graph import Tensor
from edgemobile.quant.layerwise import Layer
from edgemobile.quant.torch_graph import to_nchw, to_nhwc

if TYPE_CHECKING:
    import torch

__all__ = ["adaround"]

_STEPS = 300
# Images per step. It takes fewer if the layer has many output values per image, because those are similar.
_BATCH = 32
_VALUES = 2**20
_RATE = 1e-2
_LAMBDA = 0.5
_WARMUP = 0.2  # the share of steps before the rounding term is added
_LOW, _HIGH = -0.1, 1.1  # the range of the stretched sigmoid before clipping
_BETA = (20.0, 2.0)


def adaround(layer: Layer, steps: int = _STEPS, seed: int = 0) -> Layer:
    """`layer` with its weights rounded again. Scales and bias are unchanged. Uses a GPU if torch finds one."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_device = layer.to(device)
    scale = torch.from_numpy(layer.weight_scale).float().reshape(-1, *(1,) * (layer.float_weight.ndim - 1)).to(device)
    exact = to_nchw(layer.float_weight).to(device) / scale
    nearest, floor = exact.round().clamp(-127, 127) * scale, exact.floor()
    errors = torch.stack([on_device.error(nearest, slice(image, image + 1)) for image in range(len(layer.x))])
    batch = min(_BATCH, max(1, _VALUES // math.prod(layer.target.shape[1:])))
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        v = torch.logit(((exact - floor).clamp(0.01, 0.99) - _LOW) / (_HIGH - _LOW)).requires_grad_()
        optimizer = torch.optim.Adam([v], lr=_RATE)
        for step in range(steps):
            rows = torch.randint(0, len(layer.x), (batch,), generator=generator)
            up = _up(v)
            error = on_device.error((floor + up).clamp(-127, 127) * scale, rows)
            loss = error / errors[rows].mean().clamp_min(1e-30)
            if step >= _WARMUP * steps:
                loss = loss + _LAMBDA * (1 - (2 * up - 1).abs() ** _beta(step / steps)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    integers = (floor + (_up(v) >= 0.5)).clamp(-127, 127).cpu()
    return layer.replaced(
        weight=Tensor.constant(layer.weight.name, to_nhwc(integers).astype(np.int8), layer.weight.qparams)
    )


def _up(v: torch.Tensor) -> torch.Tensor:
    """h(v), in [0, 1]."""
    return (v.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _beta(done: float) -> float:
    first, last = _BETA
    return first + (last - first) * (done - _WARMUP) / (1 - _WARMUP)
