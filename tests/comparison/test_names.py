"""The tensors of a file with its own names are matched with the reference's by the connections of the ops."""

from __future__ import annotations

import numpy as np
import pytest

from edgemobile.comparison.equivalent_ops import as_lowered
from edgemobile.comparison.names import FileTensor, are_alike, match
from edgemobile.graph import Graph, Node, Origin, Tensor

CONV = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
IMAGE = (1, 4, 4, 3)


def _number(name: str, value: float) -> Tensor:
    return Tensor.constant(name, np.array(value, np.float32))


def _constants(name: str, seed: int, shift: float = 0.0, scale: float = 1.0, channels: int = 3) -> list[Tensor]:
    weight = np.random.default_rng(seed).standard_normal((3, 1, 1, channels)).astype(np.float32)
    bias = np.full(3, 0.5 + shift, np.float32)
    return [
        Tensor.constant(f"{name}.w", weight * np.float32(scale)),
        Tensor.constant(f"{name}.b", bias * np.float32(scale)),
    ]


def _conv(x: str, name: str, activation: str = "") -> Node:
    return Node("conv2d", (x, f"{name}.w", f"{name}.b"), name, {**CONV, "activation": activation})


def _graph(nodes: list[Node], constants: list[Tensor], image: Tensor | None = None, **shapes: tuple[int, ...]) -> Graph:
    image = image or Tensor("image", IMAGE)
    made = [Tensor(node.output, shapes.get(node.output, IMAGE)) for node in nodes]
    tensors = {tensor.name: tensor for tensor in (image, *made, *constants)}
    return Graph("g", (image.name,), (nodes[-1].output,), tuple(nodes), tensors)


def _found(reference: Graph, other: Graph) -> dict[str, FileTensor]:
    found = match(reference, other, recorded=set(other.tensors), unread={})
    return dict(found.tensors)


@pytest.fixture
def gated() -> Graph:
    """a = conv(image), h = hardsigmoid(conv(a)), m = a h."""
    nodes = [_conv("image", "a"), _conv("a", "g"), Node("hardsigmoid", ("g",), "h")]
    nodes.append(Node("mul", ("a", "h"), "m", {"activation": ""}))
    return _graph(nodes, [*_constants("a", 0), *_constants("g", 1)])


@pytest.mark.parametrize("sixth_first", [True, False])
def test_the_sixth_of_a_hard_sigmoid_may_be_anywhere(gated: Graph, sixth_first: bool) -> None:
    """relu6(conv + 3) times 1/6, before the product or after it."""
    nodes = [_conv("image", "t0"), _conv("t0", "t1", "relu6")]
    pairs = (("t1", "sixth"), ("t2", "t0")) if sixth_first else (("t1", "t0"), ("t2", "sixth"))
    nodes += [Node("mul", pair, f"t{index}", {"activation": ""}) for index, pair in enumerate(pairs, 2)]
    other = _graph(nodes, [*_constants("t0", 0), *_constants("t1", 1, shift=3), _number("sixth", 1 / 6)])
    found = {name: own.name for name, own in _found(gated, other).items()}
    assert (found["a"], found["m"]) == ("t0", "t3")
    assert found["h" if sixth_first else "h.x6"] == ("t2" if sixth_first else "t1")
    assert (found["g.w"], found["g.b.plus3"]) == ("t1.w", "t1.b")
    assert _found(gated, other)["g.b.plus3"].origin == Origin("g.b", added=3)
    assert "g" not in found, "the file computes it in one op with the hard-sigmoid"


def test_an_unexpected_multiple_is_compared_and_so_found(gated: Graph) -> None:
    """relu6(conv + 3) times 1/5 is 1.2 times the hard-sigmoid."""
    nodes = [_conv("image", "t0"), _conv("t0", "t1", "relu6"), Node("mul", ("t1", "fifth"), "t2", {"activation": ""})]
    nodes.append(Node("mul", ("t2", "t0"), "t3", {"activation": ""}))
    other = _graph(nodes, [*_constants("t0", 0), *_constants("t1", 1, shift=3), _number("fifth", 1 / 5)])
    found = {name: own.name for name, own in _found(gated, other).items()}
    assert (found["a"], found["h.x6"], found["m"]) == ("t0", "t1", "t3")
    assert _found(gated, other)["h.x6"].origin == Origin("h", factor=6)


def test_a_hard_sigmoid_may_be_a_clamp_to_one(gated: Graph) -> None:
    """clip(conv / 6 + 1/2, 0, 1)."""
    nodes = [_conv("image", "t0"), _conv("t0", "t1"), Node("relu1", ("t1",), "t2")]
    nodes.append(Node("mul", ("t2", "t0"), "t3", {"activation": ""}))
    found = _found(gated, _graph(nodes, [*_constants("t0", 0), *_constants("t1", 1, shift=3, scale=1 / 6)]))
    assert (found["h"].name, found["m"].name, found["h.gate"].name) == ("t2", "t3", "t1")
    assert found["g.w"] == FileTensor("t1.w", (3, 1, 1, 3), 6.0)
    assert found["g.b.plus3"] == FileTensor("t1.b", (3,), 6.0, Origin("g.b", added=3))
    assert found["h.gate"].origin == Origin("h", gate=True)


