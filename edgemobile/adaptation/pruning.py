"""Smaller nets from a larger one: its weights without some channels, without a block, with a smaller kernel.

All take an arch with exact channels and its state_dict, and give both of the smaller net. What is left out is left out
of everything that makes or reads it, so channels that carry only zeros can be removed without changing an output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import Arch, scaled_blocks
from edgemobile.models.channel_groups import channel_groups, with_widths
from edgemobile.models.layers import Layer, layers
from edgemobile.models.nets import build_net

__all__ = [
    "State",
    "Weights",
    "droppable_blocks",
    "has_same_structure",
    "with_channels",
    "with_kernel",
    "without_block",
    "without_squeeze_excite",
]

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A net as data: `arch` with exact channels, and its `state`."""

    arch: Arch
    state: State

    def module(self) -> torch.nn.Module:
        """A net with these weights, in eval mode and without dropout."""
        with torch.random.fork_rng(devices=[]):
            net = build_net(self.arch, dropout=0.0)
        net.load_state_dict(dict(self.state))
        return net.eval()

    @classmethod
    def of(cls, arch: Arch, net: torch.nn.Module) -> Weights:
        """The weights of `net`, copied."""
        return cls(arch, {key: value.detach().clone() for key, value in net.state_dict().items()})


def has_same_structure(arch: Arch, other: Arch) -> bool:
    """Whether their blocks expand and have skips alike: with other widths, two counts that happen to be equal would
    give a block a skip, or take its expansion."""
    kinds = [[(block.expands, block.skip) for block in scaled_blocks(one)] for one in (arch, other)]
    return kinds[0] == kinds[1]


def with_channels(net: Weights, kept: Mapping[str, torch.Tensor]) -> Weights:
    """`net` with only the channels `kept`: name of a group -> their indices, ascending.

    Raises EdgemobileError where that would give a block a skip or take its expansion.
    """
    arch = with_widths(net.arch, {name: len(indices) for name, indices in kept.items()})
    if not has_same_structure(net.arch, arch):
        raise EdgemobileError(f"{net.arch.name} with these widths would have other skips or expansions")
    state = dict(net.state)
    for group in channel_groups(net.arch):
        if group.name in kept:
            for key, axis in group.slices:
                state[key] = state[key].index_select(axis, kept[group.name])
    return Weights(arch, _renamed(state, zip(layers(net.arch), layers(arch), strict=True)))


def droppable_blocks(arch: Arch) -> tuple[int, ...]:
    """The rows of the blocks that add to what they get, so that the net works without them."""
    return tuple(row for row, block in enumerate(scaled_blocks(arch)) if block.skip)


def without_block(net: Weights, row: int) -> Weights:
    """`net` without the block in `row`, one of `droppable_blocks`."""
    assert row in droppable_blocks(net.arch)
    arch = replace(net.arch, blocks=net.arch.blocks[:row] + net.arch.blocks[row + 1 :])
    left = [layer for layer in layers(net.arch) if layer.block != row]
    return Weights(arch, _renamed(net.state, zip(left, layers(arch), strict=True)))


def without_squeeze_excite(net: Weights, row: int) -> Weights:
    """`net` without the squeeze-and-excite of the block in `row`, which must have one."""
    assert scaled_blocks(net.arch)[row].squeeze
    blocks = list(net.arch.blocks)
    blocks[row] = replace(blocks[row], se=False, squeeze=0)
    arch = replace(net.arch, blocks=tuple(blocks))
    gate = ("squeeze", "fc1", "fc2")
    left = [layer for layer in layers(net.arch) if layer.block != row or layer.role not in gate]
    return Weights(arch, _renamed(net.state, zip(left, layers(arch), strict=True)))


def with_kernel(net: Weights, row: int, kernel: int) -> Weights:
    """`net` with the middle `kernel` x `kernel` weights of the depthwise convolution in `row`."""
    before = net.arch.blocks[row].kernel
    cut = (before - kernel) // 2
    (layer,) = (layer for layer in layers(net.arch) if layer.block == row and layer.role == "depthwise")
    key = f"{layer.name}.weight"
    blocks = list(net.arch.blocks)
    blocks[row] = replace(blocks[row], kernel=kernel)
    inner = net.state[key][:, :, cut : before - cut, cut : before - cut].contiguous()
    return Weights(replace(net.arch, blocks=tuple(blocks)), {**net.state, key: inner})


def _renamed(state: State, pairs: zip[tuple[Layer, Layer]]) -> dict[str, torch.Tensor]:
    """The entries of the first layers under the names of the second: they count blocks, and v1's also widths."""
    prefixes: dict[str, str] = {}
    for old, new in pairs:
        prefixes |= {old.name: new.name, **({old.norm: new.norm} if old.norm else {})}
    entries = ((key.rpartition("."), value) for key, value in state.items())
    return {f"{prefixes[path]}.{name}": value for (path, _, name), value in entries if path in prefixes}
