"""Groups of channels: every weight that makes or reads a channel is in its group, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from edgemobile.models.arch import get_arch, scaled_blocks
from edgemobile.models.channel_groups import channel_groups, with_widths
from edgemobile.models.layers import layers
from edgemobile.models.nets import build_net
from edgemobile.models.table import FAMILIES, exact_arch


@pytest.mark.parametrize("name", FAMILIES)
def test_the_groups_are_all_axes_of_all_weights_but_the_image_and_the_classes(name: str) -> None:
    arch = exact_arch(get_arch(name))
    state = build_net(arch).state_dict()
    found = Counter((key, axis) for group in channel_groups(arch) for key, axis in group.slices)
    assert set(found.values()) == {1}
    depthwise = {f"{layer.name}.weight" for layer in layers(arch) if layer.op == "depthwise"}
    last = list(layers(arch))[-1].name
    axes = {
        (key, axis)
        for key, value in state.items()
        for axis in range(min(value.dim(), 2))
        if not (axis == 1 and key in depthwise)
    }
    stem = next(iter(layers(arch))).name
    assert axes - set(found) == {(f"{stem}.weight", 1), (f"{last}.weight", 0), (f"{last}.bias", 0)}
    for group in channel_groups(arch):
        assert {state[key].shape[axis] for key, axis in group.slices} == {group.channels}


def test_skips_tie_blocks_together() -> None:
    groups = {group.name: group for group in channel_groups(exact_arch(get_arch("v3-large")))}
    assert groups["stem"].places == ((-1, "stem"), (0, "out_channels"))
    assert groups["blocks.6.out"].places == tuple((row, "out_channels") for row in (6, 7, 8, 9))
    assert groups["blocks.3.squeeze"].channels == 24
    assert [groups[name].channels for name in ("last", "hidden")] == [960, 1280]


def test_widths_are_set_by_group() -> None:
    arch = exact_arch(get_arch("v3-large"))
    narrow = with_widths(arch, {"blocks.6.out": 56, "blocks.4.expand": 88, "blocks.4.squeeze": 16, "last": 720})
    blocks = scaled_blocks(narrow)
    assert [block.out_channels for block in blocks[6:10]] == [56] * 4
    assert (blocks[4].expand, blocks[4].squeeze) == (88, 16)
    assert {group.name: group.channels for group in channel_groups(narrow)}["last"] == 720
    assert with_widths(arch, {}) == arch
