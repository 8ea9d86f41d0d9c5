"""The native TFLite writer: what LiteRT computes from the file is what the Graph and PyTorch compute."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from as_run import partitions
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemobile.errors import Unsupported
from edgemobile.graph import OPS, Graph, Node, QParams, Tensor, interpreter
from edgemobile.graph.affine import quantize
from edgemobile.graph.resizing import COORDINATES
from edgemobile.models.arch import ARCHS, scaled

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")

from edgemobile.exporters import tflite
from edgemobile.exporters.tflite_file import text, unpack

SAME_SCALE_OPS = tuple(op for op in OPS if OPS[op].shares_qparams)


def sqnr_db(reference, other):
    return 10 * np.log10(np.square(reference).sum() / max(np.square(reference - other).sum(), 1e-30))


def litert(data, x, *, delegate=True, threads=1):
    """Outputs of the file for one input, by XNNPACK or by LiteRT's own kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runtime = Interpreter(model_content=data, num_threads=threads, experimental_op_resolver_type=kind)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], x)
    runtime.invoke()
    return runtime.get_tensor(runtime.get_output_details()[0]["index"])


def build(op, shape, out_shape, constants=(), **attrs):
    """A Graph of one op: the input "x", constants by name, the output "y"."""
    tensors = {"x": Tensor("x", shape), "y": Tensor("y", out_shape)}
    tensors |= {name: Tensor.constant(name, np.asarray(data, np.float32)) for name, data in constants}
    attrs = {"activation": "", **attrs} if "activation" in OPS[op].attrs else attrs
    node = Node(op, ("x", *(name for name, _ in constants)), "y", attrs)
    return Graph("one", ("x",), ("y",), (node,), tensors)


