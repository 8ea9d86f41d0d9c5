"""Files as other tools write them: Constant nodes, called graphs, sparse weights, outputs that are not images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from onnx import TensorProto, helper, numpy_helper

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import tflite
from edgemobile.exporters.model_files import model_file
from edgemobile.exporters.onnx_contents import read_contents as read_onnx
from edgemobile.exporters.tflite_contents import read_contents as read_tflite
from edgemobile.exporters.tflite_file import new, pack, read_tensors, schema, unpack
from edgemobile.exporters.tflite_sparse import dense
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.inspection import facts_of
from edgemobile.inspection.tracing import origin

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)


def _port(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _onnx(nodes: list[Any], inputs: list[Any], outputs: list[Any], stored: list[Any] = []) -> bytes:  # noqa: B006
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def test_a_weight_of_a_constant_node_is_a_weight() -> None:
    """The search for its origin once did not terminate."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    data = _onnx(nodes, [_port("x", [1, 3, 8, 8])], [_port("y", [1, 4, 8, 8])])
    assert origin(read_onnx(data), "w") == "w"
    (weight,) = facts_of(model_file(Path("c.onnx"), data)).weights
    assert (weight.name, weight.shape, weight.dtype) == ("w", (4, 3, 1, 1), "float32")


@pytest.mark.parametrize(
    ("attribute", "given", "dtype", "shape"),
    [
        ("value_float", 6.0, "float32", ()),
        ("value_floats", [1.0, 2.0], "float32", (2,)),
        ("value_int", 3, "int64", ()),
        ("value_ints", [1, 2, 3], "int64", (3,)),
        ("value_string", "cat", "string", ()),
        ("value_strings", ["cat", "dog"], "string", (2,)),
    ],
)
def test_every_form_of_a_constant_node_is_stored(attribute: str, given: Any, dtype: str, shape: tuple[int]) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **{attribute: given}), helper.make_node("Identity", ["c"], ["y"])]
    value = read_onnx(_onnx(nodes, [], [_port("y", list(shape))])).values["c"]
    assert (value.constant, value.dtype, value.shape) == (True, dtype, shape)
    assert value.data is None if dtype == "string" else np.array_equal(value.data, given)


def _branch(name: str, *ops: str) -> Any:
    """A graph without inputs that convolves the `x` of the outer graph with its own weight."""
    weight = numpy_helper.from_array(WEIGHT, f"{name}.w")
    nodes = [helper.make_node("Conv", ["x", f"{name}.w"], [f"{name}.0"])]
    nodes += [helper.make_node(op, [f"{name}.{i}"], [f"{name}.{i + 1}"]) for i, op in enumerate(ops)]
    return helper.make_graph(nodes, name, [], [_port(f"{name}.{len(ops)}", [1, 4, 8, 8])], [weight])


def test_the_branches_of_if_are_looked_into() -> None:
    stored = [numpy_helper.from_array(np.array(True), "yes")]
    branches = {"then_branch": _branch("then", "Relu"), "else_branch": _branch("else", "HardSwish")}
    nodes = [helper.make_node("If", ["yes"], ["y"], **branches)]
    data = _onnx(nodes, [_port("x", [1, 3, 8, 8])], [_port("y", [1, 4, 8, 8])], stored)
    facts = facts_of(model_file(Path("if.onnx"), data), ask_runtimes=False)
    assert (facts.subgraphs, facts.ops) == (2, {"Conv": 2, "HardSwish": 1, "If": 1, "Relu": 1})
    assert sorted(weight.name for weight in facts.weights) == ["else.w", "then.w"]
    assert facts.hswish == {"fused": 1}
    assert facts.bytes_by_dtype["float32"] == 2 * WEIGHT.nbytes
    # Its condition is constant, but its output is not, because the branches read x.
    contents = read_onnx(data)
    assert contents.ops[0].inputs == ("yes", "x")
    assert "y" not in contents.constants


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ([1, 1, 32, 32], "NCHW"),
        ([1, 3, "h", "w"], "NCHW"),
        ([1, 32, 32, 1], "NHWC"),
        ([1, 64, 16, 39], ""),
        ([1, 1, 1, 1404], ""),
        ([1, 255, 13, 13], ""),
        ([1, 10], ""),
    ],
)
def test_only_outputs_that_are_images_have_a_layout(shape: list[Any], layout: str) -> None:
    data = _onnx([helper.make_node("Relu", ["x"], ["y"])], [_port("x", shape)], [_port("y", shape)])
    assert facts_of(model_file(Path("o.onnx"), data)).outputs[0].layout == layout
    assert open_session(data).outputs[0].layout == layout


