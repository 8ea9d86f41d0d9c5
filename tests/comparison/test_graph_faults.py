"""A layer that computes something else (another padding, layout, order of channels), or has other numbers, is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import (
    DEPTHWISE,
    FLOAT_DRIFTS,
    INT8_DRIFTS,
    Net,
    assert_named,
    compared,
    data_of,
    drifted_int8,
    flip_bit,
    node_at,
    with_data,
    with_node,
)

from edgemobile.exporters import FORMATS
from edgemobile.gate.checks import Outcome
from edgemobile.gate.load import load_gate
from edgemobile.gate.run import run_gate
from edgemobile.graph import Node
from edgemobile.lower import lower
from edgemobile.util.config_file import read_config


@pytest.mark.parametrize(("index", "drift"), list(enumerate(FLOAT_DRIFTS)))
def test_a_float_drift_is_named(net: Net, index: int, drift: str) -> None:
    make, layer, kind = FLOAT_DRIFTS[drift]
    path = net.write(f"{drift}.{list(FORMATS)[index % 2]}", make(net.graph))
    (file,) = compared(net, path).files
    assert_named(file, layer, kind)


@pytest.mark.parametrize("drift", list(INT8_DRIFTS))
def test_an_int8_drift_is_named(net: Net, drift: str) -> None:
    _, _, layer, kind = INT8_DRIFTS[drift]
    (file,) = compared(net, drifted_int8(net, drift)).files
    assert_named(file, layer, kind)


def test_a_pipeline_fails_for_each_drift_and_for_nothing_else(net: Net) -> None:
    """The gate of `edgemobile ci` over files of which some are right."""
    right = [net.folder / f"{precision}.{name}" for precision in ("float32", "int8") for name in FORMATS]
    wrong = {net.write(f"{drift}.onnx", make(net.graph)): rest for drift, (make, *rest) in FLOAT_DRIFTS.items()}
    wrong |= {drifted_int8(net, drift): rest for drift, (_, _, *rest) in INT8_DRIFTS.items()}
    config = net.folder / "edgemobile.toml"
    config.write_text(
        "[gate]\nimages = 2\n[models.narrow]\nmodel = 'float32.onnx'\n"
        "tolerances.int8 = { sqnr_db = 0, top1_agree = 0 }\ntolerances.float32 = { sqnr_db = 0, top1_agree = 0 }\n"
        f"files = {json.dumps([path.name for path in (*right, *wrong)])}\n"
    )
    report = run_gate(load_gate(read_config(config)))
    assert report.exit_code == 1
    layers = {Path(check.file).name: check for check in report.checks if check.what == "layers"}
    assert {name for name, check in layers.items() if check.outcome is Outcome.FAILED} == {path.name for path in wrong}
    assert {path.name for path in right} <= {name for name, check in layers.items() if check.outcome is Outcome.PASSED}
    for path, (layer, kind) in wrong.items():
        words = " ".join(layers[path.name].words)
        assert f"layer {layer}" in words, path.name
        assert kind in words, path.name


def test_constants_are_never_explained_by_the_arithmetic(net: Net) -> None:
    """Saturation is computed with the file's own constants, so it would also explain wrong constants."""
    layer = "features.8.block.3.1"
    weight = node_at(net.int8, layer).inputs[1]
    path = net.write("zero.onnx", with_data(net.int8, weight, np.zeros_like(data_of(net.int8, weight))))
    (file,) = compared(net, path).files
    assert_named(file, layer, "weights")


def test_a_flipped_bit_must_explain_the_difference(net: Net) -> None:
    """The whole bias differs too, so correcting one weight is not enough."""
    *_, bias = node_at(net.graph, DEPTHWISE).inputs
    graph = flip_bit(net.graph, DEPTHWISE, 20)
    path = net.write("bias.onnx", with_data(graph, bias, data_of(graph, bias) + 1))
    (file,) = compared(net, path).files
    assert not file.passed
    assert file.cause is not None
    assert file.cause.explained_db > file.cause.right_db


def test_the_bundled_model_against_pytorch(net: Net) -> None:
    from edgemobile.loading.model import load_model

    model = load_model("v3-large", res=32)
    graph = lower(model.program, model.name)
    path = net.folder / "v3-same.tflite"
    layer = "features.4.block.1.2"
    conv = next(node for node in graph.nodes if node.output == layer)
    assert conv.attrs["stride"] == (2, 2)
    attrs = {**conv.attrs, "padding": ((1, 2), (1, 2))}
    drifted = with_node(graph, conv, Node(conv.op, conv.inputs, conv.output, attrs))
    path.write_bytes(FORMATS["tflite"].load().to_bytes(drifted, metadata={}))
    (file,) = compared(net, path, ref="v3-large").files
    assert len(file.layers) == 1 + 121
    assert sum(bool(layer.diverges_in) for layer in file.layers) == 1, "every other layer is right by itself"
    assert_named(file, layer, "padding")