def conv(
    size=9, channels=4, out=6, kernel=(3, 3), groups=1, stride=(1, 1), pads=((1, 1), (1, 1)), dilation=(1, 1), **attrs
):
    rng = np.random.default_rng(1)
    sides = [
        (size + sum(pad) - (k - 1) * d - 1) // s + 1
        for pad, k, d, s in zip(pads, kernel, dilation, stride, strict=True)
    ]
    weight = rng.normal(0, 0.4, (out, *kernel, channels // groups))
    return build(
        "conv2d",
        (1, size, size, channels),
        (1, *sides, out),
        (("w", weight), ("b", rng.normal(size=out))),
        stride=stride,
        padding=pads,
        dilation=dilation,
        groups=groups,
        **attrs,
    )


def pool(op, size, kernel, stride, pad=0):
    side = (size + 2 * pad - kernel) // stride + 1
    attrs = {"kernel": (kernel, kernel), "stride": (stride, stride)}
    if op == "max_pool2d":
        attrs["padding"] = ((pad, pad), (pad, pad))
    return build(op, (1, size, size, 3), (1, side, side, 3), **attrs)


def repeated(times, *shape, axis=-1):
    """An input so many times, one after the other along a dimension, the channels' if none is named."""
    axis %= len(shape)
    tensors = {
        "x": Tensor("x", shape),
        "y": Tensor("y", (*shape[:axis], times * shape[axis], *shape[axis + 1 :])),
    }
    return Graph("one", ("x",), ("y",), (Node("concat", ("x",) * times, "y", {"axis": axis}),), tensors)


IMAGE = (1, 7, 6, 5)
_LINEAR = (("w", np.random.default_rng(2).normal(size=(5, 7))), ("b", np.arange(5.0)))

# name -> (graph, the builtin ops its float file holds)
CASES = {
    "conv": (conv(), {"CONV_2D": 1}),
    "conv relu": (conv(activation="relu"), {"CONV_2D": 1}),
    "conv relu6 stride 2, even": (conv(size=8, stride=(2, 2), activation="relu6"), {"CONV_2D": 1, "PAD": 1}),
    "conv stride 2, odd": (conv(size=9, stride=(2, 2)), {"CONV_2D": 1}),
    "conv dilated": (conv(dilation=(2, 2), pads=((2, 2), (2, 2))), {"CONV_2D": 1}),
    "conv one-sided": (conv(kernel=(2, 2), pads=((1, 0), (0, 1))), {"CONV_2D": 1, "PAD": 1}),
    "conv 5x3": (conv(kernel=(5, 3), pads=((2, 2), (1, 1))), {"CONV_2D": 1}),
    "conv grouped": (conv(channels=4, out=6, groups=2), {"CONV_2D": 1}),
    "conv of one channel": (conv(channels=1, out=3), {"CONV_2D": 1}),
    "depthwise": (conv(channels=4, out=4, groups=4), {"DEPTHWISE_CONV_2D": 1}),
    "depthwise times 2": (conv(channels=3, out=6, groups=3), {"DEPTHWISE_CONV_2D": 1}),
    "depthwise dilated": (
        conv(channels=4, out=4, groups=4, dilation=(2, 2), pads=((2, 2), (2, 2))),
        {"DEPTHWISE_CONV_2D": 1},
    ),
    "depthwise 5x5 stride 2, even": (
        conv(size=10, channels=4, out=4, groups=4, kernel=(5, 5), stride=(2, 2), pads=((2, 2), (2, 2))),
        {"DEPTHWISE_CONV_2D": 1, "PAD": 1},
    ),
    "linear": (build("linear", (1, 7), (1, 5), _LINEAR, activation="relu"), {"FULLY_CONNECTED": 1}),
    "add": (build("add", IMAGE, IMAGE, [("c", [3.0])], activation="relu6"), {"ADD": 1}),
    "mul": (build("mul", IMAGE, IMAGE, [("c", np.linspace(-1, 1, 5))], activation=""), {"MUL": 1}),
    "mul relu": (build("mul", IMAGE, IMAGE, [("c", [0.5])], activation="relu"), {"MUL": 1}),
    "concat": (repeated(2, *IMAGE), {"CONCATENATION": 1}),
    "concat of features": (repeated(5, 1, 50), {"CONCATENATION": 1}),
    "concat of many": (repeated(26, *IMAGE), {"CONCATENATION": 7}),
    "concat of rows": (repeated(6, 1, 7, 4, axis=1), {"CONCATENATION": 2}),
    "concat of images": (repeated(2, *IMAGE, axis=1), {"CONCATENATION": 1}),
    "slice": (build("slice", IMAGE, (1, 7, 6, 3), begin=1, end=4), {"SLICE": 1}),
    "slice of features": (build("slice", (1, 50), (1, 20), begin=30, end=50), {"SLICE": 1}),
    "channel shuffle": (
        build("channel_shuffle", (1, 4, 3, 6), (1, 4, 3, 6), groups=2),
        {"RESHAPE": 2, "TRANSPOSE": 1},
    ),
    **{
        f"resize {mode} {coordinates} to {size}": (
            build("resize", IMAGE, (1, *size, 5), size=size, mode=mode, coordinates=coordinates),
            {"RESIZE_BILINEAR" if mode == "bilinear" else "RESIZE_NEAREST_NEIGHBOR": 1},
        )
        for mode, known in COORDINATES.items()
        for coordinates in known
        for size in ((14, 12), (10, 17), (3, 4), (1, 6))
    },
    "mean": (build("mean", IMAGE, (1, 1, 1, 5)), {"MEAN": 1}),
    "max pool": (pool("max_pool2d", 8, 2, 2), {"MAX_POOL_2D": 1}),
    "max pool same": (pool("max_pool2d", 9, 3, 2, pad=1), {"MAX_POOL_2D": 1}),
    "max pool padded": (pool("max_pool2d", 8, 3, 2, pad=1), {"MAX_POOL_2D": 1, "PADV2": 1}),
    "avg pool": (pool("avg_pool2d", 8, 3, 2), {"AVERAGE_POOL_2D": 1}),
    "relu": (build("relu", IMAGE, IMAGE), {"RELU": 1}),
    "relu6": (build("relu6", IMAGE, IMAGE), {"RELU6": 1}),
    "hardswish": (build("hardswish", IMAGE, IMAGE), {"HARD_SWISH": 1}),
    "hardsigmoid": (build("hardsigmoid", IMAGE, IMAGE), {"ADD": 1, "MUL": 1}),
    "sigmoid": (build("sigmoid", IMAGE, IMAGE), {"LOGISTIC": 1}),
    "tanh": (build("tanh", IMAGE, IMAGE), {"TANH": 1}),
    "leaky relu": (build("leaky_relu", IMAGE, IMAGE, slope=0.2), {"LEAKY_RELU": 1}),
    "prelu": (build("prelu", IMAGE, IMAGE, [("c", np.linspace(-0.5, 1.5, 5)[None, None])]), {"PRELU": 1}),
    "elu": (build("elu", IMAGE, IMAGE), {"ELU": 1}),
    "gelu": (build("gelu", IMAGE, IMAGE), {"GELU": 1}),
    "clip": (build("clip", IMAGE, IMAGE, low=-1.5, high=2.0), {"MAXIMUM": 1, "MINIMUM": 1}),
    "clip at one end": (build("clip", IMAGE, IMAGE, low=-1.5, high=np.inf), {"MAXIMUM": 1}),
    "depth to space": (build("depth_to_space", (1, 4, 3, 8), (1, 8, 6, 2), block=2), {"DEPTH_TO_SPACE": 1}),
    "reflect pad": (
        build("reflect_pad", IMAGE, (1, 9, 8, 5), padding=((0, 2), (1, 1))),
        {"MIRROR_PAD": 1},
    ),
    "reshape": (build("reshape", IMAGE, (1, 210)), {"RESHAPE": 1}),
    "reshape to rows": (build("reshape", IMAGE, (1, 42, 5)), {"RESHAPE": 1}),
}


def sample(graph, seed=0):
    return np.random.default_rng(seed).normal(0, 3, graph[graph.inputs[0]].shape).astype(np.float32)


# ---- a naive quantizer, enough to write int8 files ------------------------------------------------------------------


def activation_qparams(values):
    low, high = min(values.min(), 0.0), max(values.max(), 1e-3)
    scale = (high - low) / 255
    return QParams(scale, np.clip(round(-128 - low / scale), -128, 127))


def int8_constant(name, data, axis=None):
    peak = np.abs(data).max() if axis is None else np.abs(data).reshape(len(data), -1).max(axis=1)
    qparams = QParams(np.maximum(peak, 1e-6) / 127, np.zeros(np.size(peak)), axis)
    return Tensor.constant(name, quantize(data, qparams, "int8"), qparams)


def naive_int8(graph, x, fixed=(), axis=0):
    """`graph` in int8, ranges from one run on `x`; `fixed` gives qparams by name."""
    values = interpreter.run(graph, x, keep_all=True)
    qparams = {name: activation_qparams(values[name]) for name in values} | dict(fixed)
    tensors = {}
    for node in graph.nodes:
        if node.op in SAME_SCALE_OPS:
            qparams[node.output] = qparams[node.inputs[0]]
        if node.op in ("sigmoid", "tanh") and node.output not in fixed:
            qparams[node.output] = QParams(1 / 256, -128) if node.op == "sigmoid" else QParams(1 / 128, 0)
        for name in node.inputs:
            if graph[name].is_constant:
                tensors[name] = int8_constant(name, graph[name].data)
        if node.op in ("conv2d", "linear"):
            source, weight, bias = node.inputs
            tensors[weight] = int8_constant(weight, graph[weight].data, axis)
            product = QParams(
                qparams[source].scale * tensors[weight].qparams.scale,
                np.zeros(tensors[weight].qparams.scale.shape),
                axis,
            )
            tensors[bias] = Tensor.constant(bias, quantize(graph[bias].data, product, "int32"), product)
    for name, each in qparams.items():
        tensors[name] = Tensor(name, graph[name].shape, "int8", None, each)
    return graph.replaced(tensors=tensors.values())


def integers(graph, seed=0):
    """A sample of the int8 graph's input that meets both ends of the range."""
    source = graph[graph.inputs[0]]
    return quantize(sample(graph, seed) * 1.5, source.qparams, "int8")


# ---- one op at a time -----------------------------------------------------------------------------------------------


def test_cases_cover_every_op_of_the_graph():
    covered = {graph.nodes[0].op for graph, _ in CASES.values()}
    assert covered | {"quantize", "dequantize"} == {op for op in OPS if not OPS[op].read_only}


@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "plain"])
@pytest.mark.parametrize("case", CASES)
def test_float_op_equals_the_graph(case, delegate):
    graph, ops = CASES[case]
    data = tflite.to_bytes(graph, metadata={})
    x = sample(graph)
    expected = interpreter.run(graph, x)["y"]
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(litert(data, x, delegate=delegate), expected, rtol=2e-5, atol=2e-5)
    assert tflite.op_counts(data) == ops


