"""Dead channels are removed with what reads them, and the outputs stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemobile.comparison.layers import first_diverging
from edgemobile.errors import Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.interpreter import run, run_real
from edgemobile.lower.channel_bounds import channel_bounds
from edgemobile.lower.dead_channels import removed_channels, without_dead_channels
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipes import RECIPES

PX = 6


class _Net:
    """Builds a graph layer by layer, with weights by seed."""

    def __init__(self, channels: int = 3, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"x": Tensor("x", (1, PX, PX, channels))}
        self.nodes: list[Node] = []

    def conv(
        self, name: str, x: str, outputs: int, kernel: int = 1, groups: int = 1, activation: str = "relu"
    ) -> np.ndarray:
        """Add a convolution; returns its weight [O,K,K,I], to be changed in place. Its bias is "{name}.bias"."""
        before, pad = self.tensors[x].shape, kernel // 2
        weight = self.rng.normal(size=(outputs, kernel, kernel, before[-1] // groups)).astype(np.float32)
        self._constants(name, weight)
        attrs = {"stride": (1, 1), "dilation": (1, 1), "groups": groups, "activation": activation}
        attrs["padding"] = ((pad, pad), (pad, pad))
        self._add("conv2d", (x, f"{name}.weight", f"{name}.bias"), name, (*before[:-1], outputs), attrs)
        return weight

    def linear(self, name: str, x: str, outputs: int) -> np.ndarray:
        weight = self.rng.normal(size=(outputs, self.tensors[x].shape[-1])).astype(np.float32)
        self._constants(name, weight)
        self._add("linear", (x, f"{name}.weight", f"{name}.bias"), name, (1, outputs), {"activation": ""})
        return weight

    def op(self, op: str, name: str, *inputs: str, shape: tuple[int, ...] | None = None) -> None:
        attrs = {"activation": ""} if op in ("add", "mul") else {}
        self._add(op, inputs, name, shape or self.tensors[inputs[0]].shape, attrs)

    def bias(self, name: str) -> np.ndarray:
        data = self.tensors[f"{name}.bias"].data
        assert data is not None
        return data

    def graph(self) -> Graph:
        graph = Graph("net", ("x",), (self.nodes[-1].output,), tuple(self.nodes), self.tensors)
        graph.check_shapes()
        return graph

    def _constants(self, name: str, weight: np.ndarray) -> None:
        bias = self.rng.normal(size=len(weight)).astype(np.float32)
        for role, data in (("weight", weight), ("bias", bias)):
            self.tensors[f"{name}.{role}"] = Tensor.constant(f"{name}.{role}", data)

    def _add(self, op: str, inputs: tuple[str, ...], name: str, shape: tuple[int, ...], attrs: dict) -> None:
        self.tensors[name] = Tensor(name, shape)
        self.nodes.append(Node(op, inputs, name, attrs))


def _images(graph: Graph, count: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, *graph["x"].shape[1:])).astype(np.float32)


def _removed(graph: Graph) -> dict[str, int]:
    """What is removed, after the outputs were compared."""
    smaller = without_dead_channels(graph)
    smaller.check_shapes()
    (before,), (after,) = (list(run(each, _images(graph)).values()) for each in (graph, smaller))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * max(10, np.abs(before).max()))
    return removed_channels(graph, smaller)


def test_a_graph_without_dead_channels_stays_as_it_is() -> None:
    net = _Net()
    net.conv("a", "x", 8)
    net.conv("b", "a", 4)
    graph = net.graph()
    assert without_dead_channels(graph) is graph


def test_a_row_of_zeros_goes_with_the_depthwise_layer_behind_it() -> None:
    net = _Net()
    dead = net.conv("expand", "x", 8)
    net.conv("depthwise", "expand", 8, kernel=3, groups=8)
    net.conv("project", "depthwise", 4, activation="")
    dead[[1, 5]] = 0
    net.bias("expand")[[1, 5]] = -1
    graph = net.graph()
    assert _removed(graph) == {"expand": 2, "depthwise": 2}
    assert without_dead_channels(graph)["project.weight"].shape == (4, 1, 1, 6)


def test_a_constant_goes_into_the_bias_of_what_reads_it() -> None:
    net = _Net()
    net.conv("a", "x", 8)[3] = 0
    net.bias("a")[3] = 2.5
    weight = net.conv("b", "a", 4, activation="")
    graph = net.graph()
    assert _removed(graph) == {"a": 1}
    expected = net.bias("b") + 2.5 * weight[:, 0, 0, 3]
    np.testing.assert_allclose(without_dead_channels(graph)["b.bias"].data, expected, rtol=1e-6)


def test_a_constant_that_padding_interrupts_stays() -> None:
    net = _Net()
    net.conv("a", "x", 8)[3] = 0
    net.bias("a")[3] = 2.5
    net.conv("b", "a", 4, kernel=3)
    assert _removed(net.graph()) == {}


def test_a_channel_that_relu_keeps_silent_for_every_input_is_dead() -> None:
    """What it reads is from 0 to 6, and its bias is lower than all it can add up to."""
    net = _Net()
    net.conv("a", "x", 4, activation="relu6")
    weight = net.conv("b", "a", 8)
    net.bias("b")[:] = 1
    net.bias("b")[2] = -6 * np.maximum(weight[2], 0).sum() - 0.01
    net.conv("c", "b", 4, activation="")
    assert _removed(net.graph()) == {"b": 1}
    net.bias("b")[2] += 0.1
    assert _removed(net.graph()) == {}


def test_a_channel_that_nothing_reads_is_dead() -> None:
    net = _Net()
    net.conv("a", "x", 8)
    net.conv("b", "a", 4)[..., [0, 6, 7]] = 0
    assert _removed(net.graph()) == {"a": 3}


@pytest.mark.parametrize(("alive", "expected"), [(False, {"stem": 1, "project": 1}), (True, {})])
def test_a_channel_of_a_residual_goes_only_if_every_block_leaves_it_alone(alive: bool, expected: dict) -> None:
    net = _Net()
    net.conv("stem", "x", 6)[2] = 0
    net.conv("expand", "stem", 8)
    project = net.conv("project", "expand", 6, activation="")
    for name in ("stem", "project"):
        net.bias(name)[2] = 0
    if not alive:
        project[2] = 0
    net.op("add", "sum", "stem", "project")
    net.conv("head", "sum", 4)
    assert _removed(net.graph()) == expected


def test_the_gate_of_a_removed_channel_goes_too() -> None:
    net = _Net()
    net.conv("expand", "x", 8)[4] = 0
    net.bias("expand")[4] = -1
    net.op("mean", "pool", "expand", shape=(1, 1, 1, 8))
    net.conv("squeeze", "pool", 4)
    net.conv("excite", "squeeze", 8, activation="")
    net.op("hardsigmoid", "gate", "excite")
    net.op("mul", "scaled", "expand", "gate")
    net.conv("project", "scaled", 4, activation="")
    assert _removed(net.graph()) == {"expand": 1, "excite": 1}


def test_a_flattened_image_loses_its_channel_at_every_pixel() -> None:
    net = _Net()
    net.conv("a", "x", 4)[1] = 0
    net.bias("a")[1] = -1
    net.op("mean", "pool", "a", shape=(1, 1, 1, 4))
    net.op("reshape", "flat", "pool", shape=(1, 4))
    net.linear("head", "flat", 5)
    assert _removed(net.graph()) == {"a": 1}


def test_one_channel_is_left_where_all_are_dead() -> None:
    net = _Net()
    net.conv("a", "x", 8)[:] = 0
    net.conv("b", "a", 4, activation="")
    assert _removed(net.graph()) == {"a": 7}


def test_weights_that_two_layers_read_stay_whole() -> None:
    net = _Net()
    net.conv("stem", "x", 4)
    net.conv("a", "stem", 4)[1] = 0
    net.bias("a")[1] = -1
    node = net.nodes[-1]
    net.tensors["b"] = Tensor("b", net.tensors["a"].shape)
    net.nodes.append(Node("conv2d", ("a", *node.inputs[1:]), "b", node.attrs))
    net.conv("c", "b", 4)
    assert _removed(net.graph()) == {}


def _random_net(seed: int) -> Graph:
    """Inverted residuals with squeeze-and-excite, zeros strewn over rows, columns and biases."""
    net = _Net(seed=seed)
    rng = net.rng
    activations = ["relu", "relu6", ""]
    layers = [("stem", net.conv("stem", "x", 8, 3, activation=rng.choice(activations)))]
    x = "stem"
    for block in range(2):
        name = f"b{block}"
        layers.append((f"{name}.e", net.conv(f"{name}.e", x, 12, activation=rng.choice(activations))))
        net.op("hardswish", f"{name}.h", f"{name}.e")
        layers.append((f"{name}.d", net.conv(f"{name}.d", f"{name}.h", 12, 3, 12, activation=rng.choice(activations))))
        net.op("mean", f"{name}.m", f"{name}.d", shape=(1, 1, 1, 12))
        layers.append((f"{name}.s", net.conv(f"{name}.s", f"{name}.m", 4)))
        layers.append((f"{name}.x", net.conv(f"{name}.x", f"{name}.s", 12, activation="")))
        net.op("hardsigmoid", f"{name}.g", f"{name}.x")
        net.op("mul", f"{name}.p", f"{name}.d", f"{name}.g")
        layers.append((f"{name}.o", net.conv(f"{name}.o", f"{name}.p", 8, activation="")))
        net.op("add", f"{name}.sum", x, f"{name}.o")
        x = f"{name}.sum"
    net.op("mean", "pool", x, shape=(1, 1, 1, 8))
    net.op("reshape", "flat", "pool", shape=(1, 8))
    net.linear("head", "flat", 5)
    for name, weight in layers:
        rows = rng.random(len(weight)) < rng.choice([0.0, 0.3])
        weight[rows] = 0
        net.bias(name)[rows & (rng.random(len(weight)) < 0.7)] = rng.choice([0.0, -4.0])
        weight[..., rng.random(weight.shape[-1]) < rng.choice([0.0, 0.2])] *= 0
    return net.graph()


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_any_zeros_leave_the_outputs_alone(seed: int) -> None:
    _removed(_random_net(seed))


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_bounds_hold_every_value(seed: int) -> None:
    graph = _random_net(seed)
    bounds = channel_bounds(graph)
    for name, value in run(graph, 3 * _images(graph), keep_all=True).items():
        room = 1e-4 * max(1.0, float(np.abs(value).max()))
        assert (value >= bounds[name].low - room).all(), name
        assert (value <= bounds[name].high + room).all(), name


def _with_zeros() -> tuple[Graph, np.ndarray]:
    """(an expand, depthwise, project with two channels of zeros, the weight that reads them)"""
    net = _Net()
    dead = net.conv("expand", "x", 8)
    net.conv("depthwise", "expand", 8, kernel=3, groups=8)
    project = net.conv("project", "depthwise", 4, activation="")
    net.op("mean", "pool", "project", shape=(1, 1, 1, 4))
    dead[[1, 5]] = 0
    for name in ("expand", "depthwise"):
        net.bias(name)[[1, 5]] = 0
    return net.graph(), project


def _int8(graph: Graph) -> Graph:
    return ptq(graph, [_images(graph, 16)], RECIPES["minmax"]).graph


def test_removed_zeros_leave_the_integers_of_int8_alone() -> None:
    """Values of zero add nothing, and a range contains 0 with or without them."""
    whole, project = _with_zeros()
    project[..., [1, 5]] *= 0.1
    smaller = without_dead_channels(whole)
    assert removed_channels(whole, smaller) == {"expand": 2, "depthwise": 2}
    kept, left = (run_real(_int8(graph), _images(whole, 16)) for graph in (whole, smaller))
    np.testing.assert_array_equal(kept, left)


def test_a_removed_weight_takes_no_part_in_the_scale_of_its_channel() -> None:
    whole, project = _with_zeros()
    project[2, ..., 1] = 100
    before, after = (_int8(graph)["project.weight"].qparams for graph in (whole, without_dead_channels(whole)))
    assert before.scale[2] == pytest.approx(100 / 127, rel=1e-3)
    assert after.scale[2] < 5 / 127


def test_an_export_leaves_them_out_and_parity_compares_every_layer(tmp_path: Path) -> None:
    """The package's v2 has dead channels."""
    from edgemobile import export, parity

    exported, kept = (export("v2", res=32, out=tmp_path / name, keep_dead=name == "kept") for name in ("out", "kept"))
    assert any("dead channels removed: 30 in 12 layers" in note for note in exported.notes)
    assert not any("removed" in note for note in kept.notes)
    files = sorted(path for path in tmp_path.rglob("v2-float32.*"))
    assert len(files) == 2 * len(FORMATS)
    report = parity("v2", files, layers=True)
    assert report.passed
    for file in report.files:
        assert file.layers
        assert not file.unmatched
        assert first_diverging(file.layers) is None


def test_a_file_with_them_and_one_without_compare_one_way(tmp_path: Path) -> None:
    from edgemobile import export, parity

    for name in ("out", "kept"):
        export("v2", res=32, to="tflite", out=tmp_path / name, keep_dead=name == "kept")
    less, all_of_them = (tmp_path / name / "v2-float32.tflite" for name in ("out", "kept"))
    for reference, other, compared in ((all_of_them, less, True), (less, all_of_them, False)):
        (file,) = parity(reference, [other], layers=True).files
        assert not file.missed
        assert bool(file.layers) == compared
        assert ("make this file the reference" in file.not_compared) != compared


def test_an_export_without_them_is_no_checkpoint(tmp_path: Path) -> None:
    from edgemobile import export

    export("v2", res=32, to="tflite", out=tmp_path / "out")
    with pytest.raises(Unsupported, match=r"without the 30 dead channels of v2.*--keep-dead"):
        export("v2", weights=tmp_path / "out" / "v2-float32.tflite", out=tmp_path / "again")
