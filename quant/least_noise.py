"""The factors of equalization that put the least noise into the logits.

Alike channels share the steps of int8 evenly, and not all channels need as many: of one that hardly varies around a
large mean, an edge detector may read nothing but the last integer. With h and l the ends of a channel's range, f its
factor and g its gain (quant/noise.py), the tensors t of a group that shares its factors put

    sum over t of  (max(f h_t) - min(f l_t))^2  *  sum over channels of g_t / f^2

into the logits: sums and maxima of powers of f, convex in log f (a geometric program), so going downhill leads to the
least from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemobile.quant.noise import Channels

__all__ = ["least_noise"]

# A channel that adds less than this share of what channels usually add has only not been seen on these images.
_LEAST_GAIN = 1e-2
# Adam (arXiv:1412.6980) copes with the corners of a maximum, and with channels that differ by orders of magnitude.
_STEPS = 200
_RATE = 0.05
_BETA = 0.9, 0.999


def least_noise(channels: Sequence[Channels], start: np.ndarray) -> np.ndarray:
    """The factors f64[C] of a group's tensors, from `start`, which must be above 0.

    A channel that was always zero keeps its factor: nothing is known of it.
    """
    high, low = (np.stack(ends) for ends in ([of.high for of in channels], [of.low for of in channels]))
    gain = np.stack([_trusted(of, start) for of in channels])
    log_factors = np.log(start)
    mean, square = np.zeros_like(start), np.zeros_like(start)
    for step in range(_STEPS):
        slope = _slope(high, low, gain, np.exp(log_factors))
        mean += (1 - _BETA[0]) * (slope - mean)
        square += (1 - _BETA[1]) * (slope**2 - square)
        direction = mean / (1 - _BETA[0] ** (step + 1)) / (np.sqrt(square / (1 - _BETA[1] ** (step + 1))) + 1e-12)
        log_factors -= _RATE * (1 - step / _STEPS) * direction
    return np.exp(log_factors)


def _trusted(channels: Channels, start: np.ndarray) -> np.ndarray:
    alike = channels.gain / np.square(start)
    least = np.maximum(alike, _LEAST_GAIN * alike.mean()) * np.square(start)
    return np.where(channels.width > 0, least, 0.0)


def _slope(high: np.ndarray, low: np.ndarray, gain: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """How the logarithm of the noise changes with log f, f64[C]; `high`, `low` and `gain` are f64[tensors,C]."""
    tops, bottoms = factors * high, factors * low
    span = (tops.max(axis=1) - bottoms.min(axis=1))[:, None]
    noise = gain / np.square(factors)
    total = noise.sum(axis=1, keepdims=True)
    # What a factor adds where its channel is the widest, and what it takes off its own channel.
    ends = tops * (tops == tops.max(axis=1, keepdims=True)) - bottoms * (bottoms == bottoms.min(axis=1, keepdims=True))
    slope = 2 * (span * total * ends - span**2 * noise).sum(axis=0)
    return slope / max(float((span**2 * total).sum()), 1e-300)
