"""TorchGraph computes the same outputs as the numpy interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.interpreter import run
from edgemobile.lower import export_program, lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.quant.hswish import integer_form
from edgemobile.quant.torch_graph import TorchGraph, to_nhwc


@pytest.mark.parametrize("name", ["v2", "v3-small"])
def test_every_activation_matches_the_interpreter(name: str) -> None:
    net = build_net(scaled(get_arch(name), width=0.35, input_px=32, classes=10))
    graph = lower(export_program(net, (1, 3, 32, 32)))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    for form in (graph, integer_form(graph)):
        seen: dict[str, np.ndarray] = {}
        with torch.no_grad():
            TorchGraph(form)(images, lambda tensor, value, seen=seen: seen.setdefault(tensor, value) + 0)
        want = run(form, images, keep_all=True)
        assert set(seen) == set(want)
        assert min(sqnr_db(want[tensor], to_nhwc(value)) for tensor, value in seen.items()) > 80


@pytest.mark.parametrize("shape", [(3,), (1,), (1, 1, 3), (5, 5, 3), (5, 5, 1), (1, 5, 1), (1, 5, 5, 1)])
@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("first", [True, False])
def test_a_constant_of_any_rank_and_an_image(shape: tuple[int, ...], op: str, first: bool) -> None:
    rng = np.random.default_rng(2)
    constant = Tensor.constant("constant", rng.normal(size=shape).astype(np.float32))
    inputs = ("constant", "input") if first else ("input", "constant")
    tensors = {name: Tensor(name, (1, 5, 5, 3)) for name in ("input", "y")} | {"constant": constant}
    graph = Graph("g", ("input",), ("y",), (Node(op, inputs, "y", {"activation": ""}),), tensors)
    images = rng.normal(size=(2, 5, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(to_nhwc(TorchGraph(graph)(images)[0]), run(graph, images)["y"])


def test_pools_uneven_padding_and_constants() -> None:
    shapes = {"input": (1, 7, 7, 3), "scaled": (1, 7, 7, 3), "conv": (1, 4, 4, 4), "max": (1, 2, 2, 4)}
    rng = np.random.default_rng(1)
    constants = {
        "channels": rng.normal(size=3).astype(np.float32),
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=4).astype(np.float32),
    }
    conv = {"stride": (2, 2), "padding": ((0, 2), (2, 0)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    nodes = (
        Node("mul", ("input", "channels"), "scaled", {"activation": ""}),
        Node("conv2d", ("scaled", "conv.weight", "conv.bias"), "conv", conv),
        Node("max_pool2d", ("conv",), "max", {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 0), (1, 0))}),
        Node("avg_pool2d", ("max",), "avg", {"kernel": (2, 2), "stride": (2, 2)}),
        Node("reshape", ("avg",), "flat"),
    )
    tensors = {name: Tensor(name, shape) for name, shape in (shapes | {"avg": (1, 1, 1, 4), "flat": (1, 4)}).items()}
    tensors |= {name: Tensor.constant(name, data) for name, data in constants.items()}
    graph = Graph("g", ("input",), ("flat",), nodes, tensors)
    images = rng.normal(size=(3, 7, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(to_nhwc(TorchGraph(graph)(images)[0]), run(graph, images)["flat"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("prelu", {}),
        ("elu", {}),
        ("gelu", {}),
        ("clip", {"low": -0.5, "high": 0.7}),
        ("depth_to_space", {"block": 2}),
        ("reflect_pad", {"padding": ((1, 0), (2, 1))}),
    ],
)
def test_an_op_is_that_of_the_interpreter(op: str, attrs: dict[str, object]) -> None:
    rng = np.random.default_rng(4)
    x = Tensor("x", (1, 5, 6, 8 if op == "depth_to_space" else 4))
    slope = Tensor.constant("slope", rng.normal(size=(1, 1, 4)).astype(np.float32))
    node = Node(op, ("x", "slope") if op == "prelu" else ("x",), "y", attrs)
    graph = Graph("one", ("x",), ("y",), (node,), {"x": x, "slope": slope, "y": Tensor("y", x.shape)})
    images = rng.normal(size=(3, *x.shape[1:])).astype(np.float32)
    (found,) = TorchGraph(graph)(images)
    np.testing.assert_allclose(to_nhwc(found), run(graph, images)["y"], atol=1e-6)