INT8_CASES = [
    (case, axis)
    for case, (graph, _) in CASES.items()
    for axis in ((0, None) if graph.nodes[0].op in ("conv2d", "linear") else (0,))
    if case != "hardsigmoid"
]


# (most steps, share of equal integers) of LiteRT's own kernels. That of bilinear resizes has the positions of pixels in
# 1/1024 and adds up their errors; that of leaky ReLU multiplies both sides in fixed point.
PLAIN_KERNELS = {"RESIZE_BILINEAR": (2, 0.4), "LEAKY_RELU": (1, 0.85)}


@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "plain"])
@pytest.mark.parametrize(("case", "axis"), INT8_CASES)
def test_int8_op_is_within_one_step_of_the_graph(case, axis, delegate):
    """`axis` 0: a scale a weight channel; None: one scale a weight."""
    graph, ops = CASES[case]
    graph = naive_int8(graph, sample(graph), axis=axis)
    data = tflite.to_bytes(graph, metadata={})
    x = integers(graph, seed=3)
    expected = interpreter.run(graph, x)["y"]
    assert len(np.unique(expected)) > 3
    error = np.abs(litert(data, x, delegate=delegate).astype(int) - expected)
    most, equal = (1, 0.9) if delegate else PLAIN_KERNELS.get(next(iter(ops)), (1, 0.9))
    assert error.max() <= most
    assert np.mean(error == 0) > equal
    assert tflite.op_counts(data) == ops


