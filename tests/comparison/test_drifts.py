"""Every mistake known to break a file is made on purpose: the gate goes red, and names the right layer and reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import torch

from edgemobile.comparison.causes import CAUSES
from edgemobile.comparison.diverging_layer import DivergingLayer
from edgemobile.comparison.layers import channel_db, sources
from edgemobile.comparison.observing import ExecutionTarget, local_targets, observe, open_file
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.gate.checks import Outcome
from edgemobile.gate.load import load_gate
from edgemobile.gate.run import run_gate
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.channel_factors import factors_metadata
from edgemobile.graph.embed import embed, outside
from edgemobile.graph.tensor_names import split_name
from edgemobile.images.samples import from_noise
from edgemobile.lower import export_program, lower
from edgemobile.metrics.measures import METRICS
from edgemobile.metrics.tolerances import TABLE, LayerTolerance, Tolerance, parse_bounds, tolerance
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import IMAGENET
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.util.config_file import read_config
from edgemobile.util.hashing import sha256_hex

PX = 32
STEM, DEPTHWISE = "features.0.1", "features.2.block.1.2"
HSWISH = "features.4.block.0.2"
# In int8 one op with the linear layer before it.
GATE = "features.1.block.1.scale_activation"
PREPROCESS = replace(IMAGENET, input_px=PX, resize="exact", shorter_px=None)


QUICK = Recipe(refit=0, bias_correction=False, equalize=0, split_gates="none")


@dataclass(frozen=True)
class Net:
    """A narrow MobileNet V3 whose batch norms know its images, as a graph, in int8, and as files."""

    graph: Graph
    int8: Graph
    factors: dict[str, np.ndarray]
    folder: Path

    def write(self, name: str, graph: Graph) -> Path:
        """A file of `graph`; int8 ones say what their channels were multiplied by."""
        path = self.folder / name
        quantized = any(tensor.qparams is not None for tensor in graph.tensors.values())
        metadata = {"edgemobile.preprocess": json.dumps(PREPROCESS.to_json())}
        if quantized:
            metadata |= factors_metadata(self.factors)
        path.write_bytes(FORMATS[path.suffix[1:]].load().to_bytes(graph, metadata=metadata))
        return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    torch.manual_seed(0)
    module = build_net(scaled(get_arch("v3-small"), width=0.35, classes=10))
    images = from_noise(PREPROCESS, calibration=24, check=1, seed=1).calibration
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
            torch.nn.init.uniform_(norm.weight, 0.6, 1.6)
            torch.nn.init.uniform_(norm.bias, -0.4, 0.6)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    graph = lower(export_program(module, (1, 3, PX, PX)), "narrow")
    quantized = ptq(graph, [images])
    made = Net(graph, quantized.graph, dict(quantized.channel_factors), tmp_path_factory.mktemp("parity"))
    for name in ("onnx", "tflite"):
        made.write(f"float32.{name}", graph)
        made.write(f"int8.{name}", quantized.graph)
    return made


def _checked(net: Net, *others: Path, ref: str = "float32.onnx", **options: object) -> ParityReport:
    request = ParityRequest(
        str(net.folder / ref) if "." in ref else ref, tuple(map(str, others)), images=2, layers=True, **options
    )  # type: ignore[arg-type]
    return parity(request)


# ---- what is right is green -----------------------------------------------------------------------------------------


def test_every_format_and_precision_of_one_net_is_green(net: Net) -> None:
    files = [net.folder / f"{precision}.{name}" for precision in ("float32", "int8") for name in FORMATS]
    report = _checked(net, *files, minimums={"sqnr_db": 0, "top1_agree": 0})
    assert report.passed, str(report)
    for file in report.files:
        # In int8 a hard-sigmoid is one op with the layer before it.
        fused = [node for node in net.graph.nodes if node.op == "hardsigmoid"] if file.precision == "int8" else []
        assert len(file.layers) == 1 + len(net.graph.nodes) - len(fused)
        assert all(layer.arithmetic_sqnr_db is not None for layer in file.layers[1:])
        assert file.unmatched == ()
        assert file.cause is None
        assert file.first_diverging is None
        worst = min(layer.arithmetic_sqnr_db for layer in file.layers if layer.arithmetic_sqnr_db is not None)
        assert worst > (95 if file.precision == "float32" else 15)
    int8 = report.files[-1]
    assert max(layer.excess for layer in int8.layers if layer.excess is not None) < 3
    assert max(layer.lsb for layer in int8.layers if layer.lsb is not None) <= 2


def test_the_same_file_twice_is_identical(net: Net) -> None:
    (file,) = _checked(net, net.folder / "float32.tflite", ref="float32.tflite").files
    assert file.metrics["sqnr_db"] == math.inf
    assert file.metrics["kl_nats"] == file.metrics["max_abs"] == 0
    assert file.passed


def test_another_seed_shows_other_images(net: Net) -> None:
    found = [_checked(net, net.folder / "int8.onnx", seed=seed).files[0].metrics["max_abs"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_what_quantization_moves_on_purpose_is_no_damage(tmp_path: Path) -> None:
    """Calibrated at 32 px, most inputs of the last gate are silent: refit moves their weights by dozens of steps."""
    from edgemobile.loading.model import load_model

    model = load_model("v3-small", res=PX)
    graph = lower(model.program, model.name)
    images = from_noise(model.preprocess, calibration=16, check=1, seed=1).calibration
    quantized = ptq(graph, [images])
    made = Net(graph, quantized.graph, dict(quantized.channel_factors), tmp_path)
    paths = [tmp_path / name for name in ("right.tflite", "wrong.tflite")]
    for path, int8 in zip(paths, (made.int8, _flipped(made.int8, DEPTHWISE, 6)), strict=True):
        path.write_bytes(FORMATS["tflite"].load().to_bytes(int8, metadata=factors_metadata(made.factors)))
    made.write("float32.onnx", graph)
    right, wrong = _checked(made, *paths, minimums={"sqnr_db": 0, "top1_agree": 0}).files
    assert right.passed, right.missed
    assert max(layer.outlier_ratio for layer in right.layers if layer.outlier_ratio is not None) < 4
    _assert_named(wrong, DEPTHWISE, "flipped bit")


def test_a_file_that_takes_pixels_is_green(net: Net) -> None:
    """The synthetic images are real numbers; both sides see whole pixels."""
    paths = []
    for name, graph in (("pixels.tflite", net.graph), ("pixels.onnx", net.graph), ("int8 pixels.tflite", net.int8)):
        paths.append(net.folder / name)
        metadata = {"edgemobile.preprocess": json.dumps(outside(PREPROCESS).to_json())}
        metadata |= factors_metadata(net.factors if graph is net.int8 else {})
        form = FORMATS[paths[-1].suffix[1:]].load()
        paths[-1].write_bytes(form.to_bytes(embed(graph, PREPROCESS), metadata=metadata))
    report = _checked(net, *paths, minimums={"top1_agree": 0})
    assert "in whole pixels" in report.images
    for file in report.files[:2]:
        assert file.passed, file.missed
        assert file.notes == ()
        assert file.precision == "float32"
    assert report.files[2].first_diverging is None
    assert report.files[2].precision == "int8"


# ---- the drifts -----------------------------------------------------------------------------------------------------


def _node(graph: Graph, path: str) -> Node:
    return next(node for node in graph.nodes if split_name(node.output)[0] == path)


def _with_node(graph: Graph, old: Node, new: Node) -> Graph:
    return graph.replaced([new if node is old else node for node in graph.nodes])


def _with_data(graph: Graph, name: str, data: np.ndarray) -> Graph:
    tensor = graph[name]
    return graph.replaced(tensors=[replace(tensor, data=np.ascontiguousarray(data, tensor.dtype))])


def _data(graph: Graph, name: str) -> np.ndarray:
    data = graph[name].data
    assert data is not None
    return data


def _same_padding(graph: Graph) -> Graph:
    """SAME at stride 2 puts the odd pixel at the end."""
    node = _node(graph, DEPTHWISE)
    assert node.attrs["stride"] == (2, 2)
    assert node.attrs["padding"] == ((1, 1), (1, 1))
    attrs = {**node.attrs, "padding": ((0, 1), (0, 1))}
    return _with_node(graph, node, Node(node.op, node.inputs, node.output, attrs))


def _transposed_kernel(graph: Graph) -> Graph:
    """[O,KW,KH,I] in place of [O,KH,KW,I]."""
    weight = _node(graph, DEPTHWISE).inputs[1]
    return _with_data(graph, weight, _data(graph, weight).transpose(0, 2, 1, 3))


def _bgr(graph: Graph) -> Graph:
    weight = _node(graph, STEM).inputs[1]
    return _with_data(graph, weight, _data(graph, weight)[..., ::-1])


def _normalised_twice(graph: Graph) -> Graph:
    """((x - mean) / std) folded into the stem of a net whose images are normalised already."""
    mean, std = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)
    _, weight, bias = _node(graph, STEM).inputs
    scaled_weight = _data(graph, weight) / std
    shift = (scaled_weight * mean).sum(axis=(1, 2, 3))
    return _with_data(_with_data(graph, weight, scaled_weight), bias, _data(graph, bias) - shift)


def _normalised_twice_by_nodes(graph: Graph) -> Graph:
    """The same as two ops in front of the stem."""
    stem = _node(graph, STEM)
    image = stem.inputs[0]
    shape = graph[image].shape
    constants = [
        Tensor.constant("again.std", (1 / np.array(IMAGENET.std, np.float32)).reshape(1, 1, 1, 3)),
        Tensor.constant("again.mean", (-np.array(IMAGENET.mean) / IMAGENET.std).astype(np.float32).reshape(1, 1, 1, 3)),
    ]
    nodes = [
        Node("mul", (image, "again.std"), "again.mul", {"activation": ""}),
        Node("add", ("again.mul", "again.mean"), "again.add", {"activation": ""}),
        Node(stem.op, ("again.add", *stem.inputs[1:]), stem.output, stem.attrs),
    ]
    others = [node for node in graph.nodes if node is not stem]
    tensors = [*constants, Tensor("again.mul", shape), Tensor("again.add", shape)]
    return graph.replaced([*nodes, *others], tensors)


def _hard_sigmoid(graph: Graph) -> Graph:
    node = _node(graph, HSWISH)
    assert node.op == "hardswish"
    return _with_node(graph, node, Node("hardsigmoid", node.inputs, node.output))


def _flipped(graph: Graph, path: str, bit: int) -> Graph:
    """One bit of one weight, the first from the middle on that is not zero: a dead channel's would change nothing."""
    weight = _node(graph, path).inputs[1]
    data = _data(graph, weight).copy()
    octets = data.reshape(-1).view(f"u{data.dtype.itemsize}")
    place = octets.size // 2 + int(np.flatnonzero(octets[octets.size // 2 :])[0])
    octets[place] ^= octets.dtype.type(1 << bit)
    return _with_data(graph, weight, data)


