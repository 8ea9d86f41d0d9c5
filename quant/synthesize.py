"""Calibration images without a data set, made from what the model remembers of its own.

Batch norm keeps the mean and variance of every channel it saw in training. Noise is optimised until its statistics at
every batch norm match those (ZeroQ, arXiv:2001.00281, equation 3), and until the model is sure of a class for each
image (DeepInversion, arXiv:1912.08795, equation 2): behind the last batch norm nothing else says how large logits are,
and with a range too small the surest answers are cut to the same integer. The noise is smooth, as photographs are: few
steps leave of white noise what a net never saw.
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

# Synthesis costs seconds; so many steps, and images at this size, are where more stop helping.
STEPS = 16
_ENOUGH, _ENOUGH_PX, _LEAST = 32, 96, 8

_LEARNING_RATE = 0.1
# Of the cross entropy to the drawn classes, beside the sum over all batch norms.
_CLASS_WEIGHT = 0.1
# Noise is drawn at an eighth of the size and enlarged, which takes from its deviation; a little white noise stays.
_SMOOTH_PX = 8
_SMOOTH, _WHITE = 1.3, 0.1


def enough_images(input_px: int) -> int:
    """How many images to calibrate on are worth their while: as batch norm sees pixels, fewer where they are large."""
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

    Each is of a class drawn at random, and made of pixels that there are; the larger `class_weight`, the surer the net
    is of it. `progress` is told each step. Raises EdgemobileError for a net without batch norm, or one that cannot be
    run on `images` at once.
    """
    import torch

    if not _norms(net):
        raise EdgemobileError(
            "the model has no batch-norm modules (a saved program keeps none; its package.module:factory does), so no "
            "calibration images can be synthesized from it. Give real ones: --calib DIR|ZIP (an ImageFolder)"
        )
    # A copy: hooks, frozen weights and the layout must not stay with the caller's net. Channels last is 3 times faster.
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
    """Those that remember statistics; a saved program has none, whatever it was traced from."""
    import torch

    return [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.running_var is not None]


def _logits(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What `net` gives, f32[N,classes] for f32[N,3,H,W], or the first of several outputs: the statistics to match are
    those of all images together."""
    try:
        made = net(x)
        logits: torch.Tensor = made[0] if isinstance(made, tuple) else made
        if len(logits) != len(x):
            raise ValueError(f"it gives {list(logits.shape)}")
        return logits
    except Exception as error:
        raise EdgemobileError(
            f"the model cannot be run on {len(x)} images at once, so no calibration images can be synthesized from it "
            f"({first_line(error)}). Let it take any batch, or give real ones: --calib DIR|ZIP (an ImageFolder)"
        ) from error


def _noise(images: int, px: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth random images f32[images, 3, px, px] of deviation about 1."""
    import torch

    small_px = -(-px // _SMOOTH_PX)
    small = torch.randn(images, 3, small_px, small_px, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=(px, px), mode="bilinear")
    return _SMOOTH * smooth + _WHITE * torch.randn(smooth.shape, generator=generator)


def _mismatch(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Squared distance of the batch's mean and deviation from the remembered ones, in remembered deviations."""
    import torch

    assert norm.running_mean is not None
    assert norm.running_var is not None
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    deviation = (norm.running_var + norm.eps).sqrt()
    shifted = ((mean - norm.running_mean) / deviation) ** 2
    stretched = ((variance + norm.eps).sqrt() / deviation - 1) ** 2
    return shifted.mean() + stretched.mean()
