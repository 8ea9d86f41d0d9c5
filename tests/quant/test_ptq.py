"""Post-training quantization: the specification, the guards, precision by rule, and accuracy against float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run, run_real
from edgemobile.graph.origin import path_of
from edgemobile.inspection import inspect_file
from edgemobile.lower import export_program, lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import CIFAR10, at_resolution
from edgemobile.quant.ptq import ptq
from edgemobile.quant.qparams import (
    activation_qparams,
    bias_tensor,
    clamp_qparams,
    stepped_qparams,
    weight_qparams,
)
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.synthesize import synthesize
from edgemobile.quant.trials import with_float_stem
from edgemobile.quant.weights_only import to_float16, to_int8_weights
from edgemobile.util.progress import Report

_PX = 32


def _net(name: str, width: float = 0.35) -> torch.nn.Module:
    """An untrained net with uneven channels, for tests of structure; the accuracy of int8 needs a trained net."""
    torch.manual_seed(0)
    net = build_net(scaled(get_arch(name), width=width, input_px=_PX, classes=10))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return net.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(16, _PX, _PX, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=["v2", "v3-small"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return lower(export_program(_net(request.param), (1, 3, _PX, _PX)), request.param)


def _is_gate(graph: Graph, node: Node) -> bool:
    origin = graph[node.output].origin
    return origin is not None and origin.gate


def _sqnr(graph: Graph, quantized: Graph, x: np.ndarray) -> float:
    source, result = quantized[quantized.inputs[0]], quantized[quantized.outputs[0]]
    assert result.qparams is not None
    given = x if source.qparams is None else quantize(x, source.qparams, "int8")
    q = run(quantized, given)[result.name]
    return sqnr_db(run(graph, x)[graph.outputs[0]], dequantize(q, result.qparams))


@pytest.mark.parametrize("hswish", ["delegated", "fused"])
def test_int8_is_close_to_float_on_images_outside_the_calibration_set(graph: Graph, images: np.ndarray, hswish) -> None:
    result = ptq(graph, [images], Recipe(hswish=hswish)).graph
    fresh = np.random.default_rng(9).normal(size=images.shape).astype(np.float32)
    assert _sqnr(graph, result, fresh) > 30


def test_the_specification_holds_in_every_tensor(graph: Graph, images: np.ndarray) -> None:
    result = ptq(graph, [images]).graph
    for node in result.nodes:
        tensors = [result[name] for name in (*node.inputs, node.output)]
        assert all(tensor.qparams is not None for tensor in tensors), node
        assert {tensor.dtype for tensor in tensors if tensor.name not in node.inputs[2:]} == {"int8"}
        if node.op in ("conv2d", "linear"):
            x, weight, bias = (result[name] for name in node.inputs)
            assert weight.data.min() >= -127
            assert not weight.qparams.zero_point.any()
            assert weight.qparams.axis == 0
            assert bias.dtype == "int32"
            np.testing.assert_array_equal(
                bias.qparams.scale, np.float32(x.qparams.scale.astype(float) * weight.qparams.scale)
            )
        if node.attrs.get("activation"):
            assert result[node.output].qparams.zero_point == -128
        if node.op == "reshape":
            assert result[node.inputs[0]].qparams is result[node.output].qparams


def test_a_gate_only_clamps_if_its_input_reaches_minus_three(images: np.ndarray) -> None:
    net = _net("v3-small")
    for module in list(net.modules())[::2]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.normal_(0, 3)
    graph = lower(export_program(net, (1, 3, _PX, _PX)))
    result = ptq(graph, [images], Recipe(split_gates="none")).graph
    clamps = others = 0
    for node in result.nodes:
        if _is_gate(result, node):
            x, gate = result[node.inputs[0]].qparams, result[node.output].qparams
            low = float(x.scale[0]) * (-128 - int(x.zero_point[0]))
            if gate.scale[0] == x.scale[0]:
                clamps += 1
                assert int(x.zero_point[0] - gate.zero_point[0]) * float(x.scale[0]) == pytest.approx(3, rel=1e-6)
                integers = np.arange(-128, 128, dtype=np.int8)
                alone = Graph("gate", (node.inputs[0],), (node.output,), (node,), result.tensors)
                shape = (256, *(1 for _ in result[node.inputs[0]].shape[1:]))
                tensors = [
                    Tensor(name, shape, "int8", qparams=qparams)
                    for name, qparams in ((node.inputs[0], x), (node.output, gate))
                ]
                clamped = run(alone.replaced(tensors=tensors), integers.reshape(shape))[node.output].ravel()
                np.testing.assert_array_equal(clamped, np.clip(integers, clamped.min(), clamped.max()))
            else:
                others += 1
                assert low > -3.01 or float(x.scale[0]) > 3 / 8
                assert gate.scale[0] == np.float32(6 / 255)
    assert clamps >= 3
    assert others >= 3


@given(st.floats(-100, 0), st.floats(0, 1000))
def test_one_is_a_multiple_of_the_scale_and_the_range_is_covered(low: float, high: float) -> None:
    qparams, usual = stepped_qparams(low, high, 3.0), activation_qparams(low, high)
    step, moved = float(qparams.scale[0]), clamp_qparams(qparams, 3.0)
    assert step <= float(usual.scale[0]) * 1.13
    assert step * (127 - qparams.zero_point[0]) >= high - step * 0.51
    assert step * (-128 - qparams.zero_point[0]) <= low + step * 0.51
    if low <= -3 and high - low < 3 * 255 / 8:
        assert moved is not None
        assert abs(3 / step - round(3 / step)) < 1e-4
        assert qparams.zero_point[0] - moved.zero_point[0] == round(3 / step)


def test_bias_correction_removes_the_mean_error(images: np.ndarray) -> None:
    graph = lower(export_program(_net("v2"), (1, 3, _PX, _PX)))
    rules = (Rule(weights="per_tensor"),)  # coarse weights shift the means most
    plain, corrected = (
        ptq(graph, [images], Recipe(rules=rules, bias_correction=wanted)).graph for wanted in (False, True)
    )
    assert _sqnr(graph, corrected, images) > _sqnr(graph, plain, images) + 1


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_zero_is_exact_and_the_range_is_covered(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    qparams = activation_qparams(low, high)
    assert dequantize(quantize(np.zeros(1), qparams, "int8"), qparams) == 0
    ends = np.array([min(low, 0), max(high, 0)], np.float32)
    error = np.abs(dequantize(quantize(ends, qparams, "int8"), qparams) - ends)
    assert (error <= qparams.scale * 1.01).all()


def test_the_bias_never_overflows_and_dead_channels_get_a_scale() -> None:
    weight = np.array([[1.0, -1.0], [1e-12, 0.0], [0.0, 0.0]], np.float32)
    bias = np.array([0.5, 100.0, 0.0], np.float32)
    qparams = weight_qparams(weight, bias, input_scale=1e-3)
    steps = bias / (1e-3 * qparams.scale.astype(float))
    assert (np.abs(steps) < 2**31).all()
    assert qparams.scale[0] == np.float32(1 / 127)
    assert (qparams.scale > 0).all()


def test_a_bias_is_rounded_to_the_nearest_multiple_of_its_scale() -> None:
    weight = weight_qparams(np.array([[63.5], [31.75], [0.0]], np.float32), np.zeros(3), input_scale=0.1)
    bias = bias_tensor("b", np.array([0.149, -0.149, 0.0], np.float32), 0.1, weight)
    np.testing.assert_allclose(bias.qparams.scale[:2], [0.05, 0.025], rtol=1e-6)
    assert bias.data.tolist() == [3, -6, 0]


def test_a_scale_raised_for_all_channels_is_noted(images: np.ndarray) -> None:
    net = _net("v2")
    with torch.no_grad():
        net.features[0][0].weight *= 1e-14
        net.features[0][1].running_var[1] = 1.0
        net.features[0][1].bias[1] = 3.0
    graph = lower(export_program(net, (1, 3, _PX, _PX)))
    note = "features.0.2: the scale of the weights was raised, because a bias would have overflowed int32"
    assert note in ptq(graph, [images], Recipe(rules=(Rule(weights="per_tensor"),))).notes
    assert note not in ptq(graph, [images]).notes


def test_outputs_have_their_own_observer_and_headroom() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)).eval()
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            layer.bias.zero_()
    calm = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 3)).astype(np.float32)

    def scales(observer: str, headroom: float) -> list[float]:
        recipe = Recipe(output_observer=observer, output_headroom=headroom, equalize=0, refit=0, bias_correction=False)
        result = ptq(lower(export_program(net, (1, 3, 4, 4))), [calm, 10 * calm, calm], recipe).graph
        return [result[node.output].qparams.scale[0] for node in result.nodes]

    inner, output = scales("minmax", 1)
    inner_averaged, output_averaged = scales("moving_average", 1)
    assert inner == inner_averaged == output_averaged
    assert output == pytest.approx(10 * np.ptp(calm) / 255, rel=0.01)
    assert output > 2 * output_averaged
    assert scales("minmax", 2) == pytest.approx([inner, 2 * output])


class _SqueezeExcite(torch.nn.Module):
    """A convolution, a squeeze-and-excite and a classifier, with different scales."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc1, self.fc2 = (torch.nn.Conv2d(a, b, 1) for a, b in ((3, 8), (8, 4), (4, 8)))
        self.classifier = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        x = x * F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.classifier(x.mean((2, 3)))