FLOAT_DRIFTS: dict[str, tuple[Callable[[Graph], Graph], str, str]] = {
    "same padding": (_same_padding, DEPTHWISE, "padding"),
    "missing transpose": (_transposed_kernel, DEPTHWISE, "layout"),
    "bgr": (_bgr, STEM, "channel order"),
    "normalised twice": (_normalised_twice, STEM, "normalisation"),
    "normalised twice by nodes": (_normalised_twice_by_nodes, STEM, "normalisation"),
    "hard-sigmoid": (_hard_sigmoid, HSWISH, "hard-swish form"),
    "flipped bit": (lambda graph: _flipped(graph, DEPTHWISE, 29), DEPTHWISE, "flipped bit"),
    "flipped low bit": (lambda graph: _flipped(graph, DEPTHWISE, 3), DEPTHWISE, "flipped bit"),
    "flipped sign": (lambda graph: _flipped(graph, "features.5.block.0.1", 31), "features.5.block.0.1", "flipped bit"),
}


@pytest.mark.parametrize(("index", "drift"), list(enumerate(FLOAT_DRIFTS)))
def test_a_float_drift_is_named(net: Net, index: int, drift: str) -> None:
    make, layer, kind = FLOAT_DRIFTS[drift]
    path = net.write(f"{drift}.{list(FORMATS)[index % 2]}", make(net.graph))
    (file,) = _checked(net, path).files
    _assert_named(file, layer, kind)


