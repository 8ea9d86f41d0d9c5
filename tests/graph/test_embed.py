"""Raw pixels in: the embedded normalisation is that of Preprocess, at the borders too, and changes no other integer."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from as_run import partitions, read_optimized

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import Unsupported
from edgemobile.exporters import onnx, tflite
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import quantize
from edgemobile.graph.embed import EMBEDDED, embed, normalised, outside, to_pixels
from edgemobile.graph.interpreter import run, run_real
from edgemobile.inspection.tensor_diff import diff_tensors
from edgemobile.preprocess import CIFAR10, IMAGENET, at_resolution
from edgemobile.quant.ptq import ptq
from edgemobile.quant.weights_only import to_float16, to_int8_weights

PX = 16
PREPROCESS = at_resolution(IMAGENET, PX)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, PX, PX, 3), np.uint8)
FORMATS = {"onnx": onnx, "tflite": tflite}


def _graph() -> Graph:
    """A padded stem of stride 2, a pool and a classifier: half of the stem's output touches the border."""
    rng = np.random.default_rng(1)
    constants = {
        "stem.weight": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "stem.bias": rng.normal(size=8),
        "head.weight": rng.normal(size=(5, 8)),
        "head.bias": rng.normal(size=5),
    }
    tensors = {name: Tensor.constant(name, data.astype(np.float32)) for name, data in constants.items()}
    shapes = {"input": (1, PX, PX, 3), "stem": (1, 8, 8, 8), "pool": (1, 1, 1, 8), "flat": (1, 8), "head": (1, 5)}
    tensors |= {name: Tensor(name, shape) for name, shape in shapes.items()}
    conv = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    nodes = (
        Node("conv2d", ("input", "stem.weight", "stem.bias"), "stem", conv),
        Node("mean", ("stem",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "head.weight", "head.bias"), "head", {"activation": ""}),
    )
    return Graph("small", ("input",), ("head",), nodes, tensors)


def _forms() -> dict[str, Graph]:
    graph = _graph()
    int8 = ptq(graph, [normalised(PIXELS, PREPROCESS)]).graph
    return {"float32": graph, "float16": to_float16(graph), "weight-only": to_int8_weights(graph), "int8": int8}


FORMS = _forms()


@pytest.mark.parametrize("precision", FORMS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_on_pixels_is_the_file_on_normalised_images(name: str, precision: str) -> None:
    plain, embedded = (
        FORMATS[name].to_bytes(graph, metadata={}) for graph in (FORMS[precision], embed(FORMS[precision], PREPROCESS))
    )
    session = open_session(embedded)
    session.settle(PX)
    assert (session.input.dtype, session.input.shape) == ("uint8", (1, PX, PX, 3))
    expected = open_session(plain).run(normalised(PIXELS, PREPROCESS))
    found = session.run(PIXELS.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=0 if precision == "int8" else 1e-5)


@pytest.mark.parametrize("precision", FORMS)
def test_the_oracle_is_exact_at_the_borders_too(precision: str) -> None:
    form = FORMS[precision]
    images = normalised(PIXELS, PREPROCESS)
    given = images if precision != "int8" else quantize(images, form["input"].qparams, "int8")
    plain = run(form, given, keep_all=True)
    found = run(embed(form, PREPROCESS), PIXELS, keep_all=True)
    np.testing.assert_allclose(found[EMBEDDED], given, atol=0 if precision == "int8" else 2e-6)
    for name in set(plain) - {"input"}:
        np.testing.assert_allclose(found[name], plain[name], atol=0 if precision == "int8" else 1e-5)


def test_in_int8_every_pixel_becomes_the_integer_it_had() -> None:
    """All 256 values of each channel."""
    every = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, PX, PX, 1), 3, axis=3)
    qparams = FORMS["int8"]["input"].qparams
    assert qparams is not None
    found = run(embed(FORMS["int8"], PREPROCESS), every, keep_all=True)[EMBEDDED]
    np.testing.assert_array_equal(found, quantize(normalised(every, PREPROCESS), qparams, "int8"))


def test_both_formats_hold_the_same_integers_and_compute_in_integers() -> None:
    graph = embed(FORMS["int8"], PREPROCESS)
    files = {name: module.to_bytes(graph, metadata={}) for name, module in FORMATS.items()}
    quantized = {name: t for name, t in graph.tensors.items() if t.qparams is not None or t.is_constant}
    for name, module in FORMATS.items():
        diff = diff_tensors(quantized, module.read_tensors(files[name]))
        assert diff.differing == {}
        # ONNX has no scale for its input: pixels stand for themselves.
        assert set(diff.only_left) <= {"input"}
    ops = set(read_optimized(files["onnx"]).op_counts())
    assert {op for op in ops if not op.startswith("Q")} <= {"Transpose", "Flatten", "DequantizeLinear"}


@pytest.mark.parametrize("precision", FORMS)
def test_xnnpack_still_takes_the_file_in_one_partition(precision: str) -> None:
    found = [
        partitions(tflite.to_bytes(graph, metadata={}))
        for graph in (FORMS[precision], embed(FORMS[precision], PREPROCESS))
    ]
    assert found[0] == found[1]


def test_onnx_of_signed_activations_takes_pixels_too() -> None:
    data = onnx.to_bytes(embed(FORMS["int8"], PREPROCESS), metadata={}, activations="int8")
    session = open_session(data)
    session.settle(PX)
    step = FORMS["int8"]["head"].qparams
    assert step is not None
    expected = run_real(FORMS["int8"], normalised(PIXELS, PREPROCESS))
    assert np.abs(session.run(PIXELS.astype(np.float32)) - expected).max() <= 1.01 * step.scale[0]


def test_pixels_come_back_and_what_is_outside_leaves_them_alone() -> None:
    np.testing.assert_array_equal(to_pixels(normalised(PIXELS, PREPROCESS), PREPROCESS), PIXELS)
    beyond = normalised(np.array([[[[-40.0, 255.4, 300.0]]]]), PREPROCESS)
    np.testing.assert_array_equal(to_pixels(beyond, PREPROCESS), [[[[0, 255, 255]]]])
    raw = outside(at_resolution(CIFAR10, PX))(PIXELS[0])
    np.testing.assert_allclose(raw, PIXELS[0], atol=1e-4)
    left = outside(IMAGENET)
    assert (left.input_px, left.shorter_px, left.antialias) == (224, 256, True)


def test_it_is_embedded_once() -> None:
    with pytest.raises(Unsupported, match="once"):
        embed(embed(_graph(), PREPROCESS), PREPROCESS)
