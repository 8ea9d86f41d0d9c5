"""A model file as a source: what it computes, what is asked for, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import drifts
import onnx
from drifts import PX, Net, make_net

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS, tflite_file
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.images.samples import from_noise
from edgemobile.loading.file_model import load_file
from edgemobile.metrics.measures import measure
from edgemobile.model_file.metadata import LABELS, PREPROCESS
from edgemobile.preprocess import IMAGENET, at_resolution
from edgemobile.quant.weights_only import to_float16, to_int8_weights
from edgemobile.util.strict_json import to_json_text

CLASSES = 10
FORMS: dict[str, Callable[[Net], Graph]] = {
    "float32": lambda net: net.graph,
    "float16": lambda net: to_float16(net.graph),
    "weight-only": lambda net: to_int8_weights(net.graph),
    "int8": lambda net: net.int8,
}
# Against the file, which rounds itself but in the first two; int8 of so narrow a net is no nearer to its float.
LEAST_DB = {"float32": 90.0, "float16": 90.0, "weight-only": 15.0, "int8": 10.0}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Of those that int8 was calibrated on: its integers saturate on others."""
    return from_noise(drifts.PREPROCESS, calibration=24, check=1, seed=1).calibration[:4]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return make_net(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def graph(net: Net) -> Graph:
    return net.graph


def written(folder: Path, graph: Graph, name: str, metadata: dict[str, str] | None = None) -> str:
    path = folder / f"theirs{FORMATS[name].suffix}"
    path.write_bytes(FORMATS[name].load().to_bytes(graph, metadata=metadata or {}))
    return str(path)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", list(FORMATS))
def test_the_graph_of_a_file_computes_what_the_file_does(
    tmp_path: Path, net: Net, images: np.ndarray, name: str, form: str
) -> None:
    model = load_file(written(tmp_path, FORMS[form](net), name), preprocess="imagenet", batch=2)
    assert (model.classes, model.batch, model.preprocess.input_px) == (CLASSES, 2, PX)
    assert model.is_quantized == (form in ("weight-only", "int8"))
    assert {tensor.dtype for tensor in model.graph().tensors.values()} == {"float32"}
    assert measure(model.rows(images), run_real(model.graph(), images))["sqnr_db"] > LEAST_DB[form]


def test_a_float_file_has_the_ops_of_its_model(tmp_path: Path, graph: Graph) -> None:
    for name in FORMATS:
        model = load_file(written(tmp_path, graph, name), preprocess="imagenet")
        assert model.graph().op_counts() == graph.op_counts(), name


def test_what_the_metadata_says_is_used(tmp_path: Path, graph: Graph) -> None:
    said = at_resolution(IMAGENET, PX)
    names = [f"class {index}" for index in range(CLASSES)]
    metadata = {PREPROCESS: to_json_text(said.to_json()), LABELS: to_json_text(names)}
    model = load_file(written(tmp_path, graph, "tflite", metadata))
    assert (model.preprocess, model.labels) == (said, tuple(names))


def test_a_softmax_at_the_end_is_left_out_of_both(tmp_path: Path, graph: Graph, images: np.ndarray) -> None:
    path = Path(written(tmp_path, graph, "onnx"))
    model = onnx.load_from_string(path.read_bytes())
    model.graph.node.append(onnx.helper.make_node("Softmax", [graph.outputs[0]], ["shares"], axis=1))
    model.graph.output[0].name = "shares"
    path.write_bytes(model.SerializeToString())
    loaded = load_file(str(path), preprocess="imagenet")
    assert any("ends with a softmax" in note for note in loaded.notes)
    np.testing.assert_allclose(loaded.rows(images), run_real(graph, images), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run_real(loaded.graph(), images), run_real(graph, images), rtol=1e-3, atol=1e-5)


def dynamic(folder: Path, graph: Graph) -> str:
    """An ONNX file that takes any number of images of any size."""
    path = Path(written(folder, graph, "onnx"))
    model = onnx.load_from_string(path.read_bytes())
    for axis, name in ((0, "N"), (2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    return str(path)


def test_a_resolution_that_is_left_open_is_asked_for(tmp_path: Path, graph: Graph, images: np.ndarray) -> None:
    path = dynamic(tmp_path, graph)
    with pytest.raises(EdgemobileError, match=r"takes images of any size\. Choose one: --res PX"):
        load_file(path, preprocess="imagenet")
    model = load_file(path, preprocess="imagenet", res=PX)
    np.testing.assert_allclose(model.rows(images), run_real(graph, images), rtol=1e-3, atol=1e-5)
    assert load_file(path, preprocess="imagenet", res=2 * PX).graph()["input"].shape == (1, 2 * PX, 2 * PX, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"does not state its preprocessing.*--preprocess imagenet\|inception.*pixels from -1 to 1 would be usual"),
        ({"preprocess": "unit", "res": 64}, r"--res 64: .* takes images of 32 pixels only"),
        ({"preprocess": "unit", "weights": "my.pth"}, r"is a file, which has its own: omit --weights"),
        ({"preprocess": "unit", "width": 0.5, "classes": 3}, r"omit --width, --classes"),
    ],
)
def test_options_that_it_needs_or_does_not_take(
    tmp_path: Path, graph: Graph, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgemobileError, match=message):
        load_file(written(tmp_path, graph, "tflite"), **options)


def test_an_op_without_a_lowering_is_named(tmp_path: Path, graph: Graph) -> None:
    path = Path(written(tmp_path, graph, "onnx"))
    model = onnx.load_from_string(path.read_bytes())
    model.graph.node.append(onnx.helper.make_node("Erf", [graph.outputs[0]], ["odd"]))
    model.graph.output[0].name = "odd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Unsupported, match=r"theirs.onnx: Erf .at odd. has no lowering"):
        load_file(str(path), preprocess="imagenet")


def test_two_outputs_are_refused(tmp_path: Path, graph: Graph) -> None:
    path = Path(written(tmp_path, graph, "tflite"))
    model = tflite_file.unpack(path.read_bytes())
    model.subgraphs[0].outputs = np.append(model.subgraphs[0].outputs, model.subgraphs[0].operators[-2].outputs[0])
    model.signatureDefs = None
    path.write_bytes(tflite_file.pack(model))
    with pytest.raises(Unsupported, match=r"has outputs of shapes .* Supported: one, \[N, classes\]"):
        load_file(str(path), preprocess="imagenet")


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_damaged_file_is_one_error(tmp_path: Path, graph: Graph, name: str) -> None:
    path = Path(written(tmp_path, graph, name))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (9, len(data) // 3, len(data) - 9):
        path.write_bytes(data[:cut])
        with pytest.raises(EdgemobileError, match="theirs"):
            load_file(str(path), preprocess="imagenet")
    for _ in range(8):
        octets = bytearray(data)
        for place in rng.integers(8, len(data), 40):
            octets[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(octets))
        # Any other error would be one of ours.
        with suppress(EdgemobileError):
            load_file(str(path), preprocess="imagenet")
