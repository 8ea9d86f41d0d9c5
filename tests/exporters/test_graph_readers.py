"""A file read back is the graph it was written from; shown inside, it still says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import onnx
import torch

from edgemobile.devices.runtimes.sessions import open_layers, open_session
from edgemobile.errors import Unsupported
from edgemobile.exporters import FORMATS, onnx_graph, tflite_file, tflite_graph
from edgemobile.exporters.intermediate_outputs import intermediate_names, with_intermediate_outputs
from edgemobile.exporters.model_files import model_file
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.interpreter import run_real
from edgemobile.lower import export_program, lower
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.weights_only import to_float16, to_int8_weights

READERS = {"onnx": onnx_graph.read_graph, "tflite": tflite_graph.read_graph}
FORMS = ("float32", "float16", "weight-only", "int8")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def graphs(images: np.ndarray) -> dict[str, Graph]:
    graph = lower(export_program(build_net(scaled(get_arch("v3-small"), width=0.25, classes=5)), (1, 3, 32, 32)))
    recipe = Recipe(refit=0, bias_correction=False, equalize=0)
    made = {
        "float16": to_float16(graph),
        "weight-only": to_int8_weights(graph),
        "int8": ptq(graph, [images], recipe).graph,
    }
    return {"float32": graph, **made}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(READERS))
def test_a_file_read_back_computes_the_same(graphs: dict[str, Graph], images: np.ndarray, name: str, form: str) -> None:
    graph = graphs[form]
    read = READERS[name](FORMATS[name].load().to_bytes(graph, metadata={}))
    assert read.inputs == graph.inputs
    assert read.outputs == graph.outputs
    layers = {node.output: node for node in graph.nodes if node.op in ("conv2d", "linear")}
    found = {node.output: node for node in read.nodes if node.op in ("conv2d", "linear")}
    assert list(found) == list(layers)
    for output, node in layers.items():
        wanted = {key: value for key, value in node.attrs.items() if key not in ("activation", "padding")}
        assert {key: found[output].attrs[key] for key in wanted} == wanted
    # An integer Add that saturates where its relu6 would cut needs no relu6: the same integers all the same.
    np.testing.assert_allclose(run_real(read, images), run_real(graph, images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(READERS))
def test_a_file_that_shows_its_inside_says_the_same(
    graphs: dict[str, Graph], images: np.ndarray, name: str, form: str
) -> None:
    data = FORMATS[name].load().to_bytes(graphs[form], metadata={})
    contents = model_file(Path("file"), data).contents
    names = intermediate_names(contents)
    assert names[: len(contents.outputs)] == contents.outputs
    plain, shown = open_session(data), open_layers(with_intermediate_outputs(data, contents))
    prepared = plain.prepare(images[:1])
    arrays = shown.invoke_all([prepared])
    assert len(arrays) == len(names)
    np.testing.assert_allclose(arrays[0], plain.invoke(prepared), rtol=1e-4, atol=1e-5)
    for tensor, array in zip(names, arrays, strict=True):
        assert np.isfinite(array).all(), tensor
    seen = {onnx_graph.tensor_name(tensor) for tensor in names}
    assert {node.output for node in graphs[form].nodes if node.op not in ("dequantize",)} <= seen


def test_same_padding_is_read_in_pixels() -> None:
    attrs = {"stride": (2, 2), "padding": ((0, 1), (0, 1)), "dilation": (1, 1), "groups": 1, "activation": ""}
    tensors = [
        Tensor("x", (1, 8, 8, 2)),
        Tensor("y", (1, 4, 4, 3)),
        Tensor.constant("w", np.ones((3, 3, 3, 2), np.float32)),
        Tensor.constant("b", np.zeros(3, np.float32)),
    ]
    node = Node("conv2d", ("x", "w", "b"), "y", attrs)
    graph = Graph("one", ("x",), ("y",), (node,), {tensor.name: tensor for tensor in tensors})
    data = FORMATS["tflite"].load().to_bytes(graph, metadata={})
    assert FORMATS["tflite"].load().op_counts(data) == {"CONV_2D": 1}, "no PAD: it is written as SAME"
    assert tflite_graph.read_graph(data).nodes[0].attrs["padding"] == ((0, 1), (0, 1))


class _Joined(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.other = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.other.weight.data *= 9
        self.head = torch.nn.Linear(11, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Of one range, the integers of either activation reach beyond what it leaves.
        parts = [torch.relu(self.conv(x)), torch.nn.functional.relu6(self.other(x)), 3 * x]
        return self.head(torch.cat(parts, 1).mean((2, 3)))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", list(READERS))
def test_a_concatenation_is_read_back(images: np.ndarray, name: str, int8: bool) -> None:
    graph = lower(export_program(_Joined(), (1, 3, 32, 32)))
    graph = ptq(graph, [images]).graph if int8 else graph
    read = READERS[name](FORMATS[name].load().to_bytes(graph, metadata={}))
    (concat,) = (node for node in read.nodes if node.op == "concat")
    activations = [node.attrs.get("activation") for node in read.nodes if node.output in concat.inputs]
    assert activations == ["relu", "relu6", ""]
    np.testing.assert_allclose(run_real(read, images), run_real(graph, images), rtol=1e-4, atol=1e-6)


class _Rows(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([y.permute(0, 2, 3, 1).reshape(1, -1, 2) for y in (self.conv(x), self.other(x))], 1)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", list(READERS))
def test_the_rows_of_images_are_read_back(images: np.ndarray, name: str, int8: bool) -> None:
    graph = lower(export_program(_Rows(), (1, 3, 32, 32)))
    graph = ptq(graph, [images]).graph if int8 else graph
    read = READERS[name](FORMATS[name].load().to_bytes(graph, metadata={}))
    moves = [(node.op, read[node.output].shape) for node in read.nodes if node.op in ("reshape", "concat")]
    assert moves == [
        ("reshape", (1, 3 * 32 * 32, 2)),
        ("reshape", (1, 2 * 15 * 15, 2)),
        ("concat", (1, 3 * 32 * 32 + 2 * 15 * 15, 2)),
    ]
    np.testing.assert_allclose(run_real(read, images), run_real(graph, images), rtol=1e-4, atol=1e-6)


def test_a_concatenation_of_batches_is_refused() -> None:
    graph = lower(export_program(_Joined(), (1, 3, 32, 32)))
    model = onnx.load_from_string(FORMATS["onnx"].load().to_bytes(graph, metadata={}))
    next(node for node in model.graph.node if node.op_type == "Concat").attribute[0].i = 0
    with pytest.raises(Unsupported, match=r"Concat .at concat. is not supported along the batch"):
        onnx_graph.read_graph(model.SerializeToString())
    model = tflite_file.unpack(FORMATS["tflite"].load().to_bytes(graph, metadata={}))
    joined = next(op for op in model.subgraphs[0].operators if hasattr(op.builtinOptions, "axis"))
    joined.builtinOptions.axis = 0
    with pytest.raises(Unsupported, match=r"CONCATENATION .at concat. is supported only without an activation"):
        tflite_graph.read_graph(tflite_file.finished(model, {}))


def test_an_op_without_a_graph_is_named(colour_model) -> None:
    model = onnx.load_from_string(colour_model())
    model.graph.node[-1].op_type = "Erf"
    with pytest.raises(Unsupported, match=r"Erf .at scores. has no lowering. Supported: Conv, Gemm"):
        onnx_graph.read_graph(model.SerializeToString())
    graph, unknown = onnx_graph.read_known(model.SerializeToString())
    assert [node.op for node in graph.nodes][-1] == "linear", "the MatMul and the Add behind it"
    assert list(unknown) == ["scores"]


def _onnx(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: int = 6, outputs: int = 4) -> bytes:
    value, numbers = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [value("x", onnx.TensorProto.FLOAT, (1, inputs))],
        [value("y", onnx.TensorProto.FLOAT, (1, outputs))],
        [numbers(data, name) for name, data in constants.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()


@pytest.mark.parametrize(
    "ops",
    [("MatMul", "Add"), ("Gemm",), ("MatMul",), ("MatMul", "Add", "Softmax")],
    ids=" ".join,
)
def test_a_matrix_product_is_a_linear_layer_however_it_is_written(ops: tuple[str, ...]) -> None:
    """The weights from a Constant node, [in, out], where a Graph has [out, in]."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    node = onnx.helper.make_node
    nodes, made = [node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight))], "x"
    for index, op in enumerate(ops):
        given = {"MatMul": [made, "w"], "Gemm": [made, "w", "b"], "Add": [made, "b"], "Softmax": [made]}[op]
        made = "y" if index == len(ops) - 1 else f"t{index}"
        nodes.append(node(op, given, [made]))
    data = _onnx(nodes, {"b": bias} if len(ops) > 1 or ops == ("Gemm",) else {})
    graph = onnx_graph.read_graph(data)
    assert [op.op for op in graph.nodes] == ["linear", *(["softmax"] if "Softmax" in ops else [])]
    tensors = onnx_graph.read_named_tensors(data)
    np.testing.assert_array_equal(np.asarray(tensors["w"].data), weight.T)
    x = rng.standard_normal((1, 6)).astype(np.float32)
    np.testing.assert_allclose(run_real(graph, x), _run_onnx(data, x), rtol=1e-5, atol=1e-6)


