"""The ONNX writer against PyTorch, the numpy interpreter and onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from as_run import read_optimized  # noqa: E402

from edgemobile.devices.runtimes.sessions import open_session  # noqa: E402
from edgemobile.errors import EdgemobileError, Unsupported  # noqa: E402
from edgemobile.exporters.onnx import op_counts, read_metadata, read_tensors, to_bytes  # noqa: E402
from edgemobile.exporters.onnx_graph import read_graph  # noqa: E402
from edgemobile.graph import Graph, Node, QParams, Tensor  # noqa: E402
from edgemobile.graph.affine import dequantize, quantize  # noqa: E402
from edgemobile.graph.interpreter import run  # noqa: E402
from edgemobile.graph.resizing import COORDINATES  # noqa: E402
from edgemobile.inspection.tensor_diff import diff_tensors  # noqa: E402
from edgemobile.lower import export_program, lower  # noqa: E402
from edgemobile.models.arch import ARCHS, get_arch, scaled  # noqa: E402
from edgemobile.models.nets import build_net  # noqa: E402

PX = 48
RNG = np.random.default_rng(7)
IMAGES = RNG.standard_normal((3, PX, PX, 3)).astype(np.float32)


@cache
def _net(name: str) -> Any:
    """A net whose batch norms hold the statistics of noise, so that its outputs differ from image to image."""
    torch.manual_seed(0)
    net = build_net(scaled(get_arch(name), input_px=PX, classes=10))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.1)
    with torch.no_grad():
        net.train()(torch.randn(16, 3, PX, PX))
        net.train()(torch.randn(16, 3, PX, PX))
    return net.eval()


@cache
def _graph(name: str) -> Graph:
    return lower(export_program(_net(name), (1, 3, PX, PX)), name)


def _sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    noise = float(((reference - value).astype(np.float64) ** 2).sum())
    return 10 * np.log10(float((reference.astype(np.float64) ** 2).sum()) / max(noise, 1e-30))


@pytest.mark.parametrize("name", [name for name, arch in ARCHS.items() if arch.head == "classifier"])
def test_float_file_computes_what_pytorch_computes(name: str) -> None:
    with torch.no_grad():
        reference = _net(name)(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()
    assert reference.std(axis=0).mean() > 0.1, "a net that ignores its input proves nothing"
    logits = open_session(to_bytes(_graph(name), metadata={})).run(IMAGES)
    assert _sqnr_db(reference, logits) >= 90
    assert _sqnr_db(run(_graph(name), IMAGES)[_graph(name).outputs[0]], logits) >= 90


@pytest.mark.parametrize(("name", "hardswish"), [("v3-large", 21), ("v3-small", 19), ("v2", 0)])
def test_ops_stay_whole_and_nothing_is_transposed(name: str, hardswish: int) -> None:
    counts = op_counts(to_bytes(_graph(name), metadata={}))
    assert counts.get("HardSwish", 0) == hardswish
    assert not {"Transpose", "BatchNormalization", "Identity", "Div"} & set(counts)


def test_file_is_deterministic_described_and_old_enough() -> None:
    graph = _graph("v3-small")
    data = to_bytes(graph, metadata={"b": "2", "a": "ä"})
    assert data == to_bytes(graph, metadata={"a": "ä", "b": "2"})
    assert read_metadata(data) == {"a": "ä", "b": "2"}
    model = onnx.load_model_from_string(data)
    assert (model.ir_version, model.opset_import[0].version, model.producer_name) == (8, 18, "edgemobile")
    described = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} == described
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, PX, PX]


def test_float_constants_come_back_in_the_graphs_layout() -> None:
    graph = _graph("v2")
    found = read_tensors(to_bytes(graph, metadata={}))
    for name, tensor in graph.constants.items():
        np.testing.assert_array_equal(found[name].data, tensor.data)


class _Flattened(torch.nn.Module):
    """A classifier on a 3x3 image: its columns have an order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.pool = torch.nn.MaxPool2d(3, 2, 1)
        self.fc = torch.nn.Linear(5 * 9, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.flatten(self.pool(self.conv(x)), 1))


def test_columns_behind_a_flatten_are_in_nchw_order_and_come_back() -> None:
    torch.manual_seed(1)
    net = _Flattened().eval()
    graph = lower(export_program(net, (1, 3, 12, 12)))
    images = RNG.standard_normal((2, 12, 12, 3)).astype(np.float32)
    data = to_bytes(graph, metadata={})
    with torch.no_grad():
        reference = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(open_session(data).run(images), reference, atol=1e-5)
    np.testing.assert_array_equal(read_tensors(data)["fc.weight"].data, graph["fc.weight"].data)


