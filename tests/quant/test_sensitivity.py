"""The ranking tells what quantizing a tensor alone costs; the search stops at its bound and says what it paid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run
from edgemobile.images.samples import from_blots
from edgemobile.lower import lower
from edgemobile.metrics import sqnr_db
from edgemobile.model import Model, load_model
from edgemobile.quant.ptq import calibrated
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
    return from_blots(model.preprocess, calibration=8, check=1, seed=0).calibration


def test_the_first_order_is_near_what_each_tensor_really_costs(graph: Graph, images: np.ndarray) -> None:
    costs = rank(graph, [images])
    assert [cost.sqnr_db for cost in costs] == sorted(cost.sqnr_db for cost in costs)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    form, qparams = calibrated(graph, [images])
    want = run(form, images)[form.outputs[0]]
    for cost in costs[:4]:

        def alone(name: str, value: torch.Tensor, tensor: str = cost.tensor) -> torch.Tensor:
            if name != tensor:
                return value
            return to_nchw(dequantize(quantize(to_nhwc(value), qparams[name], "int8"), qparams[name]))

        with torch.no_grad():
            got = to_nhwc(TorchGraph(form)(images, alone))
        assert sqnr_db(want, got) == pytest.approx(cost.sqnr_db, abs=5), cost


def test_the_search_pays_only_what_the_bound_needs(graph: Graph, model: Model) -> None:
    samples = from_blots(model.preprocess, calibration=8, check=4, seed=0)
    # The same gates with and without nodes in float; with eight images at 32 px which cost most is luck.
    recipe = Recipe(split_gates="stem")
    free = search(graph, [samples.calibration], recipe, images=samples.check, min_sqnr_db=5)
    assert free.kept_float == ()
    paid = search(graph, [samples.calibration], recipe, images=samples.check, min_sqnr_db=free.sqnr_db + 0.3)
    assert 1 <= len(paid.kept_float) <= 16
    assert paid.sqnr_db >= free.sqnr_db + 0.3
    assert len(paid.recipe.rules) == len(paid.kept_float)


def test_a_drop_is_of_top1_where_labels_are_known_and_of_agreement_where_not(graph: Graph, model: Model) -> None:
    samples = from_blots(model.preprocess, calibration=4, check=4, seed=0)
    calls: list[int] = []

    def evaluate(asked: Graph, images: np.ndarray) -> np.ndarray:
        """Float says class 0 of every image; int8 says so of all but the first, until two nodes are kept in float."""
        calls.append(sum(asked[node.output].qparams is None for node in asked.nodes))
        logits = np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(images), 1))
        if asked is not graph and len(calls) < 4:
            logits[0] = logits[0, ::-1]
        return logits

    labels = np.array([9, 0, 0, 0])  # int8 is right where float is wrong
    found = search(graph, [samples.calibration], images=samples.check, labels=labels, max_drop=0.0, evaluate=evaluate)
    assert found.drop == -25
    assert found.kept_float == ()
    calls.clear()
    found = search(graph, [samples.calibration], images=samples.check, max_drop=0.0, evaluate=evaluate)
    assert found.drop is None
    assert len(found.kept_float) == 2


def test_bounds_that_are_missing_or_out_of_reach_are_refused(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(EdgemobileError, match="max_drop"):
        search(graph, [images], images=images)
    with pytest.raises(EdgemobileError, match="raise max_float"):
        search(graph, [images], images=images[:2], min_sqnr_db=200, max_float=0)