def test_squeeze_and_excite_has_its_own_headroom() -> None:
    graph = lower(export_program(_SqueezeExcite().eval(), (1, 3, 4, 4)))
    images = np.random.default_rng(0).normal(size=(16, 4, 4, 3)).astype(np.float32)

    def scales(headroom: float) -> list[float]:
        recipe = Recipe(
            squeeze_headroom=headroom, equalize=0, refit=0, bias_correction=False, noise_optimal_scaling=False
        )
        result = ptq(graph, [images], recipe).graph
        return [result[name].qparams.scale[0] for name in (*result.inputs, *(node.output for node in result.nodes))]

    usual, wide = scales(1), scales(1.5)
    widened = [round(b / a, 3) for a, b in zip(usual, wide, strict=True)]
    # Input, conv | mean, fc1, fc2 | the gate, which is at most 6, product, mean, classifier.
    assert widened == [1, 1, 1.5, 1.5, 1.5, 1, 1, 1, 1]


def test_a_rule_keeps_layers_in_float_with_one_crossing_each_way(graph: Graph, images: np.ndarray) -> None:
    name = next(node.output for node in graph.nodes if node.op == "conv2d" and node.output != graph.nodes[0].output)
    result = ptq(graph, [images], Recipe(rules=(Rule(name, precision="float"),))).graph
    kept = [node for node in result.nodes if path_of(node.output, result[node.output].origin) == name]
    assert [result[node.output].qparams for node in kept] == [None]
    counts = result.op_counts()
    assert counts["dequantize"] == 1
    assert counts["quantize"] == 1
    assert _sqnr(graph, result, images) > 30