def _run_onnx(data: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_file_of_onnxruntimes_quantizer_is_the_integer_graph(images: np.ndarray, form: str) -> None:
    """QLinearConv, QLinearAdd, QLinearMul, QLinearConcat, QGemm: within two steps of what onnxruntime computes."""
    from edgemobile.exporters import torch_onnx

    graph = lower(export_program(_Joined(), (1, 3, 32, 32)))
    batches = [np.ascontiguousarray(image[None].transpose(0, 3, 1, 2)) for image in images]
    data = torch_onnx.quantize_static(FORMATS["onnx"].load().to_bytes(graph, metadata={}), batches, form=form)
    read = onnx_graph.read_graph(data)
    layers = [node.op for node in read.nodes if node.op in ("conv2d", "linear", "concat")]
    assert layers == ["conv2d", "conv2d", "concat", "linear"]
    (output,) = read.outputs
    qparams = read[output].qparams or read[read.nodes[-1].inputs[0]].qparams
    assert qparams is not None
    apart = run_real(read, images[:1]) - _run_onnx(data, batches[0])
    assert np.abs(apart).max() <= 2.01 * float(qparams.scale[0])


def test_pads_that_torch_computes_are_the_padding_of_the_layer() -> None:
    """torch.onnx.export(dynamo=False) writes F.pad as a Pad whose amounts are computed from constants."""
    node, number = onnx.helper.make_node, onnx.numpy_helper.from_array
    value, real = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        node("Constant", [], ["ends"], value=number(np.array([1, 1, 0, 2], np.int64))),
        node("Concat", ["none", "ends"], ["begins"], axis=0),
        node("Slice", ["begins", "from", "to", "axis"], ["part"]),
        node("Concat", ["none", "part", "none", "corner"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["padded"]),
        node("Conv", ["padded", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    integers = {"none": [0, 0], "corner": [2, 3], "from": [2], "to": [4], "axis": [0]}
    constants = [number(np.array(each, np.int64), name) for name, each in integers.items()]
    shapes = [value("x", real, (1, 3, 6, 6))], [value("y", real, (1, 2, 9, 10))]
    graph = onnx.helper.make_graph(nodes, "padded", *shapes, [*constants, number(weight, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    read = onnx_graph.read_graph(model.SerializeToString())
    (layer,) = read.nodes
    assert layer.attrs["padding"] == ((2, 3), (2, 4))
    x = np.random.default_rng(1).standard_normal((1, 6, 6, 3)).astype(np.float32)
    expected = _run_onnx(model.SerializeToString(), x.transpose(0, 3, 1, 2)).reshape(1, 2, 9, 10)
    found = run_real(read, x).reshape(1, 9, 10, 2).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_average_pool_with_same_counts_only_pixels(images: np.ndarray) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.AvgPool2d(3, stride=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    model = tflite_file.unpack(
        FORMATS["tflite"].load().to_bytes(lower(export_program(net, (1, 3, 32, 32))), metadata={})
    )
    (subgraph,) = model.subgraphs
    pool = subgraph.operators[1]
    assert tflite_file.op_name(model.operatorCodes[pool.opcodeIndex]) == "AVERAGE_POOL_2D"
    pool.builtinOptions.padding = tflite_file.schema.Padding.SAME
    subgraph.tensors[pool.outputs[0]].shape = np.array([1, 32, 32, 4], np.int32)
    data = tflite_file.pack(model)
    graph = tflite_graph.read_graph(data)
    assert graph.op_counts()["mul"] == 1
    expected = open_session(data).rows(images)
    np.testing.assert_allclose(run_real(graph, images), expected, rtol=1e-4, atol=1e-5)
