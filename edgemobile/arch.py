"""The papers' tables: each MobileNet is rows of blocks, scaled by a width and a resolution multiplier.

Add a model here: a table of blocks, an entry in ARCHS, and its goldens in tests/test_arch.py.

Sources: MobileNets (arXiv:1704.04861, table 1), MobileNetV2 (arXiv:1801.04381, table 2),
Searching for MobileNetV3 (arXiv:1905.02244, tables 1 and 2). Where a paper leaves a detail open, the table follows the
public checkpoints: torchvision's for v2 and v3, timm's for v1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edgemobile.errors import Unsupported

__all__ = ["ARCHS", "Arch", "Block", "Layer", "Tail", "get_arch", "layers", "make_divisible", "scaled"]

Activation = Literal["relu", "relu6", "hardswish"]
RELU: Activation = "relu"
RELU6: Activation = "relu6"
HSWISH: Activation = "hardswish"


@dataclass(frozen=True)
class Block:
    """One row of a paper's table. Channels are those at width 1.

    `expand` is the width of the depthwise convolution: channels in v3, a multiple of the input in v2
    (`Arch.expand_is_ratio`), and 0 for v1's separable block, which does not expand.
    """

    kernel: int
    expand: int
    out_channels: int
    stride: int = 1
    act: Activation = RELU6
    se: bool = False


@dataclass(frozen=True)
class Tail:
    """What follows the blocks: an optional 1x1 convolution before the pool, an optional 1x1 layer after it.

    `conv` and `hidden` are channels at width 1; 0 leaves the layer out. v3's efficient last stage is the one with both.
    `conv` grows with the width but, with `conv_floor`, never shrinks below its value at width 1 (v2).
    """

    conv: int = 0
    hidden: int = 0
    act: Activation = RELU6
    conv_floor: bool = False


@dataclass(frozen=True)
class Arch:
    """A MobileNet at one width, resolution and number of classes.

    `keys` names the state_dict layout: "timm" (v1), "torchvision-v2" or "torchvision-v3".
    """

    name: str
    paper: str
    keys: Literal["timm", "torchvision-v2", "torchvision-v3"]
    stem: int
    stem_act: Activation
    blocks: tuple[Block, ...]
    tail: Tail
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    expand_is_ratio: bool = False
    width: float = 1.0
    input_px: int = 224
    classes: int = 1000

    def __post_init__(self) -> None:
        if not 0.05 <= self.width <= 8:
            raise Unsupported(f"width multiplier {self.width:g} of {self.name} is out of range: allowed are 0.05 to 8")
        if not 32 <= self.input_px <= 2048:
            raise Unsupported(f"resolution {self.input_px} px of {self.name} is out of range: allowed are 32 to 2048")
        if self.classes < 1:
            raise Unsupported(f"{self.name} with {self.classes} classes: at least 1 is needed")


@dataclass(frozen=True)
class Layer:
    """One layer with weights or one pool, at its real size. Shapes are (channels, height, width), batch 1.

    `name` is the PyTorch module path, so it matches the state_dict, the graph's tensors and a parity report.
    """

    name: str
    op: Literal["conv2d", "depthwise", "mean", "linear"]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: int = 1
    stride: int = 1
    norm: bool = False
    bias: bool = False
    act: str = ""


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never below 90 % of `channels` (the TF-Slim rule the papers use)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _v1() -> tuple[Block, ...]:
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    return tuple(Block(kernel=3, expand=0, out_channels=c, stride=s) for c, s in rows)


def _v2() -> tuple[Block, ...]:
    # t, c, n, s as in the paper: expansion, channels, repeats, stride of the first repeat.
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return tuple(
        Block(kernel=3, expand=t, out_channels=c, stride=s if i == 0 else 1) for t, c, n, s in rows for i in range(n)
    )


_V3_LARGE = (
    Block(kernel=3, expand=16, out_channels=16, se=False, act=RELU, stride=1),
    Block(kernel=3, expand=64, out_channels=24, se=False, act=RELU, stride=2),
    Block(kernel=3, expand=72, out_channels=24, se=False, act=RELU, stride=1),
    Block(kernel=5, expand=72, out_channels=40, se=True, act=RELU, stride=2),
    Block(kernel=5, expand=120, out_channels=40, se=True, act=RELU, stride=1),
    Block(kernel=5, expand=120, out_channels=40, se=True, act=RELU, stride=1),
    Block(kernel=3, expand=240, out_channels=80, se=False, act=HSWISH, stride=2),
    Block(kernel=3, expand=200, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=184, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=184, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=480, out_channels=112, se=True, act=HSWISH, stride=1),
    Block(kernel=3, expand=672, out_channels=112, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=672, out_channels=160, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=960, out_channels=160, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=960, out_channels=160, se=True, act=HSWISH, stride=1),
)

_V3_SMALL = (
    Block(kernel=3, expand=16, out_channels=16, se=True, act=RELU, stride=2),
    Block(kernel=3, expand=72, out_channels=24, se=False, act=RELU, stride=2),
    Block(kernel=3, expand=88, out_channels=24, se=False, act=RELU, stride=1),
    Block(kernel=5, expand=96, out_channels=40, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=240, out_channels=40, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=240, out_channels=40, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=120, out_channels=48, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=144, out_channels=48, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=288, out_channels=96, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=576, out_channels=96, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=576, out_channels=96, se=True, act=HSWISH, stride=1),
)


def _minimalistic(arch: Arch) -> Arch:
    """The v3 authors' variant for hardware without the fancy parts: no SE, ReLU for h-swish, 3x3 only."""
    return replace(
        arch,
        name=f"{arch.name}-minimalistic",
        stem_act=RELU,
        blocks=tuple(replace(block, kernel=3, se=False, act=RELU) for block in arch.blocks),
        tail=replace(arch.tail, act=RELU),
    )


