"""Files with the names of another tool, and custom execution targets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import DEPTHWISE, Net, assert_named, compared, same_padding

from edgemobile.comparison.observing import ExecutionTarget, local_targets
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.graph import Graph, Node


def _anonymous(graph: Graph) -> Graph:
    """`graph` with names as from another tool."""
    names = {name: f"t{index}" for index, name in enumerate(graph.tensors)}
    nodes = [Node(n.op, tuple(names[i] for i in n.inputs), names[n.output], n.attrs) for n in graph.nodes]
    tensors = {names[name]: replace(tensor, name=names[name]) for name, tensor in graph.tensors.items()}
    inputs, outputs = (tuple(names[name] for name in ends) for ends in (graph.inputs, graph.outputs))
    return Graph(graph.name, inputs, outputs, tuple(nodes), tensors)


def test_other_names_are_matched_by_order(net: Net) -> None:
    right = net.write("anonymous.onnx", _anonymous(net.graph))
    wrong = net.write("anonymous same.tflite", _anonymous(same_padding(net.graph)))
    good, bad = compared(net, right, wrong).files
    assert good.passed
    assert len(good.layers) == 1 + len(net.graph.nodes)
    assert "matched by their inputs and weights" in good.notes[0]
    assert_named(bad, DEPTHWISE, "padding")


def test_a_custom_execution_target_may_compute_the_outputs(net: Net) -> None:
    seen = []

    def remote(path: Path, images: np.ndarray) -> np.ndarray:
        seen.append(path.name)
        return local_targets(("litert",))[0].infer(path, images) * np.float32(1.5)

    place = ExecutionTarget("board", ("tflite",), "aarch64", remote)
    request = ParityRequest(
        str(net.folder / "float32.onnx"), (str(net.folder / "float32.tflite"),), images=4, places=(place,)
    )
    (file,) = parity(request).files
    assert seen == ["float32.tflite"]
    assert (file.place, file.isa) == ("board", "aarch64")
    assert file.metrics["sqnr_db"] == pytest.approx(20 * math.log10(2), abs=0.01)
    (layered,) = parity(replace(request, layers=True)).files
    assert "cannot return inner tensors" in layered.not_compared
    assert layered.missed == file.missed, "a layer that cannot be compared is not a miss"


def test_a_file_that_no_runtime_can_run_is_refused(net: Net) -> None:
    with pytest.raises(Unsupported, match="none of onnxruntime can run"):
        compared(net, net.folder / "float32.tflite", places=local_targets(("onnxruntime",)))
    with pytest.raises(Unsupported, match=r"no runtime 'tvm'.*tensorflow"):
        local_targets(("tvm",))
    with pytest.raises(EdgemobileError, match="nothing to compare"):
        ParityRequest("v3-large", ())
