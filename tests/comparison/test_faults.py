"""Faults planted into the numbers of int8 files are found and named without --layers; correct files pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import torch

from edgemobile.comparison.findings import changed_numbers, exchanged_rows
from edgemobile.comparison.observing import local_targets
from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import FORMATS, onnx, tflite
from edgemobile.exporters.tflite_file import pack, unpack
from edgemobile.graph import Graph, Origin, QParams, Tensor
from edgemobile.graph.checksums import checksums_metadata, read_checksums
from edgemobile.images.samples import from_noise
from edgemobile.lower import export_program, lower
from edgemobile.metrics.tolerances import most_steps
from edgemobile.model_file.metadata import CHECKSUMS
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import IMAGENET
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

PX = 32
PREPROCESS = replace(IMAGENET, input_px=PX, resize="exact", shorter_px=None)


@dataclass(frozen=True)
class Net:
    """A narrow MobileNet V3 whose batch norms have the statistics of its images: float and int8 graphs, and files in
    `folder`."""

    graph: Graph
    images: np.ndarray
    folder: Path

    def write(self, name: str, graph: Graph, extra: Mapping[str, str]) -> Path:
        path = self.folder / name
        metadata = {"edgemobile.preprocess": json.dumps(PREPROCESS.to_json()), **extra}
        path.write_bytes(FORMATS[path.suffix[1:]].load().to_bytes(graph, metadata=metadata))
        return path


@pytest.fixture(scope="module")
def faults(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/parity_faults.py")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    torch.manual_seed(0)
    module = build_net(scaled(get_arch("v3-small"), width=0.35, classes=10))
    images = from_noise(PREPROCESS, calibration=24, check=1, seed=1).calibration
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            torch.nn.init.uniform_(layer.weight, 0.6, 1.6)
            torch.nn.init.uniform_(layer.bias, -0.4, 0.6)
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    made = Net(lower(export_program(module, (1, 3, PX, PX)), "narrow"), images, tmp_path_factory.mktemp("faults"))
    quantized = ptq(made.graph, [images])
    made.write("float32.onnx", made.graph, {})
    for form in FORMATS:
        made.write(f"int8.{form}", quantized.graph, checksums_metadata(quantized.graph.tensors))
        made.write(f"unsummed.{form}", quantized.graph, {})
    return made


def _results(net: Net, faults: ModuleType, name: str, ref: str, planted: Sequence[str]) -> dict[str, FileParity]:
    """Fault -> the result of parity for the file `name` with it, against `ref`; "none" is the correct file."""
    healthy, folder = net.folder / name, net.folder / f"{ref} {name}"
    folder.mkdir()
    files = {"none": healthy}
    for fault in planted:
        files[fault] = faults.planted(healthy, faults.FAULTS[fault], folder / f"{fault}{healthy.suffix}")
    bounds = {"sqnr_db": -99.0, "top1_agree": 0.0}  # what is told must not come from the outputs
    request = ParityRequest(str(net.folder / ref), tuple(map(str, files.values())), images=2, minimums=bounds)
    return dict(zip(files, parity(request).files, strict=True))


FAULTS = (
    "1 flipped weight bit",
    "one channel's scale x 1.5",
    "a layer's scale x 1.03",
    "an activation's scale x 1.05",
    "a zero point + 2",
    "the output's scale x 1.05",
    "the classifier's bias zeroed",
    "the input's scale x 1.08",
    "2,000 flipped bits in one weight",
    "two classes swapped",
    "classes erased",
    "two channels swapped",
    "a residual rewired",
    "another eps of batch norm",
    "weights rounded to float16",
    "noise on the weights",
)
# What each format writes differently: weights, biases, scales, zero points and connections.
_PER_FORMAT = ("1 flipped weight bit", *FAULTS[2:8], "two classes swapped", "a residual rewired")
# Without a checksum nothing in a file contradicts these: the outputs are the same but for rounding, or a layer differs.
_SILENT = ("a zero point + 2", "the output's scale x 1.05", "a residual rewired", "weights rounded to float16")
_TOLD = tuple(fault for fault in FAULTS if fault not in _SILENT)


@pytest.fixture(scope="module")
def twins(net: Net, faults: ModuleType) -> dict[str, dict[str, FileParity]]:
    return {
        "tflite": _results(net, faults, "unsummed.tflite", "int8.onnx", FAULTS),
        "onnx": _results(net, faults, "unsummed.onnx", "int8.tflite", _PER_FORMAT),
    }


@pytest.fixture(scope="module")
def summed(net: Net, faults: ModuleType) -> dict[str, FileParity]:
    """A file with checksums, against the float net."""
    return _results(net, faults, "int8.tflite", "float32.onnx", _SILENT)


@pytest.fixture(scope="module")
def alone(net: Net, faults: ModuleType) -> dict[str, FileParity]:
    """A file without checksums, against the float net."""
    return _results(net, faults, "unsummed.tflite", "float32.onnx", _TOLD)


def test_every_fault_of_the_benchmark_is_tested(faults: ModuleType) -> None:
    assert set(faults.FAULTS) == set(FAULTS)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_the_same_integers_in_both_formats_pass(twins: dict[str, dict[str, FileParity]], form: str) -> None:
    healthy = twins[form]["none"]
    assert healthy.passed, healthy.missed
    assert healthy.cause is None
    assert healthy.notes == () or "a rounding tie that later layers amplify" in healthy.notes[-1]


@pytest.mark.parametrize(
    ("form", "fault"), [*(("tflite", fault) for fault in FAULTS), *(("onnx", fault) for fault in _PER_FORMAT)]
)
def test_a_fault_is_named_by_a_file_of_the_same_integers(
    twins: dict[str, dict[str, FileParity]], faults: ModuleType, form: str, fault: str
) -> None:
    file = twins[form][fault]
    assert not file.passed
    assert file.cause is not None, file.missed
    assert file.cause.kind in faults.FAULTS[fault].kinds, file.missed


def test_a_correct_int8_file_passes_against_float(alone: dict[str, FileParity], summed: dict[str, FileParity]) -> None:
    for results in (alone, summed):
        healthy = results["none"]
        assert healthy.passed, healthy.missed
        assert (healthy.cause, healthy.notes) == (None, ())


@pytest.mark.parametrize(
    ("fault", "kind"), [(_SILENT[0], "activation zero point"), (_SILENT[1], "output scale"), (_SILENT[3], "scales")]
)
def test_the_checksums_find_what_nothing_else_can(summed: dict[str, FileParity], fault: str, kind: str) -> None:
    assert not summed[fault].passed
    assert kind in {words.partition(":")[0] for words in summed[fault].missed}


@pytest.mark.parametrize("fault", _TOLD)
def test_a_fault_is_named_by_the_float_reference(alone: dict[str, FileParity], faults: ModuleType, fault: str) -> None:
    file = alone[fault]
    assert not file.passed
    assert file.cause is not None
    assert file.cause.kind in faults.FAULTS[fault].kinds, file.missed


def test_a_rewired_residual_is_named_layer_by_layer(net: Net, faults: ModuleType) -> None:
    path = faults.planted(
        net.folder / "int8.tflite", faults.FAULTS["a residual rewired"], net.folder / "rewired.tflite"
    )
    request = ParityRequest(str(net.folder / "float32.onnx"), (str(path),), images=2, layers=True)
    (file,) = parity(request).files
    assert file.first_diverging is not None
    assert file.first_diverging.op == "add"
    assert file.cause is not None
    assert file.cause.kind == "wiring"
    assert "instead of" in file.cause.words


# ---- counts are true -------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_planted_faults(twins: dict[str, dict[str, FileParity]]) -> None:
    found = twins["tflite"]
    words = found["2,000 flipped bits in one weight"].missed[0]
    assert "2000 bits" in words
    assert "in 2000 of " in words
    assert "channels 2 and 7 of" in found["two classes swapped"].missed[0]
    assert "channels 2, 3, 4 of" in found["classes erased"].missed[0]
    assert "channel 5 of" in found["one channel's scale x 1.5"].missed[0]
    kinds = [words.partition(":")[0] for words in found["two classes swapped"].missed]
    assert "bias" not in kinds, "it moved with its weight"


def test_a_count_against_float_is_a_minimum(alone: dict[str, FileParity]) -> None:
    (words, *_) = alone["2,000 flipped bits in one weight"].missed
    count = int(words.split("at least ")[1].split(" of ")[0])
    assert 0 < count <= 2000


def test_only_permuted_rows_are_exchanged() -> None:
    rows = np.arange(12).reshape(4, 3)
    assert exchanged_rows(rows[[0, 2, 1, 3]], rows) == {1: 2, 2: 1}
    assert exchanged_rows(rows[[1, 2, 0, 3]], rows) == {0: 1, 1: 2, 2: 0}
    assert exchanged_rows(rows[[0, 2, 2, 3]], rows) == {}, "a copy is no exchange"
    assert exchanged_rows(rows, rows) == {}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({3: 0b0100_0000}, "flipped bit"),
        ({3: 0b0100_0000, 9: -128}, "flipped bits"),
        ({3: 0b0111_0000}, "damaged numbers"),
        (dict.fromkeys(range(100), 0b0000_0101), "weights"),
    ],
)
def test_changed_numbers_are_classified_by_their_bits(changes: dict[int, int], kind: str) -> None:
    right = np.zeros((10, 20), np.int8)
    found = right.copy()
    found.reshape(-1)[list(changes)] = list(changes.values())
    finding = changed_numbers(found, right, "w")
    assert finding is not None
    assert finding.kind == kind
    assert changed_numbers(right, right, "w") is None


# ---- other integers --------------------------------------------------------------------------------------------------


def test_another_quantization_is_compared_in_db_with_a_note(net: Net) -> None:
    images = net.images[:4] * np.float32(0.7)
    other = ptq(net.graph, [images], Recipe(refit=0, bias_correction=False, equalize=0, split_gates="none"))
    path = net.write("other.tflite", other.graph, {})
    (file,) = parity(ParityRequest(str(net.folder / "int8.onnx"), (str(path),), images=2)).files
    assert any("another quantization" in note and "in dB" in note for note in file.notes)
    assert set(file.bounds) == {"sqnr_db", "top1_agree"}
    assert file.cause is None


def test_the_same_integers_are_checked_in_steps_not_in_db(twins: dict[str, dict[str, FileParity]]) -> None:
    healthy = twins["tflite"]["none"]
    assert healthy.lsb is not None
    assert healthy.bounds == {"sqnr_db": -99.0, "top1_agree": 0.0}
    assert most_steps("litert", "tensorflow") == most_steps("onnxruntime", "onnxruntime") == 1
    assert most_steps("litert", "onnxruntime") == most_steps("onnxruntime", "tflite_runtime") > 1


def test_an_op_that_computes_differently_is_a_miss_if_all_numbers_are_equal(net: Net) -> None:
    """A runtime 40 steps away on one op."""
    (right,) = local_targets(("litert",))

    def off(path: Path, images: np.ndarray) -> np.ndarray:
        return right.infer(path, images) + np.float32(4)

    def off_inside(data: bytes, images: np.ndarray) -> list[np.ndarray]:
        assert right.layers is not None
        return [np.where(array < 80, array + 40, array).astype(array.dtype) for array in right.layers(data, images)]

    place = replace(right, infer=off, layers=off_inside)
    request = ParityRequest(
        str(net.folder / "int8.tflite"), (str(net.folder / "unsummed.tflite"),), images=2, places=(place,)
    )
    (file,) = parity(request).files
    assert file.lsb is not None
    assert file.lsb > 1
    assert any("the first op that differs" in words for words in file.missed)


def test_the_same_integers_on_other_images_are_checked_in_db(net: Net) -> None:
    stated = replace(PREPROCESS, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    path = net.folder / "inception.tflite"
    data = (net.folder / "unsummed.tflite").read_bytes()
    model = unpack(data)
    entry = next(entry for entry in model.metadata if entry.name.decode() == "edgemobile.preprocess")
    model.buffers[entry.buffer].data = np.frombuffer(json.dumps(stated.to_json()).encode(), np.uint8)
    path.write_bytes(pack(model))
    (file,) = parity(ParityRequest(str(net.folder / "int8.onnx"), (str(path),), images=4)).files
    assert set(file.bounds) == {"sqnr_db", "top1_agree"}
    assert any("another preprocessing" in note for note in file.notes)


def test_a_stated_factor_of_six_is_not_a_difference(net: Net) -> None:
    """The 1/6 of a hard-swish in the next layer's scale: another name and scale, the same integers."""
    from edgemobile.comparison.same_quantization import Pair, different_numbers, pair_of

    def tensors(name: str, weight: str, said: float, multiple: float) -> dict[str, Tensor]:
        zero = np.zeros(1, np.int32)
        scales = QParams(np.array([0.1 * multiple]), zero), QParams(np.array([0.3 / multiple]), zero)
        y = Tensor(name, (1, 4), "int8", qparams=scales[0], origin=Origin("act", said))
        w = Tensor.constant(weight, np.ones((2, 4), np.int8), scales[1])
        return {name: y, weight: replace(w, origin=Origin("fc.weight", 1 / said))}

    right = tensors("act", "fc.weight", 1.0, 1.0)
    pair = pair_of(tensors("act.x6", "fc.weight.d6", 6.0, 6.0), right, (), ())
    assert isinstance(pair, Pair)
    assert different_numbers(pair) == []
    wrong = pair_of(tensors("act.x6", "fc.weight.d6", 6.0, 6.6), right, (), ())
    assert isinstance(wrong, str), "no range is the same"