def _v3(name: str, blocks: tuple[Block, ...], tail: Tail) -> Arch:
    return Arch(
        name=name,
        paper="arXiv:1905.02244",
        keys="torchvision-v3",
        stem=16,
        stem_act=HSWISH,
        blocks=blocks,
        tail=tail,
        bn_eps=1e-3,
        bn_momentum=0.01,
    )


_V3S = (
    _v3("v3-small", _V3_SMALL, Tail(conv=576, hidden=1024, act=HSWISH)),
    _v3("v3-large", _V3_LARGE, Tail(conv=960, hidden=1280, act=HSWISH)),
)

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch("v1", "arXiv:1704.04861", "timm", 32, RELU6, _v1(), Tail()),
        Arch(
            "v2",
            "arXiv:1801.04381",
            "torchvision-v2",
            32,
            RELU6,
            _v2(),
            Tail(conv=1280, conv_floor=True),
            expand_is_ratio=True,
        ),
        *_V3S,
        *(_minimalistic(arch) for arch in _V3S),
    )
}


def get_arch(name: str) -> Arch:
    """The reference model called `name`; raises Unsupported with the nearest names."""
    if name in ARCHS:
        return ARCHS[name]
    near = difflib.get_close_matches(name, ARCHS, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise Unsupported(f"unknown model {name!r}. {hint}Known models: {', '.join(ARCHS)}")


def scaled(arch: Arch, *, width: float | None = None, input_px: int | None = None, classes: int | None = None) -> Arch:
    """`arch` at another width multiplier, input resolution (pixels a side) or number of classes; None keeps it."""
    return replace(
        arch,
        width=arch.width if width is None else width,
        input_px=arch.input_px if input_px is None else input_px,
        classes=arch.classes if classes is None else classes,
    )


@dataclass(frozen=True)
class ScaledBlock:
    """A block at the arch's width: what the table's row means in channels."""

    kernel: int
    in_channels: int
    expand: int
    out_channels: int
    stride: int
    act: Activation
    squeeze: int

    @property
    def expands(self) -> bool:
        """Whether a 1x1 convolution widens the input first; it is left out where it would change nothing."""
        return self.expand != self.in_channels

    @property
    def skip(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


def scaled_stem(arch: Arch) -> int:
    return make_divisible(arch.stem * arch.width)


def scaled_blocks(arch: Arch) -> tuple[ScaledBlock, ...]:
    """The blocks of `arch` in real channels."""
    blocks = []
    in_channels = scaled_stem(arch)
    for row in arch.blocks:
        if row.expand == 0:
            expand = in_channels
        elif arch.expand_is_ratio:
            expand = in_channels * row.expand
        else:
            expand = make_divisible(row.expand * arch.width)
        out_channels = make_divisible(row.out_channels * arch.width)
        # torchvision squeezes make_divisible(expand // 4, 8); Keras rounds the other way.
        squeeze = make_divisible(expand // 4) if row.se else 0
        blocks.append(ScaledBlock(row.kernel, in_channels, expand, out_channels, row.stride, row.act, squeeze))
        in_channels = out_channels
    return tuple(blocks)


def scaled_tail(arch: Arch) -> tuple[int, int]:
    """(channels of the convolution before the pool, of the hidden layer after it); 0 where there is none."""
    tail, width = arch.tail, arch.width
    if not tail.conv:
        return 0, 0
    if tail.conv_floor:
        return make_divisible(tail.conv * max(1.0, width)), 0
    # v3 writes its last convolution as six times the last block's output.
    return 6 * scaled_blocks(arch)[-1].out_channels, make_divisible(tail.hidden * width)


def layers(arch: Arch) -> Iterator[Layer]:
    """The layers of `arch` in order of execution, at their real sizes, named by module path."""
    return _LAYERS[arch.keys](arch)


class _Walk:
    """Builds layers one after the other, carrying the shape along."""

    def __init__(self, arch: Arch) -> None:
        self.shape = (3, arch.input_px, arch.input_px)

    def conv(
        self, name: str, channels: int, kernel: int = 1, stride: int = 1, act: str = "", op: str = "conv2d"
    ) -> Layer:
        side = [-(-size // stride) for size in self.shape[1:]]
        layer = Layer(name, op, self.shape, (channels, *side), kernel, stride, norm=True, act=act)  # type: ignore[arg-type]
        self.shape = layer.out_shape
        return layer

    def depthwise(self, name: str, block: ScaledBlock) -> Layer:
        return self.conv(name, self.shape[0], block.kernel, block.stride, block.act, op="depthwise")

    def squeeze_excite(self, name: str, squeeze: int) -> Iterator[Layer]:
        channels = self.shape[0]
        yield Layer(f"{name}.avgpool", "mean", self.shape, (channels, 1, 1))
        yield Layer(f"{name}.fc1", "conv2d", (channels, 1, 1), (squeeze, 1, 1), bias=True, act="relu")
        yield Layer(f"{name}.fc2", "conv2d", (squeeze, 1, 1), (channels, 1, 1), bias=True, act="hardsigmoid")

    def pool(self, name: str) -> Layer:
        layer = Layer(name, "mean", self.shape, (self.shape[0], 1, 1))
        self.shape = layer.out_shape
        return layer

    def linear(self, name: str, channels: int, act: str = "") -> Layer:
        layer = Layer(name, "linear", self.shape, (channels, 1, 1), bias=True, act=act)
        self.shape = layer.out_shape
        return layer


def _v1_layers(arch: Arch) -> Iterator[Layer]:
    walk = _Walk(arch)
    yield walk.conv("conv_stem", scaled_stem(arch), kernel=3, stride=2, act=arch.stem_act)
    for name, block in zip(timm_block_names(arch), scaled_blocks(arch), strict=True):
        yield walk.depthwise(f"{name}.conv_dw", block)
        yield walk.conv(f"{name}.conv_pw", block.out_channels, act=block.act)
    yield walk.pool("global_pool")
    yield walk.linear("classifier", arch.classes)


def _torchvision_layers(arch: Arch) -> Iterator[Layer]:
    walk = _Walk(arch)
    v3 = arch.keys == "torchvision-v3"
    yield walk.conv("features.0.0", scaled_stem(arch), kernel=3, stride=2, act=arch.stem_act)
    for index, block in enumerate(scaled_blocks(arch), start=1):
        name = f"features.{index}.{'block' if v3 else 'conv'}"
        step = 0
        if block.expands:
            yield walk.conv(f"{name}.{step}.0", block.expand, act=block.act)
            step += 1
        yield walk.depthwise(f"{name}.{step}.0", block)
        step += 1
        if block.squeeze:
            yield from walk.squeeze_excite(f"{name}.{step}", block.squeeze)
            step += 1
        yield walk.conv(f"{name}.{step}.0" if v3 else f"{name}.{step}", block.out_channels)
    last_conv, hidden = scaled_tail(arch)
    yield walk.conv(f"features.{len(arch.blocks) + 1}.0", last_conv, act=arch.tail.act)
    yield walk.pool("avgpool")
    if hidden:
        yield walk.linear("classifier.0", hidden, act=arch.tail.act)
    yield walk.linear("classifier.3" if v3 else "classifier.1", arch.classes)


_LAYERS = {"timm": _v1_layers, "torchvision-v2": _torchvision_layers, "torchvision-v3": _torchvision_layers}


def timm_block_names(arch: Arch) -> list[str]:
    """timm groups v1's blocks by stage: a block of stride 2 opens a new one."""
    names: list[str] = []
    stage, index = 0, 0
    for position, block in enumerate(arch.blocks):
        if position and block.stride == 2:
            stage, index = stage + 1, 0
        names.append(f"blocks.{stage}.{index}")
        index += 1
    return names