# ---- TFLite ---------------------------------------------------------------------------------------------------------


def _pruned() -> Graph:
    weight = RNG.standard_normal((4, 1, 1, 8)).astype(np.float32) * (RNG.random((4, 1, 1, 8)) < 0.3)
    tensors = [Tensor("x", (1, 5, 5, 8)), Tensor("y", (1, 5, 5, 4)), Tensor.constant("w", weight)]
    tensors.append(Tensor.constant("b", np.zeros(4, np.float32)))
    plain = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    node = Node("conv2d", ("x", "w", "b"), "y", plain)
    return Graph("pruned", ("x",), ("y",), (node,), {tensor.name: tensor for tensor in tensors})


def _level(size: int = 0, segments: list[int] | None = None, indices: list[int] | None = None) -> Any:
    if segments is None:
        return new("DimensionMetadata", format=schema.DimensionType.DENSE, denseSize=size)
    int32 = schema.SparseIndexVector.Int32Vector
    listed = {"arraySegments": segments, "arrayIndices": indices}
    vectors = {name: new("Int32Vector", values=np.array(values, np.int32)) for name, values in listed.items()}
    kinds = {"arraySegmentsType": int32, "arrayIndicesType": int32}
    return new("DimensionMetadata", format=schema.DimensionType.SPARSE_CSR, denseSize=0, **vectors, **kinds)


def _sparsity(order: list[int], levels: list[Any], blocks: list[int] | None = None) -> Any:
    traversal = np.array(order, np.int32)
    mapped = None if blocks is None else np.array(blocks, np.int32)
    return new("SparsityParameters", traversalOrder=traversal, blockMap=mapped, dimMetadata=levels)


def _with_sparse_weight(graph: Graph) -> bytes:
    """The graph's file with its weight as TFLite's pruning stores it: only the nonzero values, and a DENSIFY op."""
    model = unpack(tflite.to_bytes(graph, metadata={}))
    main = model.subgraphs[0]
    number = next(index for index, tensor in enumerate(main.tensors) if tensor.name == b"w")
    weight = graph["w"].data
    assert weight is not None
    rows = weight.reshape(4, 8)
    kept = rows[rows != 0]
    segments = [0, *np.cumsum((rows != 0).sum(axis=1)).tolist()]
    levels = [_level(4), _level(1), _level(1), _level(0, segments, np.nonzero(rows)[1].tolist())]
    sparse = new("Tensor", name="w/sparse", shape=main.tensors[number].shape, type=main.tensors[number].type)
    sparse.buffer, sparse.sparsity = len(model.buffers), _sparsity([0, 1, 2, 3], levels)
    model.buffers.append(new("Buffer", data=np.frombuffer(kept.tobytes(), np.uint8)))
    main.tensors[number].buffer = 0
    main.tensors.append(sparse)
    densify = schema.BuiltinOperator.DENSIFY
    model.operatorCodes.append(new("OperatorCode", builtinCode=densify, deprecatedBuiltinCode=densify, version=1))
    inputs, outputs = np.array([len(main.tensors) - 1], np.int32), np.array([number], np.int32)
    options = schema.BuiltinOptions.DensifyOptions
    made = new("Operator", opcodeIndex=len(model.operatorCodes) - 1, inputs=inputs, outputs=outputs)
    made.builtinOptionsType, made.builtinOptions = options, new("DensifyOptions")
    main.operators.insert(0, made)
    return pack(model)


