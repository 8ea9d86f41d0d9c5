"""A tie that a net amplifies is explained; an op beyond a tie is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgemobile.comparison.layers import rerun
from edgemobile.comparison.observing import ExecutionTarget
from edgemobile.comparison.oracle import explain_difference
from edgemobile.exporters import tflite
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import quantize

IMAGE = np.linspace(-0.05, 0.05, 2 * 2 * 3, dtype=np.float32).reshape(1, 2, 2, 3)


def _graph() -> Graph:
    """x + x, and a layer after it that amplifies one step to 20."""
    fine, coarse = QParams(np.float32(0.01), 0), QParams(np.float32(0.02), 0)
    weight = np.diag([100, 100, 100]).astype(np.int8)[:, None, None, :]
    tensors = [
        Tensor("x", (1, 2, 2, 3), "int8", qparams=fine),
        Tensor("sum", (1, 2, 2, 3), "int8", qparams=coarse),
        Tensor.constant("w", weight, QParams(np.full(3, 0.002, np.float32), np.zeros(3), axis=0)),
        Tensor.constant("b", np.zeros(3, np.int32), QParams(np.full(3, 0.00004, np.float32), np.zeros(3), axis=0)),
        Tensor("y", (1, 2, 2, 3), "int8", qparams=QParams(np.float32(0.0002), 0)),
    ]
    conv = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = (Node("add", ("x", "x"), "sum", {"activation": ""}), Node("conv2d", ("sum", "w", "b"), "y", conv))
    return Graph("one", ("x",), ("y",), nodes, {tensor.name: tensor for tensor in tensors})


def _place(graph: Graph, off: Mapping[str, int]) -> ExecutionTarget:
    """A runtime whose ops differ by the steps in `off`, each on the outputs of the ops before it."""

    def layers(data: bytes, images: np.ndarray) -> list[np.ndarray]:
        source = graph["x"]
        assert source.qparams is not None
        values = {"x": quantize(images, source.qparams, "int8")}
        for node in graph.nodes:
            inputs = {name: values[name] for name in node.inputs if name in values}
            values[node.output] = rerun(graph, node, inputs, {})
            values[node.output].flat[5] += off.get(node.output, 0)
        # The file's own output comes first.
        return [values["y"], values["sum"]]

    return ExecutionTarget("made", ("tflite",), "x86_64", lambda path, images: images, layers)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "int8.tflite"
    path.write_bytes(tflite.to_bytes(_graph(), metadata={}))
    return path


def test_a_tie_that_is_amplified_is_explained(file: Path) -> None:
    graph = _graph()
    found = explain_difference(graph, read_model_file(file), IMAGE, 1, _place(graph, {"sum": 1}))
    assert found.wrong == ()
    assert found.words.startswith("sum (add) rounds a tie the other way, and later layers amplify it to 20 steps in y")


def test_an_op_beyond_a_tie_is_wrong(file: Path) -> None:
    graph = _graph()
    found = explain_difference(graph, read_model_file(file), IMAGE, 1, _place(graph, {"sum": 2}))
    assert len(found.wrong) == 1
    assert found.wrong[0].startswith("sum (add) differs by 2 steps from the reference arithmetic on the same inputs, ")


def test_other_constants_are_wrong(tmp_path: Path) -> None:
    graph, path = _graph(), tmp_path / "other.tflite"
    other = Graph(graph.name, graph.inputs, graph.outputs, graph.nodes, {**graph.tensors, "w": _moved(graph["w"], 3)})
    path.write_bytes(tflite.to_bytes(other, metadata={}))
    found = explain_difference(graph, read_model_file(path), IMAGE, 1, _place(other, {}))
    assert found.wrong == ("y (conv2d) has other constants than the graph that the file was written from",)


def _moved(tensor: Tensor, steps: int) -> Tensor:
    assert tensor.data is not None
    return Tensor.constant(tensor.name, (tensor.data + np.int8(steps)).astype(np.int8), tensor.qparams)


def test_the_runtime_of_this_machine_is_the_default(file: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    assert explain_difference(_graph(), read_model_file(file), IMAGE, 1).wrong == ()