# The same on int8: the drifted net is quantized, or the int8 net drifts.
INT8_DRIFTS: dict[str, tuple[Callable[[Graph], Graph], bool, str, str]] = {
    "same padding": (_same_padding, False, DEPTHWISE, "padding"),
    "missing transpose": (_transposed_kernel, False, DEPTHWISE, "layout"),
    "bgr": (_bgr, True, STEM, "channel order"),
    "normalised twice": (_normalised_twice, True, STEM, "normalisation"),
    "hard-sigmoid": (_hard_sigmoid, True, HSWISH, "hard-swish form"),
    "flipped bit": (lambda graph: _flipped(graph, DEPTHWISE, 6), False, DEPTHWISE, "flipped bit"),
    "flipped bit in a gate": (lambda graph: _flipped(graph, GATE, 6), False, GATE, "flipped bit"),
}


@pytest.mark.parametrize("drift", list(INT8_DRIFTS))
def test_an_int8_drift_is_named(net: Net, drift: str) -> None:
    _, _, layer, kind = INT8_DRIFTS[drift]
    (file,) = _checked(net, _drifted_int8(net, drift)).files
    _assert_named(file, layer, kind)


def _drifted_int8(net: Net, drift: str) -> Path:
    make, before, _, _ = INT8_DRIFTS[drift]
    if not before:
        return net.write(f"{drift} int8.onnx", make(net.int8))
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(make(net.graph), [images], QUICK)
    drifted = replace(net, int8=quantized.graph, factors=dict(quantized.channel_factors))
    return drifted.write(f"{drift} int8.tflite", quantized.graph)


