"""Synthesizes calibration images without a data set, from the statistics in the model's batch norms.

Batch norm stores the mean and variance of every channel over the training data. Noise images are optimized until their
statistics at every batch norm match the stored ones (ZeroQ, arXiv:2001.00281, equation 3), and until the model
classifies each image with confidence (DeepInversion, arXiv:1912.08795, equation 2). The second term is needed because
no batch norm after the classifier says how large logits are, and a range that is too small clips the most confident
answers to the same integer. The optimization starts from smooth noise, because photographs are smooth: after few steps
white noise would still be unlike any image that the net was trained on.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import EdgemobileError, first_line
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Report, unheard

if TYPE_CHECKING:
    import torch

__all__ = ["STEPS", "enough_images", "synthesize"]

# Synthesis takes seconds. More steps than this, or more images at this size, do not help.
STEPS = 16
_ENOUGH, _ENOUGH_PX, _LEAST = 32, 96, 8

_LEARNING_RATE = 0.1
# The weight of the cross entropy to the drawn classes; the sum over all batch norms has the weight 1.
_CLASS_WEIGHT = 0.1
# Noise is drawn at an eighth of the size and enlarged, which reduces its deviation; a little white noise is added.
_SMOOTH_PX = 8
_SMOOTH, _WHITE = 1.3, 0.1


def enough_images(input_px: int) -> int:
    """How many images to synthesize: fewer if they are large, because batch norm averages over pixels."""
    return max(_LEAST, _ENOUGH * _ENOUGH_PX**2 // input_px**2)


def synthesize(
    net: torch.nn.Module,
    preprocess: Preprocess,
    *,
    images: int,
    seed: int = 0,
    steps: int = STEPS,
    class_weight: float = _CLASS_WEIGHT,
    progress: Report = unheard,
) -> np.ndarray:
    """Preprocessed images f32[images, input_px, input_px, 3] whose batch-norm statistics match those of `net`.

    Each image has a random class and valid pixel values; with a larger `class_weight` the net is more confident of the
    class. `progress` is called after each step. Raises EdgemobileError for a net without batch norm, or one that cannot
    be run on `images` at once.
    """
    import torch

    if not _norms(net):
        raise EdgemobileError(
            "the model has no batch-norm modules (a saved program has none; load it as package.module:factory to keep "
            "them), so no calibration images can be synthesized from it. "
            "Give real ones: --calib DIR|ZIP (an ImageFolder)"
        )
    # A copy, so that hooks, frozen weights and the memory layout do not change the caller's net. Channels last is 3
    # times faster.
    net = copy.deepcopy(net).eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    losses: list[torch.Tensor] = []
    for norm in _norms(net):
        norm.register_forward_pre_hook(lambda norm, inputs: losses.append(_mismatch(norm, inputs[0])))
    shift, spread = (torch.tensor(tuple(values)).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    low, high = (0 - shift) / spread, (1 - shift) / spread
    generator = torch.Generator().manual_seed(seed)
    x = _noise(images, preprocess.input_px, generator).clamp(low, high)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    classes: torch.Tensor | None = None
    for step in range(steps):
        losses.clear()
        optimizer.zero_grad()
        logits = _logits(net, x)
        loss = torch.stack(losses).sum()
        if logits.ndim == 2:
            if classes is None:
                classes = torch.randint(0, logits.shape[1], (images,), generator=generator)
            loss = loss + class_weight * torch.nn.functional.cross_entropy(logits, classes)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.copy_(x.clamp(low, high))
        progress(step + 1)
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _norms(net: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    """The batch norms with stored statistics. A saved program has no modules, so it has none."""
    import torch

    return [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.running_var is not None]


def _logits(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output f32[N,classes] of `net` for f32[N,3,H,W], or the first of several outputs. All images run at once,
    because the statistics to match are those of all images together."""
    try:
        made = net(x)
        logits: torch.Tensor = made[0] if isinstance(made, tuple) else made
        if len(logits) != len(x):
            raise ValueError(f"it gives {list(logits.shape)}")
        return logits
    except Exception as error:
        raise EdgemobileError(
            f"the model cannot be run on {len(x)} images at once, so no calibration images can be synthesized from it "
            f"({first_line(error)}). Make it accept any batch size, or give real ones: --calib DIR|ZIP (an ImageFolder)"
        ) from error


def _noise(images: int, px: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth random images f32[images, 3, px, px] of deviation about 1."""
    import torch

    small_px = -(-px // _SMOOTH_PX)
    small = torch.randn(images, 3, small_px, small_px, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=(px, px), mode="bilinear")
    return _SMOOTH * smooth + _WHITE * torch.randn(smooth.shape, generator=generator)


def _mismatch(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The squared distance of the batch's mean and deviation from the stored ones, in units of the stored deviation."""
    import torch

    assert norm.running_mean is not None
    assert norm.running_var is not None
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    deviation = (norm.running_var + norm.eps).sqrt()
    shifted = ((mean - norm.running_mean) / deviation) ** 2
    stretched = ((variance + norm.eps).sqrt() / deviation - 1) ** 2
    return shifted.mean() + stretched.mean()
