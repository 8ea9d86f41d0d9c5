"""Equalization and separate gates: the function is unchanged, int8 is closer to it, also for badly scaled nets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run
from edgemobile.lower import export_program, lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.quant.calibration import calibrate
from edgemobile.quant.equalize import equalizable, equalize, rescale_randomly, rescaled
from edgemobile.quant.hardswish_gates import GATES, highest_cost, split_gates
from edgemobile.quant.hswish import integer_form
from edgemobile.quant.layerwise import fake_quantized
from edgemobile.quant.noise import Channels, observe_channels
from edgemobile.quant.ptq import ptq, qparams_of
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.torch_graph import TorchGraph

_PX = 32
_PER_TENSOR = (Rule(weights="per_tensor"),)
_OFF = Recipe(split_gates="none", equalize=0)


def _net(name: str) -> torch.nn.Module:
    """An untrained net whose batch norms make its channels uneven, as training does."""
    torch.manual_seed(1)
    net = build_net(scaled(get_arch(name), width=0.35, input_px=_PX, classes=10))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.exp(torch.randn(module.num_features))
            module.bias.data.normal_(0, 0.3)
    return net.eval()


def _graph(name: str) -> Graph:
    return _lowered(_net(name))


def _lowered(net: torch.nn.Module) -> Graph:
    return lower(export_program(net, (1, 3, _PX, _PX)), "net")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return _graph("v3-small")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, _PX, _PX, 3)).astype(np.float32)


def _peaks(graph: Graph, images: np.ndarray) -> dict[str, np.ndarray]:
    values = run(graph, images, keep_all=True)
    return {name: np.abs(value).reshape(-1, value.shape[-1]).max(axis=0) for name, value in values.items()}


def _sqnr(graph: Graph, recipe: Recipe, images: np.ndarray) -> float:
    quantized = ptq(graph, [images], recipe).graph
    source, result = quantized[quantized.inputs[0]].qparams, quantized[quantized.outputs[0]].qparams
    assert source is not None
    assert result is not None
    logits = run(quantized, quantize(images, source, "int8"))[quantized.outputs[0]]
    return sqnr_db(run(graph, images)[graph.outputs[0]], dequantize(logits, result))


@pytest.mark.parametrize("name", ["v1", "v2", "v3-small"])
def test_equalization_keeps_the_function_and_makes_channel_ranges_similar(name: str, images: np.ndarray) -> None:
    form = integer_form(_graph(name))
    channels, _ = observe_channels(form, images, {})
    factors = equalize(form, channels, by_noise=False)
    equal = rescaled(form, factors)
    want, got = run(form, images, keep_all=True), run(equal, images, keep_all=True)
    for tensor, value in got.items():
        assert sqnr_db(want[tensor] * factors.get(tensor, np.ones(1)), value) > 90, tensor
    before, after = _peaks(form, images), _peaks(equal, images)
    for tensor in factors:
        peak = np.log(before[tensor][before[tensor] > 0]), np.log(after[tensor][after[tensor] > 0])
        assert np.ptp(peak[1]) <= np.ptp(peak[0]) * 1.2 + 0.7, tensor
    # A depthwise block of v1 contains only ReLU; v2 has ReLU6, so only its linear bottlenecks can be equalized.
    assert bool(factors) == (name != "v1" or any(node.attrs.get("activation") == "relu" for node in form.nodes))


def test_tensors_before_a_nonlinearity_that_depends_on_scale_are_not_rescaled(graph: Graph) -> None:
    form = integer_form(graph)
    free = {name for group in equalizable(form) for name in group}
    assert not free & {*form.inputs, *form.outputs}
    for node in form.nodes:
        if node.attrs.get("activation") == "relu6":
            assert node.output not in free
            if node.op == "add":
                assert node.inputs[0] not in free


def test_layers_that_share_weights_are_not_rescaled() -> None:
    """Rescaling the weights for one layer would rescale them for the other too."""
    names = ("input", "a", "b", "c", "d", "last")
    nodes = tuple(
        Node("linear", (x, f"{own}.weight", f"{own}.bias"), y, {"activation": ""})
        for (x, y), own in zip(itertools.pairwise(names), ("first", "both", "both", "first", "third"), strict=True)
    )
    rng = np.random.default_rng(0)
    tensors = {name: Tensor(name, (1, 3)) for name in names}
    for own in ("first", "both", "third"):
        tensors[f"{own}.weight"] = Tensor.constant(f"{own}.weight", rng.normal(size=(3, 3)).astype(np.float32))
        tensors[f"{own}.bias"] = Tensor.constant(f"{own}.bias", rng.normal(size=3).astype(np.float32))
    shared = Graph("shared", ("input",), ("last",), nodes, tensors)
    assert equalizable(shared) == []
    alone = shared.replaced((*nodes[:2], Node("linear", ("b", *nodes[4].inputs[1:]), "last", {"activation": ""})))
    assert equalizable(alone) == [["a"], ["b"]]


def test_a_separate_gate_allows_rescaling_the_stem(graph: Graph, images: np.ndarray) -> None:
    form = integer_form(graph)
    split, names = split_gates(form, lambda node: GATES["stem"](form, node))
    assert names == [form.nodes[0].output]
    assert split.op_counts()["conv2d"] == form.op_counts()["conv2d"] + 1
    assert split.op_counts()["add"] == form.op_counts()["add"] - 1
    assert sqnr_db(run(form, images)[form.outputs[0]], run(split, images)[split.outputs[0]]) > 100
    assert names[0] in {name for group in equalizable(split) for name in group}
    assert names[0] not in {name for group in equalizable(form) for name in group}


def test_only_noisy_gates_are_separated_and_none_if_int8_is_accurate_enough(graph: Graph) -> None:
    form, split = split_gates(integer_form(graph), lambda node: True)
    groups = equalizable(form)
    even = Channels(np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2), np.array([0.01, 0.01]))
    # Its second channel has a hundredth of the range, and only this channel affects the logits.
    uneven = Channels(np.array([-1.0, -0.01]), np.array([1.0, 0.01]), np.ones(2), np.array([0.0, 1.0]))
    stem, dear, *_ = split
    channels = {name: uneven if {dear, split[-1]} & set(group) else even for group in groups for name in group}
    factors = {name: np.array([1.0, 100.0 if channels[name] is uneven else 1.0]) for name in channels}
    noise = sum(of.noise() for of in channels.values())
    assert highest_cost(form, split, groups, channels, factors, signal=noise) == {stem, dear, split[-1]}
    assert highest_cost(form, split, groups, channels, factors, signal=10_000 * noise) == {stem}
    # Without a gain in accuracy, no multiplication is added.
    assert highest_cost(form, split, groups, channels, dict.fromkeys(factors, np.ones(2)), signal=noise) == {stem}


def test_a_tensor_records_the_factors_of_its_channels(graph: Graph, images: np.ndarray) -> None:
    qgraph = ptq(graph, [images]).graph
    rescaled = {name: origin for name, origin in qgraph.origins.items() if origin.channel_factors}
    assert len(rescaled) > 5
    assert all(name.endswith(".eq") for name in rescaled)
    want = run(graph, images, keep_all=True)
    source = qgraph[qgraph.inputs[0]].qparams
    assert source is not None
    got = run(qgraph, quantize(images, source, "int8"), keep_all=True)
    for name, origin in rescaled.items():
        path = origin.of
        qparams = qgraph[name].qparams
        assert qparams is not None
        if path in want:
            real = dequantize(got[name], qparams) / origin.channel_factors / origin.factor
            reference = want[path]
            # The input of a hard-swish is clamped at -3, so values below are not compared.
            if any(node.op == "hardswish" and path in node.inputs for node in graph.nodes):
                reference, real = np.maximum(reference, -3), np.maximum(real, -3)
            assert sqnr_db(reference, real) > 12, name


def test_values_below_the_floor_of_a_gate_do_not_change_it() -> None:
    """hardswish(x) is 0 below -3, where int8 clamps x: the lower mean in float is not an error of the gate."""
    net = _net("v3-small")
    norm = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
    with torch.no_grad():
        norm.bias[:4] = -6
    images = np.random.default_rng(0).normal(size=(16, _PX, _PX, 3)).astype(np.float32)
    quantized = ptq(_lowered(net), [images], Recipe(split_gates="stem")).graph
    gates = [node for node in quantized.nodes if node.output.startswith("features.0") and node.output.endswith("gate")]
    (bias,) = (quantized[gate.inputs[2]] for gate in gates)
    assert bias.data is not None
    assert bias.qparams is not None
    np.testing.assert_allclose(dequantize(bias.data, bias.qparams), 3, atol=0.05)


def test_channels_with_little_variation_get_a_small_enough_step() -> None:
    """As in nets pretrained on ImageNet: stem channels far from zero, followed by edge detectors."""
    net = _net("v3-small")
    norm = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
    depthwise = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
    with torch.no_grad():
        norm.weight[:4] = 0.1
        norm.bias[:4] = 2
        depthwise.weight[:4] -= depthwise.weight[:4].mean((2, 3), keepdim=True)
        depthwise.weight[:4] *= 10
    graph = _lowered(net)
    images = np.random.default_rng(0).normal(size=(16, _PX, _PX, 3)).astype(np.float32)
    alike, least = (_activations_alone(graph, Recipe(noise_optimal_scaling=least), images) for least in (False, True))
    # The weights contribute part of the noise; without equalization it would be 2 dB.
    assert least > alike + 1


def _activations_alone(graph: Graph, recipe: Recipe, images: np.ndarray) -> float:
    """The SQNR of the logits with exact weights."""
    form, qparams = qparams_of(calibrate(graph, [images]), recipe)
    network = TorchGraph(form)
    with torch.no_grad():
        (exact,) = network(images)
        (rounded,) = network(images, lambda name, value: fake_quantized(value, qparams[name]))
    return sqnr_db(exact.numpy(), rounded.numpy())


@pytest.mark.parametrize("rules", [(), _PER_TENSOR])
def test_int8_stays_accurate_after_rescaling_channels(rules: tuple[Rule, ...]) -> None:
    graph = _graph("v3-small")
    # With fewer images, the ranges of channels are random, and the result varies by 4 dB.
    images = np.random.default_rng(0).normal(size=(16, _PX, _PX, 3)).astype(np.float32)
    # The integer form has more tensors to rescale: hard-swish with a separate gate allows factors.
    form = integer_form(graph)
    tortured = rescale_randomly(form, np.random.default_rng(3))
    assert sqnr_db(run(form, images)[form.outputs[0]], run(tortured, images)[form.outputs[0]]) > 90
    naive = replace(_OFF, rules=(Rule(weights="per_tensor", observer="minmax"),), clip_weights=False)
    recipe = Recipe(rules=rules, equalize=1)
    assert _sqnr(tortured, recipe, images) > _sqnr(form, recipe, images) - 3
    assert _sqnr(tortured, recipe, images) > _sqnr(tortured, naive, images) + 6
