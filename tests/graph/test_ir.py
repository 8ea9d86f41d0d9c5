"""A graph that is inconsistent cannot be built, and a pass returns a new one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgemobile.graph import OPS, Graph, GraphError, Node, QParams, Tensor

_ATTRS = {
    "stride": (1, 1),
    "padding": ((0, 0), (0, 0)),
    "dilation": (1, 1),
    "groups": 1,
    "kernel": (2, 2),
    "activation": "",
    "perm": (0, 2, 1),
    "slope": 0.1,
    "low": -1.0,
    "high": 1.0,
    "block": 2,
    "axis": 1,
    "begin": 0,
    "end": 1,
    "size": (2, 2),
    "mode": "nearest",
    "coordinates": "asymmetric",
}


def _node(op: str, inputs: tuple[str, ...], output: str) -> Node:
    return Node(op, inputs, output, {name: _ATTRS[name] for name in OPS[op].attrs})


def _tensors(*names: str) -> dict[str, Tensor]:
    return {name: Tensor(name, (1, 4)) for name in names}


@pytest.fixture
def chain() -> Graph:
    """x -> relu -> a -> add(a, c) -> b -> relu -> y, c constant."""
    tensors = _tensors("x", "a", "b", "y") | {"c": Tensor.constant("c", np.ones(4, np.float32))}
    nodes = (_node("relu", ("x",), "a"), _node("add", ("a", "c"), "b"), _node("relu", ("b",), "y"))
    return Graph("chain", ("x",), ("y",), nodes, tensors)


@pytest.mark.parametrize("op", OPS)
def test_a_node_carries_its_attributes_and_no_others(op: str) -> None:
    assert set(_node(op, ("x",), "y").attrs) == set(OPS[op].attrs)
    with pytest.raises(GraphError, match=f"node y: {op} has .*found .*colour"):
        Node(op, ("x",), "y", {**{name: _ATTRS[name] for name in OPS[op].attrs}, "colour": "red"})


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].attrs])
def test_a_node_misses_no_attribute(op: str) -> None:
    with pytest.raises(GraphError, match=f"node y: {op} has"):
        Node(op, ("x",), "y")


def test_an_unknown_op_is_refused() -> None:
    with pytest.raises(GraphError, match="node y: op 'mish' is not one of conv2d"):
        Node("mish", ("x",), "y")


def test_attributes_cannot_be_changed_afterwards() -> None:
    attrs = {"activation": ""}
    node = Node("add", ("a", "b"), "y", attrs)
    attrs["activation"] = "relu"
    assert node.attrs["activation"] == ""
    with pytest.raises(TypeError):
        node.attrs["activation"] = "relu"  # type: ignore[index]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ((("relu", ("a",), "y"), ("relu", ("x",), "a")), ("y",), "node y reads a, which no earlier node produces"),
        ((("relu", ("x",), "y"), ("relu", ("x",), "y")), ("y",), "tensor y is produced twice"),
        ((("relu", ("x",), "x"),), ("x",), "tensor x is produced twice"),
        ((("relu", ("x",), "y"),), ("z",), "tensor z is used but not declared, or never produced"),
        ((("relu", ("x",), "nowhere"),), ("x",), "tensor nowhere is used but not declared, or never produced"),
        ((("relu", ("x",), "y"),), ("a",), "tensor a is used but not declared, or never produced"),
        ((("relu", ("lost",), "y"),), ("y",), "node y reads lost"),
    ],
)
def test_contradictions_are_refused(nodes: tuple, outputs: tuple[str, ...], reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        Graph("bad", ("x",), outputs, tuple(_node(*row) for row in nodes), _tensors("x", "y", "a"))


def test_an_input_must_be_described() -> None:
    with pytest.raises(GraphError, match="tensor x is used but not declared"):
        Graph("bad", ("x",), ("x",), (), {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float64"}, "tensor t: dtype float64 is not one of float32"),
        ({"dtype": "int8"}, r"declared as int8\[1, 4\], data is float32\[1, 4\]"),
        ({"shape": (4, 1)}, r"declared as float32\[4, 1\], data is float32\[1, 4\]"),
    ],
)
def test_a_tensor_is_what_it_says(changes: dict, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        dataclasses.replace(Tensor.constant("t", np.zeros((1, 4), np.float32)), **changes)


@pytest.mark.parametrize("scale", [0.0, -0.5, np.inf, np.nan])
def test_scales_are_positive_and_finite(scale: float) -> None:
    with pytest.raises(GraphError, match="scales must be positive and finite"):
        QParams(np.array([0.1, scale]), np.zeros(2), axis=0)


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis", "reason"),
    [
        (np.ones(3), np.zeros(2), 0, r"scale \(3,\) and zero_point \(2,\)"),
        (np.ones((2, 2)), np.zeros((2, 2)), 0, "must be vectors"),
        (np.ones(3), np.zeros(3), None, "3 scales need an axis"),
    ],
)
def test_qparams_agree_with_themselves(
    scale: np.ndarray, zero_point: np.ndarray, axis: int | None, reason: str
) -> None:
    with pytest.raises(GraphError, match=reason):
        QParams(scale, zero_point, axis)


@pytest.mark.parametrize(
    ("dtype", "qparams", "reason"),
    [
        ("float32", QParams(np.ones(1), np.zeros(1)), "float32 cannot have a scale"),
        ("int8", QParams(np.ones(3), np.zeros(3), axis=0), r"3 scales along axis 0 of \[2, 4\]"),
        ("int8", QParams(np.ones(4), np.zeros(4), axis=2), r"4 scales along axis 2 of \[2, 4\]"),
        ("int8", QParams(np.ones(1), np.full(1, 128)), r"zero_point in 128\.\.128 is outside int8"),
        ("uint8", QParams(np.ones(1), np.full(1, -1)), r"zero_point in -1\.\.-1 is outside uint8"),
    ],
)
def test_qparams_fit_their_tensor(dtype: str, qparams: QParams, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        Tensor("t", (2, 4), dtype, qparams=qparams)


def test_qparams_take_plain_numbers_and_broadcast_along_their_axis() -> None:
    one = QParams(0.5, 3)  # type: ignore[arg-type]
    assert (one.scale.dtype, one.zero_point.dtype) == (np.float32, np.int32)
    assert one.along(4)[0].shape == (1, 1, 1, 1)
    many = QParams(np.ones(5), np.zeros(5), axis=1)
    assert many.along(4)[0].shape == many.along(4)[1].shape == (1, 5, 1, 1)


def test_reading_a_graph(chain: Graph) -> None:
    assert chain.op_counts() == {"relu": 2, "add": 1}
    assert chain.producer("b") is chain.nodes[1]
    assert chain.producer("x") is None
    assert chain.producer("c") is None
    assert chain.consumers("a") == [chain.nodes[1]]
    assert list(chain.constants) == ["c"]
    assert chain["c"].nbytes == 16


def test_replaced_returns_a_new_graph_without_dead_tensors(chain: Graph) -> None:
    shorter = chain.replaced([chain.nodes[0], _node("relu", ("a",), "y")])
    assert set(shorter.tensors) == {"x", "a", "y"}
    assert set(chain.tensors) == {"x", "a", "b", "c", "y"}
    doubled = chain.replaced(tensors=[Tensor.constant("c", np.full(4, 2, np.float32))])
    assert doubled["c"].data is not None
    assert doubled["c"].data[0] == 2
    assert doubled.nodes == chain.nodes


def test_tensors_cannot_be_changed_afterwards(chain: Graph) -> None:
    with pytest.raises(TypeError):
        chain.tensors["x"] = Tensor("x", (1,))  # type: ignore[index]
