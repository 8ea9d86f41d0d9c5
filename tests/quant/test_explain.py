"""The explanation names the tensor that int8 damages, its channel, and the cause: rounding or a small range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.lower import lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.quant.calibration import calibrate, held_out
from edgemobile.quant.explain import explain
from edgemobile.quant.ptq import quantize
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.sensitivity import rank

_CHANNELS = 8
_PLAIN = Recipe(split_gates="none", equalize=0, refit=0, bias_correction=False, rules=(Rule(observer="minmax"),))


def _net(wide: float) -> Graph:
    """A convolution whose channel 5 is `wide` times as large; the layer after its ReLU6 divides by `wide`."""
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
    assert "are not equalized" in str(first)
    equalized = explain(calibration, Recipe(split_gates="none"))
    assert equalized.activations_db > explain(calibration, _PLAIN).activations_db + 8
    assert next(cause for cause in equalized.causes if cause.tensor == first.tensor).equalized


def test_it_agrees_with_the_ranking(images: np.ndarray) -> None:
    calibration = calibrate(_net(8), [images])
    seen, _ = held_out(calibration)
    costs = {cost.tensor: cost.share for cost in rank(seen, _PLAIN)}
    causes = explain(calibration, _PLAIN).causes
    assert {cause.tensor: pytest.approx(cause.share) for cause in causes} == costs
    assert sum(cause.share for cause in causes) == pytest.approx(1)


def test_values_outside_the_range_lead_to_the_advice_of_more_images(images: np.ndarray) -> None:
    """The first images are ten times as large, so a moving average over batches gives too narrow a range."""
    batches = [images * 10, *(images for _ in range(30))]
    clipped = explain(
        calibrate(_net(1), batches), Recipe(split_gates="none", equalize=0, output_observer="moving_average")
    )
    assert clipped.cut > 0.9
    assert "more calibration images" in clipped.left[0]
    whole = explain(calibrate(_net(1), batches), _PLAIN)
    assert whole.cut < 0.2
    assert not any("more calibration images" in advice for advice in whole.left)


def test_int8_is_measured_on_images_that_calibration_did_not_see(images: np.ndarray) -> None:
    graph = _net(64)
    explained = explain(calibrate(graph, [images]), _PLAIN)
    unseen, seen = images[3::4], np.delete(images, np.s_[3::4], axis=0)
    int8 = quantize(calibrate(graph, [seen]), _PLAIN).graph
    assert explained.sqnr_db == sqnr_db(run_real(graph, unseen), run_real(int8, unseen))
    assert (explained.images, explained.held_out) == (4, True)
    few = explain(calibrate(graph, [images[:8]]), _PLAIN)
    assert (few.images, few.held_out) == (8, False)
    assert "on 8 calibration images" in few.lines()[0]


def test_the_text_is_about_five_lines(images: np.ndarray) -> None:
    lines = explain(calibrate(_net(64), [images]), _PLAIN).lines()
    assert [line.partition(":")[0] for line in lines] == ["Where", "Why", "Why", "Done", "Left"]
    assert "Done: nothing" in lines
