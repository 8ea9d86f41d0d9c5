"""The package has what calibration of its nets shows: no pass over the images, and the same quality as with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemobile.graph.interpreter import run_real
from edgemobile.loading.checkpoint import bundled
from edgemobile.metrics.measures import sqnr_db
from edgemobile.pipeline.export import calibration_of
from edgemobile.pipeline.request import ExportRequest
from edgemobile.quant.calibration import Calibration, calibrate
from edgemobile.quant.ptq import quantize
from edgemobile.quant.torch_graph import TorchGraph


def _request(name: str) -> ExportRequest:
    return ExportRequest(name, Path("unused"), precisions=("int8",))


@pytest.mark.parametrize("name", bundled())
def test_it_is_of_the_nets_the_images_and_the_recipe_of_today(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of one of them: python examples/bundled_statistics.py."""
    request = _request(name)
    calibration = calibration_of(request)
    monkeypatch.setattr(TorchGraph, "__call__", lambda *_: pytest.fail("the images are run again"))
    ranges = calibration.ranges(request.chosen_recipe)
    graph = calibration.prepared(request.chosen_recipe).graph
    assert ranges.keys() == graph.tensors.keys() - graph.constants.keys()


def test_it_is_what_calibration_shows() -> None:
    """The last bit of a sum, which is the processor's, decides some factors; not how good they are."""
    request = _request("v3-small")
    stored = calibration_of(request)
    fresh = calibrate(stored.graph, stored.batches)
    told, found = (_db(calibration, request) for calibration in (stored, fresh))
    assert told == pytest.approx(found, abs=0.7)


def _db(calibration: Calibration, request: ExportRequest) -> float:
    recipe = replace(request.chosen_recipe, refit=0.0, bias_correction=False)
    images = calibration.images[:4]
    return sqnr_db(run_real(calibration.graph, images), run_real(quantize(calibration, recipe).graph, images))


def test_other_images_are_calibrated_on() -> None:
    stored = calibration_of(_request("v3-small"))
    fewer = calibration_of(replace(_request("v3-small"), calib_images=8))
    assert stored.statistics.ranges
    assert not fewer.statistics.ranges
    assert len(fewer.images) == 8
    assert np.isfinite(fewer.images).all()
