"""The range that each observer finds, and constant memory for any amount of data."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edgemobile.quant.observers import OBSERVERS, MinMax, MovingAverage, Mse, Percentile


def _noise_squared(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    q = np.clip(np.rint((values - low) / step), 0, 255)
    return float(np.mean((q * step + low - values) ** 2))


@pytest.mark.parametrize("name", OBSERVERS)
def test_the_range_includes_zero_and_lies_within_the_observed_values(name: str) -> None:
    rng = np.random.default_rng(0)
    for low, high in ((-2, 5), (1, 5), (-5, -1)):
        observer = OBSERVERS[name]()
        for _ in range(4):
            observer.update(rng.uniform(low, high, 5000))
        found_low, found_high = observer.range()
        assert min(low, 0) * 1.02 <= found_low <= 0 <= found_high <= max(high, 0) * 1.02
        assert found_high - found_low > 0.25 * (max(high, 0) - min(low, 0))


@pytest.mark.parametrize("name", OBSERVERS)
def test_no_values_and_only_zeros_give_an_empty_range(name: str) -> None:
    observer = OBSERVERS[name]()
    assert observer.range() == (0.0, 0.0)
    observer.update(np.zeros(100))
    assert observer.range() == (0.0, 0.0)


def test_minmax_keeps_the_extremes_of_all_batches() -> None:
    observer = MinMax()
    observer.update(np.array([1.0, -3.0]))
    observer.update(np.array([7.0, 0.5]))
    assert observer.range() == (-3.0, 7.0)


def test_moving_average_limits_the_effect_of_one_outlier_batch() -> None:
    observer = MovingAverage(momentum=0.1)
    for peak in (1.0, 1.0, 100.0, 1.0, 1.0):
        observer.update(np.array([0.0, peak]))
    assert 1 < observer.range()[1] < 12


@pytest.mark.parametrize("pixels", [1000, 100_000, 200_000])
def test_every_channel_is_counted_with_any_number_of_values(pixels: int) -> None:
    """With many values, every n-th one is counted, and the stride must not miss the second channel."""
    observer = Percentile(99.0)
    observer.update(np.tile([0.1, 1.0], (pixels, 1)))
    assert observer.range() == (0, pytest.approx(1, rel=0.01))


def test_percentile_cuts_the_tail_and_no_more() -> None:
    observer = Percentile(99.0)
    values = np.linspace(0, 1, 100_001)
    observer.update(values)
    observer.update(np.full(20, 50.0))
    low, high = observer.range()
    assert low == 0
    assert 0.95 < high < 1.1


def test_mse_beats_minmax_on_a_long_tail_and_matches_it_on_a_flat_one() -> None:
    rng = np.random.default_rng(1)
    heavy = rng.standard_t(3, 200_000)
    mse, minmax = Mse(), MinMax()
    for observer in (mse, minmax):
        for part in np.split(heavy, 10):
            observer.update(part)
    assert _noise_squared(heavy, *mse.range()) < 0.75 * _noise_squared(heavy, *minmax.range())
    flat = rng.uniform(-1, 3, 100_000)
    mse = Mse()
    mse.update(flat)
    assert mse.range() == pytest.approx((-1, 3), rel=0.02)


def test_counts_survive_a_growing_range() -> None:
    observer = Mse()
    rng = np.random.default_rng(2)
    for scale in (1, 2, 10, 0.1):
        observer.update(rng.normal(0, scale, 1000))
    assert observer.counts.sum() == 4000


def test_memory_does_not_grow() -> None:
    observer = Mse()
    observer.update(np.linspace(-1, 1, 1000))
    before = sys.getsizeof(observer.counts) + sum(map(sys.getsizeof, vars(observer).values()))
    for _ in range(50):
        observer.update(np.linspace(-3, 3, 1000))
    after = sys.getsizeof(observer.counts) + sum(map(sys.getsizeof, vars(observer).values()))
    assert after == before


def test_cutting_off_rare_values_costs_their_probability() -> None:
    """150 of 20,150 values are sparse and above a normal distribution: clipping just above it would lose them all."""
    rng = np.random.default_rng(0)
    observer = OBSERVERS["entropy"]()
    observer.update(np.concatenate([rng.normal(size=20_000), rng.uniform(3, 10, 150)]).astype(np.float32))
    assert observer.range()[1] > 9