# ---- checksums -------------------------------------------------------------------------------------------------------


def test_both_formats_match_their_checksums(net: Net) -> None:
    for form, module in {"tflite": tflite, "onnx": onnx}.items():
        data = (net.folder / f"int8.{form}").read_bytes()
        tensors = module.read_tensors(data)
        checksums = read_checksums(module.read_metadata(data), tensors)
        assert len(checksums.ranges) > 100
        assert len(checksums.constants) > 100
        assert not any(checksums.changed_numbers(tensor) for tensor in tensors.values())
        assert not any(checksums.changed_scales(tensor) for tensor in tensors.values())


def test_damaged_checksums_are_a_miss_of_their_file(net: Net) -> None:
    model = unpack((net.folder / "int8.tflite").read_bytes())
    entry = next(entry for entry in model.metadata if entry.name.decode() == CHECKSUMS)
    model.buffers[entry.buffer].data = np.frombuffer(b'{"input": 3}', np.uint8)
    path = net.folder / "damaged checksums.tflite"
    path.write_bytes(pack(model))
    (file,) = parity(ParityRequest(str(net.folder / "float32.onnx"), (str(path),), images=2)).files
    assert not file.passed
    assert any(CHECKSUMS in words for words in file.missed)


# ---- TFLiteConverter -------------------------------------------------------------------------------------------------

# In a file that is only rounded, noise of a step or two could be from another recipe.
_CONVERTED = tuple(fault for fault in _TOLD if fault != "noise on the weights")


@pytest.fixture(scope="module")
def converted(net: Net, faults: ModuleType) -> dict[str, FileParity]:
    pytest.importorskip("tensorflow")
    from edgemobile.exporters import tensorflow

    path = net.folder / "converted.tflite"
    path.write_bytes(tensorflow.to_bytes(net.graph, representative=[net.images]))
    return _results(net, faults, path.name, "float32.onnx", _CONVERTED)


def test_a_correct_file_of_tfliteconverter_passes(converted: dict[str, FileParity]) -> None:
    assert converted["none"].passed, converted["none"].missed


@pytest.mark.parametrize("fault", _CONVERTED)
def test_a_fault_in_a_file_of_tfliteconverter_is_named(
    converted: dict[str, FileParity], faults: ModuleType, fault: str
) -> None:
    file = converted[fault]
    assert not file.passed
    assert file.cause is not None
    assert file.cause.kind in faults.FAULTS[fault].kinds, file.missed