def test_a_pipeline_goes_red_for_each_drift_and_for_nothing_else(net: Net) -> None:
    """The gate of `edgemobile ci` over files of which some are right."""
    right = [net.folder / f"{precision}.{name}" for precision in ("float32", "int8") for name in FORMATS]
    wrong = {net.write(f"{drift}.onnx", make(net.graph)): rest for drift, (make, *rest) in FLOAT_DRIFTS.items()}
    wrong |= {_drifted_int8(net, drift): rest for drift, (_, _, *rest) in INT8_DRIFTS.items()}
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


def _assert_named(file: FileParity, layer: str, kind: str) -> None:
    assert not file.passed
    assert file.first_diverging is not None, "the gate saw no layer diverge"
    assert split_name(file.first_diverging.name)[0] == layer
    assert file.cause is not None, file.missed
    assert file.cause.kind == kind, file.cause
    # A bit that changes next to nothing of the output is found in the weights.
    silent = "low bit" in file.file or "in a gate" in file.file
    assert file.cause.explained_db >= file.cause.right_db + (0 if silent else 10)
    assert layer in file.missed[-1]
    assert kind in file.missed[-1]


def _overflowed(graph: Graph, form: Graph) -> Graph:
    """The bias of a channel without weights, at a scale a careless quantizer gives it, wrapped into int32."""
    node = _node(graph, DEPTHWISE)
    x, weight, bias = (graph[name] for name in node.inputs)
    assert x.qparams is not None
    assert weight.qparams is not None
    channel = int(np.argmax(np.abs(_data(form, _node(form, DEPTHWISE).inputs[2]))))
    real = float(_data(form, _node(form, DEPTHWISE).inputs[2])[channel])
    scale = weight.qparams.scale.copy()
    scale[channel] = abs(real) / (float(x.qparams.scale[0]) * 1.3 * 2**31)
    unit = (x.qparams.scale * scale).astype(np.float32)
    values = _data(graph, bias.name).astype(np.int64)
    wrapped = int(np.rint(real / float(unit[channel])))
    values[channel] = (wrapped + 2**31) % 2**32 - 2**31
    zeros, weights = np.zeros(scale.size, np.int32), _data(graph, weight.name).copy()
    weights[channel] = 0
    return graph.replaced(
        tensors=[
            Tensor.constant(weight.name, weights, QParams(scale, zeros, 0)),
            Tensor.constant(bias.name, values.astype(np.int32), QParams(unit, zeros, 0)),
        ]
    )