@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "plain"])
@pytest.mark.parametrize("int8", [False, True])
def test_the_rim_of_a_max_pool_is_below_all_values(int8, delegate):
    """Of negative values alone a rim of zeros would be the largest everywhere at the border."""
    graph, ops = CASES["max pool padded"]
    x = -1 - np.abs(sample(graph))
    if int8:
        graph = naive_int8(graph, x)
        x = interpreter.quantize(x, graph["x"].qparams, "int8")
    data = tflite.to_bytes(graph, metadata={})
    np.testing.assert_array_equal(litert(data, x, delegate=delegate), interpreter.run(graph, x)["y"])
    assert tflite.op_counts(data) == ops


def test_rims_of_one_integer_keep_their_own_scales():
    attrs = CASES["max pool padded"][0].nodes[0].attrs
    nodes = (
        Node("max_pool2d", ("x",), "p", attrs),
        Node("quantize", ("p",), "q"),
        Node("max_pool2d", ("q",), "y", attrs),
    )
    sides = {"x": (8, 0.5), "p": (4, 0.5), "q": (4, 0.25), "y": (2, 0.25)}
    tensors = {
        name: Tensor(name, (1, side, side, 3), "int8", qparams=QParams(scale, 3))
        for name, (side, scale) in sides.items()
    }
    graph = Graph("two", ("x",), ("y",), nodes, tensors)
    data = tflite.to_bytes(graph, metadata={})
    rims = [t for t in tflite.read_tensors(data).values() if t.is_constant and t.dtype == "int8"]
    assert sorted((int(rim.data), float(rim.qparams.scale[0])) for rim in rims) == [(-128, 0.25), (-128, 0.5)]
    x = interpreter.quantize(-1 - np.abs(sample(graph)), tensors["x"].qparams, "int8")
    np.testing.assert_array_equal(litert(data, x), interpreter.run(graph, x)["y"])


def test_int8_hardsigmoid_is_refused_by_name():
    graph, _ = CASES["hardsigmoid"]
    with pytest.raises(Unsupported, match="hardsigmoid at y is int8"):
        tflite.to_bytes(naive_int8(graph, sample(graph)), metadata={})


