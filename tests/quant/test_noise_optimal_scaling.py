"""The predicted quantization noise, and the channel factors that minimize it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.lower import export_program, lower
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.quant.hswish import integer_form
from edgemobile.quant.layerwise import fake_quantized
from edgemobile.quant.noise import Channels, Readers, above, observe_channels, readers
from edgemobile.quant.noise_optimal_scaling import noise_optimal_scaling
from edgemobile.quant.qparams import activation_qparams, weight_qparams, weight_tensor
from edgemobile.quant.torch_graph import TorchGraph

_PX = 32


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(1)
    net = build_net(scaled(get_arch("v3-small"), width=0.35, input_px=_PX, classes=10))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.3)
    return integer_form(lower(export_program(net.eval(), (1, 3, _PX, _PX)), "net"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, _PX, _PX, 3)).astype(np.float32)


def test_the_noise_of_one_tensor_is_predicted(graph: Graph, images: np.ndarray) -> None:
    channels, signal = observe_channels(graph, images, {})
    with torch.no_grad():
        exact = TorchGraph(graph)(images)[0]
        assert signal == pytest.approx(float(exact.double().square().sum()) / len(images))
        for name in (graph.nodes[0].output, graph.nodes[len(graph.nodes) // 2].output, graph.nodes[-1].output):
            of = channels[name]
            qparams = activation_qparams(float(of.low.min()), float(of.high.max()))
            moved = TorchGraph(graph)(
                images, lambda at, x, name=name, q=qparams: fake_quantized(x, q) if at == name else x
            )[0]
            measured = float((moved - exact).double().square().sum()) / len(images)
            assert of.noise() == pytest.approx(measured, rel=1.0), name


def test_the_noise_of_the_weights_of_a_layer_is_predicted(graph: Graph, images: np.ndarray) -> None:
    channels, _ = observe_channels(graph, images, {})
    for node in [node for node in graph.nodes if node.op == "linear"]:
        (layer,) = readers(graph, [node.inputs[0]], channels)
        weight, bias = (graph[name].data for name in node.inputs[1:])
        assert weight is not None
        assert bias is not None
        qparams = weight_qparams(weight, bias, 1.0)
        integers = weight_tensor(node.inputs[1], weight, qparams).data
        assert integers is not None
        rounded = graph.replaced(tensors=[Tensor.constant(node.inputs[1], dequantize(integers, qparams))])
        with torch.no_grad():
            moved = TorchGraph(rounded)(images)[0] - TorchGraph(graph)(images)[0]
        measured = float(moved.double().square().sum()) / len(images)
        # A linear layer is applied at one position only, so its errors are not summed over positions.
        assert 0.5 < _noise([], [layer], np.ones(len(layer.power)), together=1.0) / measured < 2, node.output


def test_ranges_include_zero_and_every_value_above_the_floor(graph: Graph, images: np.ndarray) -> None:
    name = graph.nodes[0].output
    floor = np.full(graph[name].shape[-1], -0.5)
    of = observe_channels(graph, images, {name: floor})[0][name]
    values = {}
    with torch.no_grad():
        TorchGraph(graph)(images, lambda at, value: values.setdefault(at, value))
    rows = values[name].movedim(1, -1).reshape(-1, len(floor)).numpy()
    np.testing.assert_allclose(of.high, np.maximum(rows.max(axis=0), 0), rtol=1e-5)
    np.testing.assert_allclose(of.low, np.clip(rows.min(axis=0), -0.5, 0), rtol=1e-5)
    assert above(rows, floor).min() == -0.5


def _random(seed: int, channels: int = 6) -> Channels:
    rng = np.random.default_rng(seed)
    low, high, power, gain = np.exp(rng.normal(0, 1.5, (4, channels)))
    return Channels(-low * rng.integers(0, 2, channels), high, power, gain)


def _random_readers(seed: int, written: int = 9, channels: int = 6) -> Readers:
    rng = np.random.default_rng(seed)
    peaks = np.exp(rng.normal(0, 1, (written, channels))).astype(np.float32)
    return Readers(peaks, *(np.exp(rng.normal(0, 1, size)) for size in (written, channels)))


def _noise(group: list[Channels], readers: list[Readers], factors: np.ndarray, together: float = 2.0) -> float:
    """Noise in the logits from scales of 1/255 of a range and 1/127 of a row's peak; the latter times `together`."""
    noise = sum(of.noise(factors) for of in group)
    for layer in readers:
        steps = (layer.peaks / factors).max(axis=1) / 127
        noise += together * float((layer.gain * steps**2 / 12).sum() * (layer.power * factors**2).sum())
    return noise


