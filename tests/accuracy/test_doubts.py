"""Which option is named where accuracy is far below what the net can do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgemobile.accuracy.doubts import better_tried, guessing
from edgemobile.errors import Unsupported
from edgemobile.graph import Graph
from edgemobile.loading.model import Model
from edgemobile.metrics.outputs import Output
from edgemobile.preprocess import IMAGENET, Preprocess

LABELS = np.arange(64) % 4


class _Trained(Model):
    """A net that is right where `wanted` says so of the images it is shown."""

    def graph(self) -> Graph:
        raise NotImplementedError

    def rows(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1] == 288:
            raise Unsupported("it takes other sides")
        right = abs(images.shape[1] - 96) <= 32 if self.px_assumed else images[0, 0, 0, 0] == 0.5
        return np.eye(4)[LABELS if right else 0 * LABELS]


def _model(**changes: object) -> Model:
    model = _Trained(
        name="net",
        batch=1,
        outputs=(Output("output", (4,)),),
        preprocess=IMAGENET,
        source="weights",
        sha256="0" * 64,
    )
    return replace(model, **changes)


def _load(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    side = preprocess.input_px
    return np.full((64, side, side, 3), preprocess.mean[0], np.float32), LABELS


def test_a_resolution_is_named_where_it_was_assumed() -> None:
    words = better_tried(_model(px_assumed=True), _load)
    assert words is not None
    assert words.startswith(
        "PyTorch classifies 25.0% of 64 check images correctly with the assumed values, and 100.0% with --res 64, "
    )
    assert "--res 96" in words
    assert better_tried(_model(), _load) is None
    already = replace(IMAGENET, input_px=96, shorter_px=110)
    assert better_tried(_model(px_assumed=True, preprocess=already), _load) is None


def test_a_normalisation_is_named_where_it_was_assumed() -> None:
    words = better_tried(_model(assumption="ImageNet's is assumed"), _load)
    assert words is not None
    assert "100.0% with --preprocess inception: set" in words
    assert "--preprocess unit" not in words


@pytest.mark.parametrize(("correct", "doubted"), [(25, True), (30, True), (60, False), (100, False)])
def test_guessing_is_said(correct: int, doubted: bool) -> None:
    truth = np.arange(100) % 4
    assert (guessing(correct, truth) is not None) is doubted
    assert guessing(correct, 0 * truth) is None