def test_an_int8_sigmoid_of_another_scale_is_refused_by_name():
    graph, _ = CASES["sigmoid"]
    with pytest.raises(Unsupported, match=r"sigmoid at y has scale 0\.00392157 and zero point -128; allowed are 1/256"):
        tflite.to_bytes(naive_int8(graph, sample(graph), {"y": QParams(1 / 255, -128)}), metadata={})


def test_quantize_and_dequantize_stand_between_float_and_int8():
    coarse, fine = QParams(0.1, 3), QParams(0.05, -7)
    tensors = [Tensor("x", IMAGE), Tensor("q", IMAGE, "int8", None, coarse), Tensor("r", IMAGE, "int8", None, fine)]
    nodes = (Node("quantize", ("x",), "q"), Node("quantize", ("q",), "r"), Node("dequantize", ("r",), "y"))
    graph = Graph("mixed", ("x",), ("y",), nodes, {t.name: t for t in (*tensors, Tensor("y", IMAGE))})
    data = tflite.to_bytes(graph, metadata={})
    assert tflite.op_counts(data) == {"QUANTIZE": 2, "DEQUANTIZE": 1}
    x = sample(graph)
    np.testing.assert_allclose(litert(data, x), interpreter.run(graph, x)["y"], atol=0.0501)


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("case", ["conv", "depthwise", "linear"])
def test_stored_small_weights_are_dequantized_in_the_file(case, kind):
    graph, ops = CASES[case]
    node = graph.nodes[0]
    small = (
        Tensor.constant("w.small", graph["w"].data.astype(np.float16))
        if kind == "float16"
        else int8_constant("w.small", graph["w"].data, axis=0)
    )
    nodes = (Node("dequantize", ("w.small",), "w"), node)
    graph = graph.replaced(nodes, [small, Tensor("w", graph["w"].shape)])
    data = tflite.to_bytes(graph, metadata={})
    assert tflite.op_versions(data)["DEQUANTIZE", 3 if kind == "float16" else 5] == 1
    assert tflite.op_counts(data) == {**ops, "DEQUANTIZE": 1}
    x = sample(graph)
    np.testing.assert_allclose(litert(data, x), interpreter.run(graph, x)["y"], rtol=1e-4, atol=1e-4)
    stored = tflite.read_tensors(data)["w.small"]
    np.testing.assert_array_equal(stored.data, small.data)
    assert stored.shape == small.shape
    assert stored.qparams is None or stored.qparams.axis == 0
    assert partitions(data) == 1


@pytest.mark.parametrize("case", ["max pool", "avg pool", "reshape"])
def test_ops_that_move_integers_refuse_a_change_of_scale(case):
    graph, _ = CASES[case]
    graph = naive_int8(graph, sample(graph))
    other = Tensor("y", graph["y"].shape, "int8", None, QParams(0.5, 0))
    with pytest.raises(Unsupported, match="at y must have its input's scale"):
        tflite.to_bytes(graph.replaced(tensors=[other]), metadata={})


def test_dtypes_tflite_lacks_are_refused_by_name():
    graph, _ = CASES["relu"]
    unsigned = [Tensor(name, IMAGE, "uint8", None, QParams(0.1, 0)) for name in "xy"]
    with pytest.raises(Unsupported, match="tensor x is uint8"):
        tflite.to_bytes(graph.replaced(tensors=unsigned), metadata={})


# ---- padding --------------------------------------------------------------------------------------------------------

sides = st.tuples(
    st.integers(5, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 2)
)


@settings(max_examples=60, derandomize=True)
@given(side=sides, depthwise=st.booleans())
def test_any_padding_is_exact(side, depthwise):
    size, kernel, stride, dilation, before, after = side
    if (kernel - 1) * dilation + 1 > size + before + after:
        return
    channels = {"channels": 3, "out": 3, "groups": 3} if depthwise else {"channels": 2, "out": 3}
    shape = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "dilation": (dilation,) * 2}
    graph = conv(size=size, pads=((before, after),) * 2, **channels, **shape)
    x = sample(graph)
    data = tflite.to_bytes(graph, metadata={})
    np.testing.assert_allclose(litert(data, x), interpreter.run(graph, x)["y"], rtol=1e-4, atol=1e-4)


