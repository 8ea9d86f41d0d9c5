"""Metrics on difficult inputs: identical, zero, empty and nan."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemobile.metrics.measures import METRICS, cosine, kl_nats, max_abs, measure, sqnr_db, top1_agree
from edgemobile.metrics.tolerances import TABLE, TOLERANCES, bounded, judge, tolerance, untrained

_ONES = np.ones((2, 3), np.float32)
_ZEROS = np.zeros((2, 3), np.float32)
_EMPTY = np.zeros((0, 3), np.float32)
_NAN = np.full((2, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("function", "reference", "other", "value"),
    [
        (sqnr_db, _ONES, _ONES, math.inf),
        (sqnr_db, _ONES, _ONES * 0.9, 20.0),
        (sqnr_db, _ZEROS, _ZEROS, math.inf),
        (sqnr_db, _ZEROS, _ONES, -math.inf),
        (sqnr_db, _EMPTY, _EMPTY, math.inf),
        (sqnr_db, _ONES, _NAN, math.nan),
        (max_abs, _ONES, -_ONES, 2.0),
        (max_abs, _EMPTY, _EMPTY, 0.0),
        (max_abs, _ONES, _NAN, math.nan),
        (cosine, _ONES, _ONES * 7, 1.0),
        (cosine, _ONES, -_ONES, -1.0),
        (cosine, _ZEROS, _ZEROS, 1.0),
        (cosine, _ZEROS, _ONES, 0.0),
        (cosine, _EMPTY, _EMPTY, 1.0),
        (cosine, _ONES, _NAN, math.nan),
        (top1_agree, np.eye(3), np.eye(3)[::-1], 1 / 3),
        (top1_agree, np.array([[2.0], [0.1], [-1.0], [-3.0]]), np.array([[1.0], [-0.1], [-1.0], [0.5]]), 0.5),
        (top1_agree, _EMPTY, _EMPTY, math.nan),
        (top1_agree, _ONES, _NAN, math.nan),
        (kl_nats, _ONES, _ONES * 7, 0.0),
        (kl_nats, _ZEROS, _ZEROS, 0.0),
        (kl_nats, np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]), 0.5 * math.log(4 / 3)),
        (kl_nats, np.array([[1e5, 0.0]]), np.array([[1e5, 0.0]]), 0.0),
        (kl_nats, np.log([[3.0]]), np.log([[1.0]]), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        (kl_nats, _EMPTY, _EMPTY, math.nan),
        (kl_nats, _ONES, _NAN, math.nan),
    ],
)
def test_values(function, reference: np.ndarray, other: np.ndarray, value: float) -> None:
    assert function(reference, other) == pytest.approx(value, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
def test_identical_passes_its_own_bound_and_nan_passes_none(name: str) -> None:
    metric = METRICS[name]
    best = metric.function(np.eye(3), np.eye(3))
    assert metric.passes(best, best)
    assert not metric.passes(math.nan, 0.0)
    worse = metric.function(np.eye(3), np.eye(3)[::-1])
    assert not metric.passes(worse, best)


def test_float_noise_passes_and_a_flipped_sign_does_not() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 10)).astype(np.float32)
    assert judge(logits, logits * np.float32(1 + 1e-6), TOLERANCES["float32"]).passed
    verdict = judge(logits, -logits, TOLERANCES["int8"])
    assert not verdict.passed
    assert "sqnr_db" in verdict.missed[0]
    assert "12" in verdict.missed[0]


def test_a_nan_output_never_passes() -> None:
    for bounds in TOLERANCES.values():
        assert not judge(np.eye(4), np.full((4, 4), np.nan), bounds).passed


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[0, 3\]"):
        measure(_ONES, _EMPTY)


def test_bounds_of_ones_own_are_beside_the_tables_and_alone_for_random_weights() -> None:
    own = {"int8": {"sqnr_db": 1.0}, "float32": {"max_abs": 0.5}}
    trained, random = bounded(TABLE, own), bounded(untrained(TABLE), own)
    assert tolerance("onnx", "int8", "x86_64", trained).bounds == {**TOLERANCES["int8"], "sqnr_db": 1.0}
    assert tolerance("onnx", "int8", "x86_64", random).bounds == {"sqnr_db": 1.0}
    for table, db in ((trained, 90.0), (random, 70.0)):
        bounds = {**TOLERANCES["float32"], "max_abs": 0.5, "sqnr_db": db}
        assert tolerance("tflite", "float32", "aarch64", table).bounds == bounds
        assert tolerance("tflite", "float16", "aarch64", table) in TABLE
    later = bounded(trained, {"int8": {"sqnr_db": 2.0}})
    assert tolerance("onnx", "int8", "x86_64", later).bounds["sqnr_db"] == 2.0
