"""The tables: what the papers promise, how width and resolution scale it, and what is refused."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.errors import Unsupported
from edgemobile.models.arch import (
    ARCHS,
    RELU,
    get_arch,
    make_divisible,
    scaled,
    scaled_blocks,
    scaled_stem,
    scaled_tail,
)
from edgemobile.models.layers import block_places, layers


@given(st.floats(0.01, 10_000), st.sampled_from([4, 8, 16]))
def test_make_divisible_is_a_near_multiple(channels: float, divisor: int) -> None:
    rounded = make_divisible(channels, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * channels
    assert rounded <= max(divisor, channels + divisor)


@given(st.integers(1, 500))
def test_make_divisible_keeps_multiples(eighths: int) -> None:
    assert make_divisible(8 * eighths) == 8 * eighths


@pytest.mark.parametrize(("channels", "expected"), [(3, 8), (11.2, 16), (12, 16), (18, 24), (19.2, 24), (22.4, 24)])
def test_make_divisible_never_drops_more_than_a_tenth(channels: float, expected: int) -> None:
    assert make_divisible(channels) == expected


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.75, 1.0, 1.4])
def test_every_width_keeps_channels_on_the_grid(name: str, width: float) -> None:
    arch = scaled(ARCHS[name], width=width)
    blocks = scaled_blocks(arch)
    channels = [scaled_stem(arch), *(c for block in blocks for c in (block.expand, block.out_channels, block.squeeze))]
    assert not [c for c in channels if c % 8]
    assert [b.in_channels for b in blocks] == [scaled_stem(arch), *(b.out_channels for b in blocks[:-1])]


def test_v2_never_shrinks_its_last_convolution() -> None:
    lasts = [scaled_tail(scaled(ARCHS["v2"], width=width))[0] for width in (0.35, 1.0, 1.4)]
    assert lasts == [1280, 1280, 1792]


@pytest.mark.parametrize(("name", "tail"), [("v3-large", (960, 1280)), ("v3-small", (576, 1024)), ("v1", (0, 0))])
def test_tails_at_width_1(name: str, tail: tuple[int, int]) -> None:
    assert scaled_tail(ARCHS[name]) == tail


@pytest.mark.parametrize(
    ("name", "blocks", "skips", "squeezes"),
    [
        ("v1", 13, 0, 0),
        ("v2", 17, 10, 0),
        ("v3-large", 15, 10, 8),
        ("v3-small", 11, 6, 9),
        ("v4-conv-small", 16, 10, 0),
        ("efficientnet-lite0", 16, 9, 0),
    ],
)
def test_block_counts(name: str, blocks: int, skips: int, squeezes: int) -> None:
    rows = scaled_blocks(ARCHS[name])
    assert len(rows) == blocks
    assert sum(bool(row.squeeze) for row in rows) == squeezes
    # v1 never adds its input back, though some of its rows would fit; nor do v4's plain convolutions.
    assert sum(row.skip for row in rows) == skips


@pytest.mark.parametrize("name", [name for name in ARCHS if name.endswith("-minimalistic")])
def test_minimalistic_has_only_plain_parts(name: str) -> None:
    rows = list(layers(ARCHS[name]))
    assert {row.act for row in rows} == {"", RELU}
    assert {row.kernel for row in rows if row.op == "depthwise"} == {3}
    assert [row.op for row in rows].count("mean") == 1  # the last pool: no squeeze-and-excite


@pytest.mark.parametrize("name", [name for name, arch in ARCHS.items() if arch.head == "classifier"])
@pytest.mark.parametrize("px", [32, 64, 97, 224])
def test_shapes_chain_and_end_in_the_classes(name: str, px: int) -> None:
    arch = scaled(ARCHS[name], input_px=px, classes=7)
    rows = list(layers(arch))
    trunk = [row for row in rows if ".fc" not in row.name and not re.search(r"block\.\d+\.avgpool$", row.name)]
    assert rows[0].in_shape == (3, px, px)
    assert rows[-1].out_shape == (7, 1, 1)
    assert all(after.in_shape == before.out_shape for before, after in pairwise(trunk))
    # Five layers of stride 2, each rounding up.
    side = px
    for _ in range(5):
        side = -(-side // 2)
    last_pool = [row for row in rows if row.op == "mean"][-1]
    assert last_pool.in_shape[1:] == (side, side)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v1", [1, 2, 2, 6, 2]),
        ("v2", [1, 2, 3, 4, 3, 3, 1]),
        ("v3-large", [1, 2, 3, 4, 2, 3]),
        ("v3-small", [1, 2, 3, 2, 3]),
        ("v4-conv-small", [2, 2, 6, 6]),
        ("efficientnet-lite0", [1, 2, 2, 3, 3, 4, 1]),
    ],
)
def test_timm_opens_a_stage_where_channels_grow_or_the_picture_halves(name: str, sizes: list[int]) -> None:
    *places, behind = block_places(ARCHS[name])
    assert [sum(place["stage"] == stage for place in places) for stage in range(len(sizes))] == sizes
    assert (behind["stage"], behind["place"], behind["index"]) == (len(sizes), 0, len(places))


@pytest.mark.parametrize(("width", "ends"), [(0.5, (32, 480, 1280)), (1.0, (32, 960, 1280))])
def test_v4_keeps_its_stem_and_hidden_layer(width: float, ends: tuple[int, int, int]) -> None:
    arch = scaled(ARCHS["v4-conv-small"], width=width)
    assert (scaled_stem(arch), *scaled_tail(arch)) == ends


@pytest.mark.parametrize("width", [0.5, 1.0, 1.4])
def test_efficientnet_lite_keeps_its_stem_and_head(width: float) -> None:
    arch = scaled(ARCHS["efficientnet-lite0"], width=width)
    assert (scaled_stem(arch), *scaled_tail(arch)) == (32, 1280, 0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"width": 0.0}, "0"),
        ({"width": 9.0}, "9"),
        ({"input_px": 16}, "16 px"),
        ({"input_px": 4096}, "4096 px"),
        ({"classes": 0}, "0 classes"),
    ],
)
def test_out_of_range_is_refused(changes: dict, found: str) -> None:
    with pytest.raises(Unsupported, match=found):
        scaled(ARCHS["v2"], **changes)


def test_scaled_keeps_what_is_not_named() -> None:
    arch = scaled(scaled(ARCHS["v1"], width=0.5), classes=3)
    assert (arch.width, arch.input_px, arch.classes) == (0.5, 224, 3)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(Unsupported, match=r"unknown model 'v3_large'\. Did you mean v3-large.*Known models: v1, v2"):
        get_arch("v3_large")
    with pytest.raises(Unsupported, match=r"unknown model 'zzz'\. Known models"):
        get_arch("zzz")


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("V3-Large", "v3-large"),
        ("mobilenet_v2", "v2"),
        ("mobilenetv3_large_100", "v3-large"),
        ("mobilenet_v3_small", "v3-small"),
        ("MobileNetV4_conv_small", "v4-conv-small"),
    ],
)
def test_other_libraries_names_are_known(name: str, arch: str) -> None:
    assert get_arch(name).name == arch