def test_a_bias_beyond_int32_is_named(net: Net) -> None:
    weight = _node(net.graph, DEPTHWISE).inputs[1]
    bias = _node(net.graph, DEPTHWISE).inputs[2]
    dead = _data(net.graph, weight).copy()
    dead[int(np.argmax(np.abs(_data(net.graph, bias))))] = 0
    graph = _with_data(net.graph, weight, dead)
    net.write("dead.onnx", graph)
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(graph, [images], QUICK)
    drifted = replace(net, factors=dict(quantized.channel_factors))
    path = drifted.write("overflow.tflite", _overflowed(quantized.graph, graph))
    (file,) = _checked(drifted, path, ref="dead.onnx").files
    _assert_named(file, DEPTHWISE, "bias overflow")
    assert file.cause is not None
    assert "int32 wraps" in file.cause.words


class _Flat(torch.nn.Module):
    """A convolution flattened into a linear layer: the columns must follow the image from NCHW to NHWC."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.flatten = torch.nn.Flatten()
        self.fc = torch.nn.Linear(5 * 4 * 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flatten(torch.relu(self.conv(x))))


def test_a_flatten_without_its_transpose_is_named(net: Net) -> None:
    torch.manual_seed(1)
    module = _Flat()
    program = export_program(module, (1, 3, 8, 8))
    torch.export.save(program, net.folder / "flat.pt2")
    graph = lower(program, "flat")
    path = net.folder / "flat.tflite"
    weight = _with_data(graph, "fc.weight", module.fc.weight.detach().numpy())
    path.write_bytes(FORMATS["tflite"].load().to_bytes(weight, metadata={}))
    (file,) = _checked(net, path, ref="flat.pt2").files
    _assert_named(file, "fc", "layout")


def test_an_image_in_the_wrong_layout_is_named(net: Net) -> None:
    """What a caller does who hands over NCHW bytes where a file wants NHWC."""

    def careless(data: bytes, images: np.ndarray) -> list[np.ndarray]:
        assert right.layers is not None
        return right.layers(data, np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(images.shape))

    (right,) = local_targets(("litert",))
    place = replace(right, name="careless", layers=careless)
    (file,) = _checked(net, net.folder / "float32.tflite", places=(place,)).files
    _assert_named(file, STEM, "layout")


def test_signed_weights_are_exact_or_named(net: Net) -> None:
    """onnxruntime saturates pairs of int8 products on x86 without VNNI, and only there."""
    from edgemobile.exporters import onnx

    path = net.folder / "signed.onnx"
    path.write_bytes(onnx.to_bytes(net.int8, metadata=factors_metadata(net.factors), weights="int8"))
    (file,) = _checked(net, path).files
    assert (file.first_diverging is None) == (file.cause is None or file.cause.kind == "range")
    if file.first_diverging is not None and file.cause is not None:
        assert file.cause.kind == "int16 saturation"


@pytest.mark.parametrize(("weights", "tried"), [("int8", True), ("uint8", False)])
def test_only_signed_weights_can_saturate_in_pairs(net: Net, weights: Literal["int8", "uint8"], tried: bool) -> None:
    from edgemobile.exporters import onnx

    path = net.folder / f"{weights} weights.onnx"
    path.write_bytes(onnx.to_bytes(net.int8, metadata=factors_metadata(net.factors), weights=weights))
    images = from_noise(PREPROCESS, calibration=1, check=1, seed=1).check
    observed, _ = observe(open_file(path), local_targets(("onnxruntime",))[0], images, net.graph)
    stem = _node(net.graph, STEM)
    inputs = {name: observed.real(name) for name in sources(net.graph, stem)}
    case = DivergingLayer(net.graph, stem, inputs, observed.real(STEM), observed, ({},), None, diverges_in="arithmetic")
    assert bool(list(CAUSES["int16 saturation"](case))) is tried
    assert not list(CAUSES["int16 saturation"](replace(case, diverges_in="constants")))


def test_constants_are_never_explained_by_the_arithmetic(net: Net) -> None:
    """Saturation is computed with the file's own constants, so beside wrong ones it would explain everything."""
    layer = "features.8.block.3.1"
    weight = _node(net.int8, layer).inputs[1]
    path = net.write("zero.onnx", _with_data(net.int8, weight, np.zeros_like(_data(net.int8, weight))))
    (file,) = _checked(net, path).files
    _assert_named(file, layer, "weights")


