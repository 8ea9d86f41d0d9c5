"""The ranking tells what quantizing a tensor alone costs; the search stops at its bound and says what it paid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.arch import get_arch, scaled
from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.interpreter import dequantize, quantize, run
from edgemobile.lower import export_program, lower
from edgemobile.metrics import sqnr_db
from edgemobile.nets import build_net
from edgemobile.quant.ptq import calibrated
from edgemobile.quant.sensitivity import rank, search
from edgemobile.quant.torch_graph import TorchGraph, to_nchw, to_nhwc

_PX = 32


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    net = build_net(scaled(get_arch("v2"), width=0.35, input_px=_PX, classes=10))
    return lower(export_program(net.eval(), (1, 3, _PX, _PX)), "v2")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, _PX, _PX, 3)).astype(np.float32)


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


def test_the_search_pays_only_what_the_bound_needs(graph: Graph, images: np.ndarray) -> None:
    free = search(graph, [images], min_sqnr_db=5)
    assert free.kept_float == ()
    paid = search(graph, [images], min_sqnr_db=free.sqnr_db + 0.3)
    assert 1 <= len(paid.kept_float) <= 16
    assert paid.sqnr_db >= free.sqnr_db + 0.3
    assert len(paid.recipe.rules) == len(paid.kept_float)


def test_bounds_that_are_missing_or_out_of_reach_are_refused(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(EdgemobileError, match="min_agreement"):
        search(graph, [images])
    with pytest.raises(EdgemobileError, match="raise max_float"):
        search(graph, [images], min_sqnr_db=200, max_float=0)
