"""SSDLite in int8: the same integers in both formats and in the interpreter, one partition, no float op."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from as_run import partitions

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.loading.model import load_model
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

PX, CLASSES = 96, 4


def noise(count: int, seed: int) -> np.ndarray:
    """f32[count,PX,PX,3]: coarse noise, as photos have it."""
    coarse = np.random.default_rng(seed).standard_normal((count, 8, 8, 3)).astype(np.float32)
    return coarse.repeat(PX // 8, axis=1).repeat(PX // 8, axis=2)


@pytest.fixture(scope="module", params=["v2-ssdlite", "v3-large-ssdlite"])
def graph(request: pytest.FixtureRequest) -> Graph:
    lowered = load_model(request.param, "random", width=0.25, res=PX, classes=CLASSES).graph()
    # Plain ranges: what makes int8 accurate is not asked here.
    recipe = Recipe(refit=0, bias_correction=False, equalize=0)
    return ptq(lowered, [noise(4, 0)], recipe).graph


def test_both_formats_compute_the_integers_of_the_interpreter(graph: Graph) -> None:
    images = noise(2, 1)
    expected = run_real(graph, images)
    sizes = [int(np.prod(graph[name].shape)) for name in graph.outputs]
    steps = np.repeat([graph[name].qparams.scale[0] for name in graph.outputs], sizes)
    assert np.ptp(expected) > 50 * steps.max()
    for name, stored in (("onnx", {"activations": "uint8", "weights": "uint8"}), ("tflite", {})):
        session = open_session(FORMATS[name].load().to_bytes(graph, metadata={}, **stored))
        np.testing.assert_array_less(np.abs(session.rows(images) - expected) / steps, 0.5, name)


def test_tflite_is_one_partition_and_onnx_has_no_float_op(graph: Graph) -> None:
    assert partitions(FORMATS["tflite"].load().to_bytes(graph, metadata={})) == 1
    assert [graph[name].shape[1:] for name in graph.outputs] == [(312, 4), (312, CLASSES)]
    assert graph.op_counts()["concat"] == 2
    # Every one but the outputs' own dequantize reads and makes integers.
    assert all(graph[node.output].dtype == "int8" for node in graph.nodes if node.op != "dequantize")