def test_a_flipped_bit_has_to_explain_what_stands_out(net: Net) -> None:
    """Beside it the whole bias is another: putting one weight back is not enough."""
    *_, bias = _node(net.graph, DEPTHWISE).inputs
    graph = _flipped(net.graph, DEPTHWISE, 20)
    path = net.write("bias.onnx", _with_data(graph, bias, _data(graph, bias) + 1))
    (file,) = _checked(net, path).files
    assert not file.passed
    assert file.cause is not None
    assert file.cause.explained_db > file.cause.right_db


def test_another_preprocessing_is_the_cause_where_it_is(net: Net) -> None:
    path = net.folder / "inception.onnx"
    stated = replace(PREPROCESS, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    metadata = {"edgemobile.preprocess": json.dumps(stated.to_json())}
    path.write_bytes(FORMATS["onnx"].load().to_bytes(net.graph, metadata=metadata))
    request = ParityRequest(str(net.folder / "float32.onnx"), (str(path),), images=8)
    (file,) = parity(request).files
    assert not file.passed
    assert file.cause is not None
    assert file.cause.kind == "preprocess"
    assert file.cause.explained_db > 90


def test_a_narrow_range_is_named_where_no_layer_parts(net: Net) -> None:
    """int8 calibrated on grey images saturates on colourful ones."""
    images = from_noise(PREPROCESS, calibration=4, check=1, seed=1).calibration
    quantized = ptq(net.graph, [images * np.float32(0.2)], QUICK)
    path = replace(net, factors=dict(quantized.channel_factors)).write("grey.tflite", quantized.graph)
    (file,) = _checked(net, path).files
    assert not file.passed
    assert file.first_diverging is None
    assert file.cause is not None
    assert file.cause.kind == "range"
    assert "input" in file.cause.words


# ---- integers against integers --------------------------------------------------------------------------------------


def test_int8_in_both_formats_is_within_a_step_op_by_op(net: Net) -> None:
    files = [net.folder / "int8.onnx", net.folder / "int8.tflite"]
    report = _checked(net, *files, ref="int8.tflite", minimums={"sqnr_db": 0, "top1_agree": 0})
    assert report.passed, str(report)
    for file in report.files:
        steps = [layer.lsb for layer in file.layers]
        assert len(steps) == len(net.int8.nodes)
        assert None not in steps
        assert max(filter(None, steps), default=0) <= 1


@pytest.mark.parametrize(
    ("make", "diverges_in"),
    [(_same_padding, "arithmetic"), (lambda graph: _flipped(graph, DEPTHWISE, 0), "constants")],
    ids=["same padding", "lowest bit"],
)
def test_the_op_that_differs_is_named(net: Net, make: Callable[[Graph], Graph], diverges_in: str) -> None:
    path = net.write(f"drift {diverges_in}.tflite", make(net.int8))
    (file,) = _checked(net, path, ref="int8.onnx").files
    assert not file.passed
    assert file.first_diverging is not None
    assert split_name(file.first_diverging.name)[0] == DEPTHWISE
    assert file.first_diverging.diverges_in == diverges_in


def test_the_op_that_differs_is_named_where_no_name_has_a_factor(net: Net) -> None:
    images = from_noise(PREPROCESS, calibration=8, check=1, seed=1).calibration
    plain = replace(net, int8=ptq(net.graph, [images], QUICK).graph, factors={})
    plain.write("plain.onnx", plain.int8)
    path = plain.write("plain drift.tflite", _flipped(plain.int8, DEPTHWISE, 6))
    (file,) = _checked(plain, path, ref="plain.onnx").files
    assert not file.passed
    assert file.first_diverging is not None
    assert file.first_diverging.name == DEPTHWISE
    assert file.cause is not None
    assert file.cause.kind == "flipped bit"


def test_other_integers_are_refused_in_words(net: Net) -> None:
    (file,) = _checked(net, net.folder / "float32.onnx", ref="int8.onnx", minimums={"sqnr_db": 0}).files
    assert file.layers == ()
    assert "float reference" in file.not_compared
    assert file.missed_layers == ()


def test_equalized_channels_need_their_factors(net: Net) -> None:
    assert net.factors
    bare = replace(net, factors={}).write("bare.tflite", net.int8)
    (file,) = _checked(net, bare).files
    unmatched = dict(file.unmatched)
    assert len(unmatched) >= len(net.factors) - 2
    assert all("does not say by how much" in reason for reason in unmatched.values())
    assert file.first_diverging is None


# ---- third-party files, other places ---------------------------------------------------------------------------------


def _anonymous(graph: Graph) -> Graph:
    """`graph` with the names another tool might give."""
    names = {name: f"t{index}" for index, name in enumerate(graph.tensors)}
    nodes = [Node(n.op, tuple(names[i] for i in n.inputs), names[n.output], n.attrs) for n in graph.nodes]
    tensors = {names[name]: replace(tensor, name=names[name]) for name, tensor in graph.tensors.items()}
    inputs, outputs = (tuple(names[name] for name in ends) for ends in (graph.inputs, graph.outputs))
    return Graph(graph.name, inputs, outputs, tuple(nodes), tensors)


def test_a_strangers_names_are_matched_by_order(net: Net) -> None:
    right = net.write("anonymous.onnx", _anonymous(net.graph))
    wrong = net.write("anonymous same.tflite", _anonymous(_same_padding(net.graph)))
    good, bad = _checked(net, right, wrong).files
    assert good.passed
    assert len(good.layers) == 1 + len(net.graph.nodes)
    assert "matched by what they read" in good.notes[0]
    _assert_named(bad, DEPTHWISE, "padding")


def test_any_place_that_turns_images_into_outputs_will_do(net: Net) -> None:
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
    assert "shows no inner tensors" in layered.not_compared
    assert layered.missed == file.missed, "what cannot be compared is no shortfall"


def test_a_file_no_place_reads_is_refused(net: Net) -> None:
    with pytest.raises(Unsupported, match="none of onnxruntime reads"):
        _checked(net, net.folder / "float32.tflite", places=local_targets(("onnxruntime",)))
    with pytest.raises(Unsupported, match=r"no runtime 'tvm'.*tensorflow"):
        local_targets(("tvm",))
    with pytest.raises(EdgemobileError, match="nothing to compare"):
        ParityRequest("v3-large", ())


def test_the_bundled_model_against_pytorch(net: Net) -> None:
    from edgemobile.loading.model import load_model

    model = load_model("v3-large", res=32)
    graph = lower(model.program, model.name)
    path = net.folder / "v3-same.tflite"
    layer = "features.4.block.1.2"
    conv = next(node for node in graph.nodes if node.output == layer)
    assert conv.attrs["stride"] == (2, 2)
    attrs = {**conv.attrs, "padding": ((1, 2), (1, 2))}
    drifted = _with_node(graph, conv, Node(conv.op, conv.inputs, conv.output, attrs))
    path.write_bytes(FORMATS["tflite"].load().to_bytes(drifted, metadata={}))
    (file,) = _checked(net, path, ref="v3-large").files
    assert len(file.layers) == 1 + 121
    assert sum(bool(layer.diverges_in) for layer in file.layers) == 1, "every other layer is right by itself"
    _assert_named(file, layer, "padding")


# ---- records, tolerances, metrics -----------------------------------------------------------------------------------


def test_a_report_survives_json(net: Net) -> None:
    report = _checked(net, net.folder / "float32.tflite", net.folder / "int8.tflite")
    assert report.files[0].sha256 == sha256_hex((net.folder / "float32.tflite").read_bytes())
    text = json.dumps(report.to_json(), allow_nan=False)
    back = ParityReport.from_json(text)
    assert back.files == report.files
    assert json.dumps(back.to_json()) == text
    with pytest.raises(EdgemobileError, match="version 9"):
        ParityReport.from_json(text.replace('"version": 3', '"version": 9'))
    with pytest.raises(EdgemobileError, match="parity report version None"):
        ParityReport.from_json("{}")


def test_the_most_particular_row_of_the_table_wins() -> None:
    layer = LayerTolerance(1, 1)
    table = (
        *TABLE,
        Tolerance("tflite", "int8", "*", {"sqnr_db": 1}, layer),
        Tolerance("*", "int8", "aarch64", {"sqnr_db": 2}, layer),
        Tolerance("tflite", "int8", "aarch64", {"sqnr_db": 3}, layer),
    )
    assert tolerance("tflite", "int8", "aarch64", table).bounds == {"sqnr_db": 3}
    assert tolerance("onnx", "int8", "aarch64", table).bounds == {"sqnr_db": 2}
    assert tolerance("tflite", "int8", "x86_64", table).bounds == {"sqnr_db": 1}
    assert tolerance("onnx", "int8", "x86_64", table) in TABLE
    with pytest.raises(EdgemobileError, match="no tolerance for int4"):
        tolerance("onnx", "int4", "x86_64")


def test_bounds_are_read_or_refused_by_name() -> None:
    assert parse_bounds("sqnr=40, top1_agree=0.99,kl=0.1") == {"sqnr_db": 40, "top1_agree": 0.99, "kl_nats": 0.1}
    assert parse_bounds("") == {}
    for text, words in (
        ("snr=4", "no metric 'snr'"),
        ("sqnr=high", "metric=number"),
        ("sqnr=nan", "as good as nan"),
        ("sqnr_db=20,sqnr=1", "two bounds for sqnr_db"),
    ):
        with pytest.raises(EdgemobileError, match=words):
            parse_bounds(text)


@pytest.mark.parametrize(
    ("reference", "other", "db"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), math.inf),
        (np.zeros((2, 3)), np.zeros((2, 3)), math.inf),
        (np.zeros((2, 3)), np.ones((2, 3)), -math.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), math.inf),
        (np.ones((2, 3)), np.full((2, 3), np.nan), math.nan),
        (np.ones((4, 2)), np.ones((4, 2)) * [1, 0.9], 20.0),
        # A channel that is all but silent is held to the others, not to itself.
        (np.array([[1.0, 1e-6]]), np.array([[1.0, 0.1]]), 10 * math.log10(0.5 / 0.01)),
    ],
)
def test_the_worst_channel(reference: np.ndarray, other: np.ndarray, db: float) -> None:
    assert channel_db(reference, other) == pytest.approx(db, abs=1e-3, nan_ok=True)


def test_a_bound_for_every_metric_has_a_direction(net: Net) -> None:
    impossible = {name: 1e9 if metric.better == "higher" else -1.0 for name, metric in METRICS.items()}
    (file,) = _checked(net, net.folder / "float32.tflite", ref="float32.tflite", minimums=impossible).files
    assert len(file.missed) == len(METRICS) - 1, "inf dB is better than any bound"
