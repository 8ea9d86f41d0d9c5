"""Changes that are there are found, and those that are not are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from made_results import RESULT

from edgemobile.results.record import Result
from edgemobile.results.trend import Trend, trends

_START = datetime(2026, 1, 1, tzinfo=UTC)


def _series(values: np.ndarray, metric: str = "latency_ms") -> list[Result]:
    return [
        replace(RESULT, created=(_START + timedelta(hours=hour)).isoformat(), value=float(value), metric=metric)
        for hour, value in enumerate(values)
    ]


def _trend(values: np.ndarray, metric: str = "latency_ms") -> Trend:
    (trend,) = trends(_series(values, metric))
    return trend


def test_a_count_that_differs_is_a_change_at_once() -> None:
    trend = _trend(np.array([16.700, 16.7005, 15.46, 15.46, 16.7]), "instructions_m")
    assert [change.at for change in trend.changes] == [2, 4]
    assert trend.changes[0].ratio == pytest.approx(15.46 / 16.70, rel=1e-3)
    assert trend.decides


@pytest.mark.parametrize("seed", range(10))
def test_a_time_that_moves_by_five_percent_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([4.0 * rng.lognormal(0, 0.012, 12), 4.2 * rng.lognormal(0, 0.012, 12)])
    (change,) = (change for change in _trend(values).changes if abs(change.at - 12) <= 1)
    assert change.ratio == pytest.approx(1.05, abs=0.02)


def test_times_that_only_scatter_have_no_change() -> None:
    """At 1 % a search is wrong once in a hundred series; five times in a hundred would be rare."""
    rng = np.random.default_rng(3)
    wrong = sum(bool(_trend(4.0 * rng.lognormal(0, 0.02, 20)).changes) for _ in range(100))
    assert wrong <= 4


def test_two_changes_are_both_found() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([level * rng.lognormal(0, 0.01, 10) for level in (4.0, 5.0, 3.0)])
    assert [change.at for change in _trend(values).changes] == [10, 20]


def test_few_times_decide_nothing() -> None:
    trend = _trend(np.array([4.0, 4.0, 4.0, 8.0, 8.0, 8.0]))
    assert not trend.changes
    assert not trend.decides


def test_unstable_results_take_no_part() -> None:
    results = _series(np.array([16.7, 99.0, 16.7]), "instructions_m")
    results[1] = replace(results[1], trusted=False)
    (trend,) = trends(results)
    assert len(trend.results) == 3
    assert not trend.changes


def test_other_devices_and_files_are_other_series_and_a_newer_runtime_is_not() -> None:
    newer = replace(RESULT, runtime="litert 2.4.0")
    others = [
        replace(RESULT, device="pi4"),
        replace(RESULT, file="b.tflite"),
        replace(RESULT, runtime="tflite_runtime 2.14"),
    ]
    assert [len(trend.results) for trend in trends([RESULT, newer, *others])] == [2, 1, 1, 1]


def test_results_come_in_order_of_time_whatever_their_zone() -> None:
    late = replace(RESULT, created="2026-01-31T12:30:00+00:00", value=2)
    early = replace(RESULT, created="2026-01-31T13:00:00+02:00", value=1)
    (trend,) = trends([late, early])
    assert [result.value for result in trend.results] == [1, 2]