# ---- int8 -----------------------------------------------------------------------------------------------------------

_CONV = {"stride": (1, 1), "padding": ((1, 1), (0, 2)), "dilation": (1, 1), "groups": 1, "activation": ""}
_NONE = {"activation": ""}

# label: op, attributes, weight shape, how many operands, (low, high) of the output
SINGLE_OPS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int, tuple[float, float]]] = {
    "conv": ("conv2d", _CONV, (12, 3, 3, 8), 1, (-4, 5)),
    "conv stride 2": ("conv2d", {**_CONV, "stride": (2, 2)}, (12, 3, 3, 8), 1, (-4, 5)),
    "conv relu": ("conv2d", {**_CONV, "activation": "relu"}, (12, 3, 3, 8), 1, (0, 5)),
    "conv relu6": ("conv2d", {**_CONV, "activation": "relu6"}, (12, 3, 3, 8), 1, (0, 6)),
    "conv relu, range below 0": ("conv2d", {**_CONV, "activation": "relu"}, (12, 3, 3, 8), 1, (-2, 5)),
    "conv relu6, range above 6": ("conv2d", {**_CONV, "activation": "relu6"}, (12, 3, 3, 8), 1, (-1, 9)),
    "conv relu6, range from 0 to 9": ("conv2d", {**_CONV, "activation": "relu6"}, (12, 3, 3, 8), 1, (0, 9)),
    "depthwise": ("conv2d", {**_CONV, "groups": 8}, (8, 3, 3, 1), 1, (-3, 3)),
    "linear": ("linear", _NONE, (10, 8), 1, (-3, 3)),
    "add": ("add", _NONE, (), 2, (-4, 4)),
    "add relu": ("add", {"activation": "relu"}, (), 2, (0, 4)),
    "mul": ("mul", _NONE, (), 2, (-5, 5)),
    "mean": ("mean", {}, (), 1, (-1, 1)),
    "max pool": (
        "max_pool2d",
        {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))},
        (),
        1,
        (-2.0, 2.5),
    ),
    "avg pool": ("avg_pool2d", {"kernel": (2, 2), "stride": (2, 2)}, (), 1, (-2, 2)),
    "slice": ("slice", {"begin": 2, "end": 7}, (), 1, (-2.0, 2.5)),
    "channel shuffle": ("channel_shuffle", {"groups": 4}, (), 1, (-2.0, 2.5)),
    **{
        f"resize {mode} {coordinates}": (
            "resize",
            {"size": (13, 10), "mode": mode, "coordinates": coordinates},
            (),
            1,
            (-2.0, 2.5),
        )
        for mode, known in COORDINATES.items()
        for coordinates in known
    },
    "hardswish": ("hardswish", {}, (), 1, (-0.4, 2.5)),
    "hardsigmoid": ("hardsigmoid", {}, (), 1, (0, 1)),
    "sigmoid": ("sigmoid", {}, (), 1, (0, 255 / 256)),
    "tanh": ("tanh", {}, (), 1, (-1, 127 / 128)),
    "leaky relu": ("leaky_relu", {"slope": 0.2}, (), 1, (-0.4, 2.5)),
    "relu6": ("relu6", {}, (), 1, (0, 2)),
    "elu": ("elu", {}, (), 1, (-1, 2.5)),
    "gelu": ("gelu", {}, (), 1, (-0.2, 2.5)),
    "clip": ("clip", {"low": -1.0, "high": 1.5}, (), 1, (-2.0, 2.5)),
    "depth to space": ("depth_to_space", {"block": 2}, (), 1, (-2.0, 2.5)),
    "reflect pad": ("reflect_pad", {"padding": ((1, 0), (2, 3))}, (), 1, (-2.0, 2.5)),
}


# The share of integers that agree, where onnxruntime computes in float32 in another order: ties round either way.
EQUAL = {
    "add": 0.93,
    "add relu": 0.96,
    "mul": 0.99,
    "mean": 0.96,
    "avg pool": 0.96,
    "hardsigmoid": 0.95,
    "resize bilinear half_pixel": 0.97,
    "resize bilinear align_corners": 0.97,
}


def _qparams(low: float, high: float) -> QParams:
    scale = np.float32((high - low) / 255)
    return QParams(scale, np.rint(-128 - low / scale))


