"""Smaller nets from larger ones: what carries nothing can be left out without changing an output."""

from __future__ import annotations

import pytest
import torch

from edgemobile.adaptation.pruning import (
    Weights,
    droppable_blocks,
    with_channels,
    with_kernel,
    without_block,
)
from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import build, load_weights
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.channel_groups import NORM, channel_groups
from edgemobile.models.layers import layers
from edgemobile.models.nets import build_net
from edgemobile.models.table import FAMILIES, exact_arch

_IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _net(name: str, width: float = 0.5) -> Weights:
    """Random weights whose values keep their size from layer to layer, with batch norms that shift them."""
    arch = exact_arch(scaled(get_arch(name), width=width, input_px=32, classes=10))
    arch, net = build(arch, load_weights("random", arch))
    torch.manual_seed(0)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.bias.data.normal_(0, 0.3)
    return Weights.of(arch, net)


@torch.no_grad()
def _close(one: Weights, other: Weights) -> bool:
    outputs = [net.module()(_IMAGES) for net in (one, other)]
    return float((outputs[0] - outputs[1]).abs().max()) < 1e-5 * float(outputs[0].abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_that_carry_zeros_can_be_left_out(name: str) -> None:
    net = _net(name)
    kept = {}
    for group in channel_groups(net.arch):
        # The first group keeps its width, or a block would get a skip.
        fewer = group.channels if group.name == "stem" or group.channels < 16 else group.channels - 8
        kept[group.name] = torch.randperm(group.channels)[:fewer].sort().values
        dead = torch.ones(group.channels, dtype=torch.bool)
        dead[kept[group.name]] = False
        for layer in group.makers:
            for key in ("weight", "bias"):
                net.state[f"{layer.norm or layer.name}.{key}"][dead] = 0
    smaller = with_channels(net, kept)
    assert sum(value.numel() for value in smaller.state.values()) < sum(value.numel() for value in net.state.values())
    assert _close(net, smaller)


@pytest.mark.parametrize("name", ["v2", "v3-large"])
def test_a_block_that_adds_nothing_can_be_left_out(name: str) -> None:
    net = _net(name)
    row = droppable_blocks(net.arch)[1]
    (project,) = (layer for layer in layers(net.arch) if layer.block == row and "project" in layer.role)
    whole = without_block(net, row)
    assert not _close(net, whole)
    for key in NORM[:2]:
        net.state[f"{project.norm}.{key}"].zero_()
    assert _close(net, without_block(net, row))
    assert len(whole.arch.blocks) == len(net.arch.blocks) - 1


def test_a_kernel_whose_rim_is_zero_can_be_smaller() -> None:
    net = _net("v3-large")
    row = next(row for row, block in enumerate(net.arch.blocks) if block.kernel == 5)
    (layer,) = (layer for layer in layers(net.arch) if layer.block == row and layer.role == "depthwise")
    assert not _close(net, with_kernel(net, row, 3))
    weight = net.state[f"{layer.name}.weight"]
    middle = weight[:, :, 1:4, 1:4].clone()
    weight.zero_()
    weight[:, :, 1:4, 1:4] = middle
    assert _close(net, with_kernel(net, row, 3))


def test_widths_that_would_make_a_skip_are_refused() -> None:
    net = _net("v2", width=1.0)
    # Block 0 goes from 32 to 16 channels without a skip.
    with pytest.raises(EdgemobileError, match="other skips"):
        with_channels(net, {"stem": torch.arange(16)})


def test_v1_is_named_by_its_widths() -> None:
    """timm begins a stage where a block adds channels, so that other widths give the same block another name."""
    net = _net("v1", width=1.0)
    smaller = with_channels(net, {"blocks.7.out": torch.arange(256)})
    assert set(smaller.state) != set(net.state)
    assert set(smaller.state) == set(build_net(smaller.arch).state_dict())
    assert smaller.module()(_IMAGES).shape == (4, 10)
