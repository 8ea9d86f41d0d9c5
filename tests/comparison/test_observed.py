"""Which tensor of a file corresponds to which of the reference's, and by which factor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgemobile.comparison.integers import compare_integers, same_integers
from edgemobile.comparison.layers import LayerParity, RecordedActivations, compare_layers
from edgemobile.graph import Graph, Node, Origin, QParams, Tensor
from edgemobile.graph.interpreter import run
from edgemobile.metrics.tolerances import LayerTolerance

ONES = np.ones((1, 2, 2, 4), np.float32)


@pytest.mark.parametrize("path", ["block.0", "block.x1", "block.x2", "block.x6", "block.eq", "block.gate"])
@pytest.mark.parametrize(("factor", "channels"), [(1, None), (6, None), (1, (1.0, 2.0, 4.0, 8.0)), (36, (0.5,) * 4)])
def test_a_tensor_is_found_by_its_origin_whatever_its_name(
    path: str, factor: int, channels: tuple[float, ...] | None
) -> None:
    origins = {"block.x2.x6": Origin(path, factor, channel_factors=channels)}
    observed = RecordedActivations({"block.x3": 5 * ONES, "block.x2.x6": ONES}, {}, origins)
    assert observed.problem(path) == ""
    assert observed.name_of(path) == "block.x2.x6"
    np.testing.assert_array_equal(observed.real(path), ONES / np.float32(channels or 1) / np.float32(factor))


def test_a_name_without_an_origin_means_only_itself() -> None:
    names = ("block.x1", "block.x2", "block.x6", "block.x1.eq", "block.gate", "block.x1.plus3")
    observed = RecordedActivations({name: n * ONES for n, name in enumerate(names)}, {})
    assert [float(observed.real(name).max()) for name in names] == [0, 1, 2, 3, 4, 5]
    assert observed.gate_of("block") is None
    assert "no tensor of this name" in observed.problem("block")


def test_channel_factors_that_do_not_fit_are_a_reason_not_to_compare() -> None:
    observed = RecordedActivations({"act.eq": ONES}, {}, {"act.eq": Origin("act", channel_factors=(1.0, 2.0))})
    assert "2 channel factors for act.eq, whose shape is [1, 2, 2, 4]" in observed.problem("act")


def test_every_layer_of_such_a_net_is_compared() -> None:
    tensors = {name: Tensor(name, (1, 2, 2, 4)) for name in ("input", "block.x1", "block.x2", "block.x6")}
    names = list(tensors)
    nodes = tuple(Node("hardswish", (source,), name) for source, name in itertools.pairwise(names))
    graph = Graph("g", ("input",), ("block.x6",), nodes, tensors)
    values = run(graph, ONES, keep_all=True)
    wrong = {**values, "block.x2": 2 * values["block.x2"]}
    layers, unmatched = compare_layers(
        graph, values, RecordedActivations(wrong, {}), LayerTolerance(arithmetic_sqnr_db=60, weights_sqnr_db=60)
    )
    assert [layer.name for layer in layers] == names
    assert unmatched == []
    assert {layer.name for layer in layers if layer.diverges_in} == {"block.x2", "block.x6"}


def test_a_multiple_takes_precedence_over_its_quotient() -> None:
    observed = RecordedActivations({"act.x6": 6 * ONES, "act": ONES}, {}, {"act.x6": Origin("act", 6)})
    assert observed.name_of("act") == "act.x6"


def test_a_file_without_the_tensor_says_so() -> None:
    assert "no tensor of this name" in RecordedActivations({"block.0": ONES}, {}).problem("block.1")


@pytest.mark.parametrize(
    ("steps", "is_outlier"),
    [
        ({}, False),
        # A recipe changed a column.
        (dict.fromkeys(range(0, 64 * 16, 64), 40), False),
        ({100: 32}, True),
        (dict.fromkeys((100, 200, 300), 32), True),
    ],
)
def test_a_damaged_weight_is_an_outlier(steps: dict[int, int], is_outlier: bool) -> None:
    right = np.random.default_rng(0).integers(-80, 80, (64, 64)).astype(np.int8)
    stored = right.copy()
    for index, step in steps.items():
        stored.reshape(-1)[index] += step
    scale = QParams(np.full(64, 0.5), np.zeros(64, np.int32), 0)
    tensors = {
        "x": Tensor("x", (1, 64)),
        "y": Tensor("y", (1, 64)),
        "w": Tensor.constant("w", right.astype(np.float32) / 2),
        "b": Tensor.constant("b", np.zeros(64, np.float32)),
    }
    graph = Graph("g", ("x",), ("y",), (Node("linear", ("x", "w", "b"), "y", {"activation": ""}),), tensors)
    outlier_ratio = RecordedActivations({}, {"w": Tensor.constant("w", stored, scale)}).outlier_ratio(
        graph, graph.nodes[0]
    )
    assert LayerParity("y", "linear", 0.0, 0.0, 0.0, outlier_ratio=outlier_ratio).is_damaged is is_outlier


@pytest.mark.parametrize(("steps", "diverges_in"), [(0, ""), (1, ""), (-1, ""), (2, "arithmetic"), (-2, "arithmetic")])
def test_an_op_may_differ_by_one_step_and_no_more(steps: int, diverges_in: str) -> None:
    shape, integers = (1, 2, 2, 4), np.arange(-64, 64, 8, np.int8).reshape(1, 2, 2, 4)
    tensors = {name: Tensor(name, shape, "int8", qparams=QParams(0.05, zero)) for name, zero in (("x", 0), ("y", -100))}
    graph = Graph("g", ("x",), ("y",), (Node("hardswish", ("x",), "y"),), tensors)
    values = run(graph, integers, keep_all=True)
    off = values["y"].copy()
    off[0, 0, 0, 0] += steps
    observed = RecordedActivations({"x": integers, "y": off}, tensors)
    assert same_integers(graph, observed)
    ((layer,), unmatched) = compare_integers(graph, values, observed, lsb=1)
    assert (layer.lsb, layer.diverges_in, unmatched) == (abs(steps), diverges_in, [])


def test_a_bias_with_a_3_in_it_may_be_rounded_as_float32_rounds_3() -> None:
    """In steps of a dead layer's scale 3 is hundreds of millions, of which float32 keeps 24 bits."""
    from types import SimpleNamespace

    from edgemobile.comparison.int8_checks import _bias_findings

    bias, scale = np.array([1e-7, -2e-7], np.float32), np.float32(1e-8)
    tensors = {"x": Tensor("x", (1, 2)), "y": Tensor("y", (1, 2)), "b": Tensor.constant("b", bias)}
    tensors |= {"w": Tensor.constant("w", np.zeros((2, 2), np.float32))}
    node = Node("linear", ("x", "w", "b"), "y", {"activation": ""})
    graph = Graph("g", ("x",), ("y",), (node,), tensors)
    rounded = np.rint(np.float32(bias + 3) / scale).astype(np.int32) + 20
    for added, found in ((0, 0), (2**20, 1)):
        stored = Tensor.constant("b.plus3", rounded + np.int32(added), QParams(scale, 0))
        observed = RecordedActivations({}, {"b.plus3": stored}, {"b.plus3": Origin("b", added=3)})
        weight = SimpleNamespace(moved={}, name="w")
        assert len(list(_bias_findings(graph, node, observed, weight, is_rounded=True))) == found  # type: ignore[arg-type]
