"""Counting, intervals and the paired test, against tables, brute force and their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.accuracy.statistics import confusion, mcnemar, ranks, wilson


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_is_that_of_the_literature(correct: int, count: int, low: float, high: float) -> None:
    assert wilson(correct, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_holds_its_share_and_mirrors(correct: int, count: int) -> None:
    correct = min(correct, count)
    low, high = wilson(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    assert wilson(count - correct, count) == (pytest.approx(1 - high), pytest.approx(1 - low))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_binomial_test_of_the_images_that_differ(only_baseline: int, only_other: int) -> None:
    both_right, both_wrong = [(True, True)] * 5, [(False, False)] * 3
    pairs = [(True, False)] * only_baseline + [(False, True)] * only_other + both_right + both_wrong
    baseline, other = np.array(pairs).T
    paired = mcnemar(baseline, other)
    tosses, fewer = only_baseline + only_other, min(only_baseline, only_other)
    exactly = [math.comb(tosses, k) / 2**tosses for k in range(fewer + 1)]
    assert paired.p_exact == pytest.approx(min(1.0, 2 * sum(exactly)))
    assert paired.p_mid == pytest.approx(2 * sum(exactly) - exactly[-1])
    assert paired.drop_points == pytest.approx(100 * (only_baseline - only_other) / len(pairs))


def test_mcnemar_holds_for_thousands_of_images() -> None:
    baseline = np.arange(20_000) < 9_000
    other = (np.arange(20_000) >= 9_000) & (np.arange(20_000) < 18_200)
    assert mcnemar(baseline, other).p_mid == pytest.approx(0.13822, abs=1e-4)  # 1500 digits of 2**-18200
    assert mcnemar(baseline, ~baseline & False).p_mid == 0.0
    assert mcnemar(baseline[:0], other[:0]).p_mid == 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_ranks_are_places_in_a_stable_order(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, levels, (20, 7)).astype(np.float32), rng.integers(0, 7, 20)
    order = np.argsort(-scores, axis=1, kind="stable")
    assert (ranks(scores, labels) == np.argmax(order == labels[:, None], axis=1)).all()
    assert ((ranks(scores, labels) == 0) == (scores.argmax(axis=1) == labels)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_never_right(bad: float) -> None:
    scores = np.array([[3.0, bad, 1.0], [3.0, 2.0, 1.0]])
    assert ranks(scores, np.array([0, 0])).tolist() == [3, 0]


def test_confusion_lists_what_occurs() -> None:
    assert confusion(np.array([0, 0, 0, 2]), np.array([1, 0, 1, 2])) == [(0, 0, 1), (0, 1, 2), (2, 2, 1)]
    assert confusion(np.zeros(0, int), np.zeros(0, int)) == []