def test_float_first_layers_read_the_image_as_it_is(images: np.ndarray) -> None:
    """Their hard-swish stays one op, and the only crossing is behind them."""
    graph = lower(export_program(_net("v3-small"), (1, 3, _PX, _PX)), "v3-small")
    mixed = ptq(graph, [images], with_float_stem(Recipe(), graph)).graph
    first = [node.op for node in mixed.nodes[:4]]
    assert first == ["conv2d", "hardswish", "conv2d", "quantize"]
    assert mixed[mixed.inputs[0]].qparams is None
    assert sum(node.op in ("quantize", "dequantize") for node in mixed.nodes) == 1
    assert all(mixed[node.output].qparams is not None for node in mixed.nodes[3:])
    wanted, int8 = run_real(graph, images), ptq(graph, [images]).graph
    assert sqnr_db(wanted, run_real(mixed, images)) > sqnr_db(wanted, run_real(int8, images))


def test_a_constant_read_in_both_precisions_is_stored_twice(images: np.ndarray) -> None:
    graph = lower(export_program(_net("v3-small"), (1, 3, _PX, _PX)))
    plain = Recipe(split_gates="none")
    int8 = ptq(graph, [images], plain).graph
    first, *others = [node for node in int8.nodes if _is_gate(int8, node)]
    result = ptq(graph, [images], replace(plain, rules=(Rule(first.output, precision="float"),))).graph
    constants = {node.output: result[node.inputs[1]] for node in result.nodes if _is_gate(result, node)}
    assert constants.pop(first.output).qparams is None
    assert len(constants) == len(others)
    assert all(constant.dtype == "int8" for constant in constants.values())
    assert _sqnr(graph, result, images) > 30


