"""The accuracy of a classifier, its confidence interval, and whether two classifiers differ on the same images.

The 95 % interval is Wilson's, which stays within 0 to 1 and is valid for few images. Two files are compared image by
image (McNemar), not by their intervals: most images are easy, and only those on which the two disagree are evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Paired", "confusion", "mcnemar", "ranks", "wilson"]

_Z95 = 1.959963984540054  # the normal quantile of 0.975


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """i64[N]: how many scores of f[N,C] rank before that of the label: 0 is top-1, below 5 is top-5.

    Equal scores, common with integers, rank in the order of their classes, as in argmax. A row that is not
    finite has rank C.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & before), axis=1)
    return np.where(np.isfinite(scores).all(axis=1), rank, scores.shape[1])


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % interval of correct / count, Wilson's score interval (1927); (0, 1) for no images."""
    if count == 0:
        return 0.0, 1.0
    share, spread = correct / count, _Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    # The ends are exact if none or all are correct; rounding would leave them at 1e-17.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == count else centre + half)


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same `count` images: how many only one, and only the other, classifies correctly.

    `p_exact` is McNemar's two-sided binomial test, `p_mid` its mid-p form, which is less conservative (Fagerland 2013).
    """

    count: int
    only_baseline: int
    only_other: int
    p_exact: float
    p_mid: float

    @property
    def drop_points(self) -> float:
        """By how many percentage points the other is worse than the baseline; negative if it is better."""
        return 100 * (self.only_baseline - self.only_other) / self.count if self.count else 0.0


def mcnemar(baseline: np.ndarray, other: np.ndarray) -> Paired:
    """Compare bool[N] with bool[N]: which images each classifies correctly.

    If they are equally good, each image on which they differ is equally likely to favour either.
    """
    if baseline.shape != other.shape:
        raise ValueError(f"cannot pair {list(baseline.shape)} with {list(other.shape)} images")
    only_baseline, only_other = int(np.sum(baseline & ~other)), int(np.sum(other & ~baseline))
    tosses, fewer = only_baseline + only_other, min(only_baseline, only_other)
    ways = [1]
    for k in range(fewer):
        ways.append(ways[-1] * (tosses - k) // (k + 1))
    # Integers until the last division: 2**-tosses underflows a float at 1075 images.
    tail = 2 * sum(ways)
    p_exact = 1.0 if only_baseline == only_other else tail / 2**tosses
    return Paired(len(baseline), only_baseline, only_other, p_exact, (tail - ways[-1]) / 2**tosses)


def confusion(truth: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of every pair that occurs, sorted: of 1000 classes few pairs do."""
    pairs, counts = np.unique(np.stack([truth, predicted], axis=1), axis=0, return_counts=True)
    return [(int(true), int(guess), int(count)) for (true, guess), count in zip(pairs, counts, strict=True)]
