"""A third-party file's Graph in the form of a lowered program: held to what onnxruntime makes of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgemobile.errors import Unsupported
from edgemobile.exporters.model_files import read_known
from edgemobile.exporters.onnx_shapes import with_input_shape
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.interpreter import run_real
from edgemobile.lower.file_graph import FileGraph, lower_file
from edgemobile.preprocess import Preprocess

PX, CHANNELS, CLASSES = 8, 6, 4


class Net:
    """An ONNX file, node by node."""

    def __init__(self, *shape: Any) -> None:
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.rng = np.random.default_rng(0)
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)

    def weight(self, *shape: int, low: float = -1.0) -> str:
        return self.constant(self.rng.uniform(low, 1, shape).astype(np.float32))

    def constant(self, array: np.ndarray, *, as_node: bool = False) -> str:
        name = f"constant {len(self.stored) + len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if as_node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.stored.append(tensor)
        return name

    def __call__(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"{op} {len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32), as_node=True)

    def norm(self, x: str, channels: int = CHANNELS) -> str:
        parameters = [self.weight(channels, low=0.5), self.weight(channels), self.weight(channels)]
        return self("BatchNormalization", x, *parameters, self.weight(channels, low=0.5), epsilon=1e-3)

    def file(self, output: str) -> bytes:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [self.input], [result], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model).SerializeToString()


def lowered(data: bytes, batch: int = 1) -> FileGraph:
    graph, unknown = read_known("onnx", data)
    assert not unknown
    return lower_file(graph, batch)


def ran(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data)
    return session.run(None, {"x": images})[0]


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def pooled(net: Net, x: str, channels: int = CHANNELS) -> str:
    flat = net("Flatten", net("GlobalAveragePool", x))
    return net("Gemm", flat, net.weight(CLASSES, channels), net.weight(CLASSES), transB=1)


def test_a_mobile_net_v3_block_of_paddles_exporter() -> None:
    """Batch norm stands unfolded, hard-swish and hard-sigmoid are spelled out, shapes are computed, and constants are
    nodes."""
    net = Net("N", 3, "H", "W")
    x = net.norm(net("Conv", "x", net.constant(net.rng.standard_normal((CHANNELS, 3, 3, 3)).astype("f"), as_node=True)))
    gate = net("Clip", net("Add", x, net.number(3)), net.number(0), net.number(6))
    x = net("Div", net("Mul", x, gate), net.number(6))
    squeezed = net("Conv", net("GlobalAveragePool", x), net.weight(CHANNELS, CHANNELS, 1, 1))
    bias = net("Reshape", net.weight(CHANNELS), net.constant(np.array([1, -1, 1, 1]), as_node=True))
    excited = net("HardSigmoid", net("Add", squeezed, bias), alpha=0.2, beta=0.5)
    x = net("GlobalAveragePool", net("Mul", x, excited))
    shape = net("Cast", net("Slice", net("Shape", x), *(net.constant(np.array([at])) for at in (0, 1))), to=7)
    flat = net("Reshape", x, net("Concat", shape, net.constant(np.array([CHANNELS])), axis=0))
    logits = net("Add", net("MatMul", flat, net.weight(CHANNELS, CLASSES)), net.weight(CLASSES))
    data = net.file(net("Identity", net("Softmax", logits, axis=1)))

    found = lowered(with_input_shape(data, "x", (1, 3, PX, PX)))

    assert found.graph.op_counts() == {
        "conv2d": 2,
        "hardswish": 1,
        "hardsigmoid": 1,
        "mean": 2,
        "mul": 1,
        "reshape": 1,
        "linear": 1,
    }
    assert found.softmax is not None
    batch = images(1, PX, PX, 3)
    shares = np.exp(run_real(found.graph, batch))
    np.testing.assert_allclose(
        shares / shares.sum(), ran(data, batch.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-6, err_msg="the same net"
    )


def _before_a_concatenation(net: Net) -> str:
    x = net("Conv", "x", net.weight(CHANNELS, 3, 1, 1))
    return pooled(net, net("Concat", net.norm(x), x, axis=1), 2 * CHANNELS)


def _behind_an_activation(net: Net) -> str:
    return pooled(net, net.norm(net("Relu", net("Conv", "x", net.weight(CHANNELS, 3, 1, 1)))))


def _of_features(net: Net) -> str:
    flat = net("Flatten", net("GlobalAveragePool", net("Conv", "x", net.weight(CHANNELS, 3, 1, 1))))
    hidden = net("Gemm", flat, net.weight(5, CHANNELS), transB=1)
    return net("Gemm", net("Relu", net.norm(hidden, 5)), net.weight(CLASSES, 5), transB=1)


def _as_products_and_sums(net: Net) -> str:
    x = net("Conv", "x", net.weight(CHANNELS, 3, 1, 1), net.weight(CHANNELS))
    x = net("Mul", x, net.weight(1, CHANNELS, 1, 1))
    x = net("Sub", net("Add", net.weight(1, CHANNELS, 1, 1), x), net.number(0.25))
    return pooled(net, net("Relu", net("Div", x, net.weight(1, CHANNELS, 1, 1, low=0.5))))


def _with_shared_weights(net: Net) -> str:
    weight = net.weight(CHANNELS, 3, 1, 1)
    halves = [net.norm(net("Conv", "x", weight)) for _ in range(2)]
    return pooled(net, net("Add", *halves))


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (_before_a_concatenation, 2),
        (_behind_an_activation, 2),
        (_of_features, 1),
        (_as_products_and_sums, 1),
        (_with_shared_weights, 2),
    ],
)
def test_what_stands_behind_a_layer_is_folded_where_it_may_be(build: Callable[[Net], str], layers: int) -> None:
    net = Net(1, 3, PX, PX)
    data = net.file(build(net))
    graph = lowered(data).graph
    assert graph.op_counts()["conv2d"] == layers
    assert "mul" not in graph.op_counts()
    batch = images(1, PX, PX, 3)
    np.testing.assert_allclose(run_real(graph, batch), ran(data, batch.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)


def _flattened(net: Net, x: str, features: int = CHANNELS * PX * PX) -> str:
    flat = net("Reshape", x, net.constant(np.array([1, features])))
    return net("MatMul", flat, net.weight(features, CLASSES))


def _then_flattened(net: Net, x: str) -> str:
    return _flattened(net, net("Transpose", x, perm=[0, 2, 3, 1]))


def _scaled_in_nhwc(net: Net, x: str) -> str:
    x = net("Transpose", x, perm=[0, 2, 3, 1])
    x = net("Relu", net("Mul", net("Add", x, net.weight(CHANNELS)), net.weight(1, 1, 1, CHANNELS)))
    return pooled(net, net("Transpose", x, perm=[0, 3, 1, 2]))


@pytest.mark.parametrize("build", [pooled, _flattened, _then_flattened, _scaled_in_nhwc])
def test_transposes_of_an_image_in_nhwc_are_taken_out(build: Callable[[Net, str], str]) -> None:
    """As tf2onnx writes a model of TensorFlow."""
    net = Net(1, PX, PX, 3)
    x = net("Conv", net("Transpose", "x", perm=[0, 3, 1, 2]), net.weight(CHANNELS, 3, 1, 1))
    data = net.file(build(net, x))
    graph = lowered(data).graph
    assert "transpose" not in graph.op_counts()
    assert graph["input"].shape == (1, PX, PX, 3)
    batch = images(1, PX, PX, 3)
    np.testing.assert_allclose(run_real(graph, batch), ran(data, batch), rtol=1e-4, atol=1e-5)


def _graph(nodes: Sequence[Node], tensors: Sequence[Tensor], output: str) -> Graph:
    return Graph("net", ("x",), (output,), tuple(nodes), {tensor.name: tensor for tensor in tensors})


def test_what_depends_on_the_order_between_transposes_is_refused() -> None:
    node = Node("transpose", ("x",), "turned", {"perm": (0, 3, 1, 2)})
    mean = Node("mean", ("turned",), "y")
    tensors = [Tensor("x", (1, 4, 5, 3)), Tensor("turned", (1, 3, 4, 5)), Tensor("y", (1, 1, 1, 5))]
    with pytest.raises(Unsupported, match=r"mean .at y. is between transposes"):
        lower_file(_graph([node, mean], tensors, "y"))


def _layer() -> tuple[list[Node], list[Tensor]]:
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    tensors = [
        Tensor("x", (1, 4, 4, 3)),
        Tensor.constant("w", images(2, 1, 1, 3)),
        Tensor.constant("b", images(2)),
        *(Tensor(name, (1, 4, 4, 2)) for name in ("y", "u", "v")),
        Tensor("out", (1, 1, 1, 2)),
    ]
    return [Node("conv2d", ("x", "w", "b"), "y", attrs)], tensors


def _numbers(**values: float) -> list[Tensor]:
    return [Tensor.constant(name, np.array([value], np.float32)) for name, value in values.items()]


def _as_litert_torch_fuses_it() -> Graph:
    nodes, tensors = _layer()
    fused = Node("conv2d", nodes[0].inputs, "y", {**nodes[0].attrs, "activation": "relu6"})
    sixth = Node("mul", ("y", "sixth"), "u", {"activation": ""})
    return _graph([fused, sixth, Node("mean", ("u",), "out")], [*tensors, *_numbers(sixth=1 / 6)], "out")


def _as_onnx2tf_writes_it() -> Graph:
    nodes, tensors = _layer()
    slope, offset = (
        Node(op, (x, c), y, {"activation": ""}) for op, x, c, y in (("mul", "y", "a", "u"), ("add", "u", "c", "v"))
    )
    cut = Node("relu1", ("v",), "cut")
    tensors += [Tensor("cut", (1, 4, 4, 2)), *_numbers(a=0.2, c=0.4)]
    mean = Node("mean", ("cut",), "out")
    return _graph(
        [*nodes, slope, offset, cut, mean], [*tensors, Tensor("cut", (1, 4, 4, 2)), *_numbers(a=0.2, c=0.4)], "out"
    )


@pytest.mark.parametrize("build", [_as_litert_torch_fuses_it, _as_onnx2tf_writes_it])
def test_a_hard_sigmoid_in_pieces_is_one_op(build: Callable[[], Graph]) -> None:
    graph = build()
    found = lower_file(graph).graph
    assert found.op_counts() == {"conv2d": 1, "hardsigmoid": 1, "mean": 1, "reshape": 1}
    batch = images(3, 4, 4, 3)
    np.testing.assert_allclose(run_real(found, batch), run_real(graph, batch).reshape(3, 2), rtol=1e-5, atol=1e-6)


def test_a_softmax_inside_is_refused() -> None:
    net = Net(1, 3, PX, PX)
    shares = net("Softmax", pooled(net, net("Conv", "x", net.weight(CHANNELS, 3, 1, 1))), axis=1)
    with pytest.raises(Unsupported, match=r"softmax .* is supported only at the end"):
        lowered(net.file(net("Gemm", shares, net.weight(CLASSES, CLASSES), transB=1)))


def test_integers_are_the_reals_they_stand_for() -> None:
    steps = QParams(np.array([0.5]), np.array([3]))
    weight = np.arange(6, dtype=np.int8).reshape(2, 1, 1, 3)
    tensors = [
        Tensor("x", (1, 4, 4, 3), "int8", qparams=steps),
        Tensor.constant("w", weight, QParams(np.array([0.1, 0.2]), np.zeros(2), axis=0)),
        Tensor.constant("b", np.array([10, 20], np.int32), QParams(np.array([0.05, 0.1]), np.zeros(2), axis=0)),
        Tensor("y", (1, 4, 4, 2), "int8", qparams=steps),
        Tensor("pooled", (1, 1, 1, 2), "int8", qparams=steps),
        Tensor("out", (1, 1, 1, 2)),
    ]
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = [
        Node("conv2d", ("x", "w", "b"), "y", attrs),
        Node("mean", ("y",), "pooled"),
        Node("dequantize", ("pooled",), "out"),
    ]
    graph = lower_file(_graph(nodes, tensors, "out")).graph
    batch = images(2, 4, 4, 3)
    expected = batch.mean((1, 2)) @ (weight.reshape(2, 3) * [[0.1], [0.2]]).T + [0.5, 2]
    np.testing.assert_allclose(run_real(graph, batch), expected, rtol=1e-5, atol=1e-6)


def test_a_file_is_lowered_for_any_batch() -> None:
    net = Net(1, 3, PX, PX)
    data = net.file(pooled(net, net("Conv", "x", net.weight(CHANNELS, 3, 1, 1))))
    graph = lowered(data, batch=5).graph
    assert (graph["input"].shape[0], graph[graph.outputs[0]].shape) == (5, (5, CLASSES))


def test_a_shape_that_the_file_does_not_take_is_one_error() -> None:
    net = Net("N", 3, "H", "W")
    data = net.file(net("MatMul", net("Flatten", "x"), net.weight(3 * PX * PX, CLASSES)))
    with pytest.raises(Unsupported, match=r"does not accept an input x of \[1, 3, 9, 9\]"):
        with_input_shape(data, "x", (1, 3, 9, 9))


def test_a_scaling_of_the_pixels_is_taken_out() -> None:
    """((x - mean) / std) with a constant per channel, then another product, as Keras's EfficientNet has them."""
    net = Net(1, 3, PX, PX)
    mean, std = (images(1, 3, 1, 1) ** 2 + 0.5 for _ in range(2))
    x = net("Div", net("Sub", "x", net.constant(mean)), net.constant(std))
    x = net("Mul", x, net.number(0.25))
    data = net.file(pooled(net, net("Conv", x, net.weight(CHANNELS, 3, 3, 3), pads=[1, 1, 1, 1])))
    found = lowered(data)
    assert found.graph.op_counts() == {"conv2d": 1, "mean": 1, "reshape": 1, "linear": 1}
    batch = images(1, PX, PX, 3)
    scaled = (batch - mean.reshape(3)) / std.reshape(3) * 0.25
    np.testing.assert_allclose(
        run_real(found.graph, scaled), ran(data, batch.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found.input_scaling.undone(scaled), batch, rtol=1e-4, atol=1e-5)
    before = Preprocess(PX, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    photo = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), np.uint8)
    expected = (before(photo) - mean.reshape(3)) / std.reshape(3) * 0.25
    np.testing.assert_allclose(found.input_scaling.after(before)(photo), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_pixels_that_preprocessing_cannot_scale_stay(factor: float) -> None:
    net = Net(1, 3, PX, PX)
    x = net("Mul", "x", net.number(factor))
    data = net.file(pooled(net, net("Conv", x, net.weight(CHANNELS, 3, 3, 3), pads=[1, 1, 1, 1])))
    found = lowered(data)
    assert found.graph.op_counts()["mul"] == 1
    assert not found.input_scaling


def test_each_layer_has_its_own_constants() -> None:
    """Converters store equal biases once, but quantization rounds each by the scale of its own layer."""
    net = Net(1, 3, PX, PX)
    weight, bias = net.weight(3, 3, 1, 1), net.weight(3)
    x = net("Conv", net("Conv", "x", weight, bias), weight, bias)
    data = net.file(pooled(net, x, channels=3))
    graph = lowered(data).graph
    read = [name for node in graph.nodes for name in node.inputs if graph[name].is_constant]
    assert len(read) == len(set(read)) == 6
    batch = images(1, PX, PX, 3)
    np.testing.assert_allclose(run_real(graph, batch), ran(data, batch.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [0, 1])
def test_an_average_over_windows_beyond_the_image(counts: int) -> None:
    net = Net(1, 3, PX, PX)
    x = net("Conv", "x", net.weight(CHANNELS, 3, 1, 1), net.weight(CHANNELS))
    x = net("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2], count_include_pad=counts)
    data = net.file(_flattened(net, x, features=CHANNELS * 16))
    graph = lowered(data).graph
    assert graph.op_counts().get("mul", 0) == 1 - counts
    batch = images(1, PX, PX, 3)
    np.testing.assert_allclose(run_real(graph, batch), ran(data, batch.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)
