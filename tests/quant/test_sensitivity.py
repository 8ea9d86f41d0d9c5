"""The ranking estimates the cost of quantizing each tensor; the search stops at its bound and lists float tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run
from edgemobile.images.samples import from_noise
from edgemobile.loading.model import Model, load_model
from edgemobile.lower import lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.quant.calibration import calibrate
from edgemobile.quant.ptq import qparams_of
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.sensitivity import rank, search
from edgemobile.quant.torch_graph import TorchGraph, to_nchw, to_nhwc


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("v3-large", "bundled", res=32)


@pytest.fixture(scope="module")
def graph(model: Model) -> Graph:
    return lower(model.program, "v3-large")


@pytest.fixture(scope="module")
def images(model: Model) -> np.ndarray:
    return from_noise(model.preprocess, calibration=8, check=1, seed=0).calibration


def test_the_first_order_estimate_is_close_to_the_measured_cost(graph: Graph, images: np.ndarray) -> None:
    costs = rank(calibrate(graph, [images]))
    assert [cost.sqnr_db for cost in costs] == sorted(cost.sqnr_db for cost in costs)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    form, qparams = qparams_of(calibrate(graph, [images]))
    want = run(form, images)[form.outputs[0]]
    for cost in costs[:4]:

        def alone(name: str, value: torch.Tensor, tensor: str = cost.tensor) -> torch.Tensor:
            if name != tensor:
                return value
            return to_nchw(dequantize(quantize(to_nhwc(value), qparams[name], "int8"), qparams[name]))

        with torch.no_grad():
            got = to_nhwc(TorchGraph(form)(images, alone)[0])
        assert sqnr_db(want, got) == pytest.approx(cost.sqnr_db, abs=5), cost


def test_a_search_keeps_nothing_in_float_if_the_bound_is_met(graph: Graph, model: Model) -> None:
    samples = from_noise(model.preprocess, calibration=8, check=4, seed=0)
    free = search(calibrate(graph, [samples.calibration]), images=samples.check, max_drop=100)
    assert free.kept_float == ()
    assert free.recipe == Recipe()


def test_the_drop_is_of_top1_with_labels_and_of_agreement_without(graph: Graph, model: Model) -> None:
    samples = from_noise(model.preprocess, calibration=4, check=4, seed=0)
    calls: list[int] = []

    def evaluate(asked: Graph, images: np.ndarray) -> np.ndarray:
        """Float predicts class 0 for all images; int8 for all but the first, until two nodes are kept in float."""
        calls.append(sum(asked[node.output].qparams is None for node in asked.nodes))
        logits = np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(images), 1))
        if asked is not graph and len(calls) < 4:
            logits[0] = logits[0, ::-1]
        return logits

    labels = np.array([9, 0, 0, 0])  # int8 is correct on an image that float gets wrong
    found = search(
        calibrate(graph, [samples.calibration]), images=samples.check, labels=labels, max_drop=0.0, evaluate=evaluate
    )
    assert found.drop == -25
    assert found.kept_float == ()
    calls.clear()
    found = search(calibrate(graph, [samples.calibration]), images=samples.check, max_drop=0.0, evaluate=evaluate)
    assert found.drop is None
    assert len(found.kept_float) == 2
    assert [rule.pattern for rule in found.recipe.rules] == list(found.kept_float)


def test_the_error_for_an_unreachable_bound_states_the_best_result(
    graph: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemobile.quant.sensitivity._MOST_FLOAT", 1)

    def evaluate(asked: Graph, images: np.ndarray) -> np.ndarray:
        """int8 never predicts the class that float predicts."""
        return np.tile(np.array([1, 0] if asked is graph else [0, 1], np.float32), (len(images), 1))

    with pytest.raises(EdgemobileError, match=r"with 1 nodes in float, int8 loses 100\.00 points.*Raise --max-drop"):
        search(calibrate(graph, [images]), images=images[:2], max_drop=0.5, evaluate=evaluate)
