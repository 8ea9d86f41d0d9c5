"""Which tensor of a file is which of the reference's, and how many times it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgemobile.comparison.integers import compare_integers, same_integers
from edgemobile.comparison.layers import LayerParity, RecordedActivations, compare_layers
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.interpreter import run
from edgemobile.metrics.tolerances import LayerTolerance

ONES = np.ones((1, 2, 2, 4), np.float32)
# Modules of the reference; some are called like a multiple.
KNOWN = ("block.0", "block.x1", "block.x2", "block.x3", "block.x6")


@pytest.mark.parametrize(
    ("path", "name", "multiple"),
    [
        ("block.0", "block.0", 1),
        ("block.0", "block.0.x6", 6),
        ("block.0", "block.0.x36.eq", 36),
        ("block.x1", "block.x1", 1),
        ("block.x2", "block.x2.eq", 1),
        ("block.x2", "block.x2.x6", 6),
        ("block.x6", "block.x6", 1),
        ("block.x6", "block.x6.x6", 6),
        ("block.x2", "block.x2.x6.eq", 6),
    ],
)
def test_a_tensor_is_found_under_what_int8_calls_it(path: str, name: str, multiple: int) -> None:
    observed = RecordedActivations({"block.x3": ONES, name: ONES}, {}, factors={name: np.ones(4)}, known=KNOWN)
    assert observed.problem(path) == ""
    assert observed.name_of(path) == name
    np.testing.assert_array_equal(observed.real(path), ONES / np.float32(multiple))


def test_modules_called_like_multiples_are_told_apart() -> None:
    names = ("block.x1", "block.x2", "block.x6")
    observed = RecordedActivations({name: n * ONES for n, name in enumerate(names)}, {}, known=KNOWN)
    assert [float(observed.real(name).max()) for name in names] == [0, 1, 2]


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


def test_what_is_a_multiple_comes_before_what_it_is_divided_to() -> None:
    observed = RecordedActivations({"act.x6": 6 * ONES, "act": ONES}, {})
    assert observed.name_of("act") == "act.x6"


def test_a_file_without_the_tensor_says_so() -> None:
    assert "no tensor of this name" in RecordedActivations({"block.0": ONES}, {}).problem("block.1")


@pytest.mark.parametrize(
    ("steps", "stands_out"),
    [
        ({}, False),
        # A recipe moved a column.
        (dict.fromkeys(range(0, 64 * 16, 64), 40), False),
        ({100: 32}, True),
        (dict.fromkeys((100, 200, 300), 32), True),
    ],
)
def test_damage_stands_alone(steps: dict[int, int], stands_out: bool) -> None:
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
    assert LayerParity("y", "linear", 0.0, 0.0, 0.0, outlier_ratio=outlier_ratio).is_damaged is stands_out


@pytest.mark.parametrize(("steps", "diverges_in"), [(0, ""), (1, ""), (-1, ""), (2, "arithmetic"), (-2, "arithmetic")])
def test_of_the_same_integers_an_op_may_be_one_step_off_and_no_more(steps: int, diverges_in: str) -> None:
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

    from edgemobile.comparison.own_numbers import _bias_findings

    bias, scale = np.array([1e-7, -2e-7], np.float32), np.float32(1e-8)
    tensors = {"x": Tensor("x", (1, 2)), "y": Tensor("y", (1, 2)), "b": Tensor.constant("b", bias)}
    tensors |= {"w": Tensor.constant("w", np.zeros((2, 2), np.float32))}
    node = Node("linear", ("x", "w", "b"), "y", {"activation": ""})
    graph = Graph("g", ("x",), ("y",), (node,), tensors)
    rounded = np.rint(np.float32(bias + 3) / scale).astype(np.int32) + 20
    for added, found in ((0, 0), (2**20, 1)):
        stored = Tensor.constant("b.plus3", rounded + np.int32(added), QParams(scale, 0))
        observed = RecordedActivations({}, {"b.plus3": stored}, known=graph.tensors)
        weight = SimpleNamespace(moved={}, name="w")
        assert len(list(_bias_findings(graph, node, observed, weight, is_rounded=True))) == found  # type: ignore[arg-type]
