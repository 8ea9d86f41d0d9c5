"""The table of ops: its shape rules and what it says of each op hold, and every back end has a row for each."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from edgemobile.graph import OPS, Graph, GraphError, Node, Tensor, interpreter
from edgemobile.graph.interpreter import run

IMAGE = (1, 6, 5, 3)
_CONV = {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "dilation": (1, 2), "groups": 1, "activation": ""}
# op -> (shapes of the activations it reads, shapes of the constants, its attributes, the shape it makes)
EXAMPLES = {
    "conv2d": ([IMAGE], [(4, 3, 2, 3), (4,)], _CONV, (1, 3, 5, 4)),
    "linear": ([(1, 7)], [(5, 7), (5,)], {"activation": ""}, (1, 5)),
    "add": ([IMAGE, (1, 1, 1, 3)], [], {"activation": ""}, IMAGE),
    "mul": ([IMAGE], [(1, 1, 1, 3)], {"activation": ""}, IMAGE),
    "concat": ([IMAGE, (1, 6, 5, 2)], [], {"axis": 3}, (1, 6, 5, 5)),
    "slice": ([IMAGE], [], {"begin": 1, "end": 3}, (1, 6, 5, 2)),
    "channel_shuffle": ([(1, 3, 2, 6)], [], {"groups": 3}, (1, 3, 2, 6)),
    "depth_to_space": ([(1, 3, 2, 8)], [], {"block": 2}, (1, 6, 4, 2)),
    "reflect_pad": ([IMAGE], [], {"padding": ((1, 2), (0, 3))}, (1, 9, 8, 3)),
    "resize": ([IMAGE], [], {"size": (9, 7), "mode": "bilinear", "coordinates": "half_pixel"}, (1, 9, 7, 3)),
    "mean": ([IMAGE], [], {}, (1, 1, 1, 3)),
    "max_pool2d": (
        [IMAGE],
        [],
        {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 0))},
        (1, 3, 4, 3),
    ),
    "avg_pool2d": ([IMAGE], [], {"kernel": (3, 2), "stride": (2, 1)}, (1, 2, 4, 3)),
    "relu": ([IMAGE], [], {}, IMAGE),
    "relu6": ([IMAGE], [], {}, IMAGE),
    "hardswish": ([IMAGE], [], {}, IMAGE),
    "hardsigmoid": ([IMAGE], [], {}, IMAGE),
    "sigmoid": ([IMAGE], [], {}, IMAGE),
    "tanh": ([IMAGE], [], {}, IMAGE),
    "leaky_relu": ([IMAGE], [], {"slope": 0.1}, IMAGE),
    "prelu": ([IMAGE], [(1, 1, 3)], {}, IMAGE),
    "elu": ([IMAGE], [], {}, IMAGE),
    "gelu": ([IMAGE], [], {}, IMAGE),
    "clip": ([IMAGE], [], {"low": -1.5, "high": 2.0}, IMAGE),
    "relu1": ([IMAGE], [], {}, IMAGE),
    "softmax": ([(1, 7)], [], {}, (1, 7)),
    "transpose": ([IMAGE], [], {"perm": (0, 3, 1, 2)}, (1, 3, 6, 5)),
    "reshape": ([IMAGE], [], {}, (1, 90)),
    "quantize": ([IMAGE], [], {}, IMAGE),
    "dequantize": ([IMAGE], [], {}, IMAGE),
    "round": ([IMAGE], [], {}, IMAGE),
}
COMPUTED = [op for op in OPS if op not in ("quantize", "dequantize")]
WRITTEN = [op for op in OPS if not OPS[op].read_only]


def _graph(op: str) -> Graph:
    activations, constants, attrs, made = EXAMPLES[op]
    rng = np.random.default_rng(0)
    inputs = {f"x{index}": shape for index, shape in enumerate(activations)}
    tensors = {name: Tensor(name, shape) for name, shape in inputs.items()} | {"y": Tensor("y", made)}
    stored = [
        Tensor.constant(f"c{index}", rng.normal(size=shape).astype(np.float32)) for index, shape in enumerate(constants)
    ]
    tensors |= {tensor.name: tensor for tensor in stored}
    node = Node(op, (*inputs, *(tensor.name for tensor in stored)), "y", attrs)
    return Graph("one", tuple(inputs), ("y",), (node,), tensors)


def _inputs(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 3, graph[name].shape).astype(np.float32) for name in graph.inputs}


def test_every_op_has_an_example() -> None:
    assert EXAMPLES.keys() == OPS.keys()


@pytest.mark.parametrize("op", OPS)
def test_the_shape_rule_says_what_is_computed(op: str) -> None:
    graph = _graph(op)
    graph.check_shapes()
    assert op not in COMPUTED or run(graph, _inputs(graph))["y"].shape == EXAMPLES[op][3]
    wrong = replace(graph["y"], shape=(*graph["y"].shape[:-1], 1 + graph["y"].shape[-1]))
    with pytest.raises(GraphError, match=f"y: {op} of .* gives .*, not"):
        graph.replaced(tensors=[wrong]).check_shapes()


@pytest.mark.parametrize(
    ("op", "name", "shape"),
    [("conv2d", "x0", (1, 6, 5, 4)), ("conv2d", "c1", (3,)), ("linear", "x0", (1, 8)), ("mul", "c0", (2,))],
)
def test_inputs_that_do_not_fit_are_refused(op: str, name: str, shape: tuple[int, ...]) -> None:
    graph = _graph(op)
    other = replace(graph[name], shape=shape, data=None if name[0] == "x" else np.zeros(shape, np.float32))
    with pytest.raises(GraphError, match="does not fit"):
        graph.replaced(tensors=[other]).check_shapes()


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].homogeneous])
def test_homogeneous(op: str) -> None:
    graph = _graph(op)
    inputs = _inputs(graph)
    threefold = run(graph, {name: 3 * x for name, x in inputs.items()})["y"]
    np.testing.assert_allclose(threefold, 3 * run(graph, inputs)["y"], rtol=1e-5)


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].channelwise])
def test_channelwise(op: str) -> None:
    graph = _graph(op)
    inputs, factors = _inputs(graph), np.array([1, 2, 5], np.float32)
    scaled = run(graph, {name: factors * x for name, x in inputs.items()})["y"]
    np.testing.assert_allclose(scaled, factors * run(graph, inputs)["y"], rtol=1e-5)


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].selects])
def test_selects(op: str) -> None:
    graph = _graph(op)
    inputs = _inputs(graph)
    assert OPS[op].shares_qparams
    assert np.isin(run(graph, inputs)["y"], np.concatenate([x.ravel() for x in inputs.values()])).all()


# ---- the back ends --------------------------------------------------------------------------------------------------


def _back_ends() -> dict[str, Collection[str]]:
    pytest.importorskip("onnx")
    pytest.importorskip("ai_edge_litert")
    from edgemobile.exporters import onnx, tensorflow, tflite
    from edgemobile.quant import torch_graph

    conversions = ("quantize", "dequantize")
    return {
        "edgemobile/graph/interpreter.py": (*interpreter._FLOAT, *conversions),
        # These two run the float graph.
        "quant/torch_graph.py": (*torch_graph._ROWS, *conversions),
        "exporters/tensorflow.py": (*tensorflow._ROWS, *conversions),
        "exporters/onnx.py": (*onnx._ROWS, *onnx._SPECIAL),
        "exporters/tflite.py": tuple(tflite._ROWS),
    }


def test_no_back_end_misses_a_row() -> None:
    everything = {"edgemobile/graph/interpreter.py": list(OPS)}
    missing = [
        f"{file}: {op}" for file, rows in _back_ends().items() for op in everything.get(file, WRITTEN) if op not in rows
    ]
    assert not missing, f"rows to add: {', '.join(missing)}"


@pytest.mark.parametrize(
    ("format", "op"), itertools.product(("onnx", "tflite"), [op for op in COMPUTED if op in WRITTEN])
)
def test_what_a_format_writes_its_reader_reads(format: str, op: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("ai_edge_litert")
    from edgemobile.exporters import FORMATS, onnx_graph, tflite_graph

    graph = _graph(op)
    data = FORMATS[format].load().to_bytes(graph, metadata={})
    read = {"onnx": onnx_graph, "tflite": tflite_graph}[format].read_graph(data)
    inputs = _inputs(graph)
    given = dict(zip(read.inputs, inputs.values(), strict=True))
    found = run(read, given)[read.outputs[0]]
    np.testing.assert_allclose(found, run(graph, inputs)["y"], rtol=1e-5, atol=1e-5)