def _single(label: str) -> Graph:
    """An int8 graph of one op on an image of [-2, 2.5], the second operand a constant of four dimensions."""
    op, attrs, shape, operands, bounds = SINGLE_OPS[label]
    rng = np.random.default_rng(3)
    image = (1, 8) if op == "linear" else (1, 7, 7, 8)
    tensors = [Tensor("input", image, "int8", qparams=_qparams(-2.0, 2.5))]
    inputs = ["input"]
    if shape:
        scale = rng.uniform(0.001, 0.004, shape[0]).astype(np.float32)
        zeros = np.zeros(shape[0], np.int32)
        weight = rng.integers(-127, 128, shape).astype(np.int8)
        bias = rng.integers(-20000, 20000, shape[0]).astype(np.int32)
        tensors.append(Tensor.constant("weight", weight, QParams(scale, zeros, 0)))
        tensors.append(Tensor.constant("bias", bias, QParams(np.float32(4.5 / 255) * scale, zeros, 0)))
        inputs += ["weight", "bias"]
    if operands == 2:
        constant = rng.integers(-128, 128, (1, 1, 1, 8)).astype(np.int8)
        tensors.append(Tensor.constant("operand", constant, _qparams(-1, 1.5)))
        inputs.append("operand")
    node = Node(op, tuple(inputs), "y", attrs)
    output = Tensor("y", _output_shape(node, {t.name: t for t in tensors}), "int8", qparams=_qparams(*bounds))
    return Graph("single", ("input",), ("y",), (node,), {t.name: t for t in (*tensors, output)})


