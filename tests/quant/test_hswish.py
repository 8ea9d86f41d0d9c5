"""The integer form of hard-swish computes the same function, with its factor 1/6 in the weights of the next layer."""

from __future__ import annotations

import numpy as np
import pytest

from edgemobile.graph import Graph, Node, Origin, Tensor
from edgemobile.graph.interpreter import run
from edgemobile.quant.hswish import integer_form


def _graph(
    nodes: list[Node], shapes: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray] | None = None
) -> Graph:
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    tensors |= {name: Tensor.constant(name, data) for name, data in (constants or {}).items()}
    return Graph("g", ("input",), (nodes[-1].output,), tuple(nodes), tensors)


def _linear(x: str, out: str) -> Node:
    return Node("linear", (x, f"{out}.weight", f"{out}.bias"), out, {"activation": ""})


_IMAGE = (1, 4, 4, 3)
_PLAIN = {"activation": ""}
_RNG = np.random.default_rng(0)
_WEIGHTS = {
    "fc.weight": _RNG.normal(size=(5, 3)).astype(np.float32),
    "fc.bias": _RNG.normal(size=5).astype(np.float32),
}

_CASES = {
    # name: (graph, ops it must have, ops it must not have)
    "swish at the output": (
        _graph([Node("hardswish", ("input",), "act")], {"input": _IMAGE, "act": _IMAGE}),
        {"add": 1, "mul": 2},
    ),
    "swish, mean, linear": (
        _graph(
            [
                Node("hardswish", ("input",), "act"),
                Node("mean", ("act",), "pool"),
                Node("reshape", ("pool",), "flat"),
                _linear("flat", "fc"),
            ],
            {"input": _IMAGE, "act": _IMAGE, "pool": (1, 1, 1, 3), "flat": (1, 3), "fc": (1, 5)},
            _WEIGHTS,
        ),
        {"add": 1, "mul": 1, "mean": 1, "reshape": 1, "linear": 1},
    ),
    "squeeze-and-excite on a swish: 36": (
        _graph(
            [
                Node("hardswish", ("input",), "act"),
                Node("mean", ("act",), "pool"),
                Node("hardsigmoid", ("pool",), "gate"),
                Node("mul", ("gate", "act"), "scaled", _PLAIN),
                Node("mean", ("scaled",), "last"),
                Node("reshape", ("last",), "flat"),
                _linear("flat", "fc"),
            ],
            {
                **dict.fromkeys(("input", "act", "scaled"), _IMAGE),
                **dict.fromkeys(("pool", "gate", "last"), (1, 1, 1, 3)),
                "flat": (1, 3),
                "fc": (1, 5),
            },
            _WEIGHTS,
        ),
        # The gate after the pool needs unscaled values: one division of 3 numbers.
        {"add": 2, "mul": 3, "mean": 2, "reshape": 1, "linear": 1},
    ),
    "a residual of swish and input divides": (
        _graph(
            [Node("hardswish", ("input",), "act"), Node("add", ("act", "input"), "sum", _PLAIN)],
            {"input": _IMAGE, "act": _IMAGE, "sum": _IMAGE},
        ),
        {"add": 2, "mul": 2},
    ),
    "a residual of a swish and a layer raises the layer": (
        _graph(
            [
                Node("hardswish", ("input",), "act"),
                _linear("act", "fc"),
                Node("add", ("act", "fc"), "sum", _PLAIN),
                _linear("sum", "last"),
            ],
            dict.fromkeys(("input", "act", "fc", "sum", "last"), (2, 3)),
            {f"{layer}.{kind}": _WEIGHTS[f"fc.{kind}"][:3] for layer in ("fc", "last") for kind in ("weight", "bias")},
        ),
        {"add": 2, "mul": 1, "linear": 2},
    ),
    "a layer that is read twice is not raised": (
        _graph(
            [
                Node("hardswish", ("input",), "act"),
                _linear("act", "fc"),
                Node("add", ("act", "fc"), "sum", _PLAIN),
                Node("mul", ("sum", "fc"), "last", _PLAIN),
            ],
            dict.fromkeys(("input", "act", "fc", "sum", "last"), (2, 3)),
            {f"fc.{kind}": _WEIGHTS[f"fc.{kind}"][:3] for kind in ("weight", "bias")},
        ),
        {"add": 2, "mul": 3, "linear": 1},
    ),
    "a clamp at 6 is of the sum itself": (
        _graph(
            [
                Node("hardswish", ("input",), "a"),
                Node("hardswish", ("a",), "b"),
                Node("add", ("a", "b"), "sum", {"activation": "relu6"}),
            ],
            dict.fromkeys(("input", "a", "b", "sum"), _IMAGE),
        ),
        # ADD: two gates and the sum. MUL: two products, and a division of each.
        {"add": 3, "mul": 4},
    ),
    "a residual of two swishes stays in sixths": (
        _graph(
            [
                Node("hardswish", ("input",), "a"),
                Node("hardswish", ("a",), "b"),
                Node("add", ("a", "b"), "sum", _PLAIN),
            ],
            dict.fromkeys(("input", "a", "b", "sum"), _IMAGE),
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_the_function_is_the_same(case: str) -> None:
    graph, ops = _CASES[case]
    form = integer_form(graph, "delegated")
    x = np.random.default_rng(1).normal(scale=4, size=(2, *graph["input"].shape[1:])).astype(np.float32)
    want, got = run(graph, x)[graph.outputs[0]], run(form, x)[form.outputs[0]]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert not {"hardswish", "hardsigmoid"} & set(form.op_counts())
    assert form.outputs == graph.outputs
    if ops:
        assert form.op_counts() == ops


def test_a_layer_that_is_an_output_keeps_its_bias_behind_a_hard_sigmoid() -> None:
    nodes = (_linear("input", "fc"), Node("hardsigmoid", ("fc",), "gate"))
    tensors = {name: Tensor(name, (2, 3 if name == "input" else 5)) for name in ("input", "fc", "gate")}
    tensors |= {name: Tensor.constant(name, data) for name, data in _WEIGHTS.items()}
    graph = Graph("g", ("input",), ("fc", "gate"), nodes, tensors)
    x = np.random.default_rng(3).normal(scale=4, size=(2, 3)).astype(np.float32)
    want, got = run(graph, x), run(integer_form(graph), x)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_the_fused_form_keeps_hard_swish_and_decomposes_hard_sigmoid() -> None:
    graph, _ = _CASES["squeeze-and-excite on a swish: 36"]
    counts = integer_form(graph, "fused").op_counts()
    assert counts["hardswish"] == 1
    assert "hardsigmoid" not in counts


def test_every_tensor_equals_its_origin_times_its_factor() -> None:
    graph, _ = _CASES["squeeze-and-excite on a swish: 36"]
    form = integer_form(graph)
    x = np.random.default_rng(2).normal(scale=3, size=_IMAGE).astype(np.float32)
    want, got = run(graph, x, keep_all=True), run(form, x, keep_all=True)
    factors = set()
    for name, values in got.items():
        origin = form[name].origin or Origin(name)
        if origin.of in want and not origin.gate:
            factors.add(origin.factor)
            np.testing.assert_allclose(values / np.float32(origin.factor), want[origin.of], rtol=1e-5, atol=1e-5)
    assert {1, 6, 36} <= factors


def test_new_names_do_not_collide_with_names_of_modules() -> None:
    """A net with modules called act.gate and act.x6 next to a hard-swish called act."""
    shapes = dict.fromkeys(("input", "act.gate", "act", "act.x6", "both"), _IMAGE)
    nodes = [
        Node("relu", ("input",), "act.gate"),
        Node("hardswish", ("input",), "act"),
        Node("mean", ("act",), "pool"),
        Node("max_pool2d", ("act.gate",), "act.x6", {"kernel": (1, 1), "stride": (1, 1), "padding": ((0, 0), (0, 0))}),
        Node("mul", ("act.x6", "pool"), "both", _PLAIN),
    ]
    graph = _graph(nodes, {**shapes, "pool": (1, 1, 1, 3)})
    form = integer_form(graph)
    x = np.random.default_rng(4).normal(scale=3, size=_IMAGE).astype(np.float32)
    want, got = run(graph, x, keep_all=True), run(form, x, keep_all=True)
    for name in ("act.gate", "act.x6", "both"):
        assert form[name].origin is None
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
    assert form.origins == {
        "act.gate_1": Origin("act", gate=True),
        "act.x6_1": Origin("act", 6),
        "pool.x6": Origin("pool", 6),
        "both.x6": Origin("both", 6),
    }
