"""Numbers beyond their range: a bias that int32 wraps, sums that saturate, a range that is too narrow."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import DEPTHWISE, PREPROCESS, QUICK, STEM, Net, assert_named, compared, data_of, node_at, with_data

from edgemobile.comparison.causes import CAUSES
from edgemobile.comparison.diverging_layer import DivergingLayer
from edgemobile.comparison.layers import sources
from edgemobile.comparison.observing import local_targets, observe
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, QParams, Tensor
from edgemobile.images.samples import from_noise
from edgemobile.quant.ptq import ptq


def _overflowed(graph: Graph, form: Graph) -> Graph:
    """The bias of a channel without weights, whose scale is so small that the bias wraps in int32."""
    node = node_at(graph, DEPTHWISE)
    x, weight, bias = (graph[name] for name in node.inputs)
    assert x.qparams is not None
    assert weight.qparams is not None
    channel = int(np.argmax(np.abs(data_of(form, node_at(form, DEPTHWISE).inputs[2]))))
    real = float(data_of(form, node_at(form, DEPTHWISE).inputs[2])[channel])
    scale = weight.qparams.scale.copy()
    scale[channel] = abs(real) / (float(x.qparams.scale[0]) * 1.3 * 2**31)
    unit = (x.qparams.scale * scale).astype(np.float32)
    values = data_of(graph, bias.name).astype(np.int64)
    wrapped = int(np.rint(real / float(unit[channel])))
    values[channel] = (wrapped + 2**31) % 2**32 - 2**31
    zeros, weights = np.zeros(scale.size, np.int32), data_of(graph, weight.name).copy()
    weights[channel] = 0
    return graph.replaced(
        tensors=[
            Tensor.constant(weight.name, weights, QParams(scale, zeros, 0)),
            Tensor.constant(bias.name, values.astype(np.int32), QParams(unit, zeros, 0)),
        ]
    )


def test_a_bias_beyond_int32_is_named(net: Net) -> None:
    weight = node_at(net.graph, DEPTHWISE).inputs[1]
    bias = node_at(net.graph, DEPTHWISE).inputs[2]
    dead = data_of(net.graph, weight).copy()
    dead[int(np.argmax(np.abs(data_of(net.graph, bias))))] = 0
    graph = with_data(net.graph, weight, dead)
    net.write("dead.onnx", graph)
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(graph, [images], QUICK)
    path = net.write("overflow.tflite", _overflowed(quantized.graph, graph))
    (file,) = compared(net, path, ref="dead.onnx").files
    assert_named(file, DEPTHWISE, "bias overflow")
    assert file.cause is not None
    assert "int32 wraps" in file.cause.words


def test_signed_weights_are_exact_or_named(net: Net) -> None:
    """onnxruntime saturates pairs of int8 products on x86 without VNNI, and only there."""
    from edgemobile.exporters import onnx

    path = net.folder / "signed.onnx"
    path.write_bytes(onnx.to_bytes(net.int8, metadata={}, weights="int8"))
    (file,) = compared(net, path).files
    assert (file.first_diverging is None) == (file.cause is None or file.cause.kind == "range")
    if file.first_diverging is not None and file.cause is not None:
        assert file.cause.kind == "int16 saturation"


@pytest.mark.parametrize(("weights", "tried"), [("int8", True), ("uint8", False)])
def test_only_signed_weights_can_saturate_in_pairs(net: Net, weights: Literal["int8", "uint8"], tried: bool) -> None:
    from edgemobile.exporters import onnx

    path = net.folder / f"{weights} weights.onnx"
    path.write_bytes(onnx.to_bytes(net.int8, metadata={}, weights=weights))
    images = from_noise(PREPROCESS, calibration=1, check=1, seed=1).check
    observed, _ = observe(read_model_file(path), local_targets(("onnxruntime",))[0], images, net.graph)
    stem = node_at(net.graph, STEM)
    inputs = {name: observed.real(name) for name in sources(net.graph, stem)}
    case = DivergingLayer(net.graph, stem, inputs, observed.real(STEM), observed, ({},), None, diverges_in="arithmetic")
    assert bool(list(CAUSES["int16 saturation"](case))) is tried
    assert not list(CAUSES["int16 saturation"](replace(case, diverges_in="constants")))


def test_a_narrow_range_is_named_if_no_layer_diverges(net: Net) -> None:
    """int8 calibrated on grey images saturates on colourful ones."""
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(net.graph, [images * np.float32(0.2)], QUICK)
    path = net.write("grey.tflite", quantized.graph)
    (file,) = compared(net, path).files
    assert not file.passed
    assert file.first_diverging is None
    assert file.cause is not None
    assert file.cause.kind == "range"
    assert "input" in file.cause.words