@pytest.mark.parametrize(("tensors", "layers"), [(1, 0), (2, 0), (4, 0), (1, 1), (2, 3)])
def test_the_factors_are_a_local_minimum_of_the_noise(tensors: int, layers: int) -> None:
    group = [_random(seed) for seed in range(tensors)]
    readers = [_random_readers(seed) for seed in range(20, 20 + layers)]
    start = np.ones(6)
    factors = noise_optimal_scaling(group, start, readers)
    least = _noise(group, readers, factors)
    assert least < 0.9 * _noise(group, readers, start)
    rng = np.random.default_rng(9)
    for spread in (0.01, 0.1, 1.0):
        for _ in range(500):
            other = factors * np.exp(rng.normal(0, spread, 6))
            assert _noise(group, readers, other) > 0.995 * least


def test_factors_a_channel_already_has_do_not_matter() -> None:
    of, had = _random(3), 2.0 ** np.array([-4, 4, 0, 2, -2, 1])
    other = Channels(of.low * had, of.high * had, of.power * had**2, of.gain / had**2)
    # Both start with factors that make the ranges of the channels equal.
    noise = (
        of.noise(noise_optimal_scaling([of], 1 / of.width)),
        other.noise(noise_optimal_scaling([other], 1 / other.width)),
    )
    assert noise[0] == pytest.approx(noise[1], rel=0.01)


def test_a_channel_without_effect_on_the_logits_gives_up_a_limited_part_of_its_range() -> None:
    # The second channel hardly affects the logits of these images, so its resolution may decrease, within a limit.
    of = Channels(np.array([0.0, -1.0]), np.ones(2), np.ones(2), np.array([1.0, 1e-9]))
    factors = noise_optimal_scaling([of], np.ones(2))
    assert 0.02 < factors[1] / factors[0] < 0.5


def test_a_channel_that_is_always_zero_keeps_its_factor() -> None:
    of = Channels(np.zeros(3), np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.0, 4.0]), np.ones(3))
    start = np.array([1.0, 7.0, 1.0])
    factors = noise_optimal_scaling([of], start)
    assert factors[1] == pytest.approx(7.0)
    assert factors[0] / factors[2] == pytest.approx(2.0, rel=0.02)
    # Its factor also stays if its weight is large.
    reader = Readers(np.array([[1.0, 100.0, 1.0]], np.float32), np.ones(1), of.power)
    assert noise_optimal_scaling([of], start, [reader])[1] == pytest.approx(7.0)


def test_a_channel_that_is_always_zero_does_not_affect_others() -> None:
    high, gain = np.array([1.0, 0.1, 0.01]), np.array([1.0, 2.0, 50.0])
    seen = Channels(np.zeros(3), high, high**2 / 3, gain)
    ends = seen.low, seen.high, seen.power
    unseen = Channels(*(np.append(each, 0.0) for each in ends), np.append(gain, 9.0))
    want, found = (
        noise_optimal_scaling([seen], np.ones(3)),
        noise_optimal_scaling([unseen], np.array([1.0, 1.0, 1.0, 7.0])),
    )
    assert np.ptp(np.log(want)) > 1
    np.testing.assert_allclose(found, [*want, 7.0])