def test_all_layers_in_float_differ_only_in_quantized_outputs(graph: Graph, images: np.ndarray) -> None:
    result = ptq(graph, [images], Recipe(rules=(Rule(precision="float"),))).graph
    assert _sqnr(graph, result, images) > 28


class _Net(torch.nn.Module):
    """A stem, then `middle`, which uses the given modules and parameters, then a linear head."""

    def __init__(
        self, middle: Callable[[_Net, torch.Tensor], torch.Tensor], channels: int = 8, **given: object
    ) -> None:
        super().__init__()
        self.middle = middle
        self.stem = torch.nn.Conv2d(3, channels, 3, 2, 1)
        for name, value in given.items():
            setattr(self, name, value)
        self.head = torch.nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self, torch.relu(self.stem(x))).mean([2, 3]))


def _times(weight: float, of: torch.nn.Conv2d) -> torch.nn.Conv2d:
    of.weight.data *= weight
    return of


def _gain(*shape: int) -> torch.nn.Parameter:
    """One factor per channel, from 0.01 to 10: applied along the wrong axis, it changes the outputs."""
    return torch.nn.Parameter(10 ** torch.linspace(-2, 1, max(shape)).reshape(shape))


_STRANGERS: dict[str, Callable[[], torch.nn.Module]] = {
    "pools": lambda: _Net(
        lambda net, y: net.conv(F.max_pool2d(F.avg_pool2d(y, 2), 3, 2, 1)) * F.adaptive_avg_pool2d(y, 1),
        conv=torch.nn.Conv2d(8, 8, 1),
    ),
    "average pool as the image's last": lambda: _Net(lambda net, y: F.avg_pool2d(y, 4)),
    "a constant of three dimensions, as wide as the image": lambda: _Net(
        lambda net, y: net.conv(y * net.gain), channels=16, gain=_gain(16, 1, 1), conv=torch.nn.Conv2d(16, 16, 3)
    ),
    "a constant of three dimensions, of another width": lambda: _Net(
        lambda net, y: net.conv(y * net.gain), channels=12, gain=_gain(12, 1, 1), conv=torch.nn.Conv2d(12, 12, 3)
    ),
    "a constant of two": lambda: _Net(
        lambda net, y: y * (net.a * net.b), a=torch.nn.Parameter(torch.rand(1, 8, 1, 1)), b=_gain(1)
    ),
    "a tiny factor": lambda: _Net(
        lambda net, y: torch.relu(net.conv(y * 1e-4)), conv=_times(1e4, torch.nn.Conv2d(8, 8, 3))
    ),
    "channels put together": lambda: _Net(
        lambda net, y: net.join(torch.cat([y, torch.relu(net.conv(y)), F.max_pool2d(y * 3, 3, 1, 1)], 1)),
        conv=torch.nn.Conv2d(8, 8, 1),
        join=torch.nn.Conv2d(24, 8, 1),
    ),
    "channels put together again and again": lambda: _Net(
        lambda net, y: net.join(torch.cat([dense := torch.cat([y, net.conv(y)], 1), net.next(dense), y], 1)),
        conv=torch.nn.Conv2d(8, 8, 3, padding=1),
        next=torch.nn.Conv2d(16, 8, 3, padding=1),
        join=torch.nn.Conv2d(32, 8, 1),
    ),
    "channels put together behind hard-swish": lambda: _Net(
        lambda net, y: net.join(torch.cat([F.hardswish(net.conv(y)), net.next(y)], 1)),
        conv=torch.nn.Conv2d(8, 8, 3),
        next=torch.nn.Conv2d(8, 8, 3),
        join=torch.nn.Conv2d(16, 8, 1),
    ),
    "a sigmoid among channels put together": lambda: _Net(
        lambda net, y: net.join(torch.cat([net.conv(y).sigmoid(), y], 1)),
        conv=torch.nn.Conv2d(8, 8, 1),
        join=torch.nn.Conv2d(16, 8, 1),
    ),
    "an auxiliary head": lambda: _Net(lambda net, y: (net.conv(y), y)[1], conv=torch.nn.Conv2d(8, 8, 3)),
}