def test_a_hard_swish_may_be_two_layers() -> None:
    """conv and relu6(conv + 3), each by itself; the 1/6 is in the weights of the next layer."""
    nodes = [_conv("image", "a"), Node("hardswish", ("a",), "s"), _conv("s", "y")]
    reference = _graph(nodes, [*_constants("a", 0), *_constants("y", 1)])
    nodes = [_conv("image", "t0"), Node("conv2d", ("image", "t0.w", "t1.b"), "t1", {**CONV, "activation": "relu6"})]
    nodes += [Node("mul", ("t0", "t1"), "t2", {"activation": ""}), _conv("t2", "t3")]
    other = _graph(nodes, [*_constants("t0", 0), _constants("t1", 0, shift=3)[1], *_constants("t3", 1, scale=1 / 6)])
    found = {name: own.name for name, own in _found(reference, other).items()}
    assert (found["a"], found["s.x6"], found["s.gate"], found["y"]) == ("t0", "t2", "t1", "t3")


def test_branches_of_one_shape_are_matched_by_their_weights() -> None:
    nodes = [_conv("image", "a"), _conv("image", "b"), Node("concat", ("a", "b"), "c", {"axis": 3})]
    reference = _graph(nodes, [*_constants("a", 0), *_constants("b", 1)], c=(1, 4, 4, 6))
    nodes = [_conv("image", "t0"), _conv("image", "t1"), Node("concat", ("t1", "t0"), "t2", {"axis": 3})]
    other = _graph(nodes, [*_constants("t0", 1), *_constants("t1", 0)], t2=(1, 4, 4, 6))
    found = _found(reference, other)
    assert {name: found[name].name for name in ("a", "b", "c")} == {"a": "t1", "b": "t0", "c": "t2"}


def test_a_transposed_input_and_a_linear_layer_as_a_convolution() -> None:
    nodes = [Node("mean", ("image",), "pool"), Node("reshape", ("pool",), "flat")]
    nodes.append(Node("linear", ("flat", "y.w", "y.b"), "y", {"activation": ""}))
    weight, bias = _constants("y", 0)
    flat = Tensor.constant("y.w", np.asarray(weight.data).reshape(3, 3))
    reference = _graph(nodes, [flat, bias], pool=(1, 1, 1, 3), flat=(1, 3), y=(1, 3))
    nodes = [Node("transpose", ("nchw",), "t0", {"perm": (0, 2, 3, 1)})]
    nodes += [Node("avg_pool2d", ("t0",), "t1", {"kernel": (4, 4), "stride": (1, 1)}), _conv("t1", "t2")]
    nodes.append(Node("reshape", ("t2",), "t3"))
    nchw = Tensor("nchw", (1, 3, 4, 4))
    other = _graph(nodes, _constants("t2", 0), nchw, t1=(1, 1, 1, 3), t2=(1, 1, 1, 3), t3=(1, 3))
    found = _found(reference, other)
    assert {name: found[name].name for name in ("image", "pool", "flat", "y")} == {
        "image": "t0",
        "pool": "t1",
        "flat": "t1",
        "y": "t3",
    }
    assert found["y.w"] == FileTensor("t2.w", (3, 3))


def test_each_layer_gets_the_form_that_it_reads() -> None:
    """A mean reads the reals that a product reads as integers; a layer of int8 weights rounds what it reads."""
    nodes = [_conv("image", "a"), Node("mean", ("a",), "p"), Node("mul", ("a", "p"), "m", {"activation": ""})]
    reference = _graph([*nodes, _conv("m", "y")], [*_constants("a", 0), *_constants("y", 1)], p=(1, 1, 1, 3))
    nodes = [_conv("image", "t0"), Node("quantize", ("t0",), "q0"), Node("mean", ("t0",), "t1")]
    nodes += [Node("mul", ("q0", "t1"), "t2", {"activation": ""}), Node("round", ("t2",), "r"), _conv("r", "t3")]
    other = _graph(nodes, [*_constants("t0", 0), *_constants("t3", 1)], t1=(1, 1, 1, 3))
    found = match(reference, other, recorded={"image", "t0", "q0", "t1", "t2", "t3"}, unread={})
    assert found.tensors["a"].name == "q0"
    assert {key: own.name for key, own in found.inputs.items()} == {("p", "a"): "t0"}
    assert found.rounding == {"y"}


def test_a_tensor_without_a_match_has_a_reason(gated: Graph) -> None:
    nodes = [_conv("image", "t0"), Node("add", ("t0", "image"), "t1", {"activation": ""})]
    other = _graph(nodes, _constants("t0", 0))
    found = match(gated, other, recorded=set(other.tensors), unread={})
    assert set(found.unknown) == {"g", "h", "m"}
    assert all("with the same inputs" in reason for reason in found.unknown.values())
    assert match(gated, other, set(other.tensors), {"x": "Erf (at x)"}).unknown["m"] == "Erf (at x)"


def test_names_that_agree_do_not_change(gated: Graph) -> None:
    assert are_alike(gated, ["a", "t1"])
    assert not are_alike(gated, ["t0", "a.x6", "m"])


def test_a_gate_in_one_op_stays_as_it_is(gated: Graph) -> None:
    assert [node.op for node in as_lowered(gated).nodes] == ["conv2d", "conv2d", "hardsigmoid", "mul"]
