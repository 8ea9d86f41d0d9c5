"""Rows of outputs: splitting restores the outputs, and each output is checked by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemobile.metrics.outputs import Output, channels_last, is_classifier, most_images, rows_of, split
from edgemobile.metrics.tolerances import TOLERANCES, bounds_of, judge, judge_rows

MASK, BOXES, LOGITS = Output("mask", (4, 5, 3)), Output("boxes", (6, 4)), Output("logits", (7,))
ENDS = (MASK, BOXES, LOGITS)


def _arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {end.name: rng.normal(size=(2, *end.shape)).astype(np.float32) for end in ENDS}


@pytest.mark.parametrize("channels_first", [False, True])
def test_rows_hold_every_output_with_its_channels_last(channels_first: bool) -> None:
    arrays = _arrays()
    stored = [array.transpose(0, 3, 1, 2) if channels_first and array.ndim == 4 else array for array in arrays.values()]
    rows = rows_of(stored, channels_first=channels_first)
    assert rows.shape == (2, 60 + 24 + 7)
    found = split(rows, ENDS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_rows_of_other_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows \[2, 91\] do not hold mask \[N, 4, 5, 3\]"):
        split(rows_of(list(_arrays().values())), (MASK,))
    with pytest.raises(ValueError, match="every side must be at least 1"):
        Output("none", (4, 0))


def test_only_rows_of_classes_are_a_classifiers() -> None:
    assert is_classifier((LOGITS,))
    assert not any(map(is_classifier, [(MASK,), (BOXES,), (LOGITS, LOGITS), ()]))
    assert channels_last((2, 3, 4, 5)) == (2, 4, 5, 3)
    assert channels_last((2, 3, 4)) == (2, 3, 4)


def test_large_outputs_are_compared_on_fewer_images() -> None:
    assert most_images((LOGITS,), 200) == 200
    assert most_images((Output("mask", (512, 512, 21)),), 200) == 3
    assert most_images((Output("mask", (4096, 4096, 21)),), 200) == 2
    assert most_images((Output("mask", (4096, 4096, 21)),), 1) == 1


def test_each_output_is_judged_by_itself() -> None:
    reference = _arrays()
    other = {**reference, "boxes": reference["boxes"] + 0.5}
    bounds = bounds_of(ENDS, TOLERANCES["float32"])
    verdict = judge_rows(rows_of(list(reference.values())), rows_of(list(other.values())), ENDS, bounds)
    assert len(verdict.missed) == 1
    assert verdict.missed[0].startswith("boxes: sqnr_db")
    assert verdict.outputs["mask"] == {"sqnr_db": math.inf, "max_abs": 0.0, "cosine": pytest.approx(1), "top1_agree": 1}
    assert set(verdict.outputs["boxes"]) == {"sqnr_db", "max_abs", "cosine"}
    # The worst of them counts.
    assert verdict.metrics["max_abs"] == pytest.approx(0.5)
    assert verdict.metrics["sqnr_db"] == verdict.outputs["boxes"]["sqnr_db"]
    assert verdict.metrics["kl_nats"] == 0


def test_agreement_of_a_map_is_of_its_pixels() -> None:
    reference = np.zeros((1, 2, 2, 3), np.float32)
    reference[..., 1] = 1
    other = reference.copy()
    other[0, 0, 0] = (0, 0, 2)
    rows = [array.reshape(1, -1) for array in (reference, other)]
    verdict = judge_rows(*rows, (Output("mask", (2, 2, 3)),), {})
    assert verdict.metrics["top1_agree"] == 0.75
    assert math.isnan(verdict.metrics["kl_nats"])


def test_an_output_that_is_not_finite_is_the_worst() -> None:
    reference, other = _arrays(), _arrays()
    other["mask"][0, 0, 0, 0] = math.nan
    rows = [rows_of(list(arrays.values())) for arrays in (reference, other)]
    verdict = judge_rows(*rows, ENDS, {"sqnr_db": 90.0})
    assert math.isnan(verdict.metrics["sqnr_db"])
    assert verdict.missed == ("mask: sqnr_db nan dB misses the tolerance of 90",)


def test_a_classifiers_rows_are_its_logits() -> None:
    reference, other = _arrays(0)["logits"], _arrays(1)["logits"]
    assert judge_rows(reference, other, (LOGITS,), TOLERANCES["int8"]) == judge(reference, other, TOLERANCES["int8"])
    assert bounds_of((LOGITS,), TOLERANCES["int8"]) == TOLERANCES["int8"]
    assert bounds_of((MASK,), TOLERANCES["int8"]) == {"sqnr_db": 12.0}


def test_an_agreement_that_is_asked_for_is_missed_where_there_is_none() -> None:
    rows = np.ones((1, 24), np.float32)
    verdict = judge_rows(rows, rows, (BOXES,), {"top1_agree": 0.5})
    assert verdict.missed == ("boxes: top1_agree nan misses the tolerance of 0.5",)