def _output_shape(node: Node, tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """Measured with the float op: shapes are not what is tested here."""
    floats = {
        name: Tensor(name, t.shape) if t.data is None else Tensor.constant(name, t.data.astype(np.float32))
        for name, t in tensors.items()
    }
    graph = Graph("shape", ("input",), (node.output,), (node,), {**floats, node.output: Tensor(node.output, (1,))})
    return run(graph, np.zeros(floats["input"].shape, np.float32))[node.output].shape


def _runtime_integers(graph: Graph, data: bytes, integers: np.ndarray) -> np.ndarray:
    """The int8 output of a file for int8 images."""
    source, target = graph[graph.inputs[0]].qparams, graph[graph.outputs[0]].qparams
    assert source is not None
    assert target is not None
    session = open_session(data)
    real = [session.invoke(session.prepare(image[None])) for image in dequantize(integers, source)]
    logits = np.concatenate(real)
    return quantize(logits.transpose(0, 2, 3, 1) if logits.ndim == 4 else logits, target, "int8")


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("label", SINGLE_OPS)
def test_integers_of_one_op(label: str, activations: Any) -> None:
    graph = _single(label)
    integers = np.random.default_rng(5).integers(-128, 128, (4, *graph["input"].shape[1:])).astype(np.int8)
    expected = run(graph, integers)["y"].astype(int)
    assert np.unique(expected).size > 20
    found = _runtime_integers(graph, to_bytes(graph, metadata={}, activations=activations), integers)
    steps = np.abs(found - expected)
    assert steps.max() <= 1
    assert (steps == 0).mean() >= EQUAL.get(label, 1.0)


def test_integers_of_the_largest_weights_do_not_saturate() -> None:
    """Pairs of products beyond int16 are what a signed weight kernel without VNNI loses."""
    graph = _single("linear")
    weight = graph["weight"]
    graph = graph.replaced(
        tensors=[Tensor.constant("weight", np.full(weight.shape, 127, np.int8), weight.qparams)],
    )
    integers = np.full((1, 8), 127, np.int8)
    np.testing.assert_array_equal(
        _runtime_integers(graph, to_bytes(graph, metadata={}), integers), run(graph, integers)["y"]
    )


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("weights", ["uint8", "int8"])
@pytest.mark.parametrize("label", ["conv", "linear", "add"])
def test_integers_and_qparams_come_back(label: str, activations: Any, weights: Any) -> None:
    graph = _single(label)
    found = read_tensors(to_bytes(graph, metadata={}, activations=activations, weights=weights))
    assert set(found) == set(graph.tensors)
    for name, tensor in graph.tensors.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(found[name].qparams.scale, tensor.qparams.scale)
        np.testing.assert_array_equal(found[name].qparams.zero_point, tensor.qparams.zero_point)
        assert found[name].qparams.axis == tensor.qparams.axis
        if tensor.data is not None:
            np.testing.assert_array_equal(found[name].data, tensor.data)


def _gated_net() -> Graph:
    """conv, its hard-swish as add(+3) and mul, pool and classifier: everything an integer v3 is made of."""
    rng = np.random.default_rng(9)

    def matmul(name: str, shape: tuple[int, ...], scale_in: float) -> list[Tensor]:
        scale = rng.uniform(0.002, 0.004, shape[0]).astype(np.float32)
        zeros = np.zeros(shape[0], np.int32)
        weight = rng.integers(-127, 128, shape).astype(np.int8)
        bias = rng.integers(-2000, 2000, shape[0]).astype(np.int32)
        return [
            Tensor.constant(f"{name}.weight", weight, QParams(scale, zeros, 0)),
            Tensor.constant(f"{name}.bias", bias, QParams(np.float32(scale_in) * scale, zeros, 0)),
        ]

    activations = {
        "input": ((1, 9, 9, 3), _qparams(-2, 2)),
        "conv": ((1, 9, 9, 8), _qparams(-3, 4)),
        "gate": ((1, 9, 9, 8), QParams(np.float32(6 / 255), -128)),
        "swish": ((1, 9, 9, 8), _qparams(-2.3, 24)),
        "pool": ((1, 1, 1, 8), _qparams(-1, 12)),
        "flat": ((1, 8), _qparams(-1, 12)),
        "logits": ((1, 4), _qparams(-8, 8)),
    }
    tensors = [Tensor(name, shape, "int8", qparams=qparams) for name, (shape, qparams) in activations.items()]
    tensors += matmul("conv", (8, 3, 3, 3), 4 / 255) + matmul("logits", (4, 8), 13 / 255)
    tensors.append(Tensor.constant("three", np.array([127], np.int8), _qparams(0, 3)))
    nodes = (
        Node("conv2d", ("input", "conv.weight", "conv.bias"), "conv", {**_CONV, "padding": ((1, 1), (1, 1))}),
        Node("add", ("conv", "three"), "gate", {"activation": "relu6"}),
        Node("mul", ("conv", "gate"), "swish", _NONE),
        Node("mean", ("swish",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "logits.weight", "logits.bias"), "logits", _NONE),
    )
    return Graph("gated", ("input",), ("logits",), nodes, {tensor.name: tensor for tensor in tensors})


def test_integer_net_runs_in_integers_from_end_to_end() -> None:
    graph = _gated_net()
    data = to_bytes(graph, metadata={})
    assert read_optimized(data).op_counts() == {
        "DequantizeLinear": 1,
        "Flatten": 1,
        "QGemm": 1,
        "QLinearAdd": 1,
        "QLinearConv": 1,
        "QLinearGlobalAveragePool": 1,
        "QLinearMul": 1,
        "QuantizeLinear": 1,
    }
    # One pair a tensor, shared by its two readers; no Clip, since 6/255 saturates at 6.
    counts = op_counts(data)
    assert counts["QuantizeLinear"] == 7
    assert "Clip" not in counts
    integers = RNG.integers(-128, 128, (8, 9, 9, 3)).astype(np.int8)
    expected = run(graph, integers)["logits"].astype(int)
    assert np.unique(expected).size > 8
    assert np.abs(_runtime_integers(graph, data, integers) - expected).max() <= 1


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_a_gate_in_the_steps_of_its_input_is_a_clip_of_integers(activations: Any) -> None:
    graph = _gated_net()
    step = np.float32(3 / 100)
    tensors = [
        Tensor(name, (1, 9, 9, 8), "int8", qparams=QParams(step, np.int32(zero)))
        for name, zero in (("conv", -28), ("gate", -128))
    ]
    graph = graph.replaced(tensors=tensors)
    data = to_bytes(graph, metadata={}, activations=activations)
    assert op_counts(data)["Clip"] == 1
    assert read_optimized(data).op_counts()["Clip"] == 1
    assert not {"Add", "QLinearAdd"} & {*op_counts(data), *read_optimized(data).op_counts()}
    integers = RNG.integers(-128, 128, (8, 9, 9, 3)).astype(np.int8)
    inside = replace(graph, outputs=("gate",), nodes=graph.nodes[:2])
    expected = run(inside, integers)["gate"].astype(int)
    # -3 to 3 is 200 steps: both ends of the clamp are met.
    assert (expected.min(), expected.max()) == (-128, 72)
    found = _runtime_integers(inside, to_bytes(inside, metadata={}, activations=activations), integers)
    assert np.abs(found - expected).max() <= 1


def test_a_gate_that_moves_integers_by_part_of_a_step_stays_an_addition() -> None:
    graph = _gated_net()
    step = np.float32(3 / 100.3)
    tensors = [
        Tensor(name, (1, 9, 9, 8), "int8", qparams=QParams(step, np.int32(zero)))
        for name, zero in (("conv", -28), ("gate", -128))
    ]
    assert op_counts(to_bytes(graph.replaced(tensors=tensors), metadata={}))["Add"] == 1


@pytest.mark.parametrize("weights", ["uint8", "int8"])
def test_channels_of_zeros_change_no_integer_and_are_not_read_back(weights: Any) -> None:
    graph = _gated_net()
    plain, wide = (to_bytes(graph, metadata={}, weights=weights, channel_multiple=n) for n in (1, 4))
    assert op_counts(wide) == {**op_counts(plain), "Pad": 1, "DequantizeLinear": op_counts(plain)["DequantizeLinear"]}
    integers = RNG.integers(-128, 128, (8, 9, 9, 3)).astype(np.int8)
    np.testing.assert_array_equal(*(_runtime_integers(graph, data, integers) for data in (plain, wide)))
    assert diff_tensors(read_tensors(plain), read_tensors(wide)).same
    again = read_graph(wide)
    np.testing.assert_array_equal(run(again, integers)["logits"], run(graph, integers)["logits"])
    # Eight channels are a multiple of four, and floats have no kernel to please.
    assert to_bytes(_single("conv"), metadata={}, channel_multiple=4) == to_bytes(_single("conv"), metadata={})
    assert to_bytes(_graph("v1"), metadata={}, channel_multiple=4) == to_bytes(_graph("v1"), metadata={})


def _weight_only(dtype: str) -> Graph:
    """A float convolution whose weight is stored as float16, or as int8."""
    float_graph = lower(export_program(torch.nn.Conv2d(3, 6, 3).eval(), (1, 3, 8, 8)))
    (node,) = float_graph.nodes
    weight = float_graph[node.inputs[1]]
    assert weight.data is not None
    if dtype == "float16":
        stored = Tensor.constant("stored", weight.data.astype(np.float16))
    else:
        scale = np.abs(weight.data).max(axis=(1, 2, 3)) / 127
        qparams = QParams(scale, np.zeros(6, np.int32), 0)
        stored = Tensor.constant("stored", quantize(weight.data, qparams, "int8"), qparams)
    nodes = (
        Node("dequantize", ("stored",), "real"),
        Node("conv2d", (node.inputs[0], "real", node.inputs[2]), node.output, node.attrs),
    )
    return float_graph.replaced(nodes, [stored, Tensor("real", weight.shape)])


@pytest.mark.parametrize(("dtype", "ops"), [("float16", {"Cast": 1}), ("int8", {"Cast": 1, "Mul": 1})])
def test_small_weights_are_widened_once_when_the_file_is_loaded(dtype: str, ops: dict[str, int]) -> None:
    graph = _weight_only(dtype)
    images = RNG.standard_normal((1, 8, 8, 3)).astype(np.float32)
    data = to_bytes(graph, metadata={})
    assert op_counts(data) == {"Conv": 1, **ops}
    assert read_optimized(data).op_counts() == {"Conv": 1}
    session = open_session(data)
    found = session.invoke(session.prepare(images)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, run(graph, images)[graph.outputs[0]], atol=1e-5)
    stored = read_tensors(data)["stored"]
    np.testing.assert_array_equal(stored.data, graph["stored"].data)
    if dtype == "int8":
        np.testing.assert_array_equal(stored.qparams.scale, graph["stored"].qparams.scale)


def test_float_layer_between_integer_ones() -> None:
    graph = _single("hardswish")
    nodes = (
        Node("dequantize", ("input",), "real"),
        Node("hardswish", ("real",), "swish"),
        Node("quantize", ("swish",), "y"),
    )
    shape = graph["y"].shape
    graph = graph.replaced(nodes, [Tensor("real", shape), Tensor("swish", shape)])
    data = to_bytes(graph, metadata={})
    assert op_counts(data) == {"DequantizeLinear": 2, "QuantizeLinear": 2, "HardSwish": 1}
    integers = RNG.integers(-128, 128, shape).astype(np.int8)
    steps = np.abs(_runtime_integers(graph, data, integers) - run(graph, integers)["y"].astype(int))
    assert steps.max() <= 1


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x08\x08"], ids=["empty", "text", "no graph"])
def test_bad_files_are_refused_in_one_line(data: bytes) -> None:
    for read in (op_counts, read_metadata, read_tensors):
        with pytest.raises(EdgemobileError, match="not an ONNX") as caught:
            read(data)
        assert "\n" not in str(caught.value)


def test_what_onnx_cannot_say_is_refused() -> None:
    graph = _single("mean")
    with pytest.raises(Unsupported, match="int4"):
        to_bytes(graph, metadata={}, activations="int4")  # type: ignore[arg-type]
    wide = Tensor("y", graph["y"].shape, "int16", qparams=_qparams(-1, 1))
    with pytest.raises(Unsupported, match="tensor y of int16"):
        to_bytes(graph.replaced(tensors=[wide]), metadata={})
