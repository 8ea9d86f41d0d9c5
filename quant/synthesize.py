"""Calibration images without a data set, made from what the model remembers of its own.

Batch norm keeps the mean and variance of every channel it saw in training. Noise is optimised until its statistics at
every batch norm match those (ZeroQ, arXiv:2001.00281, equation 3), which is what calibration needs of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import EdgemobileError

if TYPE_CHECKING:
    import torch

__all__ = ["synthesize"]

_LEARNING_RATE = 0.1


def synthesize(
    net: torch.nn.Module,
    *,
    images: int,
    input_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    steps: int = 60,
    progress: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Images f32[images, input_px, input_px, 3], already normalised, whose batch-norm statistics match those of `net`.

    `mean` and `std` are the preprocessing's, on pixels from 0 to 1: pixels stay inside that range. `progress` is told each
    step. Raises EdgemobileError for a net without batch norm.
    """
    import torch

    norms = [
        module
        for module in net.modules()
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None
    ]
    if not norms:
        raise EdgemobileError(
            "the model has no batch norm, so no calibration images can be synthesised from it. "
            "Give real ones: --calib DIR|ZIP (an ImageFolder)"
        )
    shift = torch.tensor(mean).view(1, 3, 1, 1)
    spread = torch.tensor(std).view(1, 3, 1, 1)
    low, high = (0 - shift) / spread, (1 - shift) / spread
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 3, input_px, input_px, generator=generator).clamp(low, high).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    frozen = [parameter for parameter in net.parameters() if parameter.requires_grad]
    losses: list[torch.Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs: losses.append(_mismatch(norm, inputs[0]))) for norm in norms
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for step in range(steps):
            losses.clear()
            optimizer.zero_grad()
            net.eval()(x)
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.copy_(x.clamp(low, high))
            progress(step + 1)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _mismatch(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Squared distance of the batch's mean and deviation from the remembered ones, in remembered deviations."""
    variance, mean = x.var(dim=(0, 2, 3), correction=0), x.mean(dim=(0, 2, 3))
    deviation = (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
    return (((mean - norm.running_mean) / deviation) ** 2).mean() + (
        ((variance + norm.eps).sqrt() / deviation - 1) ** 2
    ).mean()
