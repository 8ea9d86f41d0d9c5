"""TensorFlow's converter as a second opinion: it and the native writer must agree."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, QParams, Tensor, interpreter
from edgemobile.graph.affine import quantize

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("needs the tensorflow extra", allow_module_level=True)

from edgemobile.exporters import tensorflow, tflite

PX = 64


def sqnr_db(reference, other):
    return 10 * np.log10(np.square(reference).sum() / max(np.square(reference - other).sum(), 1e-30))


def litert(data, x):
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=data, num_threads=1)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], x)
    runtime.invoke()
    return runtime.get_tensor(runtime.get_output_details()[0]["index"])


def images(count, seed=0):
    """f32[count,px,px,3]: noise over a colour of its own."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, PX, PX, 3)) + 2 * rng.normal(size=(count, 1, 1, 3))).astype(np.float32)


@functools.cache
def graph_of(name):
    """A narrow net with batch norm statistics measured on images, lowered."""
    import torch

    from edgemobile.lower import export_program, lower
    from edgemobile.models.arch import ARCHS, scaled
    from edgemobile.models.nets import build_net

    torch.manual_seed(5)
    net = build_net(scaled(ARCHS[name], width=0.25, input_px=PX, classes=30), dropout=0.0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(torch.from_numpy(images(16, seed=1).transpose(0, 3, 1, 2).copy()))
    torch.nn.init.normal_(net.classifier[-1].weight, 0, 0.1)
    return lower(export_program(net, (1, 3, PX, PX)), name)


@pytest.mark.parametrize(("name", "hard_swish"), [("v3-small", 19), ("v2", 0)])
def test_float_net_equals_the_graph_and_the_native_file(name, hard_swish):
    graph = graph_of(name)
    data = tensorflow.to_bytes(graph, metadata={"source": "test"})
    outputs = []
    for x in images(2)[:, None]:
        outputs.append(interpreter.run(graph, x)[graph.outputs[0]])
        y = litert(data, x)
        assert sqnr_db(outputs[-1], y) >= 90
        assert sqnr_db(litert(tflite.to_bytes(graph, metadata={}), x), y) >= 90
    assert sqnr_db(outputs[0], outputs[1]) < 20
    counts = tflite.op_counts(data)
    native = tflite.op_counts(tflite.to_bytes(graph, metadata={}))
    assert counts.get("HARD_SWISH", 0) == native.get("HARD_SWISH", 0) == hard_swish
    for op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "PAD"):
        assert counts.get(op) == native.get(op), op
    assert "TRANSPOSE" not in counts
    assert tflite.read_metadata(data)["source"] == "test"


def test_int8_is_integer_in_and_out_with_the_native_op_versions():
    graph = graph_of("v2")
    data = tensorflow.to_bytes(graph, representative=[images(1), images(16, seed=1)])
    found = tflite.read_tensors(data)
    (source,) = [tensor for name, tensor in found.items() if "serving_default" in name]
    assert source.dtype == "int8"
    x = images(1)
    y = litert(data, quantize(x, source.qparams, "int8"))
    assert y.dtype == np.int8
    (reference,) = interpreter.run(graph, x).values()
    assert np.corrcoef(reference.ravel(), y.ravel())[0, 1] > 0.9
    versions = {"ADD": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "MEAN": 2, "PAD": 2}
    assert {op: version for op, version in tflite.op_versions(data) if op in versions} == versions


# What the nets do not use: (op, constants, attributes, output shape) on an input [1,8,8,4].
_RNG = np.random.default_rng(0)
_CONV = {"stride": (1, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 1), "activation": "relu"}
OPS = {
    "grouped conv": ("conv2d", [_RNG.normal(size=(6, 3, 3, 2)), np.ones(6)], {**_CONV, "groups": 2}, (1, 7, 9, 6)),
    "depthwise times 2": ("conv2d", [_RNG.normal(size=(8, 3, 3, 1)), np.ones(8)], {**_CONV, "groups": 4}, (1, 7, 9, 8)),
    "max pool": (
        "max_pool2d",
        [],
        {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))},
        (1, 4, 4, 4),
    ),
    "avg pool": ("avg_pool2d", [], {"kernel": (2, 2), "stride": (2, 2)}, (1, 4, 4, 4)),
    "relu6": ("relu6", [], {}, (1, 8, 8, 4)),
    "reshape": ("reshape", [], {}, (1, 256)),
}


@pytest.mark.parametrize("case", OPS)
def test_single_op_equals_the_graph(case):
    op, constants, attrs, shape = OPS[case]
    named = [Tensor.constant(f"c{i}", np.asarray(data, np.float32)) for i, data in enumerate(constants)]
    tensors = {t.name: t for t in (Tensor("x", (1, 8, 8, 4)), Tensor("y", shape), *named)}
    node = Node(op, ("x", *(t.name for t in named)), "y", attrs)
    graph = Graph("one", ("x",), ("y",), (node,), tensors)
    x = _RNG.normal(0, 3, (1, 8, 8, 4)).astype(np.float32) - 1
    y = litert(tensorflow.to_bytes(graph), x)
    np.testing.assert_allclose(y, interpreter.run(graph, x)["y"], rtol=1e-4, atol=1e-4)


def test_an_int8_graph_is_refused_by_name():
    tensors = {"x": Tensor("x", (1, 4)), "y": Tensor("y", (1, 4), "int8", None, QParams(0.1, 0))}
    graph = Graph("q", ("x",), ("y",), (Node("quantize", ("x",), "y"),), tensors)
    with pytest.raises(Unsupported, match=r"quantize \(int8\) at y"):
        tensorflow.to_bytes(graph)


def test_int8_without_images_is_refused():
    tensors = {"x": Tensor("x", (1, 4)), "y": Tensor("y", (1, 4))}
    graph = Graph("r", ("x",), ("y",), (Node("relu", ("x",), "y"),), tensors)
    with pytest.raises(Unsupported, match="representative"):
        tensorflow.to_bytes(graph, representative=[])


def test_the_converter_is_silent(capfd):
    tensors = {"x": Tensor("x", (1, 4)), "y": Tensor("y", (1, 4))}
    graph = Graph("r", ("x",), ("y",), (Node("relu", ("x",), "y"),), tensors)
    capfd.readouterr()
    tensorflow.to_bytes(graph)
    assert capfd.readouterr() == ("", "")
