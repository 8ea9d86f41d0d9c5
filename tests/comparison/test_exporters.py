"""Correct files of other exporters pass layer by layer, a fault in one is found, and a layer that cannot be compared is
not a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import onnx
from small_net import PX

from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import tflite_file
from edgemobile.exporters.model_files import read_model_file
from edgemobile.images.samples import from_noise
from edgemobile.loading.model import load_model
from edgemobile.preprocess import IMAGENET

REF = "small_net:make"
RELU6 = tflite_file.schema.ActivationFunctionType.RELU6
# The exporters that can run here: all but those that need a separate Python.
EXPORTERS = [
    "torch.onnx.export(dynamo=True)",
    "torch.onnx.export(dynamo=False)",
    "TFLiteConverter float32",
    "TFLiteConverter dynamic range",
    "TFLiteConverter int8",
    "onnxruntime's quantizer QDQ",
    "onnxruntime's quantizer QOperator",
    *(
        f"edgemobile {form} {precision}"
        for form in ("ONNX", "TFLite")
        for precision in ("float32", "int8 weights", "int8")
    ),
]


@pytest.fixture(scope="module")
def script(repo_root: Path, load_script: Callable[[str], ModuleType]) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repo_root / "benchmarks")  # as where a script lies
        return load_script("benchmarks/parity_exporters.py")


@pytest.fixture(scope="module")
def net(script: ModuleType) -> Any:
    images = from_noise(replace(IMAGENET, input_px=PX), calibration=16, check=1, seed=1).calibration
    return script.Net(load_model(REF, res=PX), images)


@pytest.fixture(scope="module")
def made(script: ModuleType, net: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, paths = tmp_path_factory.mktemp("exporters"), {}

    def make(name: str) -> Path:
        if name not in paths:
            if name.startswith("TFLiteConverter"):
                pytest.importorskip("tensorflow")
            suffix, written = script.EXPORTERS[name]
            paths[name] = folder / f"{len(paths)}{suffix}"
            paths[name].write_bytes(written(net))
        return paths[name]

    return make


def _compared(*paths: Path, ref: str = REF) -> FileParity:
    loose = {"sqnr_db": 0.0, "top1_agree": 0.0}
    request = ParityRequest(ref, tuple(map(str, paths)), layers=True, images=4, minimums=loose)
    (file,) = parity(request).files
    return file


def test_the_table_has_every_exporter(script: ModuleType) -> None:
    elsewhere = {"litert-torch", "onnx2tf float32", "onnx2tf int8"}
    assert set(script.EXPORTERS) == {*EXPORTERS, *elsewhere}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_healthy_file_passes(made: Callable[[str], Path], net: Any, exporter: str) -> None:
    file = _compared(made(exporter))
    assert (file.verdict, file.gaps) == ("pass", ()), (file.missed, file.gaps)
    # In some files the hard-sigmoid is one op with the layer before it.
    assert len(file.layers) in (1 + len(net.graph.nodes), len(net.graph.nodes))
    assert all(layer.arithmetic_sqnr_db is not None for layer in file.layers[1:]), "every layer is run again"
    assert max((layer.excess for layer in file.layers if layer.excess is not None), default=0) < 2.5


def test_the_precision_of_a_file_of_another_exporter(made: Callable[[str], Path]) -> None:
    """One rule for all: the words in their names say what each stores.

    A dynamic range leaves weights of fewer than 1,024 values as they are, and this net has no others.
    """
    wanted = {"range": "float32", "int8 weights": "weight-only", "int8": "int8", "QDQ": "int8", "QOperator": "int8"}
    for exporter in EXPORTERS:
        precision = next((word for end, word in wanted.items() if exporter.endswith(end)), "float32")
        assert read_model_file(made(exporter)).precision == precision, exporter


# ---- faults ---------------------------------------------------------------------------------------------------------


def _with_initializer(path: Path, part: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """`path` with one initializer, whose name has `part` in it, changed."""
    model = onnx.load(path)
    (tensor,) = (each for each in model.graph.initializer if part in each.name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), tensor.name))
    wrong = path.with_name(f"wrong {path.name}")
    wrong.write_bytes(model.SerializeToString())
    return wrong


def _flipped(data: np.ndarray) -> np.ndarray:
    """The highest bit but the sign of one number."""
    octets = data.reshape(-1).view(np.uint8)
    octets[int(np.argmax(np.abs(data.reshape(-1).astype(np.int64)) < 16))] ^= 1 << 6
    return data


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_flipped_bit_in_a_quantized_operator_is_named(made: Callable[[str], Path], form: str) -> None:
    file = _compared(_with_initializer(made(f"onnxruntime's quantizer {form}"), "right.weight_quantized", _flipped))
    assert file.first_diverging is not None
    assert file.first_diverging.name in ("right", "relu_1"), file.first_diverging
    assert file.cause is not None
    assert file.cause.kind == "flipped bit"


def test_another_scale_in_a_quantized_operator_is_found(made: Callable[[str], Path]) -> None:
    file = _compared(
        _with_initializer(made("onnxruntime's quantizer QOperator"), "squeeze.weight_scale", lambda s: s * 2)
    )
    assert file.first_diverging is not None
    assert "squeeze" in file.first_diverging.name or "relu" in file.first_diverging.name


def test_a_residual_that_reads_something_else_is_named(made: Callable[[str], Path]) -> None:
    """The sum reads the gated image instead of the input of the gate."""
    path = made("onnxruntime's quantizer QOperator")
    model = onnx.load(path)
    product = next(node for node in model.graph.node if node.op_type == "QLinearMul")
    total = next(node for node in model.graph.node if node.op_type == "QLinearAdd")
    total.input[0], total.input[1], total.input[2] = product.output[0], product.input[6], product.input[7]
    wrong = path.with_name("rewired.onnx")
    wrong.write_bytes(model.SerializeToString())
    file = _compared(wrong)
    assert file.first_diverging is not None
    assert (file.first_diverging.op, file.first_diverging.diverges_in) == ("add", "arithmetic")


def test_a_fault_in_a_file_of_torch_is_named(made: Callable[[str], Path]) -> None:
    path = made("torch.onnx.export(dynamo=False)")
    file = _compared(_with_initializer(path, "left.weight", lambda weight: -weight))
    assert file.first_diverging is not None
    assert "left" in file.first_diverging.name


def _converted(path: Path, change: Callable[[Any], None]) -> FileParity:
    """What is found of a TFLite file once its ModelT was changed."""
    model = tflite_file.unpack(path.read_bytes())
    change(model)
    wrong = path.with_name(f"wrong {path.name}")
    wrong.write_bytes(tflite_file.pack(model))
    return _compared(wrong)


def test_a_bias_that_holds_the_3_of_a_hard_sigmoid_is_compared(made: Callable[[str], Path]) -> None:
    def without_bias(model: Any) -> None:
        graph = model.subgraphs[0]
        # There is another ReLU6, that of the depthwise layer before it.
        *_, gate = (op for op in graph.operators if getattr(op.builtinOptions, "fusedActivationFunction", 0) == RELU6)
        bias = model.buffers[graph.tensors[gate.inputs[2]].buffer]
        bias.data = np.zeros_like(np.asarray(bias.data))

    file = _converted(made("TFLiteConverter int8"), without_bias)
    assert file.verdict == "FAIL"
    assert file.first_diverging is not None


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_fifth_in_place_of_a_sixth_is_found(made: Callable[[str], Path], precision: str) -> None:
    def by_five(model: Any) -> None:
        (sixth,) = (tensor for tensor in model.subgraphs[0].tensors if _is_a_number(model, tensor))
        if precision == "int8":
            sixth.quantization.scale = [1.2 * float(sixth.quantization.scale[0])]
        else:
            model.buffers[sixth.buffer].data = np.frombuffer(np.float32(1 / 5).tobytes(), np.uint8)

    file = _converted(made(f"TFLiteConverter {precision}"), by_five)
    assert file.first_diverging is not None, "the product is 1.2 times what it should be"
    assert file.first_diverging.op == "mul"


def _is_a_number(model: Any, tensor: Any) -> bool:
    """Whether a tensor is a constant without dimensions."""
    data = model.buffers[tensor.buffer].data
    return (tensor.shape is None or len(tensor.shape) == 0) and data is not None and len(data) > 0


# ---- what cannot be compared ----------------------------------------------------------------------------------------


def _with_erf(path: Path) -> Path:
    """`path` with Erf after its last node; a Graph cannot represent Erf."""
    model = onnx.load(path)
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Erf", ["before"], [output.name]))
    target = path.with_name(f"erf {path.name}")
    target.write_bytes(model.SerializeToString())
    return target


def test_a_layer_that_cannot_be_compared_is_not_a_miss(made: Callable[[str], Path]) -> None:
    path = _with_erf(made("edgemobile ONNX float32"))
    file = _compared(path, ref=str(path))
    assert (file.verdict, file.passed, file.layers) == ("not compared", True, ())
    assert "Erf (at" in file.not_compared
    assert file.gaps == (file.not_compared,)


def test_layers_after_an_unknown_op_are_still_compared(made: Callable[[str], Path]) -> None:
    """The unknown op is named once, and no layer of the file counts as wrong."""
    file = _compared(_with_erf(made("torch.onnx.export(dynamo=True)")))
    assert file.missed_layers == ()
    assert [reason for _, reason in file.unmatched if "Erf (at" not in reason] == []
    assert len(file.layers) > 10


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant.tflite"])
def test_a_file_of_google_is_itself(shared_data: Path, name: str) -> None:
    path = shared_data / "models" / name
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    file = _compared(path, ref=str(path))
    assert (file.verdict, file.gaps) == ("pass", ())
    assert max(layer.lsb for layer in file.layers if layer.lsb is not None) <= 1
    assert file.layers[-1].op == "softmax"
