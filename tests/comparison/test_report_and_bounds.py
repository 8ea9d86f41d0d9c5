"""A parity report as JSON, the table of tolerances, bounds and metrics."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import Net, compared

from edgemobile.comparison.layers import channel_db
from edgemobile.comparison.report import ParityReport
from edgemobile.errors import EdgemobileError
from edgemobile.metrics.measures import METRICS
from edgemobile.metrics.tolerances import TABLE, LayerTolerance, Tolerance, parse_bounds, tolerance
from edgemobile.util.hashing import sha256_hex


def test_a_report_survives_json(net: Net) -> None:
    report = compared(net, net.folder / "float32.tflite", net.folder / "int8.tflite")
    assert report.files[0].sha256 == sha256_hex((net.folder / "float32.tflite").read_bytes())
    text = json.dumps(report.to_json(), allow_nan=False)
    back = ParityReport.from_json(text)
    assert back.files == report.files
    assert json.dumps(back.to_json()) == text
    with pytest.raises(EdgemobileError, match="version 9"):
        ParityReport.from_json(text.replace('"version": 4', '"version": 9'))
    with pytest.raises(EdgemobileError, match="parity report version None"):
        ParityReport.from_json("{}")


def test_the_most_specific_row_of_the_table_is_used() -> None:
    layer = LayerTolerance(1, 1)
    table = (
        *TABLE,
        Tolerance("tflite", "int8", "*", {"sqnr_db": 1}, layer),
        Tolerance("*", "int8", "aarch64", {"sqnr_db": 2}, layer),
        Tolerance("tflite", "int8", "aarch64", {"sqnr_db": 3}, layer),
    )
    assert tolerance("tflite", "int8", "aarch64", table).bounds == {"sqnr_db": 3}
    assert tolerance("onnx", "int8", "aarch64", table).bounds == {"sqnr_db": 2}
    assert tolerance("tflite", "int8", "x86_64", table).bounds == {"sqnr_db": 1}
    assert tolerance("onnx", "int8", "x86_64", table) in TABLE
    with pytest.raises(EdgemobileError, match="no tolerance for int4"):
        tolerance("onnx", "int4", "x86_64")


def test_bounds_are_read_or_refused_by_name() -> None:
    assert parse_bounds("sqnr=40, top1_agree=0.99,kl=0.1") == {"sqnr_db": 40, "top1_agree": 0.99, "kl_nats": 0.1}
    assert parse_bounds("") == {}
    for text, words in (
        ("snr=4", "unknown metric 'snr'"),
        ("sqnr=high", "metric=number"),
        ("sqnr=nan", "must not be nan"),
        ("sqnr_db=20,sqnr=1", "two bounds for sqnr_db"),
    ):
        with pytest.raises(EdgemobileError, match=words):
            parse_bounds(text)


@pytest.mark.parametrize(
    ("reference", "other", "db"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), math.inf),
        (np.zeros((2, 3)), np.zeros((2, 3)), math.inf),
        (np.zeros((2, 3)), np.ones((2, 3)), -math.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), math.inf),
        (np.ones((2, 3)), np.full((2, 3), np.nan), math.nan),
        (np.ones((4, 2)), np.ones((4, 2)) * [1, 0.9], 20.0),
        # The signal of a channel that is nearly zero counts as the average of all channels.
        (np.array([[1.0, 1e-6]]), np.array([[1.0, 0.1]]), 10 * math.log10(0.5 / 0.01)),
    ],
)
def test_the_worst_channel(reference: np.ndarray, other: np.ndarray, db: float) -> None:
    assert channel_db(reference, other) == pytest.approx(db, abs=1e-3, nan_ok=True)


def test_a_bound_for_every_metric_has_a_direction(net: Net) -> None:
    impossible = {name: 1e9 if metric.better == "higher" else -1.0 for name, metric in METRICS.items()}
    (file,) = compared(net, net.folder / "float32.tflite", ref="float32.tflite", minimums=impossible).files
    assert len(file.missed) == len(METRICS) - 1, "inf dB is better than any bound"