def test_sparse_weights_are_weights() -> None:
    """They were reported as damaged, because fewer values are stored than the shape has."""
    graph = _pruned()
    data = _with_sparse_weight(graph)
    weight = graph["w"].data
    assert weight is not None
    # LiteRT computes the same with them as with dense ones.
    images = RNG.standard_normal((1, 5, 5, 8)).astype(np.float32)
    plain = open_session(tflite.to_bytes(graph, metadata={}))
    assert np.array_equal(open_session(data).run(images), plain.run(images))
    stored = read_tflite(data).values["w/sparse"]
    assert stored.data is not None
    assert np.array_equal(stored.data, weight)
    assert stored.nbytes == 4 * np.count_nonzero(weight)
    facts = facts_of(model_file(Path("pruned.tflite"), data))
    assert [(one.name, one.dead_channels) for one in facts.weights] == [
        ("w/sparse", int((~weight.any((1, 2, 3))).sum()))
    ]
    assert sum(facts.bytes_by_dtype.values()) == len(data)
    assert np.array_equal(np.asarray(read_tensors(data)["w/sparse"].data), weight)


def test_blocks_are_put_where_they_belong() -> None:
    """Blocks of 2 x 2 on the diagonal of a 4 x 4 matrix, as in the example of TFLite's schema."""
    levels = [_level(2), _level(0, [0, 1, 2], [0, 1]), _level(2), _level(2)]
    whole = dense(np.arange(1, 9), (4, 4), _sparsity([0, 1, 2, 3], levels, [0, 1]))
    assert whole.tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]


@pytest.mark.parametrize(
    ("order", "levels"),
    [
        ([0, 1], [_level(2), _level(0, [0, 1, 9], [0, 1])]),
        ([0, 1], [_level(2), _level(0, [0, 1, 2], [0, 7])]),
        ([0, 1], [_level(2), _level(0, [0, 1, 2], [0, -1])]),
        ([0, 1], [_level(2), _level(0, [2, 1, 0], [0, 1])]),
        ([0, 0], [_level(2), _level(2)]),
        ([0, 1], [_level(2), _level(10**9)]),
    ],
)
def test_indices_that_lead_out_of_a_sparse_weight_are_refused(order: list[int], levels: list[Any]) -> None:
    with pytest.raises((IndexError, ValueError)):
        dense(np.array([1.0, 2.0]), (2, 2), _sparsity(order, levels))


def test_a_sparse_weight_with_wrong_indices_is_damaged() -> None:
    model = unpack(_with_sparse_weight(_pruned()))
    indices = model.subgraphs[0].tensors[-1].sparsity.dimMetadata[3].arrayIndices
    indices.values = indices.values + 100
    data = pack(model)
    with pytest.raises(Unsupported, match="damaged TFLite file"):
        read_tflite(data)
    with pytest.raises(EdgemobileError, match="w/sparse"):
        read_tensors(data)


def test_the_graphs_that_tflite_ops_call_are_looked_into_once() -> None:
    model = unpack(tflite.to_bytes(_pruned(), metadata={}))
    main, body = model.subgraphs[0], unpack(tflite.to_bytes(_pruned(), metadata={})).subgraphs[0]
    model.subgraphs.append(body)
    once = schema.BuiltinOperator.CALL_ONCE
    model.operatorCodes.append(new("OperatorCode", builtinCode=once, deprecatedBuiltinCode=127, version=1))
    for _ in range(2):
        call = new("Operator", opcodeIndex=len(model.operatorCodes) - 1, inputs=None, outputs=None)
        call.builtinOptionsType = schema.BuiltinOptions.CallOnceOptions
        call.builtinOptions = new("CallOnceOptions", initSubgraphIndex=1)
        main.operators.insert(0, call)
    facts = facts_of(model_file(Path("once.tflite"), pack(model)), ask_runtimes=False)
    assert (facts.subgraphs, facts.ops) == (1, {"CALL_ONCE": 2, "CONV_2D": 2})