@pytest.mark.parametrize("name", _STRANGERS)
@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(equalize=0, split_gates="none", adaround=True)], ids=["default", "adaround"]
)
def test_other_peoples_models_in_every_format(name: str, recipe: Recipe, images: np.ndarray) -> None:
    torch.manual_seed(0)
    net = _STRANGERS[name]().eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    int8 = ptq(lower(export_program(net, (1, 3, _PX, _PX))), [images], recipe).graph
    for row in FORMATS.values():
        assert sqnr_db(expected, open_session(row.load().to_bytes(int8, metadata={})).run(images)) > 38


@pytest.mark.parametrize("name", [name for name in _STRANGERS if "put together" in name and "sigmoid" not in name])
def test_concatenated_channels_stay_in_int8_in_the_runtimes(name: str, images: np.ndarray, tmp_path: Path) -> None:
    """With one scale for all channels, ReLU still has values to clamp; this must not be computed in float."""
    torch.manual_seed(0)
    int8 = ptq(lower(export_program(_STRANGERS[name]().eval(), (1, 3, _PX, _PX))), [images]).graph
    for row in FORMATS.values():
        file = tmp_path / f"net{row.suffix}"
        file.write_bytes(row.load().to_bytes(int8, metadata={}))
        facts = inspect_file(file)
        partitions = 1 if row.suffix == ".tflite" else None
        assert (facts.islands, facts.delegate_partitions) == ((), partitions)


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, y: torch.relu(net.conv(y)),
        lambda net, y: net.join(torch.cat([torch.relu(net.conv(y)), torch.relu(net.conv(y) - 1)], 1)),
    ],
    ids=["alone", "put together"],
)
def test_the_scale_of_a_nearly_constant_output_stays_within_the_limits_of_kernels(
    middle: Callable[[_Net, torch.Tensor], torch.Tensor], images: np.ndarray
) -> None:
    """LiteRT aborts the process if a layer would multiply its sum by 2^8 or more."""
    torch.manual_seed(0)
    conv = _times(100, torch.nn.Conv2d(8, 8, 3))
    net = _Net(middle, conv=conv, join=torch.nn.Conv2d(16, 8, 1)).eval()
    with torch.no_grad():
        y = net.conv(torch.relu(net.stem(torch.from_numpy(images.transpose(0, 3, 1, 2)))))
        # One pixel of each channel is slightly above zero.
        net.conv.bias -= y.amax(dim=(0, 2, 3)) - 1e-4
    int8 = ptq(lower(export_program(net, (1, 3, _PX, _PX))), [images]).graph
    for node in int8.nodes:
        if node.op in ("conv2d", "linear"):
            x, weight, result = (int8[name].qparams.scale for name in (*node.inputs[:2], node.output))
            assert (x * weight / result).max() < 2**8, node.output
    assert np.isfinite(open_session(FORMATS["tflite"].load().to_bytes(int8, metadata={})).run(images)).all()


def test_errors_name_the_mistake(images: np.ndarray) -> None:
    graph = lower(export_program(_net("v1"), (1, 3, _PX, _PX)))
    with pytest.raises(EdgemobileError, match="calibration set is empty"):
        ptq(graph, [])
    with pytest.raises(EdgemobileError, match="not finite"):
        ptq(graph, [images * np.nan])
    with pytest.raises(EdgemobileError, match="featurs"):
        ptq(graph, [images], Recipe(rules=(Rule("featurs.*", precision="float"),)))


def test_progress_counts_images_and_then_layers(images: np.ndarray) -> None:
    graph = lower(export_program(_net("v1"), (1, 3, _PX, _PX)))
    heard = _RecordedProgress()
    ptq(graph, [images[:10], images[10:]], progress=heard)
    layers = [node for node in graph.nodes if node.op in ("conv2d", "linear")]
    assert heard.steps["calibrate"] == [(10, 16), (16, 16)]
    assert heard.steps["correct int8 layers"] == [(done + 1, len(layers)) for done in range(len(layers))]


class _RecordedProgress:
    """Records the (done, total) that each step reports."""

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, int | None]]] = {}

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        said = self.steps.setdefault(title, [])
        yield lambda done, total=total: said.append((done, total))


