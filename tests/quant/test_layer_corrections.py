"""Refit, clipping, AdaRound and bias correction on single layers for which the expected result can be computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.quant.adaround import adaround
from edgemobile.quant.bias_correction import correct_bias
from edgemobile.quant.clip import clip
from edgemobile.quant.layerwise import Layer
from edgemobile.quant.qparams import bias_tensor, weight_qparams, weight_tensor
from edgemobile.quant.refit import refit

_SCALE = 1 / 64


def _layer(
    weight: np.ndarray,
    x: np.ndarray,
    target: np.ndarray | None = None,
    *,
    activation: str = "",
    per_channel: bool = True,
    bias: np.ndarray | None = None,
) -> Layer:
    """A linear layer, or a convolution for a weight [O,KH,KW,I], with weights rounded to nearest."""
    outputs = len(weight)
    bias = np.zeros(outputs, np.float32) if bias is None else bias
    conv = weight.ndim == 4
    attrs = {"activation": activation}
    if conv:
        groups = x.shape[1] // weight.shape[-1]
        attrs |= {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": groups}
    node = Node("conv2d" if conv else "linear", ("x", "w", "b"), "y", attrs)
    tensors = {"x": Tensor("x", x.shape), "y": Tensor("y", (len(x), outputs))}
    tensors |= {"w": Tensor.constant("w", weight), "b": Tensor.constant("b", bias)}
    graph = Graph("one layer", ("x",), ("y",), (node,), tensors)
    qparams = weight_qparams(weight, bias, _SCALE, per_channel=per_channel)
    images = torch.from_numpy(x)
    kernel = torch.from_numpy(weight)
    exact = (
        torch.nn.functional.conv2d(images, kernel.permute(0, 3, 1, 2), torch.from_numpy(bias), groups=attrs["groups"])
        if conv
        else images @ kernel.T + torch.from_numpy(bias)
    )
    return Layer(
        graph,
        node,
        weight_tensor("w", weight, qparams),
        bias_tensor("b", bias, _SCALE, qparams),
        weight,
        images,
        _SCALE,
        exact if target is None else torch.from_numpy(target),
    )


def _error(layer: Layer) -> float:
    return float((layer.activated(layer.output()) - layer.activated(layer.target)).square().mean())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_refit_compensates_for_an_input_lost_in_int8(rng: np.random.Generator) -> None:
    """Two inputs were equal and int8 set one to zero: refit increases the weight of the other."""
    source = rng.normal(size=(4096, 1)).astype(np.float32)
    x = np.concatenate([source, np.zeros_like(source)], axis=1)
    weight = np.array([[0.5, 0.5]], np.float32)
    layer = _layer(weight, x, target=source)
    fitted = refit(layer, 1e-3)
    np.testing.assert_allclose(fitted.float_weight, [[1.0, 0.5]], atol=0.01)
    assert _error(fitted) < _error(layer) / 100


def test_refit_keeps_weights_that_the_images_do_not_determine(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(8, 64)).astype(np.float32)
    few = _layer(weight, rng.normal(size=(4, 64)).astype(np.float32), target=rng.normal(size=(4, 8)).astype(np.float32))
    moved, trusting = (np.abs(refit(few, strength).float_weight - weight).max() for strength in (3.0, 1e-4))
    assert moved < 0.5 * trusting
    exact = _layer(weight, rng.normal(size=(512, 64)).astype(np.float32))
    np.testing.assert_allclose(refit(exact, 3.0).float_weight, weight, atol=1e-4)


def test_refit_does_not_change_depthwise_kernels(rng: np.random.Generator) -> None:
    depthwise = _layer(
        rng.normal(size=(4, 3, 3, 1)).astype(np.float32), rng.normal(size=(2, 4, 8, 8)).astype(np.float32)
    )
    assert refit(depthwise, 3.0) is depthwise


def _kernels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise kernels f32[O,3,3,1] and their input, which is zero in the channel with a huge kernel."""
    weight = rng.normal(size=(8, 3, 3, 1)).astype(np.float32)
    x = rng.uniform(0, 2, size=(16, 8, 8, 8)).astype(np.float32)
    weight[5] *= 200
    x[:, 5] = 0
    return weight, x


@pytest.mark.parametrize("activation", ["", "relu6"])
def test_clipping_saturates_weights_that_multiply_zeros(activation: str, rng: np.random.Generator) -> None:
    weight, x = _kernels(rng)
    bias = rng.uniform(0.5, 1, size=8).astype(np.float32)
    shared = _layer(weight, x, activation=activation, per_channel=False, bias=bias)
    clipped = clip(shared)
    assert _error(clipped) < _error(shared) / 1000
    without = weight * (np.arange(8) != 5).reshape(-1, 1, 1, 1).astype(np.float32)
    assert _error(clipped) < 2.1 * _error(_layer(without, x, activation=activation, per_channel=False, bias=bias))
    assert (clipped.weight.data[5].min(), clipped.weight.data[5].max()) == (-127, 127)
    # The bias has the same value with the new scale.
    before, after = (dequantize(layer.bias.data, layer.bias.qparams) for layer in (shared, clipped))
    np.testing.assert_allclose(after, before, atol=clipped.bias.qparams.scale[0])


def test_clipping_keeps_a_large_kernel_with_nonzero_input(rng: np.random.Generator) -> None:
    """Saturating the widest channel would lose more than the other channels gain."""
    weight, x = _kernels(rng)
    x[:, 5] = x[:, 4]
    shared = _layer(weight, x, per_channel=False)
    assert clip(shared).weight.qparams.scale[0] == shared.weight.qparams.scale[0]


def test_clipping_does_not_change_per_channel_scales(rng: np.random.Generator) -> None:
    layer = _layer(*_kernels(rng))
    assert clip(layer) is layer


@pytest.mark.parametrize("activation", ["", "relu"])
@pytest.mark.parametrize("shape", [(4, 32), (4, 1, 1, 32), (8, 3, 3, 1)])
def test_adaround_beats_the_nearest_integers(shape: tuple[int, ...], activation: str, rng: np.random.Generator) -> None:
    weight = rng.normal(size=shape).astype(np.float32)
    # The inputs are correlated, so the rounding errors of their weights can cancel.
    inputs = shape[-1] if shape[-1] > 1 else shape[0]
    common = rng.normal(size=(64, 1, *((1, 1) if len(shape) == 4 else ())))
    x = (common + 0.1 * rng.normal(size=(64, inputs, *((8, 8) if len(shape) == 4 else ())))).astype(np.float32)
    layer = _layer(weight, x, activation=activation)
    rounded = adaround(layer)
    assert _error(rounded) < 0.7 * _error(layer)
    difference = rounded.weight.data.astype(int) - layer.weight.data
    assert np.abs(difference).max() == 1
    assert rounded.weight.qparams is layer.weight.qparams
    assert np.array_equal(adaround(layer).weight.data, rounded.weight.data)


def test_bias_correction_moves_the_mean(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(3, 16)).astype(np.float32)
    x = (1 + rng.normal(size=(128, 16))).astype(np.float32)
    layer = _layer(weight, x)
    shifted = layer.replaced(bias=Tensor.constant("b", layer.bias.data + 500, layer.bias.qparams))
    corrected = correct_bias(shifted)
    means = (corrected.output() - corrected.target).mean(0).numpy()
    assert np.abs(means).max() <= corrected.bias.qparams.scale.max()
    assert np.abs(dequantize(corrected.bias.data, corrected.bias.qparams)).max() < 0.1