def test_every_reader_has_a_pad_of_its_own_which_xnnpack_takes_into_the_convolution():
    one = conv(size=8, stride=(2, 2))
    tensors = {**one.tensors, "z": Tensor("z", one["y"].shape), "sum": Tensor("sum", one["y"].shape)}
    node = one.nodes[0]
    nodes = (node, Node("conv2d", node.inputs, "z", node.attrs), Node("add", ("y", "z"), "sum", {"activation": ""}))
    graph = Graph("two", ("x",), ("sum",), nodes, tensors)
    data = tflite.to_bytes(graph, metadata={})
    assert tflite.op_counts(data) == {"ADD": 1, "CONV_2D": 2, "PAD": 2}
    x = sample(graph)
    np.testing.assert_allclose(litert(data, x), interpreter.run(graph, x)["sum"], rtol=1e-4, atol=1e-4)


# ---- whole nets -----------------------------------------------------------------------------------------------------

# name, input_px (odd and even sizes pad differently), HARD_SWISH, PAD
NETS = [
    ("v1", 64, 0, 5),
    ("v2", 75, 0, 2),
    ("v3-small", 65, 19, 0),
    ("v3-large", 64, 21, 5),
    ("v3-small-minimalistic", 64, 0, 5),
    ("v3-large-minimalistic", 75, 0, 2),
]


def images(count, px, seed=0):
    """f32[count,px,px,3]: noise over a colour and a contrast of its own, so that images differ as a whole."""
    rng = np.random.default_rng(seed)
    colour, contrast = rng.normal(size=(count, 1, 1, 3)), rng.uniform(0.2, 2, (count, 1, 1, 1))
    return (rng.normal(size=(count, px, px, 3)) * contrast + colour).astype(np.float32)


def nchw(x):
    import torch

    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@functools.cache
def net_and_graph(name, px):
    """A narrow net whose batch norm statistics are measured, then made uneven, and its Graph.

    With the statistics of a fresh net the signal dies on the way, and every file would give the same logits.
    """
    import torch

    from edgemobile.lower import export_program, lower
    from edgemobile.models.nets import build_net

    torch.manual_seed(7)
    net = build_net(scaled(ARCHS[name], width=0.25, input_px=px, classes=50), dropout=0.0)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain average
        torch.nn.init.uniform_(norm.weight, 0.8, 1.6)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(nchw(images(8, px, seed=1)))
    for norm in norms:
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    return net.eval(), lower(export_program(net, (1, 3, px, px)), name)


@functools.cache
def net_file(name, px):
    return tflite.to_bytes(net_and_graph(name, px)[1], metadata={"source": "test"})


@pytest.mark.parametrize(("name", "px", "hard_swish", "pads"), NETS)
def test_net_equals_pytorch(name, px, hard_swish, pads):
    import torch

    net, graph = net_and_graph(name, px)
    data = net_file(name, px)
    outputs = []
    for x in images(2, px)[:, None]:
        with torch.no_grad():
            outputs.append(net(nchw(x)).numpy())
        y = litert(data, x)
        assert sqnr_db(outputs[-1], y) >= 90
    assert sqnr_db(interpreter.run(graph, x)[graph.outputs[0]], y) >= 90
    assert outputs[0].std() > 0.05
    assert sqnr_db(outputs[0], outputs[1]) < 20  # the net looks at its input
    counts = tflite.op_counts(data)
    assert (counts.get("HARD_SWISH", 0), counts.get("PAD", 0), counts.get("TRANSPOSE", 0)) == (hard_swish, pads, 0)


def test_float_net_runs_as_one_delegate_partition():
    assert partitions(net_file("v3-large", 64)) == 1


def test_same_graph_gives_the_same_bytes():
    graph = net_and_graph("v3-large", 64)[1]
    assert tflite.to_bytes(graph, metadata={"source": "test"}) == net_file("v3-large", 64)


def test_read_tensors_gives_the_graph_back():
    graph = net_and_graph("v3-large", 64)[1]
    found = tflite.read_tensors(net_file("v3-large", 64))
    for name, tensor in graph.tensors.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        if tensor.is_constant:
            np.testing.assert_array_equal(found[name].data, tensor.data, err_msg=name)


