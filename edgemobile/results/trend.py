"""One figure over time, and the points where it changed.

A reproducible figure (instructions, accuracy) changed if it differs by more than its `repeats_within`. Times vary from
run to run. A series of times is split at the point where the two parts differ most, if fewer than 1 % of random
permutations of the same values have a split with such a difference. Then each part is split in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from edgemobile.results.record import METRICS, Result

__all__ = ["FEWEST", "Change", "Trend", "trends"]

# A part of fewer values can differ by chance: of 4 and 4, one order in 35 is as extreme.
FEWEST = 5
_ORDERS, _RARE = 999, 0.01


@dataclass(frozen=True)
class Change:
    """From result `at` on, the median is `ratio` times the one of the results before it, up to the last change."""

    at: int
    ratio: float


@dataclass(frozen=True)
class Trend:
    """Results of one series in order of time. Changes are looked for among those that are trusted."""

    results: tuple[Result, ...]
    changes: tuple[Change, ...]

    @property
    def decides(self) -> bool:
        """Whether there are enough results to find a change."""
        trusted = sum(result.trusted for result in self.results)
        return trusted > 1 if _repeats(self.results[0]) is not None else trusted >= 2 * FEWEST


def trends(results: Sequence[Result]) -> list[Trend]:
    """The series in `results`, each in order of time; the series in order of their first result."""
    series: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        series.setdefault(result.series, []).append(result)
    return [_trend(sorted(found, key=lambda one: datetime.fromisoformat(one.created))) for found in series.values()]


def _trend(results: Sequence[Result]) -> Trend:
    places = [place for place, result in enumerate(results) if result.trusted]
    values = np.array([results[place].value for place in places], np.float64)
    repeats = _repeats(results[0])
    starts = sorted(_splits(values, 0) if repeats is None else _steps(values, repeats))
    bounds = [0, *starts, len(values)]
    medians = [float(np.median(values[first:last])) for first, last in pairwise(bounds) if last]
    changes = [
        Change(places[start], after / before if before else float("inf"))
        for start, (before, after) in zip(starts, pairwise(medians), strict=True)
    ]
    return Trend(tuple(results), tuple(changes))


def _repeats(result: Result) -> float | None:
    return METRICS[result.metric].repeats_within


def _steps(values: np.ndarray, repeats: float) -> Iterator[int]:
    """Indices whose value differs from the first one since the last step."""
    first = 0
    for place in range(1, len(values)):
        if abs(values[place] - values[first]) > repeats * abs(values[first]):
            first = place
            yield place


def _splits(values: np.ndarray, offset: int) -> Iterator[int]:
    if len(values) < 2 * FEWEST:
        return
    logs = np.log(np.maximum(values, 1e-12))
    place, size = _most_apart(logs[None])
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(logs, (_ORDERS, 1)), axis=1)
    # The actual order is one of them, so that its share is at least 1 of 1000.
    if (1 + np.sum(_most_apart(shuffled)[1] >= size[0])) / (1 + _ORDERS) >= _RARE:
        return
    split = int(place[0])
    yield offset + split
    yield from _splits(values[:split], offset)
    yield from _splits(values[split:], offset + split)


def _most_apart(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row f64[N]: (the index where its two parts differ most, the difference in standard errors)."""
    count = rows.shape[1]
    places = np.arange(FEWEST, count - FEWEST + 1)
    sums = np.cumsum(rows, axis=1)[:, places - 1]
    totals = rows.sum(axis=1, keepdims=True)
    apart = np.abs(sums / places - (totals - sums) / (count - places))
    # The sum of squares within the two parts: that of the row minus the part due to the difference of the means.
    weight = places * (count - places) / count
    within = ((rows - rows.mean(axis=1, keepdims=True)) ** 2).sum(axis=1, keepdims=True) - weight * apart**2
    errors = np.sqrt(np.maximum(within, 1e-18) / max(count - 2, 1) / weight)
    sizes = apart / errors
    best = sizes.argmax(axis=1)
    return places[best], sizes[np.arange(len(rows)), best]