@pytest.mark.parametrize(("store", "dtype", "least_db"), [(to_float16, "float16", 55), (to_int8_weights, "int8", 25)])
def test_weight_only_keeps_float_arithmetic_and_reduces_the_size(
    graph: Graph, images: np.ndarray, store, dtype, least_db
) -> None:
    small = store(graph)
    layers = [node for node in graph.nodes if node.op in ("conv2d", "linear")]
    assert small.op_counts()["dequantize"] == len(layers)
    assert all(small[node.inputs[1]].dtype == dtype for node in layers)
    assert sqnr_db(run(graph, images)[graph.outputs[0]], run(small, images)[small.outputs[0]]) > least_db


def test_weights_beyond_float16_saturate_and_stay_finite() -> None:
    weight, bias = np.array([[1e6, -1e6, 2.0]], np.float32), np.zeros(1, np.float32)
    tensors = {"x": Tensor("x", (1, 3)), "y": Tensor("y", (1, 1))}
    tensors |= {"w": Tensor.constant("w", weight), "b": Tensor.constant("b", bias)}
    graph = Graph("large", ("x",), ("y",), (Node("linear", ("x", "w", "b"), "y", {"activation": ""}),), tensors)
    assert to_float16(graph)["w"].data.tolist() == [[65504, -65504, 2]]


def test_synthesized_images_have_the_batch_norm_statistics_of_the_model() -> None:
    net = _net("v2")
    _remember(net, torch.nn.functional.interpolate(torch.randn(16, 3, 4, 4), size=(_PX, _PX), mode="bilinear"))
    preprocess = replace(at_resolution(CIFAR10, _PX), mean=(0.5,) * 3, std=(0.2,) * 3)
    made, again, other = (synthesize(net, preprocess, images=16, steps=30, seed=seed) for seed in (1, 1, 2))
    assert made.shape == (16, _PX, _PX, 3)
    assert (np.abs(made) <= 0.5 / 0.2 + 1e-5).all()
    noise = np.clip(np.random.default_rng(1).normal(size=made.shape).astype(np.float32), -2.5, 2.5)
    assert _forgotten(net, made) < 0.6 * _forgotten(net, noise)
    np.testing.assert_array_equal(made, again)
    assert np.abs(made - other).max() > 0.1
    assert all(parameter.requires_grad for parameter in net.parameters())


def _remember(net: torch.nn.Module, images: torch.Tensor) -> None:
    """Give every batch norm the statistics of `images`."""
    for norm in _norms(net):
        norm.momentum = None
    with torch.no_grad():
        net.train()(images)
    net.eval()


def _forgotten(net: torch.nn.Module, images: np.ndarray) -> float:
    """The distance of the channel means of `images` from the stored ones, in standard deviations."""
    distances: list[float] = []

    def compare(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        difference = (inputs[0].mean(dim=(0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        distances.append(float((difference**2).mean()))

    hooks = [norm.register_forward_pre_hook(compare) for norm in _norms(net)]
    with torch.no_grad():
        net(torch.from_numpy(images).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return float(np.mean(distances))


def _norms(net: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_synthesis_needs_a_net_that_accepts_any_batch_size() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Unflatten(0, (1,))
    )
    with pytest.raises(
        EdgemobileError, match=r"cannot be run on 2 images at once, .*Make it accept any batch size"
    ) as caught:
        synthesize(net, at_resolution(CIFAR10, 8), images=2)
    assert "\n" not in str(caught.value)


def test_synthesis_needs_batch_norm() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(EdgemobileError, match="--calib"):
        synthesize(net, CIFAR10, images=1)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (2.0, 3.0), (-3.0, -2.0)])
def test_the_output_of_a_clip_is_in_its_range_of_integers(low: float, high: float) -> None:
    """It has the steps of its input, which on these images may not reach the ends of the clip."""

    class Clamped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).clamp(low, high)

    torch.manual_seed(0)
    net = Clamped().eval()
    images = np.random.default_rng(0).normal(0, 0.3, (4, 6, 6, 3)).astype(np.float32)
    graph = ptq(lower(export_program(net, (1, 3, 6, 6))), [images]).graph
    (name,) = graph.outputs
    source, made = graph[graph.inputs[0]].qparams, graph[name].qparams
    assert source is not None
    assert made is not None
    found = dequantize(run(graph, quantize(images, source, "int8"))[name], made)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert np.abs(found - expected).max() < 0.02