def test_int8_tensors_come_back_with_their_qparams():
    graph, _ = CASES["depthwise times 2"]
    graph = naive_int8(graph, sample(graph))
    found = tflite.read_tensors(tflite.to_bytes(graph, metadata={}))
    for name, tensor in graph.tensors.items():
        np.testing.assert_array_equal(found[name].qparams.scale, tensor.qparams.scale)
        np.testing.assert_array_equal(found[name].qparams.zero_point, tensor.qparams.zero_point)
        assert found[name].qparams.axis == tensor.qparams.axis
        if tensor.is_constant:
            np.testing.assert_array_equal(found[name].data, tensor.data)


# ---- int8 net -------------------------------------------------------------------------------------------------------


@functools.cache
def small_graph():
    """Three blocks with hard-swish, stride 2, a skip, a pool and a linear layer, from PyTorch."""
    import torch
    from torch import nn

    from edgemobile.lower import export_program, lower

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish())
            self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6())
            self.project = nn.Conv2d(8, 8, 1)
            self.last = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Hardswish())
            self.classifier = nn.Linear(16, 10)

        def forward(self, x):
            x = self.stem(x)
            x = self.last(x + self.project(self.depthwise(x)))
            return self.classifier(x.mean((2, 3)))

    torch.manual_seed(3)
    return lower(export_program(Net(), (1, 3, 32, 32)), "small")


def gated(graph):
    """Each hard-swish as add(x, 3) with fused relu6, then mul; 1/6 goes into the next layer's weights."""
    nodes, tensors, fixed = [], [], {}
    for node in graph.nodes:
        if node.op != "hardswish":
            nodes.append(node)
            continue
        gate, three = f"{node.output}.gate", f"{node.output}.three"
        tensors += [Tensor(gate, graph[node.output].shape), Tensor.constant(three, np.array([3], np.float32))]
        nodes.append(Node("add", (node.inputs[0], three), gate, {"activation": "relu6"}))
        nodes.append(Node("mul", (gate, node.inputs[0]), node.output, {"activation": ""}))
        fixed[gate] = QParams(6 / 255, -128)
    return graph.replaced(nodes, tensors), fixed


@pytest.mark.parametrize("form", ["fused", "gated"])
def test_int8_net_stays_integer_and_close(form):
    graph, fixed = gated(small_graph()) if form == "gated" else (small_graph(), {})
    graph = naive_int8(graph, sample(graph), fixed)
    data = tflite.to_bytes(graph, metadata={})
    x = integers(graph, seed=5)
    expected = interpreter.run(graph, x)[graph.outputs[0]]
    y = litert(data, x)
    assert y.dtype == np.int8
    assert np.ptp(expected.astype(int)) > 50
    assert np.abs(y.astype(int) - expected).max() <= 2
    # XNNPACK has no int8 HARD_SWISH: only the gated form stays in one partition.
    assert partitions(data) == (1 if form == "gated" else 3)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_metadata_comes_back():
    entries = {"preprocess": '{"mean": [0.5]}', "labels": "chat\nÉlan\n猫", "empty": ""}
    data = tflite.to_bytes(CASES["conv"][0], metadata=entries)
    assert tflite.read_metadata(data) == entries


def test_metadata_may_not_name_the_runtimes_own_entry():
    with pytest.raises(Unsupported, match="min_runtime_version"):
        tflite.to_bytes(CASES["conv"][0], metadata={"min_runtime_version": "9"})


# case -> (int8?, op, version, oldest release): after TFLite's own versioning rules
VERSIONS = [
    ("conv", False, "CONV_2D", 1, "1.5.0"),
    ("conv", True, "CONV_2D", 3, "1.14.0"),
    ("conv grouped", False, "CONV_2D", 6, "2.9.0"),
    ("depthwise", True, "DEPTHWISE_CONV_2D", 3, "1.14.0"),
    ("depthwise dilated", False, "DEPTHWISE_CONV_2D", 2, "1.12.0"),
    ("linear", True, "FULLY_CONNECTED", 4, "1.14.0"),
    ("relu", True, "RELU", 2, "2.1.0"),
    ("hardswish", True, "HARD_SWISH", 1, "1.15.0"),
    ("sigmoid", True, "LOGISTIC", 2, "1.14.0"),
    ("mean", True, "MEAN", 2, "1.14.0"),
]


