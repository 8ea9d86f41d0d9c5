"""The factors of equalization that put the least noise into the logits.

Alike channels share the steps of int8 evenly, and not all channels need as many: of one that hardly varies around a
large mean, an edge detector may read nothing but the last integer. With h and l the ends of a channel's range, f its
factor and g its gain (quant/noise.py), the tensors t of a group that shares its factors put

    sum over t of  (max(f h_t) - min(f l_t))^2  *  sum over channels of g_t / f^2

into the logits. A channel that f makes small is read by weights that 1 / f makes large, and the step of a whole row of
weights with them: with w the largest weight of a row o between it and a channel, and p what errors of the weights are
multiplied by there, a layer that reads a t puts

    sum over o of  g_o * max(w_o / f)^2  *  sum over channels of p f^2

there, times (255 / 127)^2 beside the first, and twice that: the error of a weight is the same at every pixel, and adds
up. Both are sums and maxima of powers of f, convex in log f (a geometric program), so going downhill leads to the least
from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemobile.quant.noise import Channels, Readers

__all__ = ["noise_optimal_scaling"]

# A channel that adds less than this share of what channels usually add has only not been seen on these images.
_LEAST_GAIN = 1e-2
# A weight has 127 steps to its row's peak where a value has 255 to its tensor's span; squared, and twice: see above.
_WEIGHT_STEPS = 2 * (255 / 127) ** 2
# Adam (arXiv:1412.6980) copes with the corners of a maximum, and with channels that differ by orders of magnitude.
_STEPS = 200
_RATE = 0.05
_BETA = 0.9, 0.999


def noise_optimal_scaling(
    channels: Sequence[Channels], start: np.ndarray, readers: Sequence[Readers] = ()
) -> np.ndarray:
    """The factors f64[C] of a group's tensors and of the layers that read them, from `start`, which must be above 0.

    A channel that was always zero keeps its factor: nothing is known of it.
    """
    high, low = (np.stack(ends) for ends in ([of.high for of in channels], [of.low for of in channels]))
    gain = np.stack([_trusted(of, start) for of in channels])
    known = (high > low).any(axis=0)
    log_factors = np.log(start)
    mean, square = np.zeros_like(start), np.zeros_like(start)
    for step in range(_STEPS):
        factors = np.exp(log_factors)
        noise, change = _rounded_values(high, low, gain, factors)
        for layer in readers:
            more, its_change = _rounded_weights(layer, factors)
            noise, change = noise + more, change + its_change
        slope = known * change / max(noise, 1e-300)
        mean += (1 - _BETA[0]) * (slope - mean)
        square += (1 - _BETA[1]) * (slope**2 - square)
        direction = mean / (1 - _BETA[0] ** (step + 1)) / (np.sqrt(square / (1 - _BETA[1] ** (step + 1))) + 1e-12)
        log_factors -= _RATE * (1 - step / _STEPS) * direction
    return np.exp(log_factors)


def _trusted(channels: Channels, start: np.ndarray) -> np.ndarray:
    alike = channels.gain / np.square(start)
    least = np.maximum(alike, _LEAST_GAIN * alike.mean()) * np.square(start)
    return np.where(channels.width > 0, least, 0.0)


def _rounded_values(
    high: np.ndarray, low: np.ndarray, gain: np.ndarray, factors: np.ndarray
) -> tuple[float, np.ndarray]:
    """(the noise, its change with log f f64[C]) of activations; `high`, `low` and `gain` are f64[tensors,C]."""
    tops, bottoms = factors * high, factors * low
    span = (tops.max(axis=1) - bottoms.min(axis=1))[:, None]
    noise = gain / np.square(factors)
    total = noise.sum(axis=1, keepdims=True)
    # What a factor adds where its channel is the widest, and what it takes off its own channel.
    ends = tops * (tops == tops.max(axis=1, keepdims=True)) - bottoms * (bottoms == bottoms.min(axis=1, keepdims=True))
    change = 2 * (span * total * ends - span**2 * noise).sum(axis=0)
    return float((span**2 * total).sum()), change


def _rounded_weights(layer: Readers, factors: np.ndarray) -> tuple[float, np.ndarray]:
    """(the noise, its change with log f f64[C]) of a layer's weights, in the unit of _rounded_values."""
    divided = layer.peaks / factors.astype(np.float32)
    widest = divided.argmax(axis=1)
    peaks = divided[np.arange(len(divided)), widest].astype(np.float64)
    rows = _WEIGHT_STEPS * layer.gain * np.square(peaks)
    columns = layer.power * np.square(factors)
    change = 2 * (rows.sum() * columns - np.bincount(widest, rows, len(factors)) * columns.sum())
    return float(rows.sum() * columns.sum()), change
