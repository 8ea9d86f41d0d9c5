"""Finds the equalization factors that put the least noise into the logits.

Channels of equal range get equally many int8 steps, but not all channels need as many: if a channel hardly varies
around a large mean, an edge detector may read differences of one step only. Let h and l be the ends of a channel's
range, f its factor and g its gain (quant/noise.py). The tensors t of a group that shares its factors add this noise to
the logits:

    sum over t of  (max(f h_t) - min(f l_t))^2  *  sum over channels of g_t / f^2

A small f makes the weights that read the channel large, by 1 / f, and with them the quantization step of the whole
weight row. Let w_o be the largest |weight| of row o for a channel, and p the factor from the variance of the weights'
errors to that of the layer's output. A layer that reads a tensor of the group adds

    sum over o of  g_o * max(w_o / f)^2  *  sum over channels of p f^2

This is in the unit of the first sum after multiplying by (255 / 127)^2. It counts twice, because the error of a weight
is the same at every pixel and adds up. Both are sums and maxima of powers of f, so they are convex in log f (a
geometric program) and gradient descent finds the minimum from any start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemobile.quant.noise import Channels, Readers

__all__ = ["noise_optimal_scaling"]

# The least gain of a channel, as a share of the mean: a lower one may be due to these images only.
_LEAST_GAIN = 1e-2
# A weight has 127 steps up to its row's peak, and an activation 255 over its tensor's range. Squared and doubled: see
# above.
_WEIGHT_STEPS = 2 * (255 / 127) ** 2
# Adam (arXiv:1412.6980), because a maximum is not smooth and channels differ by orders of magnitude.
_STEPS = 200
_RATE = 0.05
_BETA = 0.9, 0.999


def noise_optimal_scaling(
    channels: Sequence[Channels], start: np.ndarray, readers: Sequence[Readers] = ()
) -> np.ndarray:
    """The factors f64[C] for the tensors of a group and the layers that read them, starting from `start`, which must be
    positive.

    A channel that was always zero keeps its factor, because its range is not known.
    """
    high, low = (np.stack(ends) for ends in ([of.high for of in channels], [of.low for of in channels]))
    gain = np.stack([_gain(of, start) for of in channels])
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


def _gain(channels: Channels, start: np.ndarray) -> np.ndarray:
    """The gain f64[C], at least `_LEAST_GAIN` of the mean after scaling by `start`; 0 for channels always at zero."""
    scaled = channels.gain / np.square(start)
    gain = np.maximum(scaled, _LEAST_GAIN * scaled.mean()) * np.square(start)
    return np.where(channels.width > 0, gain, 0.0)


def _rounded_values(
    high: np.ndarray, low: np.ndarray, gain: np.ndarray, factors: np.ndarray
) -> tuple[float, np.ndarray]:
    """(the noise of activations, its gradient f64[C] by log f); `high`, `low` and `gain` are f64[tensors,C]."""
    tops, bottoms = factors * high, factors * low
    span = (tops.max(axis=1) - bottoms.min(axis=1))[:, None]
    noise = gain / np.square(factors)
    total = noise.sum(axis=1, keepdims=True)
    # A larger factor widens the range if its channel has one of its ends, and reduces the noise of its own channel.
    ends = tops * (tops == tops.max(axis=1, keepdims=True)) - bottoms * (bottoms == bottoms.min(axis=1, keepdims=True))
    change = 2 * (span * total * ends - span**2 * noise).sum(axis=0)
    return float((span**2 * total).sum()), change


def _rounded_weights(layer: Readers, factors: np.ndarray) -> tuple[float, np.ndarray]:
    """(the noise of a layer's weights, its gradient f64[C] by log f), in the unit of _rounded_values."""
    divided = layer.peaks / factors.astype(np.float32)
    widest = divided.argmax(axis=1)
    peaks = divided[np.arange(len(divided)), widest].astype(np.float64)
    rows = _WEIGHT_STEPS * layer.gain * np.square(peaks)
    columns = layer.power * np.square(factors)
    change = 2 * (rows.sum() * columns - np.bincount(widest, rows, len(factors)) * columns.sum())
    return float(rows.sum() * columns.sum()), change