@pytest.mark.parametrize(("case", "int8", "op", "version", "release"), VERSIONS)
def test_op_versions_are_the_oldest_that_do(case, int8, op, version, release):
    graph = CASES[case][0]
    data = tflite.to_bytes(naive_int8(graph, sample(graph)) if int8 else graph, metadata={})
    assert tflite.op_versions(data) == {(op, version): 1}
    assert _oldest_release(data) == release


def _oldest_release(data):
    model = unpack(data)
    (entry,) = (entry for entry in model.metadata if text(entry.name) == "min_runtime_version")
    return bytes(model.buffers[entry.buffer].data).decode()


def test_the_oldest_release_is_that_of_the_newest_op():
    data = tflite.to_bytes(conv(channels=4, out=4, groups=4, dilation=(2, 2), pads=((3, 2), (2, 2))), metadata={})
    assert tflite.op_versions(data) == {("DEPTHWISE_CONV_2D", 2): 1, ("PAD", 1): 1}
    assert _oldest_release(data) == "1.12.0"  # of PAD it is 1.5.0


@pytest.mark.parametrize(("growth", "version"), [(0.99, 2), (1.01, 3), (3.0, 3)])
def test_a_quantized_product_that_grows_needs_mul_3(growth, version):
    # The constant is in steps of 1 / 127.
    fixed = {"x": QParams(127 * growth, 0), "y": QParams(1.0, 0)}
    graph = naive_int8(CASES["mul"][0], sample(CASES["mul"][0]), fixed)
    assert tflite.op_versions(tflite.to_bytes(graph, metadata={})) == {("MUL", version): 1}


def test_buffers_are_aligned_and_equal_constants_share_one():
    from ai_edge_litert import schema_py_generated as schema

    three = [Tensor.constant(name, np.array([3], np.float32)) for name in ("a", "b")]
    nodes = [Node("add", (x, c), y, {"activation": ""}) for x, c, y in (("x", "a", "m"), ("m", "b", "y"))]
    tensors = {t.name: t for t in (*three, *(Tensor(name, IMAGE) for name in "xmy"))}
    data = tflite.to_bytes(Graph("g", ("x",), ("y",), tuple(nodes), tensors), metadata={})
    model = schema.Model.GetRootAs(data, 0)
    table = model.Subgraphs(0)
    buffer_of = {table.Tensors(i).Name().decode(): table.Tensors(i).Buffer() for i in range(table.TensorsLength())}
    assert buffer_of["a"] == buffer_of["b"] != 0
    assert buffer_of["x"] == 0
    assert model.Buffers(0).DataIsNone()
    whole = np.frombuffer(data, np.uint8)
    for index in range(1, model.BuffersLength()):
        start = model.Buffers(index).DataAsNumpy().__array_interface__["data"][0]
        assert (start - whole.__array_interface__["data"][0]) % 16 == 0


def test_signature_names_inputs_and_outputs():
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=net_file("v3-large", 64))
    assert runtime.get_signature_list() == {"serving_default": {"inputs": ["input"], "outputs": ["classifier.3"]}}


@pytest.mark.parametrize("keep", [0, 3, 8, 40, 200, -40])
def test_a_damaged_file_is_one_clear_error(keep):
    data = tflite.to_bytes(CASES["conv"][0], metadata={})
    with pytest.raises(Unsupported, match="TFLite file"):
        tflite.op_counts(data[:keep])


def test_a_file_with_flipped_bytes_reads_or_is_one_clear_error():
    data = tflite.to_bytes(CASES["conv"][0], metadata={"a": "b"})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(data)
        for position in rng.integers(8, len(data), 3):
            damaged[position] = rng.integers(256)
        for read in (tflite.op_counts, tflite.read_metadata, tflite.read_tensors):
            try:
                read(bytes(damaged))
            except Unsupported:
                refused += 1
    assert refused > 0
