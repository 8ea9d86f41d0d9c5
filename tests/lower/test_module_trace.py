"""The program by modules is the one by torch.export, for every reference model."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgemobile.graph import Graph
from edgemobile.lower import export_program, lower
from edgemobile.lower.module_trace import trace_modules
from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.nets import build_net

# By torch.export alone: SAME padding, resizes and the rows of a detector depend on the sides of what they read.
_OTHERS = {name for name, arch in ARCHS.items() if arch.padding == "same" or arch.head != "classifier"}


def _net(name: str, width: float = 0.35) -> nn.Module:
    torch.manual_seed(0)
    net = build_net(scaled(ARCHS[name], width=width, input_px=64, classes=7))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
    return net.eval()


def _assert_equal(found: Graph, wanted: Graph) -> None:
    assert found.nodes == wanted.nodes
    assert (found.inputs, found.outputs) == (wanted.inputs, wanted.outputs)
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        own = found[name]
        assert dataclasses.replace(own, data=None) == dataclasses.replace(tensor, data=None)
        np.testing.assert_array_equal(own.data, tensor.data)


# One of each form of block, and of each activation.
@pytest.mark.parametrize(
    ("name", "batch"),
    [("v1", 1), ("v2", 3), ("v3-small", 1), ("v3-small-minimalistic", 1), ("v4-conv-small", 1)],
)
def test_both_programs_lower_to_the_same_graph(name: str, batch: int) -> None:
    net = _net(name)
    traced = trace_modules(net, (batch, 3, 64, 64))
    assert traced is not None
    _assert_equal(lower(traced, name), lower(export_program(net, (batch, 3, 64, 64)), name))


def test_every_reference_model_has_a_program_by_its_modules() -> None:
    """But those that torch.export alone knows."""
    known = {name for name in ARCHS if trace_modules(_net(name), (1, 3, 64, 64)) is not None}
    assert known == set(ARCHS) - _OTHERS


class _Doubled(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.flatten(self.conv(x), 1))


@pytest.mark.parametrize(
    "net",
    [
        *(pytest.param(name, id=name) for name in sorted(_OTHERS)),
        pytest.param(_Doubled(nn.Softmax(dim=1)), id="a module without a row"),
        pytest.param(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Flatten()), id="padding in words"),
        pytest.param(nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect")), id="padding with pixels"),
        pytest.param(nn.BatchNorm2d(3, track_running_stats=False), id="no statistics"),
    ],
)
def test_what_is_not_known_is_left_to_torch_export(net: nn.Module | str) -> None:
    assert trace_modules(_net(net) if isinstance(net, str) else net, (1, 3, 64, 64)) is None


def test_a_reference_model_is_lowered_without_torch_export() -> None:
    code = (
        "import sys\n"
        "from edgemobile.loading.model import load_model\n"
        "load_model('v2').graph()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
