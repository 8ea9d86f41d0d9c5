"""Metrics of an output against its reference. Each has a name, a unit and a direction, and accepts identical, zero
and empty inputs.

To add a metric: a function and a row in METRICS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgemobile.errors import EdgemobileError

__all__ = [
    "METRICS",
    "Metric",
    "checked_max_drop",
    "cosine",
    "kl_nats",
    "max_abs",
    "measure",
    "measure_any",
    "sqnr_db",
    "top1_agree",
    "worst",
]


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise ratio, 10 log10(sum ref^2 / sum (ref - other)^2), in dB.

    inf for identical inputs, -inf if the reference is all zero and the other is not, nan if either is not finite.
    """
    reference, other = reference.astype(np.float64), other.astype(np.float64)
    signal, noise = float(np.sum(reference**2)), float(np.sum((reference - other) ** 2))
    if math.isnan(noise) or math.isinf(noise):
        return math.nan
    if noise == 0:
        return math.inf
    return -math.inf if signal == 0 else 10 * math.log10(signal / noise)


def max_abs(reference: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference; 0 for empty inputs, nan if either is not finite."""
    difference = np.abs(reference.astype(np.float64) - other.astype(np.float64))
    return float(np.max(difference, initial=0.0))


def cosine(reference: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of the flattened arrays; 1 if both are zero or empty, 0 if one is."""
    a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if norms == (0.0, 0.0):
        return 1.0
    return 0.0 if 0.0 in norms else float(a @ b) / (norms[0] * norms[1])


def top1_agree(reference: np.ndarray, other: np.ndarray) -> float:
    """The fraction of rows [N, classes] whose largest value is at the same index; nan for no rows or a nan.

    Of maps [N, H, W, classes] it is the fraction of pixels.
    """
    if not len(reference) or np.isnan(reference).any() or np.isnan(other).any():
        return math.nan
    return float(np.mean(_classes(reference).argmax(axis=-1) == _classes(other).argmax(axis=-1)))


def kl_nats(reference: np.ndarray, other: np.ndarray) -> float:
    """KL(p || q) with the softmax p of the reference logits and q of the other's, mean over rows [N, classes].

    In nats: 0 for equal distributions, never negative. nan for no rows, or if either is not finite.
    """
    if not len(reference) or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return math.nan
    log_p, log_q = _log_softmax(_classes(reference)), _log_softmax(_classes(other))
    return max(0.0, float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))))


def _classes(logits: np.ndarray) -> np.ndarray:
    """[N, classes]; a single logit [N, 1] means yes, and a logit of 0 for no is added: [N, 2]."""
    return np.concatenate([np.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Metric:
    """One row: `better` is the good direction; `unit` may be empty. `ranks` are the numbers of dimensions of outputs
    that have it, () for all."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    function: Callable[[np.ndarray, np.ndarray], float]
    ranks: tuple[int, ...] = ()

    def passes(self, value: float, bound: float) -> bool:
        """Whether `value` is at least as good as `bound`; nan never is."""
        return value >= bound if self.better == "higher" else value <= bound


METRICS = {
    row.name: row
    for row in (
        Metric("sqnr_db", "dB", "higher", sqnr_db),
        Metric("max_abs", "", "lower", max_abs),
        Metric("cosine", "", "higher", cosine),
        Metric("top1_agree", "", "higher", top1_agree, ranks=(2, 4)),
        Metric("kl_nats", "nats", "lower", kl_nats, ranks=(2,)),
    )
}


def measure(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Every metric of `other` against `reference`; raises ValueError if the shapes differ."""
    if reference.shape != other.shape:
        raise ValueError(f"cannot compare shapes {list(reference.shape)} and {list(other.shape)}")
    return {name: metric.function(reference, other) for name, metric in METRICS.items()}


def measure_any(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """As `measure`, of outputs [N, ...] of any shape: the metrics that such an output has."""
    rows = {name: metric for name, metric in METRICS.items() if not metric.ranks or reference.ndim in metric.ranks}
    return {name: metric.function(reference, other) for name, metric in rows.items()}


def worst(outputs: Collection[Mapping[str, float]]) -> dict[str, float]:
    """The worst value of every metric over all outputs; nan if one value is nan, or if no output has the metric."""
    found = {}
    for name, metric in METRICS.items():
        values = [own[name] for own in outputs if name in own]
        pick = min if metric.better == "higher" else max
        found[name] = math.nan if not values or any(map(math.isnan, values)) else pick(values)
    return found


def checked_max_drop(points: float) -> float:
    """Check `points` of top-1, from 0 to 100. Raises EdgemobileError for others, and for nan, which would allow
    any loss.
    """
    if not 0 <= points <= 100:
        raise EdgemobileError(f"--max-drop is in points of top-1, 0 to 100; found {points:g}")
    return points
