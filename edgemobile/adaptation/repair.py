"""Repairs a smaller net without training: readers of removed channels are refitted, batch norms shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from edgemobile.adaptation.pruning import Weights
from edgemobile.models.layers import layers
from edgemobile.quant.torch_graph import to_nchw

__all__ = ["Quality", "Repair", "quality_of"]

_BATCH = 64
# Pixels of an image that a refit looks at.
_MOST_PIXELS = 64
# How strongly refitted weights are held to those before: a share of the mean square of the inputs.
_RIDGE = 0.01
# Added to variances before they are compared.
_TINY = 1e-5
_REFITTED = ("project", "plain_project", "expand", "last", "hidden", "classifier")


@dataclass(frozen=True)
class Quality:
    """Of a net on images: the mean cross-entropy and top-1."""

    loss: float
    top1: float


@torch.no_grad()
def quality_of(module: torch.nn.Module, images: np.ndarray, classes: np.ndarray) -> Quality:
    """On images f32[N,H,W,3] of `classes` i64[N]."""
    logits = torch.cat([module(to_nchw(part)) for part in _batches(images)])
    wanted = torch.from_numpy(classes)
    return Quality(float(F.cross_entropy(logits, wanted)), float((logits.argmax(1) == wanted).double().mean()))


@dataclass(frozen=True)
class Repair:
    """Repairs nets that are cut from `net`, on `images` f32[N,H,W,3]."""

    net: Weights
    images: np.ndarray

    def after(self, cut: Callable[[Weights], Weights]) -> Weights:
        """What `cut` makes of the net, with the layers refitted whose outputs the net still has, and with batch norms
        for what reaches them now.

        Layer by layer in order of execution, so that each makes up for what the ones before it still miss.
        """
        smaller = cut(self.net)
        before = cut(self._seen)
        module = smaller.module()
        _shift_norms(module, smaller, before, self.images)
        for name in _changed(smaller, self.net):
            _refit(module, self._module, name, self.images)
        _shift_norms(module, smaller, before, self.images)
        return Weights.of(smaller.arch, module)

    @cached_property
    def _module(self) -> torch.nn.Module:
        return self.net.module()

    @cached_property
    def _seen(self) -> Weights:
        """The net with the statistics of the images."""
        return _with_statistics(self.net, self.images)


def _shift_norms(module: torch.nn.Module, smaller: Weights, before: Weights, images: np.ndarray) -> None:
    """Change the statistics of the batch norms in `module` by what cutting changed: from those on the images `before`
    to those now.

    Those of `smaller` are of the training, whose images were augmented and whose weights moved: statistics of the
    images in their place made a net worse from which nothing was cut.
    """
    now = _with_statistics(Weights.of(smaller.arch, module), images).state
    state = module.state_dict()
    for key, trained in smaller.state.items():
        if key.endswith("running_mean"):
            state[key] = trained + now[key] - before.state[key]
        elif key.endswith("running_var"):
            state[key] = trained * (now[key] + _TINY) / (before.state[key] + _TINY)
    module.load_state_dict(state)


@torch.no_grad()
def _with_statistics(net: Weights, images: np.ndarray) -> Weights:
    """`net` with the statistics of every batch norm on `images`, each after those before it normalized by their own."""
    module = net.module()
    for norm in (one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        # The mean over all batches.
        norm.momentum = None
    module.train()
    for part in _batches(images):
        module(to_nchw(part))
    return Weights.of(net.arch, module)


def _changed(net: Weights, before: Weights) -> list[str]:
    """The layers of 1x1 convolutions that read fewer channels than before and make as many."""
    if len(net.arch.blocks) != len(before.arch.blocks):
        return []
    pairs = zip(layers(net.arch), layers(before.arch), strict=True)
    return [
        new.name
        for new, old in pairs
        if new.role in _REFITTED and new.in_shape[0] < old.in_shape[0] and new.out_shape == old.out_shape
    ]


@torch.no_grad()
def _refit(module: torch.nn.Module, reference: torch.nn.Module, name: str, images: np.ndarray) -> None:
    """Change the weight of the layer `name` so that it gives what it gives in `reference`: ridge regression towards the
    weight that it has.

    Given x, the inputs, and r = y_reference - y: the least |d x - r|^2 + strength |d|^2 over both without their means,
    which the batch norm behind it sets, or the bias.
    """
    layer = module.get_submodule(name)
    assert isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    moments = _Moments()
    for part in _batches(images):
        batch = to_nchw(part)
        with _seen(module, name) as mine, _seen(reference, name) as wanted:
            module(batch)
            reference(batch)
        (inputs, output), (_, target) = mine[0], wanted[0]
        moments.add(_rows(inputs), _rows(target) - _rows(output))
    covariance, cross, shift = moments.centred()
    strength = _RIDGE * covariance.diagonal().mean()
    change = torch.linalg.solve(covariance + strength * torch.eye(len(covariance), dtype=torch.float64), cross).T
    layer.weight += change.reshape(layer.weight.shape).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += shift(change).to(layer.bias.dtype)


class _Moments:
    """Sums of rows x f64[N,I] and r f64[N,O] and their products."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[torch.Tensor] = []

    def add(self, x: torch.Tensor, r: torch.Tensor) -> None:
        self.count += len(x)
        new = [x.T @ x, x.T @ r, x.sum(0), r.sum(0)]
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)] if self.sums else new

    def centred(self) -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """(covariance [I,I], [I,O] with r, what a change of the weight [O,I] adds to the mean of r, negated)."""
        xx, xr, x, r = (total / self.count for total in self.sums)
        return xx - x.outer(x), xr - x.outer(r), lambda change: r - change @ x


def _rows(values: torch.Tensor) -> torch.Tensor:
    """f64[N * pixels, C] of f32[N,C,H,W] or f32[N,C]; at most 64 pixels of an image."""
    if values.dim() == 2:
        return values.double()
    pixels = values.flatten(2)
    every = -(-pixels.shape[2] // _MOST_PIXELS)
    return pixels[:, :, ::every].permute(0, 2, 1).reshape(-1, values.shape[1]).double()


@contextmanager
def _seen(module: torch.nn.Module, name: str) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The (input, output) of the layer `name` in every forward pass."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    # In-place activations behind it would change the output.
    hook = module.get_submodule(name).register_forward_hook(
        lambda _, inputs, output: found.append((inputs[0].clone(), output.clone()))
    )
    try:
        yield found
    finally:
        hook.remove()


def _batches(images: np.ndarray) -> Sequence[np.ndarray]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
