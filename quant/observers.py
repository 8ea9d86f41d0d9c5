"""Observers see a tensor over the calibration batches and choose the range that int8 should cover.

They are streaming: memory does not grow with the calibration set. `update` takes an array of any shape. `range` gives
(low, high) with low <= 0 <= high, because zero must be exact (padding writes zeros).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

__all__ = ["OBSERVERS", "Entropy", "MinMax", "MovingAverage", "Mse", "Observer", "Percentile"]

_LEVELS = 256
_BINS = 2048
# The most values that one update counts. The stride is odd, so that the sample covers all channels.
_COUNTED = 2**17


class Observer(Protocol):
    def update(self, values: np.ndarray) -> None: ...
    def range(self) -> tuple[float, float]: ...


class MinMax:
    """The smallest and largest value ever seen."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def update(self, values: np.ndarray) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class MovingAverage:
    """An exponential moving average of each batch's extremes, so that one unusual batch does not set the range."""

    def __init__(self, momentum: float = 0.1) -> None:
        self.momentum = momentum
        self.ends: np.ndarray | None = None

    def update(self, values: np.ndarray) -> None:
        ends = np.array([values.min(), values.max()], np.float64)
        self.ends = ends if self.ends is None else self.ends + self.momentum * (ends - self.ends)

    def range(self) -> tuple[float, float]:
        low, high = (0.0, 0.0) if self.ends is None else self.ends
        return min(0.0, float(low)), max(0.0, float(high))


class _Histogram:
    """Counts in equal bins over a range that grows with the data. When it grows, each old bin's count moves to the new
    bin that contains its centre."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS)
        self.low = self.high = 0.0

    def update(self, values: np.ndarray) -> None:
        low, high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if low == high:
            return
        if (low, high) != (self.low, self.high):
            # Grow by a quarter more than needed, so that counts rarely move.
            low = low if low == self.low else low * 1.25
            high = high if high == self.high else high * 1.25
            self.counts, _ = np.histogram(self.centres(), _BINS, (low, high), weights=self.counts)
            self.low, self.high = low, high
        # The extremes are exact. The counts are of an evenly spaced sample, which has the same distribution.
        every = values.size // _COUNTED + 1
        self.counts += np.histogram(values.reshape(-1)[:: every | 1], _BINS, (self.low, self.high))[0]

    def centres(self) -> np.ndarray:
        edges = np.linspace(self.low, self.high, _BINS + 1)
        return (edges[:-1] + edges[1:]) / 2

    def occupied(self) -> tuple[float, float]:
        """The ends of the occupied bins, widened to include zero."""
        edges = np.linspace(self.low, self.high, _BINS + 1)
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return 0.0, 0.0
        return min(0.0, float(edges[filled[0]])), max(0.0, float(edges[filled[-1] + 1]))


class Percentile(_Histogram):
    """Clips the largest and smallest values: `percentile` % of the values are inside the range."""

    def __init__(self, percentile: float = 99.99) -> None:
        super().__init__()
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        total = self.counts.sum()
        if not total:
            return 0.0, 0.0
        tail = (1 - self.percentile / 100) / 2
        edges = np.linspace(self.low, self.high, _BINS + 1)
        below = np.concatenate([[0.0], np.cumsum(self.counts)]) / total
        low = edges[max(int(np.searchsorted(below, tail, side="right")) - 1, 0)]
        high = edges[min(int(np.searchsorted(below, 1 - tail, side="left")), _BINS)]
        return min(0.0, float(low)), max(0.0, float(high))


class _Search(_Histogram):
    """Tries smaller and smaller ranges and takes the one with the least `_loss`."""

    def range(self) -> tuple[float, float]:
        low, high = self.occupied()
        if low == high:
            return low, high
        shrinks = np.linspace(1.0, 0.3, 36)
        candidates = [
            (low * a, high * b) for a in (shrinks if low < 0 else [1.0]) for b in (shrinks if high > 0 else [1.0])
        ]
        if low < 0 < high:
            # Shrink both ends together first, then each end alone: 36 + 72 candidates instead of 36 * 36.
            both = min(((low * s, high * s) for s in shrinks), key=lambda ends: self._loss(*ends))
            candidates = [(both[0] * s, both[1]) for s in shrinks] + [(both[0], both[1] * s) for s in shrinks]
        return min(candidates, key=lambda ends: self._loss(*ends))

    def _loss(self, low: float, high: float) -> float:
        raise NotImplementedError


class Mse(_Search):
    """The range with the least mean squared error from rounding inside it and clipping outside.

    The squared error of a value is step^2 / 12 if it is rounded, and its squared distance to the range if clipped.
    """

    def _loss(self, low: float, high: float) -> float:
        centres = self.centres()
        clipped = np.clip(centres, low, high)
        step = (high - low) / (_LEVELS - 1)
        inside = clipped == centres
        return float(self.counts @ np.where(inside, step**2 / 12, (centres - clipped) ** 2))


# The probability of a level that has clipped values only: with zero the divergence would be infinite.
_RARE = 1e-9


class Entropy(_Search):
    """The range whose 256-level histogram has the least Kullback-Leibler divergence from the real one."""

    def _loss(self, low: float, high: float) -> float:
        centres = self.centres()
        level = np.clip(np.floor((centres - low) / (high - low) * _LEVELS), 0, _LEVELS - 1).astype(int)
        inside = (centres >= low) & (centres <= high)
        # The reference adds the clipped values to the range's first and last bin; the candidate spreads each level
        # evenly over its bins.
        reference = np.where(inside, self.counts, 0.0)
        ends = np.flatnonzero(inside)
        if len(ends) < _LEVELS // 2:
            return np.inf
        reference[ends[0]] += self.counts[: ends[0]].sum()
        reference[ends[-1]] += self.counts[ends[-1] + 1 :].sum()
        present = reference > 0
        mass = np.bincount(level[present], np.where(inside, self.counts, 0.0)[present], _LEVELS)
        width = np.bincount(level[present], minlength=_LEVELS)
        candidate = mass[level[present]] / width[level[present]]
        p, q = reference[present] / reference.sum(), np.maximum(candidate / max(candidate.sum(), 1), _RARE)
        return float(np.sum(p * np.log(p / q)))


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": Mse,
    "entropy": Entropy,
}
