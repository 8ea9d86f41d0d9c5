"""Predicts the noise that rounding an activation, or the weights that read it, would add to the logits.

To first order an error e of a tensor changes the logits by J e, where J is the Jacobian. A backward pass from random
signs over the logits gives the gradient g of every tensor at once, and the mean of (g . e)^2 is the noise that this
tensor alone adds to the logits. So a few passes are enough for a whole net, where quantizing each tensor in turn would
need one pass per tensor. Rounding to steps of s makes independent errors of variance s^2 / 12, so the noise is s^2 / 12
times the sum of g^2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.errors import require
from edgemobile.graph import Graph
from edgemobile.quant.torch_graph import TorchGraph, to_nhwc

if TYPE_CHECKING:
    import torch

__all__ = ["Backward", "Channels", "Readers", "above", "observe_channels", "readers", "weight_peaks"]

# The ranges of channels are stable after about a hundred images, and gradients after a few dozen.
_RANGE_IMAGES = 128
_GRADIENT_IMAGES = 64
# Backward passes keep every activation in memory. These are the most input pixels in one pass, and in all passes.
_PIXELS_AT_ONCE = 2**17
_PIXELS = 2**19
_PROBES = 2
# An output whose values are smaller counts as zero.
_NEAR_ZERO = 1e-12


@dataclass(frozen=True)
class Channels:
    """Statistics of an activation per channel, each f64[C].

    `low` and `high` are the ends of a channel's range, which includes zero; `power` is the mean of its squared values;
    `gain` is the noise that errors of variance 1 in all of its values add to the sum of an image's squared logits.
    """

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray
    gain: np.ndarray

    @property
    def width(self) -> np.ndarray:
        return self.high - self.low

    def at_least(self, share: np.ndarray) -> Channels:
        """These channels, each at least as wide as its `share` f64[C] of the widest."""
        missing = np.maximum(share * self.width.max(initial=0.0) - self.width, 0.0)
        return replace(self, high=self.high + missing)

    def unrounded(self) -> Channels:
        """These channels of a tensor that stays in float: they add no noise."""
        return replace(self, gain=np.zeros_like(self.gain))

    def noise(self, factors: np.ndarray | float = 1.0) -> float:
        """The noise that int8 adds to the sum of an image's squared logits, with channels multiplied by `factors`."""
        step = ((self.high * factors).max() - (self.low * factors).min()) / 255
        return float(step**2 / 12 * (self.gain / np.square(factors)).sum())


@dataclass(frozen=True)
class Readers:
    """The weights of a layer that reads an activation.

    `peaks` f32[O,I]: the largest |weight| between output channel o and input channel i; a factor of the input channel
    divides it. `gain` f64[O] is that of the output channels. `power` f64[I]: errors of variance 1 in the weights of an
    input channel make errors of this variance in an output channel.
    """

    peaks: np.ndarray
    gain: np.ndarray
    power: np.ndarray


class Backward:
    """A graph run on images f32[N,H,W,C], ready for backward passes: `logits` f32[N,classes], and `values` by name.

    If the graph is not a classifier, its logits are all of its outputs, each divided by its root mean square, so that
    errors count equally in all of them.
    """

    def __init__(self, graph: Graph, images: np.ndarray, seed: int = 0) -> None:
        require("torch", "export")
        import torch

        self.values: dict[str, torch.Tensor] = {}
        self.logits = _logits(TorchGraph(graph)(images, self._keep))
        self._generator = torch.Generator().manual_seed(seed)

    def _keep(self, name: str, value: torch.Tensor) -> torch.Tensor:
        self.values[name] = value if value.requires_grad else value.detach().requires_grad_()
        return self.values[name]

    def gradients(self, probes: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(name, value, gradient) of every activation, for each of `probes` draws of random signs over the logits."""
        import torch

        for _ in range(probes):
            signs = 2.0 * torch.randint(0, 2, self.logits.shape, generator=self._generator) - 1
            gradients = torch.autograd.grad((self.logits * signs).sum(), list(self.values.values()), retain_graph=True)
            for (name, value), gradient in zip(self.values.items(), gradients, strict=True):
                yield name, value.detach(), gradient


def _logits(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    import torch

    if len(outputs) == 1 and outputs[0].ndim == 2:
        return outputs[0]
    scales = [value.detach().square().mean().sqrt().clamp_min(_NEAR_ZERO) for value in outputs]
    return torch.cat([(value / scale).flatten(1) for value, scale in zip(outputs, scales, strict=True)], dim=1)


def observe_channels(
    graph: Graph, images: np.ndarray, floors: Mapping[str, np.ndarray], gradient_images: int = 0
) -> tuple[dict[str, Channels], float]:
    """(the channels of every activation, the sum of an image's squared logits), over images f32[N,H,W,C].

    `floors`: tensor name -> f64[C]; every reader of the tensor treats lower values as this one. `gradient_images` is
    the number of images for backward passes; 0 means as many as take a few seconds.
    """
    ranges = _ranges(graph, images[:_RANGE_IMAGES], floors)
    pixels = images.shape[1] * images.shape[2]
    count = min(len(images), gradient_images or min(_GRADIENT_IMAGES, max(1, _PIXELS // pixels)))
    powers: dict[str, Any] = {}
    gains: dict[str, Any] = {}
    signal = 0.0
    for part in np.array_split(images[:count], -(-count * pixels // _PIXELS_AT_ONCE)):
        backward = Backward(graph, part)
        signal += float(backward.logits.detach().double().square().sum()) / count
        for name, value, gradient in backward.gradients(_PROBES):
            rest = [0, *range(2, value.ndim)]
            powers[name] = powers.get(name, 0.0) + value.double().square().mean(rest).numpy() * len(part)
            gains[name] = gains.get(name, 0.0) + gradient.double().square().sum(rest).numpy()
    images_seen = _PROBES * count
    channels = {
        name: Channels(*ranges[name], powers[name] / images_seen, gain / images_seen) for name, gain in gains.items()
    }
    return channels, signal


def readers(graph: Graph, names: Collection[str], channels: Mapping[str, Channels]) -> list[Readers]:
    """The layers that read one of the activations `names`. Depthwise layers are left out: with one scale per channel
    their weights can take any factor."""
    found = []
    for node in graph.nodes:
        if node.has_weights and node.inputs[0] in names and node.attrs.get("groups", 1) == 1:
            weight = graph[node.inputs[1]].data
            assert weight is not None
            taps = weight[0, ..., 0].size
            power = channels[node.inputs[0]].power * taps
            found.append(Readers(weight_peaks(weight), channels[node.output].gain, power))
    return found


def weight_peaks(weight: np.ndarray) -> np.ndarray:
    """[O,I]: the largest |weight| between an output and an input channel, of a weight [O,KH,KW,I] or [O,I]."""
    return np.abs(weight).reshape(len(weight), -1, weight.shape[-1]).max(axis=1)


def _ranges(
    graph: Graph, images: np.ndarray, floors: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import torch

    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        rows = above(to_nhwc(value), floors.get(name))
        rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        ranges[name] = rows.min(axis=0, initial=0.0), rows.max(axis=0, initial=0.0)
        return value

    with torch.no_grad():
        TorchGraph(graph)(images, watch)
    return ranges


def above(values: np.ndarray, floor: np.ndarray | None) -> np.ndarray:
    """`values`, raised to the floor of their channel."""
    return values if floor is None else np.maximum(values, floor.astype(np.float32))
