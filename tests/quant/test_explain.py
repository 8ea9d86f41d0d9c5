"""The explanation names the tensor that int8 damages, the channel, and whether rounding or a range too small did it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph
from edgemobile.lower import lower
from edgemobile.quant.calibration import calibrate
from edgemobile.quant.explain import explain
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.sensitivity import rank

_CHANNELS = 8
_PLAIN = Recipe(split_gates="none", equalize=0, refit=0, bias_correction=False, rules=(Rule(observer="minmax"),))


def _net(wide: float) -> Graph:
    """A convolution whose channel 5 is `wide` times as large, and divided again by the layer behind its ReLU6."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, _CHANNELS, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(_CHANNELS, _CHANNELS, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(_CHANNELS, 4),
    ).eval()
    with torch.no_grad():
        layers[0].weight[5] *= wide
        layers[0].bias[5] *= wide
        layers[2].weight[:, 5] /= wide
    return lower(torch.export.export(layers, (torch.zeros(1, 3, 8, 8),)), "net")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)


def test_a_wide_channel_is_the_cause_until_equalization_narrows_it(images: np.ndarray) -> None:
    calibration = calibrate(_net(64), [images])
    first = explain(calibration, _PLAIN).causes[0]
    assert (first.op, first.equalized, first.channel != 5) == ("conv2d", False, True)
    assert first.widest > 20
    assert "nothing rescales" in str(first)
    equalized = explain(calibration, Recipe(split_gates="none"))
    assert equalized.sqnr_db > explain(calibration, _PLAIN).sqnr_db + 10
    assert next(cause for cause in equalized.causes if cause.tensor == first.tensor).equalized


def test_it_agrees_with_the_ranking(images: np.ndarray) -> None:
    calibration = calibrate(_net(8), [images])
    costs = {cost.tensor: cost.share for cost in rank(calibration, _PLAIN)}
    causes = explain(calibration, _PLAIN).causes
    assert {cause.tensor: pytest.approx(cause.share) for cause in causes} == costs
    assert sum(cause.share for cause in causes) == pytest.approx(1)


def test_values_outside_the_range_ask_for_more_images(images: np.ndarray) -> None:
    """A moving average of batches is narrower than the first images here, which are ten times as large."""
    batches = [images * 10, *(images for _ in range(30))]
    clipped = explain(
        calibrate(_net(1), batches), Recipe(split_gates="none", equalize=0, output_observer="moving_average")
    )
    assert clipped.cut > 0.9
    assert "more calibration images" in clipped.left[0]
    whole = explain(calibrate(_net(1), batches), _PLAIN)
    assert whole.cut < 0.2
    assert not any("more calibration images" in advice for advice in whole.left)


def test_the_text_is_about_five_lines(images: np.ndarray) -> None:
    lines = explain(calibrate(_net(64), [images]), _PLAIN).lines()
    assert [line.partition(":")[0] for line in lines] == ["Where", "Why", "Why", "Done", "Left"]
    assert "Done: nothing" in lines
