"""Training on integers: the forward pass matches the interpreter bit by bit, and its gradient reduces the loss."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import small_net
import torch

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.exporters.tflite_graph import read_graph
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.lower import export_program, lower
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.torch_graph import to_nchw
from edgemobile.quant.torch_integers import IntegerNet

_PX = small_net.PX
_IMAGES = np.random.default_rng(0).normal(size=(16, _PX, _PX, 3)).astype(np.float32)


def _net(name: str) -> torch.nn.Module:
    if name == "small":
        return small_net.make().eval()
    torch.manual_seed(0)
    return build_net(scaled(get_arch(name), width=0.35, input_px=_PX, classes=10)).eval()


def _quantized(name: str, recipe: Recipe | None = None) -> Graph:
    graph = lower(export_program(_net(name), (1, 3, _PX, _PX)))
    return ptq(graph, [_IMAGES], recipe or Recipe("test", refit=0)).graph


def _moved(net: IntegerNet) -> IntegerNet:
    """`net` with weights and biases that are not integers."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 3 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize("name", ["small", "v1", "v2", "v3-small"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_forward_pass_matches_the_interpreter_bit_by_bit(name: str, trained: bool) -> None:
    int8 = _quantized(name)
    net = _moved(IntegerNet(int8)) if trained else IntegerNet(int8)
    graph = net.graph()
    changed = [tensor for tensor, one in graph.constants.items() if not np.array_equal(one.data, int8[tensor].data)]
    assert bool(changed) == trained
    assert all(graph[tensor].qparams.equals(one.qparams) for tensor, one in int8.tensors.items() if one.qparams)
    with torch.no_grad():
        found = net(to_nchw(_IMAGES)).numpy()
    np.testing.assert_array_equal(found, run_real(graph, _IMAGES))


def test_sums_beyond_float32_are_exact() -> None:
    """A bias near 2^30 and weights at the end of their range: float32 alone would lose the last bits."""
    int8 = _quantized("small")
    layers = [node for node in int8.nodes if node.has_weights]
    tensors = []
    for node in layers:
        weight, bias = (int8[name] for name in node.inputs[1:])
        full = np.where(np.arange(weight.data.size).reshape(weight.shape) % 2, -127, 127).astype(np.int8)
        odd = (2**28 + 2 * np.arange(len(bias.data)) + 1).astype(np.int32)
        tensors += [replace(weight, data=full), replace(bias, data=odd)]
    graph = int8.replaced(tensors=tensors)
    net = IntegerNet(graph)
    with torch.no_grad():
        np.testing.assert_array_equal(net(to_nchw(_IMAGES)).numpy(), run_real(graph, _IMAGES))


@pytest.mark.parametrize("name", FORMATS)
def test_the_runtimes_compute_the_trained_integers(name: str) -> None:
    net = _moved(IntegerNet(_quantized("small")))
    with torch.no_grad():
        wanted = net(to_nchw(_IMAGES)).numpy()
    graph = net.graph()
    rows = open_session(FORMATS[name].load().to_bytes(graph, metadata={})).rows(_IMAGES)
    scale = float(graph[graph.outputs[0]].qparams.scale[0])
    # A tie that a runtime rounds the other way changes an output by one step.
    assert np.abs(rows - wanted).max() <= 1.01 * scale
    assert np.mean(rows == wanted) > 0.9


def test_the_graph_read_from_a_tflite_file_is_the_same() -> None:
    graph = _moved(IntegerNet(_quantized("small"))).graph()
    read = read_graph(FORMATS["tflite"].load().to_bytes(graph, metadata={}))
    assert set(read.tensors) == set(graph.tensors)
    np.testing.assert_array_equal(run_real(read, _IMAGES), run_real(graph, _IMAGES))


def test_training_reduces_the_loss() -> None:
    """A perturbed int8 net is trained to reproduce the outputs of the float net."""
    float_net = _net("small")
    net = _moved(IntegerNet(_quantized("small")))
    images = to_nchw(_IMAGES)
    with torch.no_grad():
        wanted = float_net(images)
    losses = []
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, eps=1e-12)
    for _ in range(60):
        loss = (net(images) - wanted).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-10:]) < 0.2 * losses[0]


def test_a_saturated_integer_has_no_gradient() -> None:
    net = IntegerNet(_quantized("small"))
    with torch.no_grad():
        net.weights[0].fill_(200)
    net(to_nchw(_IMAGES)).square().sum().backward()
    assert not net.weights[0].grad.any()
    assert net.weights[1].grad.any()


def test_a_copy_is_separate() -> None:
    net = IntegerNet(_quantized("small"))
    other = _moved(copy.deepcopy(net))
    assert not torch.equal(net.weights[0], other.weights[0])
    np.testing.assert_array_equal(run_real(net.graph(), _IMAGES), run_real(_quantized("small"), _IMAGES))


def test_a_layer_in_float_is_refused() -> None:
    mixed = _quantized("small", Recipe("mixed", rules=(Rule("project*", precision="float"),), refit=0))
    with pytest.raises(Unsupported, match="is float"):
        IntegerNet(mixed)
