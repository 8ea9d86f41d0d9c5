"""How much the loss would change without a channel, a block or the rim of a kernel, by Taylor's first term.

Without a value y the loss changes by about y * dL/dy. Squared and averaged over batches, it is the saliency of
Molchanov et al., Importance Estimation for Neural Network Pruning (arXiv:1906.10771). With a batch norm behind it,
y * dL/dy of a channel is gamma * dL/dgamma + beta * dL/dbeta.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from edgemobile.adaptation.pruning import Weights, droppable_blocks
from edgemobile.models.channel_groups import channel_groups
from edgemobile.models.layers import Layer, layers
from edgemobile.quant.torch_graph import to_nchw

__all__ = ["Saliency", "saliency_of"]

# Of few images, so that their gradients do not cancel.
_BATCH = 8


@dataclass(frozen=True)
class Saliency:
    """`channels`: group -> f64[C]. `blocks`: row of a block with a skip -> all of the block. `kernels`: row of a block
    with a 5x5 kernel -> its rim outside of 3x3. All are squared changes of the loss, so they add up."""

    channels: Mapping[str, torch.Tensor]
    blocks: Mapping[int, float]
    kernels: Mapping[int, float]


def saliency_of(net: Weights, images: np.ndarray, classes: np.ndarray) -> Saliency:
    """The saliency of everything that can be left out, on images f32[N,H,W,3] of `classes` i64[N]."""
    module = net.module()
    values = dict(module.named_parameters())
    groups = channel_groups(net.arch)
    made_by = list(layers(net.arch))
    skips, kernels = droppable_blocks(net.arch), [row for row, block in enumerate(net.arch.blocks) if block.kernel == 5]
    sums: dict[object, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    starts = range(0, len(images), _BATCH)
    for start in starts:
        module.zero_grad(set_to_none=True)
        logits = module(to_nchw(images[start : start + _BATCH]))
        F.cross_entropy(logits, torch.from_numpy(classes[start : start + _BATCH])).backward()
        for group in groups:
            # A depthwise convolution changes what is there; the others each put something in.
            changes = [_change(values, layer) for layer in group.makers if layer.op != "depthwise"]
            sums[group.name] = sums[group.name] + torch.stack(changes).sum(0).square()
        for layer in made_by:
            if layer.role in ("project", "plain_project") and layer.block in skips:
                sums["block", layer.block] = sums["block", layer.block] + _change(values, layer).square().sum()
            if layer.role == "depthwise" and layer.block in kernels:
                sums["kernel", layer.block] = sums["kernel", layer.block] + _rim(values[f"{layer.name}.weight"])
    return Saliency(
        {group.name: sums[group.name] / len(starts) for group in groups},
        {row: float(sums["block", row]) / len(starts) for row in skips},
        {row: float(sums["kernel", row]) / len(starts) for row in kernels},
    )


def _change(values: Mapping[str, torch.Tensor], layer: Layer) -> torch.Tensor:
    """y * dL/dy f64[C], summed over images and pixels, of what a layer makes."""
    path = layer.norm or layer.name
    weight, bias = (_product(values[f"{path}.{name}"]) for name in ("weight", "bias"))
    return weight.flatten(1).sum(1) + bias if weight.dim() > 1 else weight + bias


def _rim(weight: torch.Tensor) -> torch.Tensor:
    """The same of the weights f32[C,1,5,5] outside of the middle 3x3, squared and summed over channels."""
    product = _product(weight)
    rim = product.sum((1, 2, 3)) - product[:, :, 1:4, 1:4].sum((1, 2, 3))
    return rim.square().sum()


def _product(value: torch.Tensor) -> torch.Tensor:
    assert value.grad is not None
    return (value.detach() * value.grad).double()
